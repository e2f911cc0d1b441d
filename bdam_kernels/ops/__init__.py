"""The operators, a folder each, and what they share."""
