"""The mathematics of every operator in plain PyTorch: differentiable any number of times, slow, and without casts
(float64 stays float64), so that it serves as the oracle, as the fallback and as the second derivative."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """Selective scan, one step at a time; returns (out, last_state).

    h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t,  out_t = (Re C_t . h_t + D u_t) silu(z_t).
    Source: Gu and Dao 2023, "Mamba", Eq. 2 with the zero-order hold for A and Euler's rule for B.

    Args: as `bdam_kernels.selective_scan`, with B and C of shape (D, N) or (B, G, N, L).
    """
    batch, channels, length = u.shape
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    state = u.new_zeros(batch, channels, A.shape[1], dtype=A.dtype) if initial_state is None else initial_state
    drive = delta * u
    outputs: list[Tensor] = []
    for t in reversed(range(length)) if reverse else range(length):
        decay = torch.exp(delta[:, :, t, None] * A)
        state = decay * state + drive[:, :, t, None] * _at(B, t, channels)
        y = (state * _at(C, t, channels)).sum(-1)
        # A complex state stands for a conjugate pair, whose two halves add up to twice the real part.
        outputs.append(2 * y.real if y.is_complex() else y)
    if reverse:
        outputs.reverse()
    out = torch.stack(outputs, -1) if outputs else drive
    if D is not None:
        out = out + D[:, None] * u
    return (out if z is None else out * F.silu(z)), state


def _at(matrix: Tensor, t: int, channels: int) -> Tensor:
    """B or C at time t, as (1 or B, D, N)."""
    if matrix.dim() == 2:
        return matrix[None]
    return matrix[..., t].repeat_interleave(channels // matrix.shape[1], dim=1)


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor]:
    """Depthwise causal convolution; returns (out, final_state).

    out_t = act(bias + sum_w weight_w x_{t-W+1+w}), where x before the start is initial_state (B, D, W-1) or zero.

    Args: as `bdam_kernels.causal_conv1d`.
    """
    width = weight.shape[1]
    padding = x.new_zeros(*x.shape[:2], width - 1) if initial_state is None else initial_state
    padded = torch.cat([padding, x], dim=2)
    length = x.shape[2]
    out = torch.zeros_like(x)
    for w in range(width):
        out = out + weight[:, w, None] * padded[..., w : w + length]
    if bias is not None:
        out = out + bias[:, None]
    return (F.silu(out) if silu else out), padded[..., length:]


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
    same = torch.eye(len(x), dtype=torch.bool, device=x.device)
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
