"""Both forms of cross-attention in plain PyTorch: differentiable any number of times, slow, and without casts
(float64 stays float64), so that it serves as the oracle, as the fallback and as the second derivative."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def bidirectional_cross_attention(
    q_a: Tensor,
    k_a: Tensor,
    v_a: Tensor,
    q_b: Tensor,
    k_b: Tensor,
    v_b: Tensor,
    key_padding_mask_a: Tensor | None,
    key_padding_mask_b: Tensor | None,
    scale: float,
    dropout_threshold: int = 0,
    seed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross-attention of two streams in both directions; returns (out_a, out_b).

    out_a = softmax(scale q_a k_b^T) v_b and out_b = softmax(scale q_b k_a^T) v_a; a row without keys gives 0.

    Args: as `bdam_kernels.bidirectional_cross_attention`, and for dropout
        dropout_threshold: a weight is dropped if its 16 random bits are below.
        seed: int64 scalar, on the CPU.
    """
    factor_a, factor_b = _dropout_factors((q_a, k_b), (q_b, k_a), dropout_threshold, seed)
    return (
        _attention_weights(q_a, k_b, key_padding_mask_b, scale, factor_a) @ v_b,
        _attention_weights(q_b, k_a, key_padding_mask_a, scale, factor_b) @ v_a,
    )


def pooled_bidirectional_cross_attention(
    q_a: Tensor,
    k_a: Tensor,
    v_a: Tensor,
    q_b: Tensor,
    k_b: Tensor,
    v_b: Tensor,
    key_padding_mask_a: Tensor | None,
    key_padding_mask_b: Tensor | None,
    scale: float,
    dropout_threshold: int = 0,
    seed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The means over queries of `bidirectional_cross_attention`, (B, H, d) each: the mean weights times the values.

    Args: as `bidirectional_cross_attention`.
    """
    factor_a, factor_b = _dropout_factors((q_a, k_b), (q_b, k_a), dropout_threshold, seed)
    return (
        _query_mean(_attention_weights(q_a, k_b, key_padding_mask_b, scale, factor_a), v_b),
        _query_mean(_attention_weights(q_b, k_a, key_padding_mask_a, scale, factor_b), v_a),
    )


def _query_mean(weights: Tensor, v: Tensor) -> Tensor:
    # Without queries there is nothing to take a mean of: 0, as for a query without keys.
    return (weights.sum(2, keepdim=True) / max(weights.shape[2], 1) @ v).squeeze(2)


def _dropout_factors(
    a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], threshold: int, seed: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """What dropout multiplies the weights of each direction's queries and keys with."""
    if not threshold or seed is None:
        return None, None
    keep_scale = 65536 / (65536 - threshold)
    shapes = [(*q.shape[:3], k.shape[2]) for q, k in (a, b)]
    keep_a, keep_b = (dropout_keep(shapes[d], d, threshold, seed.to(a[0].device)) for d in range(2))
    return keep_scale * keep_a, keep_scale * keep_b


def _attention_weights(
    q: Tensor, k: Tensor, key_padding_mask: Tensor | None, scale: float, factor: Tensor | None
) -> Tensor:
    scores = scale * (q @ k.transpose(-1, -2))
    if key_padding_mask is None:
        weights = torch.softmax(scores, -1)
    else:
        keep = ~key_padding_mask[:, None, None, :]
        any_key = keep.any(-1, keepdim=True)
        # softmax over no key at all would be NaN, in the gradient too: such rows attend to everything, times zero.
        weights = torch.softmax(scores.masked_fill(~keep & any_key, -math.inf), -1) * any_key
    return weights if factor is None else weights * factor.to(weights.dtype)


def dropout_keep(shape: tuple[int, int, int, int], direction: int, threshold: int, seed: Tensor) -> Tensor:
    """Which attention weights (B, H, queries, keys) dropout keeps, bool, as the kernels decide it.

    Key j of a query takes 16 bits, half j / 16 % 2 of word j / 32 % 4 of Philox-4x32-10 under the key `seed` for the
    counter (16 (j / 128) + j % 16, query, batch * H + head, direction); its weight is kept if they are not below
    `threshold`.
    """
    batch, heads, queries, keys = shape
    counter = torch.arange((keys + 127) // 128 * 16, device=seed.device)
    query = torch.arange(queries, device=seed.device)[:, None]
    head = torch.arange(batch * heads, device=seed.device)[:, None, None]
    words = torch.stack(_philox(counter, query, head, torch.full_like(counter, direction), seed), -1)
    halves = torch.stack([words & 0xFFFF, words >> 16], -1).unflatten(2, (-1, 16))
    bits = halves.permute(0, 1, 2, 4, 5, 3).flatten(2)[..., :keys]
    return bits.ge(threshold).view(shape)


def _philox(c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor, seed: Tensor) -> tuple[Tensor, ...]:
    """Philox-4x32-10 in int64.  Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"."""
    low = 0xFFFFFFFF
    key0, key1 = seed & low, seed >> 32 & low
    counter = torch.broadcast_tensors(c0, c1, c2, c3)
    for _ in range(10):
        # The products may wrap around; their two halves are right all the same.
        product0, product2 = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        counter = (
            (product2 >> 32 & low) ^ counter[1] ^ key0,
            product2 & low,
            (product0 >> 32 & low) ^ counter[3] ^ key1,
            product0 & low,
        )
        key0, key1 = key0 + 0x9E3779B9 & low, key1 + 0xBB67AE85 & low
    return counter
