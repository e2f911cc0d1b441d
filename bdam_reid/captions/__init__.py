"""Captions: their identity and clothing parts, their styles, and texts that a multimodal model writes in these."""
