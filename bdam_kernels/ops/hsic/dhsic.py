"""HSIC of several variables at once: joint independence, and its permutation test."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import mul
from typing import Literal

import torch
from torch import Tensor

from bdam_kernels.ops.hsic.algebra import centre
from bdam_kernels.ops.hsic.gram import Sigma, check_finite, check_variables, gram, of_unit_size, result_dtype, widths
from bdam_kernels.ops.hsic.independence import HSICTest, check_permutations, permutation_test
from bdam_kernels.ops.hsic.permutations import identity_and_draws


def dhsic(*variables: Tensor, kernel: Literal["linear", "rbf"] = "rbf", sigma: Sigma = None) -> Tensor:
    """HSIC of d variables: the squared distance of their joint distribution from the product of their own;
    differentiable any number of times.

    mean_ij prod_k K^k_ij + prod_k mean_ij K^k_ij - 2 mean_i prod_k mean_j K^k_ij, computed in float64 in O(d N^2)
    operations and memory. Of two variables it is (N-1)^2 / N^2 times `hsic`.  Source: Pfister et al. 2018,
    "Kernel-based tests for joint independence", Definition 2.6.

    Args:
        variables: features of the same N samples, two at least, (N, D_k) each; floating point.
        kernel: "rbf" or "linear" as in `hsic`. Where there are more than two variables, the linear one is no measure
            of independence, and its value changes with the features' origin.
        sigma: width of the Gaussian kernels, or one for each variable. None takes the median distances, as constants.
    Returns: scalar, float32 (float64 if any variable is).
    Raises: ValueError for shapes that do not fit, fewer than 2 variables or rows, or an unknown option; TypeError for
        dtypes that are not floating point.
    """
    _check(variables, kernel, sigma)
    joint, product, cross = _terms(_grams(variables, kernel, sigma))
    return (joint + product - 2 * cross).to(result_dtype(variables))


@torch.no_grad()
def dhsic_test(
    *variables: Tensor,
    kernel: Literal["linear", "rbf"] = "rbf",
    sigma: Sigma = None,
    permutations: int = 1000,
    generator: torch.Generator | None = None,
) -> HSICTest:
    """Tests whether d variables are jointly independent: every one of all others together, not only pairwise.

    All variables but the first are permuted, each by itself; Gram matrices are computed once, in float64. The test is
    exact at every N.  Source: Pfister et al. 2018, Section 4.2. Two variables are faster in `hsic_test`, whose
    permuted products have a kernel.

    Args:
        variables, kernel, sigma: as in `dhsic`.
        permutations, generator: as in `hsic_test`.
    Returns: `HSICTest`: statistic, `dhsic(*variables, ...)`, p_value and null.
    Raises: as `dhsic`; ValueError also for features that are not finite, or fewer than 1 permutation.
    """
    _check(variables, kernel, sigma)
    check_finite(_named(variables))
    check_permutations(permutations)
    scale = torch.ones((), dtype=torch.float64)
    if kernel == "linear":
        variables, sizes = zip(*(of_unit_size(t.double()) for t in variables), strict=True)
        scale = reduce(mul, sizes).square()
    grams = _grams(variables, kernel, sigma)
    n, device = len(grams[0]), grams[0].device
    drawn = [identity_and_draws(permutations, n, generator, device) for _ in grams[1:]]
    means = [K.mean(1) for K in grams]
    joint = torch.stack([_joint(grams, orders) for orders in zip(*drawn, strict=True)])
    cross = reduce(mul, [means[0], *(m[p] for m, p in zip(means[1:], drawn, strict=True))]).mean(1)
    _, product, _ = _terms(grams)
    statistics = joint + product - 2 * cross
    # The terms may be far greater than what is left of them.
    rounding = 1e-13 * float(reduce(mul, [K.abs().mean() for K in grams]))
    return permutation_test(statistics, scale, rounding)


def _terms(grams: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Squared norms of the embeddings of the joint distribution and of the product, and their inner product."""
    means = [K.mean(1) for K in grams]
    return reduce(mul, grams).mean(), reduce(mul, [m.mean() for m in means]), reduce(mul, means).mean()


def _joint(grams: Sequence[Tensor], orders: Sequence[Tensor]) -> Tensor:
    """The first of `_terms`, with all variables but the first permuted."""
    rest = (K.index_select(0, p).index_select(1, p) for K, p in zip(grams[1:], orders, strict=True))
    return reduce(mul, rest, grams[0]).mean()


def _check(variables: Sequence[Tensor], kernel: str, sigma: Sigma) -> None:
    if len(variables) < 2:
        raise ValueError(f"at least 2 variables are needed, got {len(variables)}")
    check_variables(_named(variables), kernel, sigma)


def _grams(variables: Sequence[Tensor], kernel: str, sigma: Sigma) -> list[Tensor]:
    if kernel == "linear" and len(variables) == 2:  # which an origin does not change but for rounding
        variables = [centre(t.double()) for t in variables]
    return [gram(t.double(), kernel, w) for t, w in zip(variables, widths(variables, sigma), strict=True)]


def _named(variables: Sequence[Tensor]) -> dict[str, Tensor]:
    return {f"variable {i}": t for i, t in enumerate(variables)}
