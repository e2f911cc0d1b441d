"""What the tests of HSIC share: the definitions in float64, features that depend on each other, and the options."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_matches, device_of
from torch import Tensor

from bdam_kernels import hsic

KERNELS, ESTIMATORS = ("linear", "rbf"), ("biased", "unbiased")
OPTIONS = [
    {"kernel": kernel, "estimator": estimator, "normalize": normalize}
    for kernel in KERNELS
    for estimator in ESTIMATORS
    for normalize in (False, True)
]
every_option = pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())))
# Few samples of wide features take Gram matrices, more of narrow ones x^T y.
SHAPES = [(12, 40, 30), (18, 5, 7)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def gram(x: Tensor, kernel: str, sigma: float) -> Tensor:
    if kernel == "linear":
        return x @ x.T
    exponents = -(x[:, None] - x[None]).square().sum(2) / (2 * sigma**2)
    # Less 1 where most entries are near 1: no estimator sees that, and float64 keeps what they differ by.
    return torch.expm1(exponents) if exponents.median() > -1 else torch.exp(exponents)


def median_distance(x: Tensor) -> float:
    rows = x.detach().double().numpy()
    distances = np.linalg.norm(rows[:, None] - rows, axis=2)
    return float(np.median(distances[np.triu_indices(len(rows), 1)]))


def doubly_centred(K: Tensor, estimator: str) -> Tensor:
    """H K H, or its unbiased counterpart (Szekely and Rizzo 2014): both make HSIC one scalar product."""
    n = len(K)
    if estimator == "biased":
        return K - K.mean(0) - K.mean(1, keepdim=True) + K.mean()
    off = 1 - torch.eye(n, dtype=K.dtype)
    K = K * off
    return off * (K - (K.sum(0) + K.sum(1, keepdim=True)) / (n - 2) + K.sum() / ((n - 1) * (n - 2)))


def oracle(
    x: Tensor,
    y: Tensor,
    kernel: str = "linear",
    estimator: str = "biased",
    normalize: bool = False,
    sigma: tuple[float, float] | None = None,
) -> Tensor:
    x, y = x.double(), y.double()
    n = len(x)
    sigma = sigma or ((median_distance(x), median_distance(y)) if kernel == "rbf" else (1.0, 1.0))
    K, L = (doubly_centred(gram(t, kernel, s), estimator) for t, s in zip((x, y), sigma, strict=True))
    value = (K * L).sum() / ((n - 1) ** 2 if estimator == "biased" else n * (n - 3))
    if not normalize:
        return value
    return (K * L).sum() / ((K * K).sum() * (L * L).sum()).sqrt()


def features(n: int, dx: int, dy: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Views of two binary factors, of which they share one: dependent, because HSIC of independent features is a
    small difference of large sums, but not nearly equal, because the gradient of alignment vanishes there."""
    i = torch.arange(n)
    shared, other = (-1.0) ** i, (-1.0) ** (i // 2)

    def view(second: Tensor, width: int) -> Tensor:
        factors = torch.stack([shared, second], 1)
        return factors @ torch.randn(2, width) + 0.3 * torch.randn(n, width) + torch.randn(width)

    return view(other, dx).to(dtype), view(shared * other, dy).to(dtype)


# Widths of Gaussian kernels, in median distances.
WIDTHS = (0.1, 0.2, 0.33, 0.5, 1, 3, 10)


def check_width(name: str | None, ratio: float, n: int, width: int, dtype: torch.dtype, **options: Any) -> None:
    """`check` of a normal x and of x with noise. With so few columns no two rows are so far apart that float64 cannot
    tell what a kernel of a tenth of the median distance makes of them."""
    x = torch.randn(n, width)
    x, y = x.to(dtype), (x + 0.5 * torch.randn(n, width)).to(dtype)
    sigma = ratio * median_distance(x), ratio * median_distance(y)
    check(x, y, name, kernel="rbf", sigma=sigma, **options)


def value_and_gradients(function: Any, x: Tensor, y: Tensor, **options: Any) -> dict[str, Tensor]:
    x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
    value = function(x, y, **options)
    # A gradient of the value that is not 1 shows that it is not forgotten.
    grad_x, grad_y = torch.autograd.grad(1.5 * value, (x, y))
    assert grad_x.dtype == x.dtype and grad_y.dtype == y.dtype
    return {"value": value.detach(), "grad_x": grad_x, "grad_y": grad_y}


def check(x: Tensor, y: Tensor, name: str | None, **options: Any) -> None:
    """Value and gradients of a backend, None for the one that a call picks, against the definition."""
    device = device_of(name or "cpu")
    actual = value_and_gradients(hsic, x.to(device), y.to(device), backend=name, **options)
    assert actual["value"].dtype == (torch.float64 if x.dtype == torch.float64 else torch.float32)
    for key, expected in value_and_gradients(oracle, x.double(), y.double(), **options).items():
        assert_matches(actual[key].cpu(), expected, key, dtype=x.dtype)
