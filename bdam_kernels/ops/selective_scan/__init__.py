"""The gated selective scan."""
