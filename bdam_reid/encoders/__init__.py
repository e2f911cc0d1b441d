"""Encoders of images and of texts, which methods share."""
