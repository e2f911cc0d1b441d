"""GradNorm against a transcription of Eq. 5 and 6 in float64, and how its weights behave."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from naive import close
from torch import Tensor, nn

from bdam_reid.methods.bdam.config import LossConfig
from bdam_reid.methods.bdam.gradnorm import MAX_RATIO, MAX_WEIGHT, MIN_WEIGHT, GradNorm, gradient_shares

EPS = torch.finfo(torch.float64).eps
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


def test_shares_of_the_gradient_are_the_norms_in_proportion() -> None:
    toy = Toy()
    parts = toy.losses()
    shares = gradient_shares(parts, toy.shared)
    one = torch.ones((), dtype=torch.float64)
    norms = [naive_norm(one, parts[task], toy.shared) for task in TASKS]
    assert tuple(shares) == TASKS
    for share, norm in zip(shares.values(), norms, strict=True):
        close(share, norm / sum(norms))
    close(torch.stack(list(shares.values())).sum(), 1.0)
    # A weighted loss has a gradient in proportion to its weight, and the graph is kept.
    double = gradient_shares({**parts, "info": 2 * parts["info"]}, toy.shared)
    close(double["info"] / double["triplet"], 2 * shares["info"] / shares["triplet"])


def test_shares_of_losses_that_do_not_reach_the_shared_layer_are_zero() -> None:
    toy = Toy()
    away = torch.ones((), dtype=torch.float64, requires_grad=True) * 2
    frozen = nn.Parameter(torch.ones(3, dtype=torch.float64), requires_grad=False)
    shares = gradient_shares({"info": toy.losses()["info"], "gate": away}, [*toy.shared, frozen])
    assert shares == {"info": 1.0, "gate": 0.0}
    nothing = gradient_shares({"gate": away}, toy.shared)
    assert nothing == {"gate": 0.0}


def test_missing_losses_and_no_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got none for \['triplet'\]"):
        GradNorm(("info", "triplet"), LossConfig())({"info": torch.ones(())})
    with pytest.raises(ValueError, match="at least one task"):
        GradNorm((), LossConfig())
