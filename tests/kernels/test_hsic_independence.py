"""hsic_test, dhsic, dhsic_test and conditional_hsic: against definitions in numpy, and as tests of what is known.

Other packages take longer to import than all of this: benchmarks/test_independence.py holds against them.
"""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from distance_features import distance_features
from helpers import assert_matches, require
from hsic_cases import features, median_distance
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from bdam_kernels import HSICTest, conditional_hsic, dhsic, dhsic_test, hsic, hsic_test, use_backend

Matrix = NDArray[np.float64]
pytestmark = pytest.mark.usefixtures("one_thread")
every_backend = pytest.mark.parametrize("name", ["reference", "cpu"])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gram(x: Tensor, kernel: str = "rbf", sigma: float | None = None) -> Matrix:
    rows = x.double().numpy()
    if kernel == "linear":
        return rows @ rows.T
    squares = ((rows[:, None] - rows) ** 2).sum(2)
    return np.exp(-squares / (2 * (sigma or median_distance(x)) ** 2))


def centred(K: Matrix) -> Matrix:
    H = np.eye(len(K)) - 1 / len(K)
    return H @ K @ H


def definition(x: Tensor, y: Tensor, kernel: str, sigma: tuple[float, float] | None = None) -> float:
    K, L = (gram(t, kernel, s) for t, s in zip((x, y), sigma or (None, None), strict=True))
    return float(np.trace(centred(K) @ centred(L))) / (len(x) - 1) ** 2


def independent(n: int, dx: int = 3, dy: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = seeded(seed)
    return torch.randn(n, dx, generator=generator), torch.randn(n, dy, generator=generator)


@every_backend
@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("shape", [(2, 3, 4), (5, 3, 4), (8, 9, 7), (37, 20, 30), (64, 2, 3)], ids=str)
def test_permuted_statistics_are_the_definition_of_permuted_rows(name: str, kernel: str, shape: tuple) -> None:
    x, y = features(*shape)
    with use_backend(require(name)):
        found = hsic_test(x, y, kernel=kernel, permutations=7, generator=seeded(3))
    generator = seeded(3)
    orders = [torch.randperm(len(x), generator=generator) for _ in range(7)]
    expected = torch.tensor([definition(x, y[order], kernel) for order in orders], dtype=torch.float64)
    assert found.statistic == pytest.approx(definition(x, y, kernel), rel=2e-5)
    assert_matches(found.null, expected, "permuted statistics", dtype=torch.float32)


@every_backend
@pytest.mark.parametrize("size", [1e-15, 1e15])
def test_features_whose_products_no_float32_holds(name: str, size: float) -> None:
    x, y = features(40, 30, 20, torch.float64)
    with use_backend(require(name)):
        plain, scaled = (hsic_test(t, y, kernel="linear", generator=seeded()) for t in (x, size * x))
    assert scaled.p_value == plain.p_value
    assert scaled.statistic == pytest.approx(size**2 * plain.statistic)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("power", [-1, 1])
def test_features_whose_squares_their_dtype_does_not_hold(power: int, dtype: torch.dtype, kernel: str) -> None:
    size = (1e200 if dtype == torch.float64 else 1e25) ** power
    x, y = features(40, 3, 2, dtype)
    for plain, scaled in (
        [hsic_test(t, y, kernel=kernel, permutations=50, generator=seeded()) for t in (x, size * x)],
        [hsic_test(t, y, kernel=kernel, method="gamma") for t in (x, size * x)],
        [dhsic_test(t, y, kernel=kernel, permutations=50, generator=seeded()) for t in (x, size * x)],
    ):
        assert scaled.p_value == pytest.approx(plain.p_value, rel=1e-4) and plain.p_value < 0.05
        if kernel == "rbf":
            assert scaled.statistic == pytest.approx(plain.statistic, rel=1e-5)
    values = [float(conditional_hsic(t, y, y[:, :1])) for t in (x, size * x)]
    assert values[1] == pytest.approx(values[0], rel=1e-4)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_features_far_from_the_origin(kernel: str) -> None:
    x, y = features(40, 3, 2, torch.float64)
    z = y[:, :1].square()
    plain, moved = (
        torch.tensor([dhsic(t, y + o, kernel=kernel), conditional_hsic(t, y + o, z + o)])
        for t, o in ((x, 0), (x + 1e8, 1e8))
    )
    assert torch.allclose(moved, plain, rtol=1e-4)


@every_backend
@pytest.mark.parametrize("function", [hsic_test, dhsic_test, partial(hsic_test, method="gamma")])
def test_differences_that_float64_does_not_hold(name: str, function: Any) -> None:
    x, y = features(10, 3, 2, torch.float64)
    with use_backend(require(name)), pytest.raises(ValueError, match="differ by numbers that float64 holds"):
        function(1e308 * x.sign(), y)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sigma", [None, 1.5, (0.7, 3.0)])
def test_the_statistic_is_that_of_hsic(sigma: Any, dtype: torch.dtype) -> None:
    x, y = features(30, 3, 4, dtype)
    found = hsic_test(x, y, sigma=sigma, permutations=1)
    assert found.statistic == pytest.approx(float(hsic(x, y, kernel="rbf", sigma=sigma)), rel=1e-4)
    assert hsic_test(x, y, sigma=sigma, method="gamma").statistic == pytest.approx(found.statistic, rel=1e-6)


@every_backend
@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_equal_statistics_count(name: str, kernel: str) -> None:
    """Of few values a good part of all permutations gives the observed statistic, which rounding must not hide."""
    x = torch.tensor([0.1, 0.1, 0.1, 0.7, 0.7, 0.3])[:, None].repeat(1, 12)
    y = torch.tensor([0.2, 0.2, 0.2, 0.9, 0.9, 0.2])[:, None].repeat(1, 12)
    observed = definition(x, y, kernel)
    every = [definition(x, y[list(order)], kernel) for order in itertools.permutations(range(6))]
    exact = np.mean([value >= observed * (1 - 1e-9) for value in every])
    with use_backend(require(name)):
        found = hsic_test(x, y, kernel=kernel, permutations=4000, generator=seeded()).p_value
    assert found == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 4000))


def test_least_p_value() -> None:
    x = torch.randn(50, 3, generator=seeded())
    found = hsic_test(x, x, permutations=199, generator=seeded())
    assert found.p_value == 1 / 200 and found.null.shape == (199,) and found.null.dtype == torch.float64


@every_backend
@pytest.mark.parametrize("method", ["permutation", "gamma"])
@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_constants_depend_on_nothing(name: str, kernel: str, method: str) -> None:
    x = torch.full((30, 4), 0.1)
    with use_backend(require(name)):
        assert hsic_test(x, torch.randn(30, 2), kernel=kernel, method=method)[:2] == (0, 1)
    found = dhsic_test(x, torch.randn(30, 2), torch.randn(30, 2), kernel="rbf", permutations=20)
    variables = torch.full((30, 1), 0.1), torch.randn(30, 2)
    assert dhsic_test(*variables, permutations=20).p_value == 1
    assert found.p_value > 0


def test_one_state_of_a_generator_gives_one_result() -> None:
    x, y = independent(40)
    first, second, third = (hsic_test(x, y, generator=seeded(seed)) for seed in (1, 1, 2))
    torch.set_num_threads(3)
    fourth = hsic_test(x, y, generator=seeded(1))
    assert torch.equal(first.null, second.null) and torch.equal(first.null, fourth.null)
    assert not torch.equal(first.null, third.null)


def grettons_gamma(x: Tensor, y: Tensor) -> float:
    """The paper's Section 3, as its authors' program has it."""
    m = len(x)
    K, L = gram(x), gram(y)
    statistic = (centred(K) * centred(L)).sum() / m
    terms = (centred(K) * centred(L) / 6) ** 2
    variance = (terms.sum() - np.trace(terms)) / m / (m - 1)
    variance = 72 * (m - 4) * (m - 5) / m / (m - 1) / (m - 2) / (m - 3) * variance
    x_mean, y_mean = ((G - np.diag(np.diag(G))).sum() / m / (m - 1) for G in (K, L))
    mean = (1 + x_mean * y_mean - x_mean - y_mean) / m
    return float(stats.gamma.sf(statistic, mean**2 / variance, scale=variance * m / mean))


def test_gamma_is_that_of_the_paper() -> None:
    for n, seed in itertools.product((6, 20, 150), range(3)):
        x, y = independent(n, seed=seed)
        assert hsic_test(x, y, method="gamma").p_value == pytest.approx(grettons_gamma(x, y), rel=1e-4)


@pytest.mark.parametrize("options", [{"permutations": 99}, {"method": "gamma"}], ids=str)
@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_p_values_are_uniform_of_independent_variables(kernel: str, options: dict) -> None:
    if options == {"method": "gamma"} and kernel == "linear":
        pytest.skip("two moments do not make a linear kernel's distribution")
    generator = seeded(5)
    found = [hsic_test(*independent(40, seed=s), kernel=kernel, generator=generator, **options) for s in range(300)]
    assert stats.kstest([f.p_value for f in found], "uniform").pvalue > 0.01


def test_power() -> None:
    """On a circle coordinates depend on each other and do not correlate."""
    angles = 2 * math.pi * torch.rand(200, 1, generator=seeded())
    x, y = angles.cos(), angles.sin()
    assert hsic_test(x, y, generator=seeded()).p_value == 1 / 1001
    assert hsic_test(x, y, method="gamma").p_value < 1e-4
    assert hsic_test(x, y, kernel="linear", generator=seeded()).p_value > 0.05


def pfisters_dhsic(*variables: Tensor, kernel: str = "rbf") -> float:
    grams = [gram(t, kernel) for t in variables]
    joint, product, cross = np.ones_like(grams[0]), 1.0, np.ones(len(grams[0]))
    for K in grams:
        joint, product, cross = joint * K, product * K.mean(), cross * K.mean(0)
    return float(joint.mean() + product - 2 * cross.mean())


def three_variables(n: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    x, y = features(n, 3, 2, dtype)
    return x, y, (x[:, :1] * y[:, :1] + torch.randn(n, 1)).to(dtype)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("count", [2, 3])
def test_dhsic_is_its_definition(count: int, dtype: torch.dtype, kernel: str) -> None:
    variables = three_variables(25, dtype)[:count]
    value = dhsic(*variables, kernel=kernel)
    assert value.dtype == dtype
    assert float(value) == pytest.approx(pfisters_dhsic(*variables, kernel=kernel), rel=2e-5)


def test_dhsic_of_two_variables_is_hsic() -> None:
    x, y = features(25, 3, 2, torch.float64)
    assert float(dhsic(x, y, sigma=1.5)) == pytest.approx(
        float(hsic(x, y, kernel="rbf", sigma=1.5)) * 24**2 / 25**2, rel=1e-10
    )


def test_permuted_dhsic_is_the_definition_of_permuted_rows() -> None:
    x, y, z = three_variables(12)
    found = dhsic_test(x, y, z, permutations=4, generator=seeded(3))
    generator = seeded(3)
    orders = [torch.randperm(12, generator=generator) for _ in range(8)]
    expected = [pfisters_dhsic(x, y[p], z[q]) for p, q in zip(orders[:4], orders[4:], strict=True)]
    assert found.statistic == pytest.approx(pfisters_dhsic(x, y, z), rel=2e-5)
    assert found.null.tolist() == pytest.approx(expected, rel=2e-5)


def test_dhsic_sees_what_pairs_do_not_show() -> None:
    x, y = independent(150, 1, 1)
    z = x.sign() * y.sign() * torch.rand(150, 1, generator=seeded(2))
    assert dhsic_test(x, y, z, permutations=200, generator=seeded()).p_value == 1 / 201
    for pair in itertools.combinations((x, y, z), 2):
        assert hsic_test(*pair, generator=seeded()).p_value > 0.05


def test_p_values_of_dhsic_are_uniform_of_independent_variables() -> None:
    generator = seeded(5)
    draws = [torch.randn(3, 15, 2, generator=generator) for _ in range(200)]
    found = [dhsic_test(*draw, permutations=49, generator=generator).p_value for draw in draws]
    assert stats.kstest(found, "uniform").pvalue > 0.01


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_derivatives_of_dhsic(kernel: str) -> None:
    leaves = [t.requires_grad_() for t in three_variables(6, torch.float64)]
    sigma = None if kernel == "linear" else (1.0, 1.5, 2.0)
    assert torch.autograd.gradcheck(lambda *v: dhsic(*v, kernel=kernel, sigma=sigma), leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda *v: dhsic(*v, kernel=kernel, sigma=sigma), leaves, fast_mode=True)


def fukumizus_trace(x: Tensor, y: Tensor, z: Tensor, regularisation: float) -> float:
    n = len(x)

    def R(K: Matrix) -> Matrix:
        return centred(K) @ np.linalg.inv(centred(K) + n * regularisation * np.eye(n))

    Rx, Ry, Rz = R(gram(x) * gram(z)), R(gram(y) * gram(z)), R(gram(z))
    return float(np.trace(Ry @ Rx - 2 * Ry @ Rx @ Rz + Ry @ Rz @ Rx @ Rz))


@pytest.mark.parametrize("regularisation", [1e-4, 1e-3, 0.1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_conditional_hsic_is_its_definition(dtype: torch.dtype, regularisation: float) -> None:
    variables = three_variables(25, dtype)
    value = conditional_hsic(*variables, regularisation=regularisation)
    assert value.dtype == dtype
    assert float(value) == pytest.approx(fukumizus_trace(*variables, regularisation), rel=1e-4)


def test_conditional_hsic_tells_a_common_cause_from_a_link() -> None:
    z = torch.randn(150, 1, generator=seeded())
    noise, other = (0.5 * torch.randn(150, 1, generator=seeded(s)) for s in (1, 2))
    apart = conditional_hsic(z + noise, z + other, z)
    linked = conditional_hsic(z + noise, z + noise + 0.3 * other, z)
    assert linked > 1.5 * apart > 0


def test_derivatives_of_conditional_hsic() -> None:
    leaves = [t.requires_grad_() for t in three_variables(6, torch.float64)]

    def function(*variables: Tensor) -> Tensor:
        return conditional_hsic(*variables, sigma=(1.0, 1.5, 2.0), regularisation=0.05)

    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


def test_distance_covariance_is_linear_hsic() -> None:
    """Of features whose squared distances are the distances of the rows, which classical scaling gives, four times.

    Source: Sejdinovic et al. 2013, "Equivalence of distance-based and RKHS-based statistics".
    """
    x, y = features(30, 3, 2)
    n, distances = len(x), [torch.cdist(t.double(), t.double()).numpy() for t in (x, y)]
    covariance = (centred(distances[0]) * centred(distances[1])).sum() / n**2
    scaled = [distance_features(t) for t in (x, y)]
    assert 4 * (n - 1) ** 2 / n**2 * float(hsic(*scaled)) == pytest.approx(covariance, rel=1e-9)


TWO = torch.zeros(6, 2), torch.ones(6, 2)


@pytest.mark.parametrize(
    ("error", "message", "function", "arguments", "options"),
    [
        (ValueError, r"x must be \(N, D\), got \(3,\)", hsic_test, (torch.zeros(3), torch.zeros(3, 2)), {}),
        (ValueError, "y must have 3 rows like x, got 4", hsic_test, (torch.zeros(3, 2), torch.zeros(4, 2)), {}),
        (TypeError, "y must be floating point, got torch.int64", hsic_test, (TWO[0], TWO[0].long()), {}),
        (ValueError, "y must be on cpu like x, got meta", hsic_test, (TWO[0], TWO[0].to("meta")), {}),
        (ValueError, "at least 2 rows are needed, got 1", hsic_test, (torch.zeros(1, 2), torch.zeros(1, 2)), {}),
        (ValueError, "y must be finite, got 12 values", hsic_test, (TWO[0], TWO[0] + math.nan), {}),
        (ValueError, "kernel must be .*, got 'poly'", hsic_test, TWO, {"kernel": "poly"}),
        (ValueError, "method must be .*, got 'exact'", hsic_test, TWO, {"method": "exact"}),
        (ValueError, "needs at least 6 rows, got 5", hsic_test, [t[:5] for t in TWO], {"method": "gamma"}),
        (ValueError, "permutations must be .*, got 0", hsic_test, TWO, {"permutations": 0}),
        (ValueError, "permutations must be .*, got 1.5", hsic_test, TWO, {"permutations": 1.5}),
        (ValueError, r"sigma must be .*, got \(1, -1\)", hsic_test, TWO, {"sigma": (1, -1)}),
        (ValueError, "sigma .* None for kernel 'linear', got 1", hsic_test, TWO, {"kernel": "linear", "sigma": 1}),
        (ValueError, "at least 2 variables are needed, got 1", dhsic, TWO[:1], {}),
        (ValueError, "variable 2 must have 6 rows", dhsic, (*TWO, torch.zeros(5, 2)), {}),
        (ValueError, r"sigma must be .*3 of them.*, got \(1, 2\)", dhsic, (*TWO, TWO[0]), {"sigma": (1, 2)}),
        (ValueError, "variable 0 must be finite", dhsic_test, (TWO[0] + math.inf, *TWO), {}),
        (ValueError, "permutations must be .*, got -3", dhsic_test, TWO, {"permutations": -3}),
        (ValueError, "z must have 6 rows like x, got 5", conditional_hsic, (*TWO, torch.zeros(5, 2)), {}),
        (ValueError, "y and z must be finite", conditional_hsic, (TWO[0], TWO[0] + math.nan, TWO[1]), {}),
        (ValueError, "regularisation must be .*, got 0", conditional_hsic, (*TWO, TWO[0]), {"regularisation": 0}),
    ],
)  # fmt: skip
def test_bad_arguments(error: type, message: str, function: Any, arguments: Any, options: dict) -> None:
    with pytest.raises(error, match=message):
        function(*arguments, **options)


def test_names_of_a_result() -> None:
    x, y = independent(20)
    found = hsic_test(x, y, method="gamma")
    assert isinstance(found, HSICTest) and found == (found.statistic, found.p_value, None)
