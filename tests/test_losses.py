"""Every loss equation of both drafts against a direct transcription in float64, and GradNorm's behaviour."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bdam_reid.config import LossConfig
from bdam_reid.losses import (
    GradNorm,
    clothing_adversary,
    clothing_alignment,
    decoupling_loss,
    gate_regularisation,
    info_nce,
    losses,
    task_names,
    total_loss,
    triplet_loss,
)
from bdam_reid.losses.gradnorm import MAX_RATIO, MAX_WEIGHT, MIN_WEIGHT
from bdam_reid.models import ImageFeatures, TextFeatures

EPS = torch.finfo(torch.float64).eps
TAU, MARGIN = 0.07, 0.3


def close(actual: Tensor, expected: float | Tensor, terms: int = 1000) -> None:
    """Equal but for rounding of `terms` terms of about the size of the result or of 1."""
    expected = torch.as_tensor(expected, dtype=actual.dtype)
    bound = terms * torch.finfo(actual.dtype).eps
    torch.testing.assert_close(actual, expected, rtol=bound, atol=bound)


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
    pulls = [
        torch.autograd.grad(loss(image, text, 1.0), image)[0]
        for loss in (clothing_alignment, clothing_adversary)
    ]
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


@pytest.mark.parametrize("query", ["identity", "fused", "both"])
@pytest.mark.parametrize("clothing", ["alignment", "adversarial"])
def test_losses_of_a_batch(query: str, clothing: str) -> None:
    config = LossConfig(query=query, clothing=clothing)  # type: ignore[arg-type]
    image, text, fused = features()
    actual = losses(config, image, text, fused, IDENTITIES)
    targets = text.identity_embedding
    unit_fused = fused / fused.norm(dim=1, keepdim=True)
    info = {
        "identity": info_nce(image.identity_embedding, targets, IDENTITIES, config.temperature),
        "fused": info_nce(unit_fused, targets, IDENTITIES, config.temperature),
    }
    info["both"] = (info["identity"] + info["fused"]) / 2
    clothing_loss = clothing_alignment if clothing == "alignment" else clothing_adversary
    assert image.gate is not None
    expected = {
        "info": info[query],
        "triplet": triplet_loss(
            image.identity / image.identity.norm(dim=1, keepdim=True), IDENTITIES, config.margin
        ),
        "clothing": clothing_loss(image.clothing_embedding, text.clothing_embedding, config.temperature),
        "decouple": decoupling_loss(image.identity, image.clothing),
        "gate": (image.gate - 0.5).square().mean(),
    }
    assert list(actual) == [*task_names(config), "gate"] == list(expected)
    for name, loss in actual.items():
        close(loss, expected[name])


def test_ablated_losses_are_left_out() -> None:
    config = LossConfig(decouple=False)
    actual = losses(config, *features(gate=False), IDENTITIES)
    assert tuple(actual) == task_names(config) == ("info", "triplet", "clothing")


def test_losses_of_bfloat16_features_are_computed_in_float32() -> None:
    image, text, fused = features(torch.bfloat16)
    exact = [
        type(part)(*(x.double() if x is not None and x.is_floating_point() else x for x in part))
        for part in (image, text)
    ]
    with torch.autocast("cpu", torch.bfloat16):
        actual = losses(LossConfig(), image, text, fused, IDENTITIES)
    expected = losses(LossConfig(), *exact, fused.double(), IDENTITIES)
    for name, loss in actual.items():
        assert loss.dtype == torch.float32
        close(loss, expected[name].float())


def test_total_loss_is_the_weighted_sum_and_the_gate() -> None:
    config = LossConfig(gate_weight=0.25)
    gradnorm = GradNorm(("info", "triplet"), config)
    gradnorm.log_weights.copy_(torch.tensor([0.5, 1.5]).log())
    parts = {name: torch.tensor(value) for name, value in (("info", 2.0), ("triplet", 4.0), ("gate", 8.0))}
    close(total_loss(config, parts, gradnorm), 0.5 * 2 + 1.5 * 4 + 0.25 * 8)
    del parts["gate"]
    close(total_loss(config, parts, gradnorm), 0.5 * 2 + 1.5 * 4)


# Eq. 5 and 6

TASKS = ("info", "triplet", "clothing", "decouple")


class Toy:
    """Four losses of one shared layer."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.shared = [
            nn.Parameter(torch.randn(3, 3, generator=generator, dtype=torch.float64)),
            nn.Parameter(torch.randn(3, generator=generator, dtype=torch.float64)),
        ]
        self.x = torch.randn(4, 3, generator=generator, dtype=torch.float64)

    def losses(self) -> dict[str, Tensor]:
        y = self.x @ self.shared[0] + self.shared[1]
        return {
            "info": 3 * y.square().mean(),
            "triplet": y.abs().mean(),
            "clothing": (y[:, 0] - 1).square().mean(),
            "decouple": 0.1 * y.sigmoid().mean(),
        }

    def train(self, steps: int, gradnorm: GradNorm, lr: float = 0.05) -> None:
        for _ in range(steps):
            parts = self.losses()
            gradnorm.update(parts, self.shared)
            gradients = torch.autograd.grad(gradnorm(parts), self.shared)
            with torch.no_grad():
                for parameter, gradient in zip(self.shared, gradients, strict=True):
                    parameter -= lr * gradient


def naive_norm(weight: Tensor, loss: Tensor, shared: list[nn.Parameter]) -> Tensor:
    """|grad_theta(w_k L_k)|, of the weighted loss itself."""
    gradients = torch.autograd.grad(weight * loss, shared, retain_graph=True)
    return sum((g.square().sum() for g in gradients), torch.zeros((), dtype=torch.float64)).sqrt()


def transcription(
    config: LossConfig, weights: Tensor, initial: Tensor, parts: dict[str, Tensor], shared: list[nn.Parameter]
) -> tuple[float, list[float], list[float]]:
    """alpha L_GradNorm + lambda sum (log w)^2 of Eq. 5-6, the gradient norms, and their targets."""
    norms = [float(naive_norm(w, parts[task], shared)) for w, task in zip(weights, TASKS, strict=True)]
    ratios = [float(parts[task].detach()) / float(start) for task, start in zip(TASKS, initial, strict=True)]
    r = [ratio / (sum(ratios) / 4) for ratio in ratios]
    if config.gradnorm_target == "reference":
        targets, alpha = [rate * norms[0] for rate in r], config.gradnorm_alpha
    else:
        targets, alpha = [sum(norms) / 4 * rate**config.gradnorm_alpha for rate in r], 1.0
    deviation = sum(abs(norm - target) for norm, target in zip(norms, targets, strict=True))
    regularisation = sum(math.log(float(w)) ** 2 for w in weights)
    return alpha * deviation + config.gradnorm_lambda * regularisation, norms, targets


@pytest.fixture(params=["reference", "mean"])
def config(request: pytest.FixtureRequest) -> LossConfig:
    return LossConfig(gradnorm_target=request.param, gradnorm_lambda=0.1)


def test_objective_is_equations_5_and_6(config: LossConfig) -> None:
    toy, gradnorm = Toy(), GradNorm(TASKS, config).double()
    toy.train(5, gradnorm)
    parts = toy.losses()
    values = torch.stack([parts[task].detach() for task in TASKS])
    one = torch.ones((), dtype=torch.float64)
    norms = torch.stack([naive_norm(one, parts[task], toy.shared) for task in TASKS])
    actual = gradnorm.objective(gradnorm.log_weights, values, norms)
    expected, _, _ = transcription(config, gradnorm.weights(), gradnorm.initial, parts, toy.shared)
    close(actual, expected)


def test_update_is_a_step_down_the_objective(config: LossConfig) -> None:
    """dL/ds_k = alpha sign(G_k - target_k) G_k + 2 lambda s_k with constant targets, without the first term
    for the reference; then the weights sum to their number."""
    toy, gradnorm = Toy(), GradNorm(TASKS, config).double()
    toy.train(5, gradnorm)
    parts, s = toy.losses(), gradnorm.log_weights.tolist()
    _, norms, targets = transcription(config, gradnorm.weights(), gradnorm.initial, parts, toy.shared)
    gradnorm.update(parts, toy.shared)
    alpha = config.gradnorm_alpha if config.gradnorm_target == "reference" else 1.0
    stepped = []
    for k in range(4):
        moves = 0.0 if config.gradnorm_target == "reference" and k == 0 else 1.0
        slope = moves * alpha * math.copysign(1, norms[k] - targets[k]) * norms[k]
        slope += 2 * config.gradnorm_lambda * s[k]
        stepped.append(math.exp(s[k] - config.gradnorm_lr * slope))
    close(gradnorm.weights(), torch.tensor([4 * w / sum(stepped) for w in stepped], dtype=torch.float64))


def test_first_update_takes_the_initial_losses() -> None:
    toy, gradnorm = Toy(), GradNorm(TASKS, LossConfig()).double()
    first = torch.stack(list(toy.losses().values())).detach()
    toy.train(3, gradnorm)
    assert torch.equal(gradnorm.initial, first)
    assert gradnorm.updates == 3


def test_gradient_norms_reach_their_targets(config: LossConfig) -> None:
    """With losses that stay as they are, the weights settle where every gradient norm is its target."""
    config = replace(config, gradnorm_lambda=0.0, gradnorm_lr=0.01)
    gradnorm = GradNorm(TASKS, config).double()
    shared = [nn.Parameter(torch.ones(4, dtype=torch.float64))]
    parts = dict(zip(TASKS, torch.tensor([1.0, 0.3, 1.2, 0.5]) * shared[0], strict=True))
    gradnorm.update(parts, shared)
    gradnorm.initial *= torch.tensor([0.8, 0.9, 1.0, 1.2])
    for _ in range(1000):
        gradnorm.update(parts, shared)
    _, norms, targets = transcription(config, gradnorm.weights(), gradnorm.initial, parts, shared)
    # Steps are of fixed size near a root of |x|: the weights end within a few of them.
    step = config.gradnorm_lr * config.gradnorm_alpha * max(norms)
    # The reference's norm is a target itself, and only the other weights move relative to it.
    for norm, target in list(zip(norms, targets, strict=True))[config.gradnorm_target == "reference" :]:
        assert norm == pytest.approx(target, rel=4 * step)


def test_weights_sum_to_the_number_of_tasks_and_stay_in_bounds(config: LossConfig) -> None:
    gradnorm, toy = GradNorm(TASKS, replace(config, gradnorm_lr=1e3)).double(), Toy()
    for _ in range(20):
        gradnorm.update(toy.losses(), toy.shared)
        weights = gradnorm.weights()
        assert weights.isfinite().all()
        assert weights.min() >= MIN_WEIGHT * (1 - 100 * EPS)
        assert weights.max() <= MAX_WEIGHT
        assert weights.sum() <= 4 + 4 * MIN_WEIGHT + 100 * EPS


def test_the_regularisation_alone_returns_the_weights_to_one() -> None:
    gradnorm, toy = GradNorm(TASKS, LossConfig(gradnorm_alpha=0.0, gradnorm_lambda=1.0)).double(), Toy()
    gradnorm.log_weights.copy_(torch.tensor([2.0, 1.0, 0.5, 0.5]).log())
    for _ in range(400):
        gradnorm.update(toy.losses(), toy.shared)
    torch.testing.assert_close(gradnorm.weights(), torch.ones(4, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_a_loss_that_starts_at_zero_does_not_take_over() -> None:
    config = LossConfig()
    gradnorm = GradNorm(TASKS, config).double()
    ones = torch.ones(4, dtype=torch.float64)
    gradnorm.initial.copy_(torch.tensor([1.0, 1.0, 1.0, 0.0]))
    actual = gradnorm.objective(gradnorm.log_weights, ones, ones)
    rates = [ratio / ((3 + MAX_RATIO) / 4) for ratio in (1, 1, 1, MAX_RATIO)]
    close(actual, config.gradnorm_alpha * sum(abs(1 - rate) for rate in rates))
    gradnorm.initial.zero_()
    assert gradnorm.objective(gradnorm.log_weights, 0 * ones, ones).isfinite()


def test_a_loss_that_does_not_reach_the_shared_layer_has_norm_zero() -> None:
    toy, gradnorm = Toy(), GradNorm(TASKS, LossConfig()).double()
    parts = toy.losses() | {"triplet": torch.ones((), dtype=torch.float64, requires_grad=True) * 2}
    gradnorm.update(parts, toy.shared)
    assert gradnorm.weights().isfinite().all()


def test_model_gradients_take_the_weights_as_constants() -> None:
    toy, gradnorm = Toy(), GradNorm(TASKS, LossConfig()).double()
    toy.train(3, gradnorm)
    parts = toy.losses()
    actual = torch.autograd.grad(gradnorm(parts), toy.shared, retain_graph=True)
    weighted = sum(w * parts[task] for w, task in zip(gradnorm.weights().tolist(), TASKS, strict=True))
    expected = torch.autograd.grad(weighted, toy.shared)  # type: ignore[arg-type]
    for a, b in zip(actual, expected, strict=True):
        close(a, b)
    assert not list(gradnorm.parameters())


def test_update_keeps_the_graph_and_leaves_no_gradients() -> None:
    toy, gradnorm = Toy(), GradNorm(TASKS, LossConfig()).double()
    parts = toy.losses()
    gradnorm.update(parts, toy.shared)
    assert all(parameter.grad is None for parameter in toy.shared)
    gradnorm(parts).backward()
    assert all(parameter.grad is not None for parameter in toy.shared)


def test_resuming_from_the_state_is_exact() -> None:
    straight, gradnorm = Toy(), GradNorm(TASKS, LossConfig())
    straight.train(10, gradnorm)
    stopped, first, second = Toy(), GradNorm(TASKS, LossConfig()), GradNorm(TASKS, LossConfig())
    stopped.train(4, first)
    second.load_state_dict(first.state_dict())
    stopped.train(6, second)
    assert all(torch.equal(a, b) for a, b in zip(straight.shared, stopped.shared, strict=True))
    for name, value in gradnorm.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_missing_losses_and_no_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got none for \['triplet'\]"):
        GradNorm(("info", "triplet"), LossConfig())({"info": torch.ones(())})
    with pytest.raises(ValueError, match="at least one task"):
        GradNorm((), LossConfig())
