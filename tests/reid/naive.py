"""Layers written out in the plainest way, as the oracle of the model's tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bdam_kernels import BidirectionalCrossAttention
from bdam_reid.methods.bdam.decoupling import Decoupling, PooledCrossAttentionLayer

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


def naive_cross_attention(module: BidirectionalCrossAttention, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """out_a = softmax(q_a k_b^T / sqrt d) v_b and the other way, of two streams (L, D)."""
    q_a, k_a, v_a = linear(module.qkv_a, a).tensor_split(3, dim=-1)
    q_b, k_b, v_b = linear(module.qkv_b, b).tensor_split(3, dim=-1)
    return linear(module.out_a, attention(q_a, k_b, v_b)), linear(module.out_b, attention(q_b, k_a, v_a))


def naive_streams(bdam: Decoupling, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """One image's tokens (L, D) -> the streams of identity and clothing after the last layer."""
    identity, clothing = linear(bdam.projection, tokens).tensor_split(2, dim=-1)
    for layer in bdam.identity_layers:
        attended = attention(*linear(layer.qkv, identity).chunk(3, dim=-1))
        identity = norm(layer.norm, identity + linear(layer.out, attended))
    for layer in bdam.clothing_layers:
        attended = attention(*linear(layer.qkv, clothing).chunk(3, dim=-1))
        clothing = norm(layer.norm, clothing + linear(layer.out, attended))
    for layer in bdam.cross_layers:
        if isinstance(layer, PooledCrossAttentionLayer):
            normed = norm(layer.identity_norm, identity), norm(layer.clothing_norm, clothing)
            from_clothing, from_identity = naive_cross_attention(layer.attention, *normed)
            identity, clothing = identity + from_clothing, clothing + from_identity
            continue
        from_clothing, from_identity = naive_cross_attention(layer.attention, identity, clothing)
        identity, clothing = (
            norm(layer.identity_norm, identity + from_clothing),
            norm(layer.clothing_norm, clothing + from_identity),
        )
    return identity, clothing
