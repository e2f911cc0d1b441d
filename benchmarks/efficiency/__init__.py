"""The papers' comparison of the three fusions: what they cost, how that grows, and which of the claims hold."""
