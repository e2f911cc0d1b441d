"""Formulas by which torch.utils.flop_counter.FlopCounterMode counts the operators; importing this registers them.

As everywhere in that counter, a multiply-add counts 2 and activations, softmax and normalisation count nothing. The
scan has no matrix products, so its own arithmetic is counted, exponentials included. Formulas count what an operator
does on the kernels of the backends; on the reference backend it is made of PyTorch's operators, of which the counter
knows the products.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from bdam_kernels.ops.causal_conv1d import op as causal_conv1d
from bdam_kernels.ops.cross_attention import op as cross_attention
from bdam_kernels.ops.cross_attention import pooled, saved
from bdam_kernels.ops.hsic import fused, gaussian, linear
from bdam_kernels.ops.selective_scan import op as selective_scan

__all__: list[str] = []

# What defines the operators that are named below.
_DEFINED_BY = (
    causal_conv1d, cross_attention, pooled, linear, gaussian, fused, selective_scan
)  # fmt: skip

Shape = Sequence[int]


@register_flop_formula(torch.ops.bdam.selective_scan_forward)
def _selective_scan_forward(
    u: Shape, delta: Shape, A: Shape, B: Shape, C: Shape, D: Shape | None, z: Shape | None, *_: Any, **__: Any
) -> int:
    """A state and step: delta A, its exponential, decay h, drive B, their sum, and C h added to the output."""
    batch, channels, length = u
    drive = 1
    skip, gate = 2 * (D is not None), z is not None
    return batch * channels * length * (7 * A[1] + drive + skip + gate)


@register_flop_formula(torch.ops.bdam.selective_scan_backward)
def _selective_scan_backward(
    u: Shape, delta: Shape, A: Shape, B: Shape, C: Shape, D: Shape | None, z: Shape | None, *_: Any, **__: Any
) -> int:
    """A state and step: h again (5), dh (3), and 2 each for dB, dC, <dh, B>, A's part of d delta, dA, and dh h decay.

    A channel and step: the drive, du and d delta from <dh, B> (5), with D its part of du and dD, with z the gate's
    gradient, for which y is computed again.
    """
    batch, channels, length = u
    states = A[1]
    skip = 4 * (D is not None)
    gate = 2 * states + 2 + 2 * (D is not None) if z is not None else 0
    return batch * channels * length * (20 * states + 5 + skip + gate)


@register_flop_formula(torch.ops.bdam.causal_conv1d_forward)
def _causal_conv1d_forward(x: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    return 2 * _size(x) * weight[1]


@register_flop_formula(torch.ops.bdam.causal_conv1d_backward)
def _causal_conv1d_backward(x: Shape, weight: Shape, *rest: Any, **__: Any) -> int:
    """The gradients of x and of the weights; with an activation the convolution is computed again."""
    silu = rest[5]
    return 2 * _size(x) * weight[1] * (3 if silu else 2)


def _saves_weights(q_a: Shape, q_b: Shape, backend: str) -> list[bool]:
    """Of both directions."""
    return [backend == "cpu" and keys <= saved.most_saved_keys(q_a[3]) for keys in (q_b[2], q_a[2])]


@register_flop_formula(torch.ops.bdam.cross_attention_forward)
def _cross_attention_forward(q_a: Shape, k_a: Shape, v_a: Shape, q_b: Shape, *_: Any, **__: Any) -> int:
    """Scores and their product with the values, in both directions."""
    return 2 * 2 * _product(q_a, q_b)


@register_flop_formula(torch.ops.bdam.cross_attention_backward)
def _cross_attention_backward(q_a: Shape, k_a: Shape, v_a: Shape, q_b: Shape, *rest: Any, **__: Any) -> int:
    """The gradients of the weights, of q, k and v in both directions, and the scores where they are not saved."""
    return sum((4 if saves else 5) * _product(q_a, q_b) for saves in _saves_weights(q_a, q_b, rest[-1]))


@register_flop_formula(torch.ops.bdam.pooled_cross_attention_forward)
def _pooled_cross_attention_forward(q_a: Shape, k_a: Shape, v_a: Shape, q_b: Shape, *_: Any, **__: Any) -> int:
    """Scores, their weights' sum over queries, and one product of it with the values, in both directions."""
    return 2 * _product(q_a, q_b) + 2 * _weights(q_a, q_b) + 2 * (_size(q_a) + _size(q_b))


@register_flop_formula(torch.ops.bdam.pooled_cross_attention_backward)
def _pooled_cross_attention_backward(q_a: Shape, k_a: Shape, v_a: Shape, q_b: Shape, *_: Any, **__: Any) -> int:
    """The gradients of q and k in both directions, and the scores where they are not saved; of keys and values, a
    product with the one gradient each."""
    products = sum((2 if saves else 3) * _product(q_a, q_b) for saves in _saves_weights(q_a, q_b, "cpu"))
    return products + 3 * (_size(q_a) + _size(q_b))


@register_flop_formula(torch.ops.bdam.hsic_forward)
def _hsic_forward(x: Shape, y: Shape, *_: Any, **__: Any) -> int:
    """Both Gram matrices and their inner product."""
    return 2 * x[0] ** 2 * (x[1] + y[1] + 1)


@register_flop_formula(torch.ops.bdam.hsic_backward)
def _hsic_backward(grad: Shape, x_weights: Shape, y_weights: Shape, x: Shape, y: Shape, *_: Any, **__: Any) -> int:
    return 2 * x[0] ** 2 * (x[1] + y[1])


@register_flop_formula(torch.ops.bdam.hsic_linear_forward)
def _hsic_linear_forward(x: Shape, y: Shape, *_: Any, **__: Any) -> int:
    """Both Gram matrices and their inner product."""
    return 2 * x[0] ** 2 * (x[1] + y[1] + 1)


@register_flop_formula(torch.ops.bdam.hsic_linear_backward)
def _hsic_linear_backward(grad: Shape, saved: Shape, x: Shape, y: Shape, *_: Any, **__: Any) -> int:
    return 2 * x[0] ** 2 * (x[1] + y[1])


@register_flop_formula(torch.ops.bdam.hsic_gaussian_forward)
def _hsic_gaussian_forward(x: Shape, y: Shape, *_: Any, **__: Any) -> int:
    """The products below both Gram matrices, and their inner products with each other and themselves."""
    return 2 * x[0] ** 2 * (x[1] + y[1] + 3)


@register_flop_formula(torch.ops.bdam.hsic_gaussian_backward)
def _hsic_gaussian_backward(x: Shape, y: Shape, *_: Any, **__: Any) -> int:
    """The products below both Gram matrices again, and those of both gradients."""
    return 4 * x[0] ** 2 * (x[1] + y[1])


def _size(shape: Shape) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size


def _weights(q_a: Shape, q_b: Shape) -> int:
    """Attention weights of a direction."""
    batch, heads, length, _ = q_a
    return batch * heads * length * q_b[2]


def _product(q_a: Shape, q_b: Shape) -> int:
    """A matrix product of queries and keys."""
    return 2 * _weights(q_a, q_b) * q_a[3]
