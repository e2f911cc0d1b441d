"""What the measures of several variables share: their checks, widths of kernels and Gram matrices in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real

import torch
from torch import Tensor

from bdam_kernels.ops.hsic.algebra import centre, full_precision
from bdam_kernels.ops.hsic.gaussian import median_distance

Sigma = float | Sequence[float] | None


def gram(x: Tensor, kernel: str, width: Tensor | float) -> Tensor:
    """(N, N) of float64 features (N, D): x x^T, or exp(-|x_i - x_j|^2 / (2 width^2))."""
    if kernel == "rbf":
        x = centre(x) / width
    with full_precision(x):
        products = x @ x.mT
    if kernel == "linear":
        return products
    squares = products.diagonal()
    return torch.exp(products - (squares[:, None] + squares) / 2)


def doubly_centred(gram: Tensor) -> Tensor:
    """H K H with H = I - 1/N."""
    rows = gram - gram.mean(0)
    return rows - rows.mean(1, keepdim=True)


def widths(variables: Sequence[Tensor], sigma: Sigma) -> Sequence[Tensor | float]:
    """Of each variable's Gaussian kernel: sigma, or the median distances of its rows, as `hsic` has them."""
    if sigma is None:
        return [median_distance(t) * size for t, size in (of_unit_size(centre(t.detach().double())) for t in variables)]
    return list(sigma) if isinstance(sigma, Sequence) else [sigma] * len(variables)


def of_unit_size(x: Tensor) -> tuple[Tensor, Tensor]:
    """x divided by its greatest magnitude, such that squares neither overflow nor vanish; and that, or 1 if it is 0."""
    size = x.abs().max() if x.numel() else x.new_zeros(())
    size = torch.where(size == 0, 1, size)
    return x / size, size


def result_dtype(variables: Sequence[Tensor]) -> torch.dtype:
    return torch.float64 if torch.float64 in {t.dtype for t in variables} else torch.float32


def check_variables(variables: Mapping[str, Tensor], kernel: str, sigma: Sigma) -> None:
    """variables: by name, the first of which the others must fit."""
    names, tensors = list(variables), list(variables.values())
    for name, t in variables.items():
        if t.dim() != 2:
            raise ValueError(f"{name} must be (N, D), got {tuple(t.shape)}")
        if not t.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {t.dtype}")
        n = tensors[0].shape[0]
        if t.shape[0] != n:
            raise ValueError(f"{name} must have {n} rows like {names[0]}, got {t.shape[0]}")
        if t.device != tensors[0].device:
            raise ValueError(f"{name} must be on {tensors[0].device} like {names[0]}, got {t.device}")
    if n < 2:
        raise ValueError(f"at least 2 rows are needed, got {n}")
    if kernel not in ("linear", "rbf"):
        raise ValueError(f"kernel must be 'linear' or 'rbf', got {kernel!r}")
    if sigma is None:
        return
    if kernel == "linear":
        raise ValueError(f"sigma is the width of kernel 'rbf' and must be None for kernel 'linear', got {sigma!r}")
    values = list(sigma) if isinstance(sigma, (tuple, list)) else [sigma] * len(tensors)
    if len(values) != len(tensors) or not all(isinstance(s, Real) and 0 < float(s) < math.inf for s in values):
        raise ValueError(f"sigma must be a positive number, {len(tensors)} of them, or None, got {sigma!r}")


def check_finite(variables: Mapping[str, Tensor]) -> None:
    """For tests: a comparison with NaN would pass for evidence."""
    for name, t in variables.items():
        if not t.isfinite().all():
            raise ValueError(f"{name} must be finite, got {int((~t.isfinite()).sum())} values that are NaN or infinite")
