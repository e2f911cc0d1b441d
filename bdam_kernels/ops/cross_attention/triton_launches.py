"""Launches of cross-attention's Triton kernels; for what they are given see `plan`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bdam_kernels.ops.cross_attention import triton_kernels as kernels
from bdam_kernels.ops.cross_attention.roles import Masks, Options, Pair, Streams
from bdam_kernels.ops.triton_common import DTYPES, INTERPRETED, LOG2E, Launch, with_strides

WIDTHS = {32: (32, 0), 64: (64, 0), 96: (64, 32), 128: (128, 0), 192: (128, 64), 256: (256, 0)}
"""Of heads, to which others are padded, in registers only, and of the two parts that a tile of rows has of them."""


class Blocks(NamedTuple):
    """Rows of a program, of what it walks at a time, how many of these are on their way at once, and warps."""

    rows: int
    walk: int
    stages: int
    warps: int


BLOCKS: dict[Any, dict[tuple[int, int], Blocks]] = {
    kernels.cross_attention_forward_kernel: {
        (2, 32): Blocks(64, 32, 3, 4), (2, 64): Blocks(64, 32, 3, 4), (2, 96): Blocks(64, 32, 1, 4),
        (2, 128): Blocks(64, 32, 2, 4), (2, 192): Blocks(32, 32, 2, 4), (2, 256): Blocks(64, 32, 2, 8),
        (4, 32): Blocks(64, 32, 2, 4), (4, 64): Blocks(64, 32, 2, 4), (4, 96): Blocks(32, 16, 2, 8),
        (4, 128): Blocks(32, 32, 2, 4), (4, 192): Blocks(32, 16, 2, 8), (4, 256): Blocks(32, 16, 2, 8),
    },
    kernels.cross_attention_backward_query_kernel: {
        (2, 32): Blocks(64, 32, 3, 4), (2, 64): Blocks(64, 32, 3, 4), (2, 96): Blocks(32, 16, 2, 4),
        (2, 128): Blocks(32, 32, 2, 4), (2, 192): Blocks(32, 32, 2, 8), (2, 256): Blocks(32, 32, 2, 8),
        (4, 32): Blocks(64, 16, 2, 4), (4, 64): Blocks(32, 32, 2, 4), (4, 96): Blocks(16, 16, 2, 4),
        (4, 128): Blocks(32, 16, 2, 8), (4, 192): Blocks(32, 16, 2, 8), (4, 256): Blocks(32, 16, 2, 8),
    },
    kernels.cross_attention_backward_key_kernel: {
        (2, 32): Blocks(64, 32, 3, 4), (2, 64): Blocks(64, 32, 3, 4), (2, 96): Blocks(32, 16, 1, 4),
        (2, 128): Blocks(32, 32, 2, 4), (2, 192): Blocks(32, 16, 2, 8), (2, 256): Blocks(32, 16, 2, 8),
        (4, 32): Blocks(64, 16, 2, 4), (4, 64): Blocks(32, 16, 2, 4), (4, 96): Blocks(16, 16, 2, 4),
        (4, 128): Blocks(32, 16, 2, 8), (4, 192): Blocks(16, 16, 2, 8), (4, 256): Blocks(16, 16, 2, 8),
    },
}  # fmt: skip
"""By bytes of the dtype and padded width: as large as leaves all in registers."""

Args = dict[str, Any]
"""A kernel's arguments by name."""


def _blocks(kernel: Any, dtype: torch.dtype, width: int, dropout: bool) -> tuple[dict[str, int], int]:
    """Constants of a kernel, and its warps."""
    padded = next(n for n in WIDTHS if n >= width)
    first, rest = WIDTHS[padded]
    rows, walk, stages, warps = BLOCKS[kernel][dtype.itemsize, padded]
    if INTERPRETED:
        # Whose time goes by operations, not by how many numbers each works on; dropout takes up to 64 keys.
        rows, walk = (64, 64) if kernel is kernels.cross_attention_backward_key_kernel else (256, 64)
    blocks = {"BLOCK": rows, "WALK": walk, "STAGES": stages, "DROPOUT": dropout, "BLOCK_D": first, "REST": rest}
    return blocks, warps


def _strided(**tensors: Tensor) -> Args:
    """Tensors (B, H, L, d), each with its strides in vectors of 16 bytes."""
    args: Args = {}
    for name, t in tensors.items():
        vectors = [s * t.element_size() // 16 for s in t.stride()[:3]]
        args |= with_strides(name, ("batch", "head", "row"), t, vectors)
    return args


def _of_streams(name: str, pair: Pair) -> Args:
    """Dense tensors, one a stream."""
    return {f"{name}_a": pair.a, f"{name}_b": pair.b}


def _masks(masks: Masks, q: Tensor) -> Args:
    """Each with its strides and length."""
    args: Args = {}
    for name, mask in zip(("mask_a", "mask_b"), masks, strict=True):
        axes = ("batch", "key", "length")
        if mask is None:
            args |= with_strides(name, axes, q.view(torch.uint8), (0, 0, 0))
        else:
            args |= with_strides(name, axes, mask.view(torch.uint8), (*mask.stride(), mask.shape[1]))
    return args


def _sizes(a: Tensor, b: Tensor) -> Args:
    """Of tensors of both streams."""
    heads, length, width = a.shape[1:]
    return {"heads": heads, "length_a": length, "length_b": b.shape[2], "width": width * a.element_size() // 16}


def _signed(word: int) -> int:
    return (word & 0xFFFFFFFF ^ 0x80000000) - 0x80000000


def _launch(kernel: Any, inputs: Streams, masks: Masks, options: Options, others: Args) -> Launch:
    q_a, q_b = inputs.q_a, inputs.q_b
    batch, heads, _, width = q_a.shape
    constants, warps = _blocks(kernel, q_a.dtype, width, options.threshold > 0)
    dropout = {
        "threshold": options.threshold, "keep_scale": 65536 / (65536 - options.threshold),
        "seed_low": _signed(options.seed), "seed_high": _signed(options.seed >> 32),
    }  # fmt: skip
    args = {
        **_strided(**inputs._asdict()), **_masks(masks, q_a), **_sizes(q_a, q_b), **dropout, **others,
        "scale": options.scale * LOG2E.value,
    }  # fmt: skip
    programs = batch * heads * sum(-(-q.shape[2] // constants["BLOCK"]) for q in (q_a, q_b))
    return Launch(kernel, programs, args, constants, warps)


def _forward(
    inputs: Streams, masks: Masks, outs: Pair, logs: Pair | tuple[None, None], options: Options
) -> Launch:  # fmt: skip
    save = isinstance(logs, Pair)
    nowhere = outs.a.new_empty(0, dtype=torch.float32)
    others = {
        **_of_streams("out", outs), **_of_streams("logs", logs if isinstance(logs, Pair) else Pair(nowhere, nowhere)),
        "save": int(save),
    }  # fmt: skip
    return _launch(kernels.cross_attention_forward_kernel, inputs, masks, options, others)


def _backward_query(
    inputs: Streams, masks: Masks, options: Options, *, outs: Pair, logs: Pair, grad_outs: Pair, deltas: Pair,
    grads: Streams,
) -> Launch:  # fmt: skip
    others = {
        **_strided(out_a=outs.a, out_b=outs.b, grad_a=grad_outs.a, grad_b=grad_outs.b),
        **_of_streams("logs", logs), **_of_streams("deltas", deltas), "grad_q_a": grads.q_a, "grad_q_b": grads.q_b,
    }  # fmt: skip
    return _launch(kernels.cross_attention_backward_query_kernel, inputs, masks, options, others)


def _backward_key(
    inputs: Streams, masks: Masks, options: Options, *, logs: Pair, grad_outs: Pair, deltas: Pair, grads: Streams
) -> Launch:
    others = {
        **_strided(grad_a=grad_outs.a, grad_b=grad_outs.b),
        **_of_streams("logs", logs), **_of_streams("deltas", deltas),
        "grad_k_a": grads.k_a, "grad_k_b": grads.k_b, "grad_v_a": grads.v_a, "grad_v_b": grads.v_b,
    }  # fmt: skip
    return _launch(kernels.cross_attention_backward_key_kernel, inputs, masks, options, others)


def cross_attention_forward(
    inputs: Streams, masks: Masks, outs: Pair, logs: Pair | tuple[None, None], options: Options
) -> None:
    _forward(inputs, masks, outs, logs, options).run()


def cross_attention_backward(
    inputs: Streams, masks: Masks, outs: Pair, logs: Pair, grad_outs: Pair, deltas: Pair, grads: Streams,
    options: Options,
) -> None:  # fmt: skip
    """Two launches: the gradients of queries, which leave deltas to those of keys and values."""
    shared: Any = {"logs": logs, "grad_outs": grad_outs, "deltas": deltas, "grads": grads}
    _backward_query(inputs, masks, options, outs=outs, **shared).run()
    _backward_key(inputs, masks, options, **shared).run()


def variants() -> Iterator[Launch]:
    """A launch of every kernel that a call may choose, on tensors without memory."""
    for dtype, width, threshold in product(DTYPES, WIDTHS, (0, 1)):
        x = torch.empty(1, 1, 1, width, dtype=dtype, device="meta")
        sums = torch.empty(1, 1, 1, device="meta")
        inputs, masks, options = Streams(*(x,) * 6), Masks(None, None), Options(1.0, threshold, 0)
        rows, logs = Pair(x, x), Pair(sums, sums)
        shared: Any = {"logs": logs, "grad_outs": rows, "deltas": logs, "grads": inputs}
        yield _forward(inputs, masks, rows, logs, options)
        yield _backward_query(inputs, masks, options, outs=rows, **shared)
        yield _backward_key(inputs, masks, options, **shared)
