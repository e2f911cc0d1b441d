"""Tests of independence: by permutations, or by a gamma distribution fitted to two moments."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bdam_kernels.ops.hsic.algebra import centre
from bdam_kernels.ops.hsic.gram import (
    Sigma,
    check_finite,
    check_variables,
    doubly_centred,
    gram,
    of_unit_size,
    widths,
)
from bdam_kernels.ops.hsic.permutations import (
    beyond_float64,
    identity_and_draws,
    p_value,
    permuted_norms,
    permuted_products,
)


class HSICTest(NamedTuple):
    """What a test of independence found."""

    statistic: float
    """As `hsic` or `dhsic` gives it."""
    p_value: float
    """Probability of a statistic at least as large if the variables were independent."""
    null: Tensor | None
    """The statistics of the permutations, (permutations,), float64; None where there were none."""


@torch.no_grad()
def hsic_test(
    x: Tensor,
    y: Tensor,
    *,
    kernel: Literal["linear", "rbf"] = "rbf",
    sigma: Sigma = None,
    method: Literal["permutation", "gamma"] = "permutation",
    permutations: int = 1000,
    generator: torch.Generator | None = None,
) -> HSICTest:
    """Tests whether two variables are independent, by biased HSIC.

    Both Gram matrices are computed once, in float64; permutations of y index into them. With a Gaussian kernel a
    test finds any kind of dependence as N grows, with a linear one correlation only.  Source: Gretton et al. 2007,
    "A kernel statistical test of independence"; Phipson & Smyth 2010 for permutations.

    Args:
        x, y: features of the same N samples, which are independent of each other, (N, Dx) and (N, Dy), floating point.
        kernel, sigma: as in `hsic`; None takes the median distances.
        method: "permutation" draws permutations uniformly and gives p = (1 + those that reach the statistic) /
            (1 + permutations): exact at every N, in O(permutations N^2) operations, or O(permutations N Dx Dy) of
            linear kernels of narrow features, and O(N^2 + permutations N) memory. "gamma" fits mean and variance that
            N times HSIC has under independence, in O(N^2): an approximation, good from some hundred samples on and
            poor far out in the tail, and for linear kernels of few features.
        permutations: the least p-value is 1 / (1 + permutations).
        generator: draws the permutations; the same state gives the same result, bit for bit. None takes torch's.
    Returns: `HSICTest`: statistic, `hsic(x, y, kernel=kernel, sigma=sigma)`, p_value, and null, None for "gamma".
    Raises: ValueError for shapes that do not fit, fewer than 2 (gamma: 6) rows, features that are not finite or
        whose differences are not, an unknown option or fewer than 1 permutation; TypeError for dtypes that are not
        floating point.
    """
    check_variables({"x": x, "y": y}, kernel, sigma)
    check_finite({"x": x, "y": y})
    _check_method(method, len(x))
    check_permutations(permutations)
    n = len(x)
    x_width, y_width = widths((x, y), sigma)
    x, y = centre(x.double()), centre(y.double())
    scale = torch.ones((), dtype=torch.float64)
    if kernel == "linear":
        (x, x_size), (y, y_size) = of_unit_size(x), of_unit_size(y)
        scale = (x_size * y_size).square()
    # N^2 elements that are looked up take the time of 3 N^2 multiplications or more.
    from_features = method == "permutation" and kernel == "linear" and x.shape[1] * y.shape[1] < 3 * n
    if from_features:
        drawn = identity_and_draws(permutations, n, generator, x.device)
        return permutation_test(permuted_norms(x, y, drawn) / (n - 1) ** 2, scale)
    K, L = gram(x, kernel, x_width), gram(y, kernel, y_width)
    if method == "gamma":
        return _gamma(K, L, scale)
    drawn = identity_and_draws(permutations, n, generator, x.device)
    products = permuted_products(doubly_centred(K), doubly_centred(L), drawn)
    return permutation_test(products / (n - 1) ** 2, scale)


def permutation_test(statistics: Tensor, scale: Tensor, rounding: float = 0.0) -> HSICTest:
    """Of statistics of features that were divided by what scale is the square of, the observed one first; rounding: as
    of `p_value`."""
    p = p_value(statistics, rounding)
    statistics = statistics * scale
    return HSICTest(float(statistics[0]), p, statistics[1:])


def _gamma(K: Tensor, L: Tensor, scale: Tensor) -> HSICTest:
    """The upper tail of the gamma distribution with the mean and variance of tr(K H L H) / N under independence.

    The paper's mean is that of kernels with K_ii = 1; here the mean of the diagonal takes the place of 1.
    """
    n = len(K)
    products = doubly_centred(K) * doubly_centred(L)
    total = products.sum()
    mean = _excess_of_the_diagonal(K) * _excess_of_the_diagonal(L) / n
    squares = (products / 6).square()
    spread = (squares.sum() - squares.diagonal().sum()) / (n * (n - 1))
    variance = 72 * (n - 4) * (n - 5) / (n * (n - 1) * (n - 2) * (n - 3)) * spread
    if not variance.isfinite():
        raise beyond_float64()
    statistic = float(total / (n - 1) ** 2 * scale)
    if variance == 0:  # rows of x or of y are all equal
        return HSICTest(statistic, 1.0, None)
    upper_tail = torch.special.gammaincc(mean.square() / variance, total / n**2 * mean / variance)
    return HSICTest(statistic, float(upper_tail), None)


def _excess_of_the_diagonal(gram: Tensor) -> Tensor:
    """Mean of the diagonal less that of all else."""
    n = len(gram)
    diagonal = gram.diagonal().sum()
    return diagonal / n - (gram.sum() - diagonal) / (n * (n - 1))


def _check_method(method: str, n: int) -> None:
    if method not in ("permutation", "gamma"):
        raise ValueError(f"method must be 'permutation' or 'gamma', got {method!r}")
    if method == "gamma" and n < 6:
        raise ValueError(f"method 'gamma' needs at least 6 rows, got {n}: take 'permutation'")


def check_permutations(permutations: int) -> None:
    if not isinstance(permutations, int) or isinstance(permutations, bool) or permutations < 1:
        raise ValueError(f"permutations must be a positive integer, got {permutations!r}")
