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


def symmetric_info_nce(
    image: Tensor, text: Tensor, identities: Tensor, temperature: float | Tensor, identity_aware: bool = False
) -> Tensor:
    """CLIP's loss: InfoNCE from images to texts and from texts to images, the mean of both.

    Source: Radford et al. 2021; as a baseline of person search (ITC) Jiang and Ye, CVPR 2023.

    Args:
        image: unit vectors, (B, E).
        text: unit vectors of the captions, in the same order, (B, E).
        identities: (B,) integers.
        temperature: tau.
        identity_aware: whether all captions of the same person are positive, as in `info_nce`; else an image's own is,
            and the others of the person are negative like all the rest, as published.
    Returns: scalar.
    """
    scores = image @ text.T / temperature
    if identity_aware:
        positive = identities[:, None] == identities
    else:
        positive = torch.eye(len(image), dtype=torch.bool, device=image.device)
    return (contrastive(scores, positive) + contrastive(scores.T, positive)) / 2
