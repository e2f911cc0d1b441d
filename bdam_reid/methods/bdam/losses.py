"""The losses of both drafts that are BDAM's own, and their sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from bdam_kernels import hsic
from bdam_reid.losses.info_nce import contrastive, info_nce
from bdam_reid.losses.temperatures import LossTemperatures
from bdam_reid.losses.triplet import triplet_loss
from bdam_reid.methods.bdam.batches import UNKNOWN, Shown
from bdam_reid.methods.bdam.config import LossConfig
from bdam_reid.methods.bdam.gradnorm import GradNorm
from bdam_reid.methods.bdam.network import ImageFeatures, TextFeatures


def clothing_alignment(
    image: Tensor, text: Tensor, temperature: float | Tensor, counts: Tensor | None = None
) -> Tensor:
    """InfoNCE between clothing features, positive for the same sample only.

    -E_i log softmax_j(s_ij / tau)_i with s_ij = f_clo^i . (f_clo^t)^j.  Source: icme, Eq. 1.
    Unlike `info_nce` it knows no identities: two images of a person may show two outfits.

    Args:
        image: clothing features before the gate, projected to the text width, unit vectors, (B, E).
        text: clothing text features, unit vectors, (B, E).
        temperature: tau.
        counts: (B, B) bool, of `known_to_differ`; None if all pairs count.
    Returns: scalar.
    """
    own = torch.eye(len(image), dtype=torch.bool, device=image.device)
    return contrastive(image @ text.T / temperature, own, None if counts is None else counts | own)


def known_to_differ(identities: Tensor, outfits: Tensor) -> Tensor:
    """Which pairs of samples show different clothes for all that is known, (B, B) bool: two persons, or one person in
    two outfits. Where a set does not tell outfits apart a person's images mostly show one, and one's text would be a
    false negative of the other.

    Args:
        identities: (B,).
        outfits: (B,), UNKNOWN where they are not known.
    """
    same_person = identities[:, None] == identities
    known = outfits != UNKNOWN
    return ~same_person | ((outfits[:, None] != outfits) & known & known[:, None])


def outfit_contrast(image: Tensor, identities: Tensor, differ: Tensor, temperature: float | Tensor) -> Tensor:
    """InfoNCE between images, positive for a person in two outfits; pairs in one outfit do not count (ours).

    Args:
        image: identity embeddings, unit vectors, (B, E).
        identities: (B,).
        differ: of `known_to_differ`.
        temperature: tau.
    Returns: scalar; 0 if the batch shows nobody in two outfits.
    """
    return contrastive(image @ image.T / temperature, (identities[:, None] == identities) & differ, differ)


def clothing_adversary(image: Tensor, text: Tensor, temperature: float | Tensor) -> Tensor:
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


def decoupling_loss(identity: Tensor, clothing: Tensor, normalized: bool = False) -> Tensor:
    """HSIC between the gated identity and clothing features.

    tr(K_id H K_clo H) / (N-1)^2 with linear kernels.  Source: both drafts, Eq. 2.
    The features are L2-normalised first: HSIC is of degree 4 in their scale, so shrinking them would do.

    Args:
        identity: (B, D).
        clothing: (B, D).
        normalized: whether it is divided by the HSIC of each feature with itself (their CKA), which features that
            are all alike do not lower.
    Returns: scalar.
    Raises: ValueError for a batch of one.
    """
    if len(identity) < 2:
        raise ValueError(f"the decoupling loss needs a batch of at least 2 samples, got {len(identity)}")
    return hsic(F.normalize(identity, dim=1), F.normalize(clothing, dim=1), normalize=normalized)


def gate_regularisation(gate: Tensor) -> Tensor:
    """mean (g - 0.5)^2 of the gate (B, D): keeps it from giving everything to one branch.

    Source: both drafts report "w/o Gate Reg." without a formula; this one is ours.
    """
    return (gate - 0.5).square().mean()


class Temperatures(LossTemperatures):
    """The temperature of each contrastive loss."""

    def __init__(self, config: LossConfig) -> None:
        super().__init__(("info", "clothing", "contrast"), config.temperature, config.learnt_temperature)


def loss_weights(config: LossConfig) -> dict[str, float]:
    """Weights of the losses by name, GradNorm's reference first (InfoNCE, if it has one); what has none is left out."""
    weights = {
        "info": config.info_weight,
        "triplet": config.triplet_weight,
        "clothing": config.clothing_weight,
        "decouple": config.decouple_weight,
        "contrast": config.contrast_weight,
        "gate": config.gate_weight,
    }
    return {name: weight for name, weight in weights.items() if weight}


def task_names(config: LossConfig) -> tuple[str, ...]:
    """Names of the losses that GradNorm balances."""
    return tuple(name for name in loss_weights(config) if name not in ("contrast", "gate"))


def unweighted_losses(
    config: LossConfig,
    image: ImageFeatures,
    text: TextFeatures,
    fused: Tensor | None,
    batch: Shown,
    temperatures: Temperatures,
) -> dict[str, Tensor]:
    """The losses of one batch, unweighted, by name.

    "info" (Eq. 3), "triplet" (Eq. 4), "clothing" (Eq. 1 of either draft), "decouple" (Eq. 2), "contrast" between
    outfits, and "gate", the gate regularisation. To be called outside autocast, with features in float32 at least.

    Args:
        config: which losses, and the margin.
        image: features of the images.
        text: features of the texts, in the same order.
        fused: (B, E); matters if `config.query` is "fused" or "both".
        batch: whom the images show, in which outfits.
        temperatures: of the contrastive losses.
    Returns: scalars by name.
    """
    differ = known_to_differ(batch.identities, batch.outfits)
    losses: dict[str, Callable[[], Tensor | None]] = {
        "info": lambda: _matching(config, image, text, fused, batch.identities, temperatures["info"]),
        "triplet": lambda: triplet_loss(F.normalize(image.identity, dim=1), batch.identities, config.margin),
        "clothing": lambda: _clothing(config, image.clothing_embedding, text.clothing_embedding, temperatures, differ),
        "decouple": lambda: decoupling_loss(image.identity, image.clothing, config.normalized_hsic),
        "contrast": lambda: outfit_contrast(
            image.identity_embedding, batch.identities, differ, temperatures["contrast"]
        ),
        "gate": lambda: None if image.gate is None else gate_regularisation(image.gate),
    }
    values = {name: losses[name]() for name in loss_weights(config)}
    return {name: value for name, value in values.items() if value is not None}


def _matching(
    config: LossConfig,
    image: ImageFeatures,
    text: TextFeatures,
    fused: Tensor | None,
    identities: Tensor,
    temperature: float | Tensor,
) -> Tensor:
    queries = [image.identity_embedding] if config.query != "fused" else []
    if config.query != "identity":
        assert fused is not None
        queries.append(F.normalize(fused, dim=1))
    targets = text.identity_embedding
    info = [info_nce(query, targets, identities, temperature) for query in queries]
    if config.symmetric:
        info += [info_nce(targets, query, identities, temperature) for query in queries]
    return torch.stack(info).mean()


def _clothing(config: LossConfig, image: Tensor, text: Tensor, temperatures: Temperatures, differ: Tensor) -> Tensor:
    temperature = temperatures["clothing"]
    losses = []
    if config.clothing != "adversarial":
        losses.append(clothing_alignment(image, text, temperature, differ))
        if config.symmetric:
            backward = clothing_alignment(text, image, temperature, differ.T)
            losses[0] = (losses[0] + backward) / 2
    if config.clothing != "alignment":
        losses.append(clothing_adversary(image, text, temperature))
    return torch.stack(losses).sum()


def weighted_losses(config: LossConfig, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The losses times their weights of the config."""
    weights = loss_weights(config)
    return {name: weights[name] * loss for name, loss in losses.items()}


def total_loss(losses: Mapping[str, Tensor], gradnorm: GradNorm) -> Tensor:
    """What the model descends on: sum_k w_k L_k over GradNorm's tasks, with the task weights w constant, plus the
    other losses.

    The other terms of Eq. 6 are descended on by the task weights alone, in `GradNorm.update`.

    Args:
        losses: of `weighted_losses`.
        gradnorm: whose task weights count.
    """
    return gradnorm(losses) + sum(loss for name, loss in losses.items() if name not in gradnorm.tasks)
