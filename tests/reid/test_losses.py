"""Every loss equation of both drafts against a direct transcription in float64."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from naive import close
from torch import Tensor
from torch.nn import functional as F

from bdam_reid.losses.info_nce import info_nce
from bdam_reid.losses.triplet import triplet_loss
from bdam_reid.methods.bdam.batches import UNKNOWN, Batch
from bdam_reid.methods.bdam.config import LossConfig
from bdam_reid.methods.bdam.gradnorm import GradNorm
from bdam_reid.methods.bdam.losses import (
    Temperatures,
    clothing_adversary,
    clothing_alignment,
    decoupling_loss,
    gate_regularisation,
    known_to_differ,
    task_names,
    total_loss,
    unweighted_losses,
    weighted_losses,
)
from bdam_reid.methods.bdam.network import ImageFeatures, TextFeatures, full_precision

TAU, MARGIN = 0.07, 0.3


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def softmax_probability(image: Tensor, text: Tensor, i: int, j: int) -> float:
    """exp(v_i . t_j / tau) / sum_k exp(v_i . t_k / tau)."""
    terms = [math.exp(float(image[i] @ text[k]) / TAU) for k in range(len(text))]
    return terms[j] / sum(terms)


# Eq. 3


def test_info_nce_is_equation_3_where_every_identity_occurs_once() -> None:
    image, text = unit(6, 5), unit(6, 5, seed=1)
    expected = sum(-math.log(softmax_probability(image, text, i, i)) for i in range(6)) / 6
    close(info_nce(image, text, torch.tensor([3, 1, 4, 0, 5, 9]), TAU), expected)


def test_info_nce_averages_over_the_texts_of_one_identity() -> None:
    image, text, identities = unit(7, 5), unit(7, 5, seed=1), [0, 1, 0, 2, 1, 0, 3]
    expected = 0.0
    for i in range(7):
        positives = [j for j in range(7) if identities[j] == identities[i]]
        logs = [math.log(softmax_probability(image, text, i, j)) for j in positives]
        expected -= sum(logs) / len(logs) / 7
    close(info_nce(image, text, torch.tensor(identities), TAU), expected)


def test_info_nce_does_not_push_the_texts_of_one_identity_apart() -> None:
    """Two equal texts of one identity are both matched at no cost but log 2."""
    image = text = torch.eye(3, dtype=torch.float64)[[0, 0, 1, 1]]
    close(info_nce(image, text, torch.tensor([0, 0, 1, 1]), 1e-3), math.log(2))


# Eq. 1 of either draft


def test_clothing_alignment_is_equation_1_of_the_conference_draft() -> None:
    image, text = unit(6, 5), unit(6, 5, seed=1)
    expected = sum(-math.log(softmax_probability(image, text, i, i)) for i in range(6)) / 6
    close(clothing_alignment(image, text, TAU), expected)


def test_clothing_adversary_is_equation_1_of_the_longer_draft() -> None:
    image, text = unit(6, 5), unit(6, 5, seed=1)
    expected = sum(-math.log(1 - softmax_probability(image, text, i, i)) for i in range(6)) / 6
    close(clothing_adversary(image, text, TAU), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_clothing_adversary_is_finite_for_a_perfect_match(dtype: torch.dtype) -> None:
    """1 - P_i rounds to 0, yet -log(1 - P_i) = s_ii / tau - log(B - 1) for orthogonal features."""
    features = torch.eye(4, dtype=dtype, requires_grad=True)
    loss = clothing_adversary(features, torch.eye(4, dtype=dtype), temperature=0.01)
    close(loss, 100 - math.log(3))
    (gradient,) = torch.autograd.grad(loss, features)
    assert gradient.isfinite().all()
    assert (gradient.diagonal() > 0).all()


def test_the_two_clothing_losses_pull_opposite_ways() -> None:
    image, text = unit(6, 5).requires_grad_(), unit(6, 5, seed=1)
    pulls = [torch.autograd.grad(loss(image, text, 1.0), image)[0] for loss in (clothing_alignment, clothing_adversary)]
    assert (pulls[0] * text).sum() < 0 < (pulls[1] * text).sum()


@pytest.mark.parametrize("loss", [clothing_adversary, lambda x, y, tau: decoupling_loss(x, y)])
def test_a_batch_of_one_is_refused(loss: object) -> None:
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        loss(unit(1, 3), unit(1, 3), TAU)  # type: ignore[operator]


# Eq. 4


@pytest.mark.parametrize(
    "identities",
    [[0, 0, 1, 1, 2, 2], [0, 1, 0, 2, 1, 0, 3], [5, 5, 5, 5, 1], [0, 0, 1, 2, 3]],
    ids=["pairs", "singles", "unbalanced", "one-pair"],
)
def test_triplet_is_equation_4_over_all_triplets(identities: list[int]) -> None:
    f, n = unit(len(identities), 4), len(identities)
    terms = [
        max(float((f[a] - f[p]).square().sum() - (f[a] - f[q]).square().sum()) + MARGIN, 0.0)
        for a, p, q in product(range(n), repeat=3)
        if a != p and identities[a] == identities[p] != identities[q]
    ]
    assert any(terms)
    close(triplet_loss(f, torch.tensor(identities), MARGIN), sum(terms) / len(terms))


@pytest.mark.parametrize("identities", [[0, 1, 2, 3], [7, 7, 7, 7]], ids=["no-positive", "no-negative"])
def test_triplet_without_a_valid_triplet_is_zero_with_a_graph(identities: list[int]) -> None:
    features = unit(4, 3).requires_grad_()
    loss = triplet_loss(features, torch.tensor(identities), MARGIN)
    loss.backward()
    assert loss == 0
    assert features.grad is not None and not features.grad.any()


# Eq. 2


@pytest.mark.parametrize("batch", [2, 5, 40])
def test_decoupling_is_equation_2(batch: int) -> None:
    generator = torch.Generator().manual_seed(0)
    identity, clothing = torch.randn(2, batch, 9, dtype=torch.float64, generator=generator)
    rows = [x / x.square().sum(1, keepdim=True).sqrt() for x in (identity, clothing)]
    k_id, k_clo = (x @ x.T for x in rows)
    h = torch.eye(batch, dtype=torch.float64) - torch.ones(batch, batch, dtype=torch.float64) / batch
    close(decoupling_loss(identity, clothing), torch.trace(k_id @ h @ k_clo @ h) / (batch - 1) ** 2)


def test_decoupling_knows_no_scale() -> None:
    identity, clothing = unit(8, 5), unit(8, 5, seed=1)
    close(decoupling_loss(identity * 1e-3, clothing * 50), decoupling_loss(identity, clothing))


def test_decoupling_of_independent_features_is_zero() -> None:
    """All four combinations of two identities and two outfits: independent, so HSIC is 0."""
    identity = unit(2, 5)[[0, 0, 1, 1]]
    clothing = unit(2, 5, seed=1)[[0, 1, 0, 1]]
    close(decoupling_loss(identity, clothing), 0.0)
    assert decoupling_loss(identity, identity) > 0.01


def test_gate_regularisation() -> None:
    close(gate_regularisation(torch.tensor([[0.5, 0.9], [0.1, 0.5]], dtype=torch.float64)), 0.08)


def test_gradients() -> None:
    image, text = unit(6, 4).requires_grad_(), unit(6, 4, seed=1).requires_grad_()
    identities = torch.tensor([0, 0, 1, 1, 2, 2])
    assert torch.autograd.gradcheck(lambda x, y: info_nce(x, y, identities, 0.5), (image, text))
    assert torch.autograd.gradcheck(lambda x, y: clothing_alignment(x, y, 0.5), (image, text))
    assert torch.autograd.gradcheck(lambda x, y: clothing_adversary(x, y, 0.5), (image, text))
    assert torch.autograd.gradcheck(lambda x: triplet_loss(x, identities, MARGIN), (image,))
    assert torch.autograd.gradcheck(decoupling_loss, (image, text))


# All losses of a batch


Features = tuple[ImageFeatures, TextFeatures, Tensor]


def features(dtype: torch.dtype = torch.float64, gate: bool = True) -> Features:
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    image = ImageFeatures(
        identity=random(6, 8),
        clothing=random(6, 8),
        pooled_clothing=random(6, 8),
        gate=random(6, 8).sigmoid() if gate else None,
        tokens=random(6, 3, 8),
        identity_embedding=F.normalize(random(6, 5), dim=1),
        clothing_embedding=F.normalize(random(6, 5), dim=1),
    )
    text = TextFeatures(
        identity=random(6, 5),
        clothing=random(6, 5),
        identity_tokens=random(6, 4, 5),
        identity_mask=torch.ones(6, 4, dtype=torch.bool),
        identity_embedding=F.normalize(random(6, 5), dim=1),
        clothing_embedding=F.normalize(random(6, 5), dim=1),
    )
    return image, text, random(6, 5)


IDENTITIES = torch.tensor([0, 0, 1, 1, 2, 2])
BATCH = Batch(torch.empty(6, 0), IDENTITIES, torch.full((6,), UNKNOWN), *[torch.empty(6, 0)] * 4)


@pytest.mark.parametrize("query", ["identity", "fused", "both"])
@pytest.mark.parametrize("clothing", ["alignment", "adversarial"])
def test_losses_of_a_batch(query: str, clothing: str) -> None:
    config = LossConfig(query=query, clothing=clothing)  # type: ignore[arg-type]
    image, text, fused = features()
    actual = unweighted_losses(config, image, text, fused, BATCH, Temperatures(config))
    targets = text.identity_embedding
    unit_fused = fused / fused.norm(dim=1, keepdim=True)
    info = {
        "identity": info_nce(image.identity_embedding, targets, IDENTITIES, config.temperature),
        "fused": info_nce(unit_fused, targets, IDENTITIES, config.temperature),
    }
    info["both"] = (info["identity"] + info["fused"]) / 2
    clothing_loss = clothing_alignment if clothing == "alignment" else clothing_adversary
    counts = [known_to_differ(IDENTITIES, BATCH.outfits)] if clothing == "alignment" else []
    assert image.gate is not None
    expected = {
        "info": info[query],
        "triplet": triplet_loss(image.identity / image.identity.norm(dim=1, keepdim=True), IDENTITIES, config.margin),
        "clothing": clothing_loss(image.clothing_embedding, text.clothing_embedding, config.temperature, *counts),
        "decouple": decoupling_loss(image.identity, image.clothing),
        "gate": (image.gate - 0.5).square().mean(),
    }
    assert list(actual) == [*task_names(config), "gate"] == list(expected)
    for name, loss in actual.items():
        close(loss, expected[name])


def test_ablated_losses_are_left_out() -> None:
    config = LossConfig(decouple_weight=0.0)
    actual = unweighted_losses(config, *features(gate=False), BATCH, Temperatures(config))
    assert tuple(actual) == task_names(config) == ("info", "triplet", "clothing")


def test_half_precision_becomes_float32_and_nothing_else_does() -> None:
    image, text, _ = features(torch.bfloat16)
    for part in (image, text):
        for before, after in zip(part, full_precision(part), strict=True):
            assert after.dtype == (torch.float32 if before.dtype == torch.bfloat16 else before.dtype)
            assert torch.equal(after, before.to(after.dtype))
    double = features(torch.float64, gate=False)[0]
    assert all(after is before for before, after in zip(double, full_precision(double), strict=True))


def test_total_loss_is_the_weighted_sum_and_the_gate() -> None:
    config = LossConfig(gate_weight=0.25)
    gradnorm = GradNorm(("info", "triplet"), config)
    gradnorm.log_weights.copy_(torch.tensor([0.5, 1.5]).log())
    parts = {name: torch.tensor(value) for name, value in (("info", 2.0), ("triplet", 4.0), ("gate", 8.0))}
    close(total_loss(weighted_losses(config, parts), gradnorm), 0.5 * 2 + 1.5 * 4 + 0.25 * 8)
    del parts["gate"]
    close(total_loss(weighted_losses(config, parts), gradnorm), 0.5 * 2 + 1.5 * 4)
