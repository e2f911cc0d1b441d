"""Search of a gallery of images by sentence."""
