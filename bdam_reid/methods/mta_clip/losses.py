"""The losses of both stages, on the features of the whole batch, all images of one domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.nn import functional as F

from bdam_reid.losses.hard_triplet import hard_triplet_loss
from bdam_reid.losses.info_nce import symmetric_info_nce
from bdam_reid.methods.mta_clip.config import LossConfig
from bdam_reid.methods.mta_clip.tower import Features


def contrastive_loss(images: Tensor, texts: Tensor, persons: Tensor, temperature: float) -> Tensor:
    """L_con: InfoNCE of images (B, E) and the prompts of their persons (B, E), both ways. All images and prompts of a
    person (B,) are positive for each other. Source: CLIP-ReID, which has the sum of both ways and not the mean."""
    return symmetric_info_nce(
        F.normalize(images, dim=1), F.normalize(texts, dim=1), persons, temperature, identity_aware=True
    )


def identity_loss(scores: Sequence[Tensor], labels: Tensor, smoothing: float) -> Tensor:
    """L_id: the sum of the smoothed cross-entropies of the classifiers' scores, (B, persons) each."""
    first, *others = (F.cross_entropy(each, labels, label_smoothing=smoothing) for each in scores)
    return sum(others, start=first)


def image_to_text_loss(
    projected: Tensor, texts: Tensor, labels: Tensor, temperature: float, smoothing: float
) -> Tensor:
    """L_i2t: the smoothed cross-entropy of images (B, E) among the texts of all persons of the domain, (persons, E).
    Source: CLIP-ReID."""
    scores = F.normalize(projected, dim=1) @ F.normalize(texts, dim=1).T / temperature
    return F.cross_entropy(scores, labels, label_smoothing=smoothing)


def triplet_loss(features: Features, labels: Tensor, margin: float) -> Tensor:
    """L_tri: the sum of the hardest triplets' losses of both features."""
    return hard_triplet_loss(features.own, labels, margin) + hard_triplet_loss(features.projected, labels, margin)


def weighted(config: LossConfig, parts: Mapping[str, Tensor]) -> Tensor:
    """The sum of losses by name, each by its weight."""
    weights = {
        "id": config.id_weight,
        "triplet": config.triplet_weight,
        "i2t": config.i2t_weight,
        "contrastive": config.i2t_weight,
    }
    first, *others = (weights[name] * loss for name, loss in parts.items())
    return sum(others, start=first)
