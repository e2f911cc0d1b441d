"""The index of a gallery: its images' embeddings in a folder on disk, and which of them are nearest to a query."""
