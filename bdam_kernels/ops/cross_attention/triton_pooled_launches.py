"""Launches of the pooled form's Triton kernels; for arguments see `bdam_kernels.ops.pooled_cross_attention_gpu`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from bdam_kernels.ops.cross_attention import triton_pooled_kernels as kernels
from bdam_kernels.ops.cross_attention.triton_launches import (
    WIDTHS,
    Args,
    launch_of_blocks,
    padded_width,
    parts,
    strided,
)
from bdam_kernels.ops.triton_common import DTYPES, INTERPRETED, Launch

BLOCKS: dict[Any, dict[tuple[int, int], tuple[int, int, int]]] = {
    kernels.pooled_cross_attention_forward_query_kernel: {
        (2, 32): (64, 64, 4), (2, 64): (64, 32, 4), (2, 96): (64, 32, 4),
        (2, 128): (64, 32, 4), (2, 192): (64, 32, 4), (2, 256): (64, 32, 8),
        (4, 32): (64, 32, 4), (4, 64): (64, 32, 4), (4, 96): (64, 32, 4),
        (4, 128): (64, 32, 4), (4, 192): (64, 32, 4), (4, 256): (64, 32, 4),
    },
    kernels.pooled_cross_attention_forward_key_kernel: {
        (2, 32): (64, 64, 4), (2, 64): (64, 32, 4), (2, 96): (64, 32, 4),
        (2, 128): (64, 32, 4), (2, 192): (64, 32, 4), (2, 256): (64, 32, 8),
        (4, 32): (64, 32, 4), (4, 64): (64, 32, 4), (4, 96): (32, 32, 4),
        (4, 128): (64, 32, 4), (4, 192): (64, 32, 4), (4, 256): (64, 32, 4),
    },
    kernels.pooled_cross_attention_backward_query_kernel: {
        (2, 32): (64, 64, 4), (2, 64): (64, 32, 4), (2, 96): (64, 32, 4),
        (2, 128): (64, 32, 4), (2, 192): (32, 32, 4), (2, 256): (64, 32, 8),
        (4, 32): (64, 32, 4), (4, 64): (32, 32, 4), (4, 96): (16, 16, 4),
        (4, 128): (32, 32, 4), (4, 192): (32, 16, 8), (4, 256): (32, 16, 8),
    },
    kernels.pooled_cross_attention_backward_key_kernel: {
        (2, 32): (64, 64, 4), (2, 64): (64, 32, 4), (2, 96): (64, 32, 4),
        (2, 128): (64, 32, 4), (2, 192): (32, 32, 4), (2, 256): (64, 32, 8),
        (4, 32): (64, 32, 4), (4, 64): (32, 32, 4), (4, 96): (32, 16, 8),
        (4, 128): (32, 16, 8), (4, 192): (32, 16, 8), (4, 256): (32, 16, 8),
    },
}  # fmt: skip
"""Rows of a program and of what it walks, and warps, by bytes of the dtype and padded width; all is in registers."""

_VALUE_ROWS = 32


def _score_launch(kernel: Any, inputs: Args, options: Args, *others: Any) -> Launch:
    """Of a kernel that takes the scores of queries with keys."""
    q_a, k_a, _, q_b, k_b, _, *masks = inputs
    rows, walk, warps = BLOCKS[kernel][q_a.dtype.itemsize, padded_width(q_a.shape[3])]
    if INTERPRETED:
        # Whose time goes by operations, not by how many numbers each works on; dropout takes up to 64 keys.
        rows, walk = (64, 256) if "key" in kernel.fn.__name__ else (256, 64)
    blocks = {"BLOCK": rows, "WALK": walk}, warps
    return launch_of_blocks(kernel, blocks, (q_a, k_a, q_b, k_b), tuple(masks), options, others)


def _value_launch(kernel: Any, blocks: int, v_a: Tensor, v_b: Tensor, *others: Any) -> Launch:
    """blocks: programs of a head."""
    batch, heads, length_a, width = v_a.shape
    sizes = (heads, length_a, v_b.shape[2], width * v_a.element_size() // 16)
    constants = {"BLOCK": _VALUE_ROWS, **parts(width)}
    return Launch(kernel, batch * heads * blocks, (*strided(v_a, v_b), *sizes, *others), constants, 4)


def _forward(*args: Any) -> Iterator[Launch]:
    inputs, pooled, key_weights, logs, options = args[:8], args[8:10], args[10:12], args[12:14], args[14:]
    yield _score_launch(kernels.pooled_cross_attention_forward_query_kernel, inputs, options, *logs)
    yield _score_launch(kernels.pooled_cross_attention_forward_key_kernel, inputs, options, *logs, *key_weights)
    v_a, v_b = inputs[2], inputs[5]
    yield _value_launch(kernels.pooled_cross_attention_forward_value_kernel, 2, v_a, v_b, *key_weights, *pooled)


def _backward(*args: Any) -> Iterator[Launch]:
    inputs, key_weights, logs, grad_pooled, key_grads, deltas, grads, options = (
        args[:8], args[8:10], args[10:12], args[12:14], args[14:16], args[16:18], args[18:24], args[24:]
    )  # fmt: skip
    grad_q_a, grad_k_a, grad_v_a, grad_q_b, grad_k_b, grad_v_b = grads
    v_a, v_b = inputs[2], inputs[5]
    yield _value_launch(
        kernels.pooled_cross_attention_backward_value_kernel, sum(-(-v.shape[2] // _VALUE_ROWS) for v in (v_a, v_b)),
        v_a, v_b, *key_weights, *grad_pooled, *key_grads, grad_v_a, grad_v_b,
    )  # fmt: skip
    of_scores = (inputs, options, *logs, *key_grads, *deltas)
    yield _score_launch(kernels.pooled_cross_attention_backward_query_kernel, *of_scores, grad_q_a, grad_q_b)
    yield _score_launch(kernels.pooled_cross_attention_backward_key_kernel, *of_scores, grad_k_a, grad_k_b)


def pooled_cross_attention_forward(*args: Any) -> None:
    """Three launches: logarithms of queries' sums of weights, then the mean weights of keys, then those of values."""
    for launch in _forward(*args):
        launch.run()


def pooled_cross_attention_backward(*args: Any) -> None:
    """Three launches: gradients of values, with those of weights, then of queries, with deltas, then of keys."""
    for launch in _backward(*args):
        launch.run()


def variants() -> Iterator[Launch]:
    """A launch of every kernel that a call may choose, on tensors without memory."""
    for dtype, width in product(DTYPES, WIDTHS):
        x = torch.empty(1, 1, 1, width, dtype=dtype, device="meta")
        sums = torch.empty(1, 1, 1, device="meta")
        inputs, options = (*(x,) * 6, None, None), (1.0, 0, 0)
        yield from _forward(*inputs, x, x, *(sums,) * 4, *options)
        yield from _backward(*inputs, *(sums,) * 4, x, x, *(sums,) * 4, *(x,) * 6, *options)
