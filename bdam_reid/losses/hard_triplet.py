"""Triplet loss with the hardest triplet of each anchor."""

from __future__ import annotations

import torch
from torch import Tensor


def hard_triplet_loss(features: Tensor, identities: Tensor, margin: float) -> Tensor:
    """Mean over the anchors of max(max_p |f_a - f_p| - min_n |f_a - f_n| + m, 0), Euclidean distances.

    Source: Hermans, Beyer and Leibe 2017 ("batch hard"); the form that CLIP-ReID has, whose weight and margin are
    for it.

    Args:
        features: as they are, (B, D).
        identities: (B,) integers.
        margin: m.
    Returns: scalar; an anchor without another image of the person, or without another person, has no triplet, and if
        none has one it is 0, with a gradient of 0.
    """
    # Not by a matrix product, whose cancellation is as large as the distances of images of one person.
    distance = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    same = identities[:, None] == identities
    positive = same.clone().fill_diagonal_(False)
    farthest = distance.masked_fill(~positive, -torch.inf).amax(dim=1)
    nearest = distance.masked_fill(same, torch.inf).amin(dim=1)
    valid = positive.any(dim=1) & ~same.all(dim=1)
    # Without a positive or negative the difference is minus infinity.
    return (farthest - nearest + margin).relu().sum() / valid.sum().clamp(min=1)
