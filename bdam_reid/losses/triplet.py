"""Triplet loss over all triplets of a batch."""

from __future__ import annotations

from torch import Tensor


def triplet_loss(features: Tensor, identities: Tensor, margin: float) -> Tensor:
    """Mean hinge over every valid triplet (anchor, positive, negative) of the batch.

    E_(a,p,n) max(|f_a - f_p|^2 - |f_a - f_n|^2 + m, 0), squared L2 distances.  Source: both drafts, Eq. 4.
    The drafts name no mining, so the expectation is over all triplets; an anchor without a positive or
    without a negative is in none. Memory is O(B) for each pair of one identity, not O(B^3).

    Args:
        features: (B, D); unit vectors, or the margin means nothing at the features' scale.
        identities: (B,) integers.
        margin: m.
    Returns: scalar; 0, with a gradient of 0, if the batch has no valid triplet.
    """
    square = features.square().sum(dim=1)
    distance = square[:, None] + square[None, :] - 2 * features @ features.T
    same = identities[:, None] == identities[None, :]
    positive = same.clone().fill_diagonal_(False)
    anchors, positives = positive.nonzero(as_tuple=True)
    negative = ~same[anchors]
    hinge = (distance[anchors, positives][:, None] - distance[anchors] + margin).relu()
    return (hinge * negative).sum() / negative.sum().clamp(min=1)
