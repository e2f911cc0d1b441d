"""hsic with Gaussian kernels: widths, their median, and memory."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_matches, require
from hsic_cases import (
    ESTIMATORS,
    OPTIONS,
    WIDTHS,
    check,
    check_width,
    every_option,
    features,
    median_distance,
    oracle,
    value_and_gradients,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bdam_kernels import dispatch, hsic
from bdam_kernels.ops.hsic import gaussian

BACKENDS = ("reference", "cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("sigma", [0.8, 3, (2.0, 0.5)])
def test_sigma(name: str, sigma: Any) -> None:
    x, y = features(20, 3, 4)
    pair = sigma if isinstance(sigma, tuple) else (sigma, sigma)
    actual = value_and_gradients(hsic, x, y, kernel="rbf", sigma=sigma, backend=require(name))
    for key, expected in value_and_gradients(oracle, x.double(), y.double(), kernel="rbf", sigma=pair).items():
        assert_matches(actual[key], expected, key)


@pytest.mark.parametrize("width", [1, 16, 33])
@pytest.mark.parametrize("rows", [2, 63, 64, 129, 300])
def test_sizes_of_the_cpu_kernel(rows: int, width: int) -> None:
    check(*features(rows, width, width + 2), require("cpu"), kernel="rbf")


@pytest.mark.parametrize("threads", [2, 5])
def test_any_number_of_threads(threads: int) -> None:
    torch.set_num_threads(threads)
    check(*features(300, 7, 3), require("cpu"), kernel="rbf")


@pytest.mark.parametrize("sigma", [1e-3, 1e3])
def test_narrow_and_wide_kernels(sigma: float) -> None:
    """The identity, and what is nearly 1 everywhere: there HSIC is nearly a linear kernel's, times sigma^-4."""
    x, y = features(40, 3, 4)
    expected = value_and_gradients(oracle, x.double(), y.double(), kernel="rbf", sigma=(sigma, sigma))
    actual = value_and_gradients(hsic, x, y, kernel="rbf", sigma=sigma, backend=require("cpu"))
    for key, e in expected.items():
        assert_matches(actual[key], e, key)


@pytest.mark.parametrize("ratio", WIDTHS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("n", [40, 256])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [("cpu", torch.float32), ("reference", torch.float32), (None, torch.float64), ("reference", torch.float64)],
    ids=str,
)
def test_widths(name: str | None, dtype: torch.dtype, n: int, normalize: bool, estimator: str, ratio: float) -> None:
    """From kernels that are nearly 0 off the diagonal to such that are nearly 1."""
    width = 32 if dtype == torch.float32 else 8
    check_width(name and require(name), ratio, n, width, dtype, estimator=estimator, normalize=normalize)


@pytest.mark.parametrize("ratio", WIDTHS)
@pytest.mark.parametrize(
    ("dtype", "estimator", "normalize"),
    [
        (torch.bfloat16, "biased", False),
        (torch.bfloat16, "biased", True),
        (torch.bfloat16, "unbiased", False),
        (torch.bfloat16, "unbiased", True),
        # Of the others float16 cannot hold the gradients: they are below 2^-24.
        (torch.float16, "unbiased", True),
    ],
    ids=str,
)
def test_widths_in_half_types(dtype: torch.dtype, estimator: str, normalize: bool, ratio: float) -> None:
    check_width(None, ratio, 40, 32, dtype, estimator=estimator, normalize=normalize)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("ratio", [0.1, 0.2, 3])
def test_second_derivatives_of_narrow_and_wide_kernels(ratio: float, estimator: str) -> None:
    x = torch.randn(20, 4, dtype=torch.float64)
    inputs = x, x + 0.5 * torch.randn_like(x)
    sigma = tuple(ratio * median_distance(t) for t in inputs)
    directions = [torch.randn_like(t) for t in inputs]

    def product(function: Any) -> tuple[Tensor, ...]:
        leaves = [t.clone().requires_grad_() for t in inputs]
        value = function(*leaves, kernel="rbf", sigma=sigma, estimator=estimator, normalize=True)
        gradients = torch.autograd.grad(value, leaves, create_graph=True)
        return torch.autograd.grad(gradients, leaves, directions)

    for actual, expected in zip(product(hsic), product(oracle), strict=True):
        assert_matches(actual, expected, "Hessian times direction", dtype=torch.float32)


def test_products_of_entries_that_no_float32_holds() -> None:
    """Entries of about exp(-50), of which HSIC has products: alignment is of the order of 1 all the same."""
    x = torch.randn(40, 768)
    y = x + 0.5 * torch.randn(40, 768)
    sigma = 0.1 * median_distance(x), 0.1 * median_distance(y)
    options = {"kernel": "rbf", "sigma": sigma, "estimator": "unbiased"}
    assert oracle(x, y, **options) < torch.finfo(torch.float32).tiny
    check(x, y, require("cpu"), normalize=True, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("options", [o for o in OPTIONS if o["kernel"] == "rbf"], ids=str)
def test_near_pairs_among_rows_that_are_far_from_each_other(options: dict, dtype: torch.dtype) -> None:
    """The kernel is as wide as the pairs' distances, and so narrow that all other entries are zero: of them alone are
    the typical value and the scale that the kernels take. Distances of 1 between rows at 10^3 have errors of
    10^6 eps, so bfloat16's bound is enough to tell that nothing was lost or overflowed."""
    x = 10.0 * torch.randn(30, 6, dtype=dtype).repeat_interleave(2, 0) + 0.1 * torch.randn(60, 6, dtype=dtype)
    y = x + 0.05 * torch.randn_like(x)
    actual = value_and_gradients(hsic, x, y, sigma=(0.3, 0.4), **options)
    expected = value_and_gradients(oracle, x.double(), y.double(), sigma=(0.3, 0.4), **options)
    for key, e in expected.items():
        assert_matches(actual[key].double(), e, key, dtype=torch.bfloat16)


def test_alignment_of_kernels_that_are_nothing_but_their_diagonal() -> None:
    """There it is 0/0: no zero that looks like independence, and no zero gradient."""
    x = torch.randn(12, 3).requires_grad_()
    options = {"kernel": "rbf", "sigma": 1e-3, "estimator": "unbiased"}
    assert hsic(x, 2 * x, **options) == 0
    value = hsic(x, 2 * x, normalize=True, **options)
    value.backward()
    assert value.isnan() and x.grad.isnan().any()


def test_the_median_of_many_rows_is_that_of_evenly_spaced_ones() -> None:
    x, y = features(1500, 3, 3)
    rows = np.arange(1024) * 1499 // 1023
    sigma = median_distance(x[rows]), median_distance(y[rows])
    actual, expected = hsic(x, y, kernel="rbf"), hsic(x.double(), y.double(), kernel="rbf", sigma=sigma)
    assert_matches(actual, expected, "value")


@every_option
@pytest.mark.parametrize("tile", [1, 2**21], ids=["stripes", "whole"])
def test_stripes(monkeypatch: pytest.MonkeyPatch, options: dict, tile: int) -> None:
    """In float64, for which there is no kernel."""
    monkeypatch.setattr(gaussian, "_TILE", tile)
    check(*features(150, 3, 5, torch.float64), None, **options)


class LargestTensor(TorchDispatchMode):
    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for t in result if isinstance(result, (tuple, list)) else [result]:
            self.elements = max(self.elements, t.numel() if isinstance(t, Tensor) else 0)
        return result


@every_option
def test_no_matrix_of_all_pairs(monkeypatch: pytest.MonkeyPatch, options: dict) -> None:
    monkeypatch.setattr(gaussian, "_TILE", 1)
    monkeypatch.setattr(dispatch, "choose", lambda *_: "reference")  # torch alone: what a kernel allocates is not seen
    x, y = (t.requires_grad_() for t in features(500, 3, 2))
    sigma = 1.0 if options["kernel"] == "rbf" else None
    with LargestTensor() as largest:
        hsic(x, y, sigma=sigma, **options).backward()
    assert 0 < largest.elements <= 64 * 500


def test_equal_pairs_do_not_make_the_median_zero() -> None:
    x = torch.zeros(6, 2)
    x[0] = 1.0
    distances = [torch.dist(a, b).item() for a, b in itertools.combinations(x, 2)]
    expected = hsic(x, x, kernel="rbf", sigma=sum(distances) / len(distances))
    assert_matches(hsic(x, x, kernel="rbf"), expected.double(), "value")
