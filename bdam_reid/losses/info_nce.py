"""InfoNCE: the contrastive loss between image and text features."""

from __future__ import annotations

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
