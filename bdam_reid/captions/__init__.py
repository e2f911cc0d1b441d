"""Captions: their identity and clothing parts."""
