"""Similarity distribution matching: the loss of IRRA."""

from __future__ import annotations

from torch import Tensor

EPSILON = 1e-8


def similarity_distribution_matching(
    image: Tensor, text: Tensor, identities: Tensor, temperature: float | Tensor
) -> Tensor:
    """How far the similarities of a batch are distributed from its identities, image to text and text to image.

    mean_i KL(p_i || q_i) = mean_i sum_j p_ij log(p_ij / (q_ij + epsilon)) with p_ij = softmax_j(v_i . t_j / tau) and
    q_ij = y_ij / sum_k y_ik, where y_ij is 1 if i and j show the same person, else 0; the sum of both directions.
    Source: Jiang and Ye, Cross-Modal Implicit Relation Reasoning and Aligning for Text-to-Image Person Retrieval, CVPR
    2023.

    Args:
        image: v, unit vectors, (B, E).
        text: t, unit vectors, (B, E).
        identities: (B,) integers.
        temperature: tau.
    Returns: scalar, above 0 but for epsilon.
    """
    scores = image @ text.T / temperature
    same = (identities[:, None] == identities).to(scores.dtype)
    wanted = (same / same.sum(dim=1, keepdim=True) + EPSILON).log()
    return _divergence(scores, wanted) + _divergence(scores.T, wanted)


def _divergence(scores: Tensor, wanted: Tensor) -> Tensor:
    logarithms = scores.log_softmax(dim=1)
    return (logarithms.exp() * (logarithms - wanted)).sum(dim=1).mean()
