"""Bidirectional cross-attention, and its pooled form."""
