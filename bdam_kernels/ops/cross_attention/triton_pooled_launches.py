"""Launches of the pooled form's Triton kernels; for what they are given see `plan`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch

from bdam_kernels.ops.cross_attention import triton_pooled_kernels as kernels
from bdam_kernels.ops.cross_attention.roles import Masks, Options, Pair, Streams
from bdam_kernels.ops.cross_attention.triton_launches import (
    WIDTHS,
    Args,
    launch_of_scores,
    of_streams,
    padded_width,
    parts,
    sizes,
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


def _score_launch(kernel: Any, inputs: Streams, masks: Masks, options: Options, **pairs: Pair) -> Launch:
    """Of a kernel that takes the scores of queries with keys, and pairs of dense tensors."""
    q = inputs.q_a
    rows, walk, warps = BLOCKS[kernel][q.dtype.itemsize, padded_width(q.shape[3])]
    if INTERPRETED:
        # Whose time goes by operations, not by how many numbers each works on; dropout takes up to 64 keys.
        rows, walk = (64, 256) if "key" in kernel.fn.__name__ else (256, 64)
    others: Args = {}
    for name, pair in pairs.items():
        others |= of_streams(name, pair)
    return launch_of_scores(
        kernel, inputs, masks, options, takes_values=False, constants={"BLOCK": rows, "WALK": walk}, warps=warps,
        others=others,
    )  # fmt: skip


def _value_launch(kernel: Any, inputs: Streams, *, programs: int, **pairs: Pair) -> Launch:
    """Of a kernel that takes values, and pairs of dense tensors. programs: of a head."""
    v_a, v_b = inputs.v_a, inputs.v_b
    args = {**strided(v_a=v_a, v_b=v_b), **sizes(v_a, v_b)}
    for name, pair in pairs.items():
        args |= of_streams(name, pair)
    batch, heads, _, width = v_a.shape
    return Launch(kernel, batch * heads * programs, args, {"BLOCK": _VALUE_ROWS, **parts(width)}, 4)


def _forward(
    inputs: Streams, masks: Masks, pooled: Pair, key_weights: Pair, logs: Pair, options: Options
) -> Iterator[Launch]:
    scores = (inputs, masks, options)
    yield _score_launch(kernels.pooled_cross_attention_forward_query_kernel, *scores, logs=logs)
    yield _score_launch(kernels.pooled_cross_attention_forward_key_kernel, *scores, logs=logs, key_weights=key_weights)
    yield _value_launch(
        kernels.pooled_cross_attention_forward_value_kernel, inputs, programs=2, key_weights=key_weights, pooled=pooled
    )


def _backward(
    inputs: Streams, masks: Masks, key_weights: Pair, logs: Pair, grad_pooled: Pair, key_grads: Pair, deltas: Pair,
    grads: Streams, options: Options,
) -> Iterator[Launch]:  # fmt: skip
    yield _value_launch(
        kernels.pooled_cross_attention_backward_value_kernel, inputs,
        programs=sum(-(-v.shape[2] // _VALUE_ROWS) for v in (inputs.v_a, inputs.v_b)),
        key_weights=key_weights, grad=grad_pooled, key_grads=key_grads, grad_v=Pair(grads.v_a, grads.v_b),
    )  # fmt: skip
    scores = (inputs, masks, options)
    walked: Any = {"logs": logs, "key_grads": key_grads, "deltas": deltas}
    yield _score_launch(
        kernels.pooled_cross_attention_backward_query_kernel, *scores, **walked, grad_q=Pair(grads.q_a, grads.q_b)
    )
    yield _score_launch(
        kernels.pooled_cross_attention_backward_key_kernel, *scores, **walked, grad_k=Pair(grads.k_a, grads.k_b)
    )


def pooled_cross_attention_forward(
    inputs: Streams, masks: Masks, pooled: Pair, key_weights: Pair, logs: Pair, options: Options
) -> None:
    """Three launches: logarithms of queries' sums of weights, then the mean weights of keys, then those of values."""
    for launch in _forward(inputs, masks, pooled, key_weights, logs, options):
        launch.run()


def pooled_cross_attention_backward(
    inputs: Streams, masks: Masks, key_weights: Pair, logs: Pair, grad_pooled: Pair, key_grads: Pair, deltas: Pair,
    grads: Streams, options: Options,
) -> None:  # fmt: skip
    """Three launches: gradients of values, with those of weights, then of queries, with deltas, then of keys."""
    for launch in _backward(inputs, masks, key_weights, logs, grad_pooled, key_grads, deltas, grads, options):
        launch.run()


def variants() -> Iterator[Launch]:
    """A launch of every kernel that a call may choose, on tensors without memory."""
    for dtype, width in product(DTYPES, WIDTHS):
        x = torch.empty(1, 1, 1, width, dtype=dtype, device="meta")
        numbers = torch.empty(1, 1, 1, device="meta")
        inputs, masks, options = Streams(*(x,) * 6), Masks(None, None), Options(1.0, 0, 0)
        rows, sums = Pair(x, x), Pair(numbers, numbers)
        yield from _forward(inputs, masks, rows, sums, sums, options)
        yield from _backward(inputs, masks, sums, sums, rows, sums, sums, inputs, options)
