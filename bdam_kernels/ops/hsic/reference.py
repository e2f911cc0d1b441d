"""HSIC in plain PyTorch: differentiable any number of times, slow, and without casts
(float64 stays float64), so that it serves as the oracle, as the fallback and as the second derivative."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_hsic(x: Tensor, y: Tensor, unbiased: bool) -> Tensor:
    """HSIC with K = x x^T and L = y y^T."""
    return _hsic(x @ x.T, y @ y.T, unbiased)


def gaussian_hsic(x: Tensor, y: Tensor, unbiased: bool) -> Tensor:
    """HSIC with Gaussian kernels of width 1, K_ij = exp(-|x_i - x_j|^2 / 2)."""
    return _hsic(_gaussian(x), _gaussian(y), unbiased)


def _gaussian(x: Tensor) -> Tensor:
    """K less its median, which no estimator sees: so rounding is relative to how much the entries differ."""
    squares = x.square().sum(1)
    distances = squares[:, None] + squares - 2 * x @ x.T
    same = torch.eye(x.shape[0], dtype=torch.bool, device=x.device)
    exponents = -distances.masked_fill(same, 0) / 2
    # The bound keeps the exponential of a difference from overflow.
    median = exponents.detach().flatten().median().clamp_min(-80)
    return torch.exp(median) * torch.expm1(exponents - median)


def _hsic(K: Tensor, L: Tensor, unbiased: bool) -> Tensor:
    """tr(K H L H) / (N-1)^2 with H = I - 1/N (Gretton et al. 2005), or the estimator of Song et al. 2012, Eq. 5."""
    n = K.shape[0]
    identity = torch.eye(n, dtype=K.dtype, device=K.device)
    if not unbiased:
        H = identity - 1.0 / n
        return torch.trace(K @ H @ L @ H) / (n - 1) ** 2
    K, L = K * (1 - identity), L * (1 - identity)
    product = K @ L
    means = K.sum() * L.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * product.sum()
    return (torch.trace(product) + means) / (n * (n - 3))
