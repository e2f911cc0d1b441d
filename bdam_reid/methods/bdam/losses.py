"""The losses of both drafts that are BDAM's own, and their sum."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from bdam_kernels import hsic
from bdam_reid.losses.info_nce import info_nce
from bdam_reid.losses.triplet import triplet_loss
from bdam_reid.methods.bdam.config import LossConfig
from bdam_reid.methods.bdam.gradnorm import GradNorm
from bdam_reid.methods.bdam.network import ImageFeatures, TextFeatures


def clothing_alignment(image: Tensor, text: Tensor, temperature: float) -> Tensor:
    """InfoNCE between clothing features, positive for the same sample only.

    -E_i log softmax_j(s_ij / tau)_i with s_ij = f_clo^i . (f_clo^t)^j.  Source: icme, Eq. 1.
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

    E_i[-log(1 - P_i)], P_i = softmax_j(s_ij / tau)_i over the texts of the batch.  Source: long, Eq. 1.
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


def decoupling_loss(identity: Tensor, clothing: Tensor) -> Tensor:
    """HSIC between the gated identity and clothing features.

    tr(K_id H K_clo H) / (N-1)^2 with linear kernels.  Source: both drafts, Eq. 2.
    The features are L2-normalised first: HSIC is of degree 4 in their scale, so shrinking them would do.

    Args:
        identity: (B, D).
        clothing: (B, D).
    Returns: scalar.
    Raises: ValueError for a batch of one.
    """
    if len(identity) < 2:
        raise ValueError(f"the decoupling loss needs a batch of at least 2 samples, got {len(identity)}")
    return hsic(F.normalize(identity, dim=1), F.normalize(clothing, dim=1))


def gate_regularisation(gate: Tensor) -> Tensor:
    """mean (g - 0.5)^2 of the gate (B, D): keeps it from giving everything to one branch.

    Source: both drafts report "w/o Gate Reg." without a formula; this one is ours.
    """
    return (gate - 0.5).square().mean()


def task_names(config: LossConfig) -> tuple[str, ...]:
    """Names of the losses that GradNorm balances, InfoNCE (its reference) first."""
    return ("info", "triplet", "clothing", "decouple") if config.decouple else ("info", "triplet", "clothing")


def unweighted_losses(
    config: LossConfig, image: ImageFeatures, text: TextFeatures, fused: Tensor, identities: Tensor
) -> dict[str, Tensor]:
    """The losses of one batch, unweighted, by name.

    "info" (Eq. 3), "triplet" (Eq. 4), "clothing" (Eq. 1 of either draft), "decouple" (Eq. 2), and "gate", the
    gate regularisation, which GradNorm leaves alone. To be called outside autocast, with features in float32 at least.

    Args:
        config: which losses, temperature and margin.
        image: features of the images.
        text: features of the texts, in the same order.
        fused: (B, E); matters if `config.query` is "fused" or "both".
        identities: class indices, (B,).
    Returns: scalars by name.
    """
    queries = {"identity": image.identity_embedding, "fused": F.normalize(fused, dim=1)}
    chosen = queries.values() if config.query == "both" else [queries[config.query]]
    targets = text.identity_embedding
    info = [info_nce(query, targets, identities, config.temperature) for query in chosen]
    clothing = clothing_alignment if config.clothing == "alignment" else clothing_adversary
    result = {
        "info": torch.stack(info).mean(),
        "triplet": triplet_loss(F.normalize(image.identity, dim=1), identities, config.margin),
        "clothing": clothing(image.clothing_embedding, text.clothing_embedding, config.temperature),
    }
    if config.decouple:
        result["decouple"] = decoupling_loss(image.identity, image.clothing)
    if image.gate is not None:
        result["gate"] = gate_regularisation(image.gate)
    return result


def total_loss(config: LossConfig, losses: dict[str, Tensor], gradnorm: GradNorm) -> Tensor:
    """What the model descends on: sum_k w_k L_k with the task weights constant, plus the gate regularisation.

    The other terms of Eq. 6 are descended on by the task weights alone, in `GradNorm.update`.
    """
    total = gradnorm(losses)
    return total + config.gate_weight * losses["gate"] if "gate" in losses else total
