"""hsic with Gaussian kernels: widths, their median, and memory."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_matches, require
from hsic_cases import check, every_option, features, median_distance, oracle, value_and_gradients
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bdam_kernels import backend as backends
from bdam_kernels import hsic
from bdam_kernels.ops import hsic_gaussian

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
    monkeypatch.setattr(hsic_gaussian, "_TILE", tile)
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
    monkeypatch.setattr(hsic_gaussian, "_TILE", 1)
    monkeypatch.setattr(backends, "choose", lambda *_: "reference")  # torch alone: what a kernel allocates is not seen
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
