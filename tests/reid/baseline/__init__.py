"""A second method, to prove that one more touches nothing but its own folder: image -> image, trained by identity.

Encoder, BNNeck, classifier, triplet loss; two stages, first the head alone on a frozen encoder, then everything.
"""
