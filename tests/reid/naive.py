"""Layers written out in the plainest way, as the oracle of the model's tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH, HEADS = 12, 3


def close(actual: Tensor, expected: Tensor | float) -> None:
    """Equal but for the rounding of 1000 terms of about the size of the result or of 1."""
    bound = 1000 * torch.finfo(actual.dtype).eps
    expected = torch.as_tensor(expected, dtype=actual.dtype)
    torch.testing.assert_close(actual, expected, rtol=bound, atol=bound)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return x @ layer.weight.T + layer.bias


def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt d) v of (L, D) matrices, one head at a time."""
    heads = []
    for q_h, k_h, v_h in zip(*(x.chunk(HEADS, dim=-1) for x in (q, k, v)), strict=True):
        scores = (q_h @ k_h.T / q_h.shape[-1] ** 0.5).exp()
        heads.append(scores / scores.sum(-1, keepdim=True) @ v_h)
    return torch.cat(heads, dim=-1)
