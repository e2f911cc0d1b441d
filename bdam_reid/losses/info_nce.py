"""InfoNCE: the contrastive loss between features of two kinds, or of one kind in two views."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def contrastive(scores: Tensor, positive: Tensor, counts: Tensor | None = None) -> Tensor:
    """Mean over the rows that have a positive of -log softmax(scores), averaged over the positives of a row.

    Args:
        scores: (B, C), divided by the temperature.
        positive: (B, C) bool.
        counts: (B, C) bool, False where a pair is neither positive nor negative; None if all count.
    Returns: scalar; 0, with a gradient of 0, if no row has a positive.
    """
    if counts is not None:
        scores = scores.masked_fill(~counts, torch.finfo(scores.dtype).min)
    wanted = (F.log_softmax(scores, dim=1) * positive).sum(dim=1)
    number = positive.sum(dim=1)
    return -(wanted / number.clamp(min=1)).sum() / (number > 0).sum().clamp(min=1)


def info_nce(image: Tensor, text: Tensor, identities: Tensor, temperature: float | Tensor) -> Tensor:
    """InfoNCE from images to texts, positive where the identity is the same.

    -log exp(v_i . t_i / tau) / sum_j exp(v_i . t_j / tau), averaged over i.  Source: both drafts, Eq. 3.
    A batch holds several images of one person, whose texts describe the same identity: they are all
    positives, and the log-probability is averaged over them. Where every identity occurs once this is Eq. 3
    to the letter.

    Args:
        image: v, unit vectors, (B, E).
        text: t, unit vectors, (B, E).
        identities: (B,) integers.
        temperature: tau.
    Returns: scalar.
    """
    return contrastive(image @ text.T / temperature, identities[:, None] == identities[None, :])
