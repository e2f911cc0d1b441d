"""Every loss equation of both drafts against a direct transcription in float64."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from naive import close
from torch import Tensor
from torch.nn import functional as F

from bdam_reid.losses.info_nce import contrastive, info_nce
from bdam_reid.losses.temperatures import LEAST_TEMPERATURE
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
    loss_weights,
    outfit_contrast,
    task_names,
    total_loss,
    unweighted_losses,
    weighted_losses,
)
from bdam_reid.methods.bdam.network import ImageFeatures, TextFeatures, all_in_full_precision

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


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("masked", [False, True])
def test_contrastive(masked: bool, seed: int) -> None:
    """Any positives, of which rows may have none, and any pairs that do not count."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(6, 8, dtype=torch.float64, generator=generator)
    positive, counts = (torch.rand(6, 8, generator=generator) < chance for chance in (0.2, 0.6))
    positive[2] = False
    counts = counts | positive if masked else torch.ones(6, 8, dtype=torch.bool)
    rows = []
    for i in range(6):
        total = sum(math.exp(float(scores[i, j])) for j in range(8) if counts[i, j])
        logs = [float(scores[i, j]) - math.log(total) for j in range(8) if positive[i, j]]
        rows += [-sum(logs) / len(logs)] if logs else []
    assert len(rows) < 6
    close(contrastive(scores, positive, counts if masked else None), sum(rows) / len(rows))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_contrastive_without_a_positive_is_zero_with_a_gradient_of_zero(dtype: torch.dtype) -> None:
    scores = (100 * unit(4, 5)).to(dtype).requires_grad_()
    nothing = torch.zeros(4, 5, dtype=torch.bool)
    for counts in (None, nothing, ~nothing):
        loss = contrastive(scores, nothing, counts)
        (gradient,) = torch.autograd.grad(loss, scores)
        assert loss == 0 and not gradient.any() and gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_pair_that_does_not_count_changes_nothing(dtype: torch.dtype) -> None:
    scores, positive = (100 * unit(4, 4)).to(dtype).requires_grad_(), torch.eye(4, dtype=torch.bool)
    counts = torch.ones(4, 4, dtype=torch.bool)
    counts[0, 1] = counts[3, 2] = False
    other = torch.where(counts, scores, 1e6)
    assert torch.equal(contrastive(scores, positive, counts), contrastive(other, positive, counts))
    (gradient,) = torch.autograd.grad(contrastive(scores, positive, counts), scores)
    assert not gradient[~counts].any() and gradient.isfinite().all()


def test_info_nce_from_texts_to_images_is_that_of_the_other_direction() -> None:
    image, text, identities = unit(5, 4), unit(5, 4, seed=1), [0, 1, 0, 2, 1]
    expected = 0.0
    for j in range(5):
        terms = [math.exp(float(image[i] @ text[j]) / TAU) for i in range(5)]
        logs = [math.log(terms[i] / sum(terms)) for i in range(5) if identities[i] == identities[j]]
        expected -= sum(logs) / len(logs) / 5
    close(info_nce(text, image, torch.tensor(identities), TAU), expected)


# Which clothes differ


def test_known_to_differ() -> None:
    """Outfits are numbered within each person: equal numbers of two persons are two outfits."""
    identities = torch.tensor([0, 0, 0, 1, 1, 2])
    outfits = torch.tensor([0, 1, 0, 0, UNKNOWN, UNKNOWN])
    expected = [
        [0, 1, 0, 1, 1, 1],
        [1, 0, 1, 1, 1, 1],
        [0, 1, 0, 1, 1, 1],
        [1, 1, 1, 0, 0, 1],
        [1, 1, 1, 0, 0, 1],
        [1, 1, 1, 1, 1, 0],
    ]
    assert known_to_differ(identities, outfits).tolist() == torch.tensor(expected).bool().tolist()
    unknown = known_to_differ(identities, torch.full((6,), UNKNOWN))
    assert torch.equal(unknown, identities[:, None] != identities)


# Eq. 1 of either draft


@pytest.mark.parametrize("outfits", [[0, 1, 0, 0, 0, 0], [UNKNOWN] * 6], ids=["known", "unknown"])
def test_clothing_alignment_leaves_out_texts_of_the_same_outfit(outfits: list[int]) -> None:
    image, text, identities = unit(6, 5), unit(6, 5, seed=1), [0, 0, 0, 1, 1, 2]
    expected = 0.0
    for i in range(6):
        others = [
            j
            for j in range(6)
            if identities[j] != identities[i] or (UNKNOWN != outfits[j] != outfits[i] != UNKNOWN) or j == i
        ]
        terms = {j: math.exp(float(image[i] @ text[j]) / TAU) for j in others}
        expected -= math.log(terms[i] / sum(terms.values())) / 6
    counts = known_to_differ(torch.tensor(identities), torch.tensor(outfits))
    assert not counts.diagonal().any()
    close(clothing_alignment(image, text, TAU, counts), expected)
    everything = torch.ones(6, 6, dtype=torch.bool)
    close(clothing_alignment(image, text, TAU, everything), clothing_alignment(image, text, TAU))


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


# Between outfits


def test_outfit_contrast() -> None:
    """A person's images in other outfits are positive, those in the same outfit and the image itself do not count."""
    image, identities, outfits = unit(7, 5), [0, 0, 0, 1, 1, 2, 2], [0, 1, 0, 0, 0, UNKNOWN, UNKNOWN]
    differ = known_to_differ(torch.tensor(identities), torch.tensor(outfits))
    rows = []
    for i in range(7):
        other = [j for j in range(7) if identities[j] == identities[i] and outfits[j] != outfits[i]]
        negative = [j for j in range(7) if identities[j] != identities[i]]
        terms = {j: math.exp(float(image[i] @ image[j]) / TAU) for j in (*other, *negative)}
        logs = [math.log(terms[j] / sum(terms.values())) for j in other]
        rows += [-sum(logs) / len(logs)] if logs else []
    assert len(rows) == 3
    close(outfit_contrast(image, torch.tensor(identities), differ, TAU), sum(rows) / len(rows))


@pytest.mark.parametrize("outfits", [[0] * 6, [UNKNOWN] * 6, [0, UNKNOWN] * 3], ids=["one", "unknown", "one-known"])
def test_outfit_contrast_of_nobody_in_two_outfits_is_zero_with_a_graph(outfits: list[int]) -> None:
    image, identities = unit(6, 4).requires_grad_(), torch.tensor([0, 0, 1, 1, 2, 2])
    loss = outfit_contrast(image, identities, known_to_differ(identities, torch.tensor(outfits)), TAU)
    loss.backward()
    assert loss == 0
    assert image.grad is not None and not image.grad.any()


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


@pytest.mark.parametrize("batch", [2, 5, 40])
def test_normalized_decoupling_is_the_alignment_of_the_two_kernels(batch: int) -> None:
    """tr(K_id H K_clo H) / sqrt(tr(K_id H K_id H) tr(K_clo H K_clo H))."""
    generator = torch.Generator().manual_seed(0)
    identity, clothing = torch.randn(2, batch, 9, dtype=torch.float64, generator=generator)
    rows = [x / x.square().sum(1, keepdim=True).sqrt() for x in (identity, clothing)]
    h = torch.eye(batch, dtype=torch.float64) - torch.ones(batch, batch, dtype=torch.float64) / batch
    k_id, k_clo = (h @ x @ x.T @ h for x in rows)
    expected = (k_id * k_clo).sum() / (k_id.square().sum() * k_clo.square().sum()).sqrt()
    close(decoupling_loss(identity, clothing, normalized=True), expected)
    close(decoupling_loss(identity, 3 * identity, normalized=True), 1.0)


def test_normalized_decoupling_does_not_fall_when_features_become_alike() -> None:
    """Towards the mean of the batch plain HSIC goes to 0, the normalised one does not."""
    identity, clothing = unit(8, 5), unit(8, 5, seed=1)
    alike = [5 * unit(1, 5, seed=2) + 1e-2 * x for x in (identity, clothing)]
    assert decoupling_loss(*alike) < 1e-6 * decoupling_loss(identity, clothing)
    assert decoupling_loss(*alike, normalized=True) > 0.2 * decoupling_loss(identity, clothing, normalized=True)
    equal = unit(1, 5).expand(8, 5).clone().requires_grad_()
    loss = decoupling_loss(equal, clothing, normalized=True)
    loss.backward()
    assert loss.isfinite() and equal.grad is not None and equal.grad.isfinite().all()


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
    assert torch.autograd.gradcheck(lambda x, y: decoupling_loss(x, y, normalized=True), (image, text))
    differ = known_to_differ(identities, torch.tensor([0, 1, 0, 0, UNKNOWN, UNKNOWN]))
    tau = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, y, t: clothing_alignment(x, y, t, differ), (image, text, tau))
    assert torch.autograd.gradcheck(lambda x, t: outfit_contrast(x, identities, differ, t), (image, tau))
    positive = torch.rand(6, 6) < 0.3
    assert torch.autograd.gradcheck(lambda x, y: contrastive(x @ y.T, positive, positive | differ), (image, text))


# Temperatures


def test_a_constant_temperature_is_that_of_the_config() -> None:
    temperatures = Temperatures(LossConfig(temperature=0.2))
    assert [temperatures[name] for name in ("info", "clothing", "contrast")] == [0.2] * 3
    assert not list(temperatures.parameters()) and not temperatures.state_dict()


def test_learnt_temperatures_begin_at_that_of_the_config_and_are_one_a_loss() -> None:
    temperatures = Temperatures(LossConfig(temperature=0.2, learnt_temperature=True))
    assert len(list(temperatures.parameters())) == 3
    for name in ("info", "clothing", "contrast"):
        tau = temperatures[name]
        assert isinstance(tau, Tensor)
        close(tau, 0.2)
        gradients = torch.autograd.grad(tau, list(temperatures.parameters()), allow_unused=True)
        (slope,) = [gradient for gradient in gradients if gradient is not None]
        close(slope, 0.2)


def test_a_learnt_temperature_falls_to_the_least_and_no_further() -> None:
    temperatures = Temperatures(LossConfig(temperature=0.02, learnt_temperature=True))
    # All are alike, and each still most like its own: the sharper the better.
    image = F.normalize(0.3 * torch.eye(4) + 0.5, dim=1)
    optimizer = torch.optim.SGD(temperatures.parameters(), lr=1.0)
    for _ in range(100):
        optimizer.zero_grad()
        clothing_alignment(image, image, temperatures["clothing"]).backward()
        optimizer.step()
    close(temperatures["clothing"], LEAST_TEMPERATURE)
    close(temperatures["info"], 0.02)


def test_a_temperature_at_the_least_can_rise_again() -> None:
    """Everybody is matched with another's text, so that the warmest temperature is best."""
    temperatures = Temperatures(LossConfig(temperature=0.005, learnt_temperature=True))
    image, text = torch.eye(4), torch.eye(4).roll(1, 0)
    optimizer = torch.optim.SGD(temperatures.parameters(), lr=0.01)
    close(temperatures["clothing"], LEAST_TEMPERATURE)
    for _ in range(3):
        optimizer.zero_grad()
        clothing_alignment(image, text, temperatures["clothing"]).backward()
        optimizer.step()
    assert temperatures["clothing"] > 1.1 * LEAST_TEMPERATURE


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
        patches=random(6, 3, 8),
        tokens=random(6, 3, 8),
        identity_embedding=F.normalize(random(6, 5), dim=1),
        clothing_embedding=F.normalize(random(6, 5), dim=1),
    )
    text = TextFeatures(
        identity=random(6, 5),
        clothing=random(6, 5),
        identity_tokens=random(6, 4, 5),
        identity_mask=torch.ones(6, 4, dtype=torch.bool),
        clothing_tokens=random(6, 4, 5),
        clothing_mask=torch.ones(6, 4, dtype=torch.bool),
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


OUTFITS = torch.tensor([0, 1, 0, 0, UNKNOWN, UNKNOWN])
EVERYTHING = LossConfig(
    query="both", symmetric=True, temperature=0.2, learnt_temperature=True, contrast_weight=0.3, normalized_hsic=True
)


def test_losses_of_a_batch_with_every_option() -> None:
    image, text, fused = features()
    temperatures = Temperatures(EVERYTHING).double()
    for name, tau in (("info", 0.1), ("clothing", 0.3), ("contrast", 0.5)):
        temperatures.logarithms[name].data.fill_(math.log(tau))
    batch = replace(BATCH, outfits=OUTFITS)
    actual = unweighted_losses(EVERYTHING, image, text, fused, batch, temperatures)
    differ = known_to_differ(IDENTITIES, OUTFITS)
    queries, targets = (image.identity_embedding, fused / fused.norm(dim=1, keepdim=True)), text.identity_embedding
    info = [info_nce(*pair, IDENTITIES, 0.1) for query in queries for pair in ((query, targets), (targets, query))]
    worn, said = image.clothing_embedding, text.clothing_embedding
    clothing = [clothing_alignment(*pair, 0.3, differ) for pair in ((worn, said), (said, worn))]
    assert image.gate is not None
    expected = {
        "info": sum(info) / 4,
        "triplet": triplet_loss(F.normalize(image.identity), IDENTITIES, EVERYTHING.margin),
        "clothing": sum(clothing) / 2,
        "decouple": decoupling_loss(image.identity, image.clothing, normalized=True),
        "contrast": outfit_contrast(image.identity_embedding, IDENTITIES, differ, 0.5),
        "gate": (image.gate - 0.5).square().mean(),
    }
    assert list(actual) == list(expected) == list(loss_weights(EVERYTHING))
    for name, loss in actual.items():
        close(loss, expected[name])
    assert actual["contrast"] > 0
    taus = torch.autograd.grad(sum(actual.values()), list(temperatures.parameters()))  # type: ignore[arg-type]
    assert all(slope.isfinite() and slope for slope in taus)


def test_the_adversary_is_never_symmetric() -> None:
    config = replace(EVERYTHING, clothing="adversarial")
    (image, text, fused), temperatures = features(), Temperatures(config).double()
    actual = unweighted_losses(config, image, text, fused, BATCH, temperatures)["clothing"]
    close(actual, clothing_adversary(image.clothing_embedding, text.clothing_embedding, temperatures["clothing"]))


def test_weights_of_losses() -> None:
    config = LossConfig(triplet_weight=2.0, clothing_weight=3.0, decouple_weight=4.0, contrast_weight=5.0)
    weights = {"info": 1.0, "triplet": 2.0, "clothing": 3.0, "decouple": 4.0, "contrast": 5.0, "gate": 0.01}
    assert list(loss_weights(config).items()) == list(weights.items())
    assert task_names(config) == ("info", "triplet", "clothing", "decouple")
    parts = {name: torch.tensor(float(number), dtype=torch.float64) for number, name in enumerate(weights, 1)}
    for number, (name, loss) in enumerate(weighted_losses(config, parts).items(), 1):
        close(loss, weights[name] * number)
    none = replace(config, triplet_weight=0.0, clothing_weight=0.0, decouple_weight=0.0)
    none = replace(none, contrast_weight=0.0, gate_weight=0.0)
    assert loss_weights(none) == {"info": 1.0} and task_names(none) == ("info",)


def test_the_contrast_of_outfits_is_in_the_total_and_not_balanced() -> None:
    config = LossConfig(contrast_weight=0.5, triplet_weight=3.0)
    gradnorm = GradNorm(("info", "triplet"), config)
    gradnorm.log_weights.copy_(torch.tensor([0.5, 1.5]).log())
    parts = {name: torch.tensor(value) for name, value in (("info", 2.0), ("triplet", 4.0), ("contrast", 8.0))}
    close(total_loss(weighted_losses(config, parts), gradnorm), 0.5 * 2 + 1.5 * 3 * 4 + 0.5 * 8)


def test_ablated_losses_are_left_out() -> None:
    config = LossConfig(decouple_weight=0.0)
    actual = unweighted_losses(config, *features(gate=False), BATCH, Temperatures(config))
    assert tuple(actual) == task_names(config) == ("info", "triplet", "clothing")


def test_half_precision_becomes_float32_and_nothing_else_does() -> None:
    image, text, _ = features(torch.bfloat16)
    for part in (image, text):
        for before, after in zip(part, all_in_full_precision(part), strict=True):
            assert after.dtype == (torch.float32 if before.dtype == torch.bfloat16 else before.dtype)
            assert torch.equal(after, before.to(after.dtype))
    double = features(torch.float64, gate=False)[0]
    assert all(after is before for before, after in zip(double, all_in_full_precision(double), strict=True))


def test_total_loss_is_the_weighted_sum_and_the_gate() -> None:
    config = LossConfig(gate_weight=0.25)
    gradnorm = GradNorm(("info", "triplet"), config)
    gradnorm.log_weights.copy_(torch.tensor([0.5, 1.5]).log())
    parts = {name: torch.tensor(value) for name, value in (("info", 2.0), ("triplet", 4.0), ("gate", 8.0))}
    close(total_loss(weighted_losses(config, parts), gradnorm), 0.5 * 2 + 1.5 * 4 + 0.25 * 8)
    del parts["gate"]
    close(total_loss(weighted_losses(config, parts), gradnorm), 0.5 * 2 + 1.5 * 4)
