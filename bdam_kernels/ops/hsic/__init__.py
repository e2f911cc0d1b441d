"""The Hilbert-Schmidt independence criterion, and alignment of many layers."""
