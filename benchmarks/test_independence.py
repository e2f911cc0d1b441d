"""Permutation tests of independence beside hyppo and dcor: the same definition, time, and agreement of the results.

`pytest benchmarks -k independence`. A peer draws its own permutations, so p-values agree to their standard error.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from bdam_kernels import HSICTest, dhsic, hsic, hsic_test
from benchmarks.measure import figures
from tests.kernels.distance_features import distance_features

Test = Callable[[], tuple[float, float]]
"""Gives a statistic and a p-value."""
Keep = Callable[[dict[str, Any]], None]


def held_against(peer: str, tests: Mapping[str, Test], permutations: int, keep: Keep, **labels: str) -> None:
    """Times both, keeps the figures, and asserts that the results are the same."""
    rows, found = {}, {}
    for name, test in tests.items():
        began = time.perf_counter()
        found[name] = test()
        rows[name] = {"forward": figures([1e3 * (time.perf_counter() - began)]), "p_value": float(found[name][1])}
    keep({**labels, "peer": peer, "contenders": rows})
    (statistic, p), (expected, other_p) = found["ours"], found[peer]
    assert statistic == pytest.approx(expected, rel=1e-4)
    assert p == pytest.approx(other_p, abs=5 * math.sqrt(2 * max(p, 1 / permutations) / permutations))


def dependent(n: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(n, width)
    return x, torch.randn(n, width) + 1.5 * x.square() / n**0.5


def test_independence_hyppo(small: bool, keep: Keep) -> None:
    peer = pytest.importorskip("hyppo.independence")
    n, width, permutations = (60, 4, 100) if small else (2000, 64, 1000)
    sigma = width**0.5
    x, y = dependent(n, width)

    def ours() -> tuple[float, float]:
        found: HSICTest = hsic_test(x, y, sigma=sigma, permutations=permutations)
        # hyppo's is the root of alignment, which puts permutations in the same order.
        return float(hsic(x, y, kernel="rbf", sigma=sigma, normalize=True)) ** 0.5, found.p_value

    def theirs() -> tuple[float, float]:
        test = peer.Hsic(compute_kernel="rbf", bias=True, gamma=1 / (2 * sigma**2))
        return test.test(x.double().numpy(), y.double().numpy(), reps=permutations, auto=False)[:2]

    held_against(
        "hyppo", {"ours": ours, "hyppo": theirs}, permutations, keep,
        op="independence, Gaussian kernels", size=f"N = {n}, D = {width}, {permutations} permutations",
    )  # fmt: skip


def test_independence_dcor(small: bool, keep: Keep) -> None:
    """Distances of zeros and ones are their own squares, for which distance covariance has a linear kernel."""
    n = 60 if small else 2000
    x = (torch.rand(n, 1) < 0.5).double()
    y = torch.where(torch.rand(n, 1) < 0.5 + 0.5 / n**0.5, x, 1 - x)
    against_dcor(small, keep, "linear kernels", x, y, lambda features: features)


def test_distances_dcor(small: bool, keep: Keep) -> None:
    """Of any features, distance covariance is linear HSIC of those whose squared distances are their distances."""
    x, y = dependent(60 if small else 500, 3)
    against_dcor(small, keep, "distances", x, y, distance_features)


def against_dcor(
    small: bool, keep: Keep, what: str, x: Tensor, y: Tensor, features: Callable[[Tensor], Tensor]
) -> None:
    """Distance covariance of x and y (N, D), and the linear HSIC of what `features` makes of each."""
    peer = pytest.importorskip("dcor")
    (n, width), permutations = x.shape, 100 if small else 1000

    def ours() -> tuple[float, float]:
        found = hsic_test(features(x), features(y), kernel="linear", permutations=permutations)
        return 4 * (n - 1) ** 2 / n * found.statistic, found.p_value

    def theirs() -> tuple[float, float]:
        found = peer.independence.distance_covariance_test(
            x.double().numpy(), y.double().numpy(), num_resamples=permutations
        )
        return float(found.statistic), float(found.pvalue)

    held_against(
        "dcor", {"ours": ours, "dcor": theirs}, permutations, keep,
        op=f"independence, {what}", size=f"N = {n}, D = {width}, {permutations} permutations",
    )  # fmt: skip


def test_independence_dhsic(small: bool, keep: Keep) -> None:
    """The statistic alone: hyppo builds the kernel matrices again for every permutation."""
    peer = pytest.importorskip("hyppo.d_variate")
    n = 60 if small else 2000
    variables = [torch.randn(n, 4) for _ in range(3)]

    def theirs() -> tuple[float, float]:
        test = peer.dHsic(compute_kernel="rbf", gamma=1 / (2 * 2.0**2))
        return float(test.statistic(*(t.double().numpy() for t in variables))), 1.0

    held_against(
        "hyppo", {"ours": lambda: (float(dhsic(*variables, sigma=2.0)), 1.0), "hyppo": theirs}, 1, keep,
        op="dhsic", size=f"N = {n}, 3 variables, D = 4",
    )  # fmt: skip
