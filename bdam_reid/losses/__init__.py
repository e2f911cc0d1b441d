"""The losses of both drafts, and their balance."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from bdam_reid.config import LossConfig
from bdam_reid.losses.alignment import clothing_adversary, clothing_alignment, info_nce
from bdam_reid.losses.decouple import decoupling_loss, gate_regularisation
from bdam_reid.losses.gradnorm import GradNorm
from bdam_reid.losses.triplet import triplet_loss
from bdam_reid.models import ImageFeatures, TextFeatures

__all__ = [
    "GradNorm",
    "clothing_adversary",
    "clothing_alignment",
    "decoupling_loss",
    "gate_regularisation",
    "info_nce",
    "losses",
    "task_names",
    "total_loss",
    "triplet_loss",
]


def task_names(config: LossConfig) -> tuple[str, ...]:
    """Names of the losses that GradNorm balances, InfoNCE (its reference) first."""
    return ("info", "triplet", "clothing", "decouple") if config.decouple else ("info", "triplet", "clothing")


def losses(
    config: LossConfig, image: ImageFeatures, text: TextFeatures, fused: Tensor, identities: Tensor
) -> dict[str, Tensor]:
    """The losses of one batch, unweighted, by name.

    "info" (Eq. 3), "triplet" (Eq. 4), "clothing" (Eq. 1 of either draft), "decouple" (Eq. 2), and "gate", the
    gate regularisation, which GradNorm leaves alone. Computed outside autocast, in float32 at least.

    Args:
        config: which losses, temperature and margin.
        image: features of the images.
        text: features of the texts, in the same order.
        fused: (B, E); matters if `config.query` is "fused" or "both".
        identities: class indices, (B,).
    Returns: scalars by name.
    """
    with torch.autocast(identities.device.type, enabled=False):
        queries = {"identity": image.identity_embedding, "fused": F.normalize(_full(fused), dim=1)}
        chosen = queries.values() if config.query == "both" else [queries[config.query]]
        targets = _full(text.identity_embedding)
        info = [info_nce(_full(query), targets, identities, config.temperature) for query in chosen]
        clothing = clothing_alignment if config.clothing == "alignment" else clothing_adversary
        result = {
            "info": torch.stack(info).mean(),
            "triplet": triplet_loss(F.normalize(_full(image.identity), dim=1), identities, config.margin),
            "clothing": clothing(_full(image.clothing_embedding), _full(text.clothing_embedding), config.temperature),
        }
        if config.decouple:
            result["decouple"] = decoupling_loss(_full(image.identity), _full(image.clothing))
        if image.gate is not None:
            result["gate"] = gate_regularisation(_full(image.gate))
    return result


def total_loss(config: LossConfig, losses: dict[str, Tensor], gradnorm: GradNorm) -> Tensor:
    """What the model descends on: sum_k w_k L_k with the task weights constant, plus the gate regularisation.

    The other terms of Eq. 6 are descended on by the task weights alone, in `GradNorm.update`.
    """
    total = gradnorm(losses)
    return total + config.gate_weight * losses["gate"] if "gate" in losses else total


def _full(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
