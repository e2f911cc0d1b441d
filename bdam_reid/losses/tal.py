"""Triplet alignment loss: that of RDE."""

from __future__ import annotations

import torch
from torch import Tensor


def triplet_alignment_loss(
    image: Tensor, text: Tensor, identities: Tensor, temperature: float | Tensor, margin: float
) -> Tensor:
    """A triplet loss in which all negatives of a batch stand for the hardest, image to text and text to image.

    mean_i max(m - S+_i + tau log sum_{j: y_ij = 0} exp(v_i . t_j / tau), 0), the sum of both directions. S+_i is the
    mean of v_i . t_j over the positives j, weighted by softmax_j(v_i . t_j / tau), through which no gradient goes. For
    tau -> 0 it is the triplet loss with the hardest negative.
    Source: Qin et al., Noisy-Correspondence Learning for Text-to-Image Person Re-identification, CVPR 2024. Its
    code sums over the batch, which Adam without weight decay does not tell from the mean.

    Args:
        image: v, unit vectors, (B, E).
        text: t, unit vectors, (B, E).
        identities: (B,) integers.
        temperature: tau.
        margin: m.
    Returns: scalar; 0, with a gradient of 0, if the batch shows one person only.
    """
    scores, same = image @ text.T, identities[:, None] == identities
    return _one_way(scores, same, temperature, margin) + _one_way(scores.T, same, temperature, margin)


def _one_way(scores: Tensor, same: Tensor, temperature: float | Tensor, margin: float) -> Tensor:
    scaled, nothing = scores / temperature, torch.finfo(scores.dtype).min
    weights = scaled.detach().masked_fill(~same, nothing).softmax(dim=1)
    positive = (weights * scores).sum(dim=1)
    negative = temperature * scaled.masked_fill(same, nothing).logsumexp(dim=1)
    return (margin - positive + negative).relu().mean()
