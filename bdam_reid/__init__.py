"""Text-to-image person re-identification with a bidirectional decoupled alignment module."""
