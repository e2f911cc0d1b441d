"""Contrastive losses between image and text features: InfoNCE, clothing alignment, clothing adversary."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def info_nce(image: Tensor, text: Tensor, identities: Tensor, temperature: float) -> Tensor:
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
    log_probability = F.log_softmax(image @ text.T / temperature, dim=1)
    positive = (identities[:, None] == identities[None, :]).to(log_probability.dtype)
    return -((log_probability * positive).sum(dim=1) / positive.sum(dim=1)).mean()


def clothing_alignment(image: Tensor, text: Tensor, temperature: float) -> Tensor:
    """InfoNCE between clothing features, positive for the same sample only.

    -E_i log softmax_j(s_ij / tau)_i with s_ij = f_clo^i . (f_clo^t)^j.  Source: seeds 001, Eq. 1.
    Unlike `info_nce` it knows no identities: two images of a person may show two outfits.

    Args:
        image: clothing features before the gate, projected to the text width, unit vectors, (B, E).
        text: clothing text features, unit vectors, (B, E).
        temperature: tau.
    Returns: scalar.
    """
    scores = image @ text.T / temperature
    return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))


def clothing_adversary(image: Tensor, text: Tensor, temperature: float) -> Tensor:
    """Pushes the clothing feature away from the text of its own sample.

    E_i[-log(1 - P_i)], P_i = softmax_j(s_ij / tau)_i over the texts of the batch.  Source: seeds 002, Eq. 1.
    The draft calls P "the temperature-scaled similarity"; a logarithm needs a probability, hence the softmax.
    log(1 - P_i) is taken as a difference of logsumexp, which stays finite as P_i goes to 1.

    Args: as `clothing_alignment`.
    Returns: scalar.
    Raises: ValueError for a batch of one, whose only text has probability 1.
    """
    if len(image) < 2:
        raise ValueError(f"the clothing adversary needs a batch of at least 2 samples, got {len(image)}")
    scores = image @ text.T / temperature
    own = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    others = scores.masked_fill(own, float("-inf"))
    return (scores.logsumexp(dim=1) - others.logsumexp(dim=1)).mean()
