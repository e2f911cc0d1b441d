"""Launches of cross-attention's Triton kernels; for arguments see `bdam_kernels.ops.cross_attention_gpu`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bdam_kernels.ops.cross_attention import triton_kernels as kernels
from bdam_kernels.ops.triton_common import DTYPES, INTERPRETED, Launch

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

Args = tuple[Any, ...]


def padded_width(width: int) -> int:
    return next(n for n in WIDTHS if n >= width)


def parts(width: int) -> dict[str, int]:
    first, rest = WIDTHS[padded_width(width)]
    return {"BLOCK_D": first, "REST": rest}


def _blocks(kernel: Any, dtype: torch.dtype, width: int, dropout: bool) -> tuple[dict[str, int], int]:
    """Constants of a kernel, and its warps."""
    rows, walk, stages, warps = BLOCKS[kernel][dtype.itemsize, padded_width(width)]
    if INTERPRETED:
        # Whose time goes by operations, not by how many numbers each works on; dropout takes up to 64 keys.
        rows, walk = (64, 64) if kernel is kernels.cross_attention_backward_key_kernel else (256, 64)
    return {"BLOCK": rows, "WALK": walk, "STAGES": stages, "DROPOUT": dropout}, warps


def strided(*tensors: Tensor) -> Args:
    """Tensors (B, H, L, d), each with its strides in vectors of 16 bytes."""
    return tuple(a for t in tensors for a in (t, *(s * t.element_size() // 16 for s in t.stride()[:3])))


def _masks(q: Tensor, *masks: Tensor | None) -> Args:
    """Key padding masks (B, L), each with its strides and length."""
    absent = (q.view(torch.uint8), 0, 0, 0)
    return tuple(a for m in masks for a in (absent if m is None else (m.view(torch.uint8), *m.stride(), m.shape[1])))


def _signed(word: int) -> int:
    return (word & 0xFFFFFFFF ^ 0x80000000) - 0x80000000


def launch_of_blocks(
    kernel: Any, blocks: tuple[dict[str, int], int], tensors: Args, masks: Args, options: Args, others: Args
) -> Launch:
    """blocks: constants and warps. tensors: of stream a, and as many of b. others: arguments after the options."""
    (constants, warps), (scale, threshold, seed) = blocks, options
    q_a, q_b = tensors[0], tensors[len(tensors) // 2]
    batch, heads, length_a, width = q_a.shape
    programs = batch * heads * sum(-(-q.shape[2] // constants["BLOCK"]) for q in (q_a, q_b))
    args = (
        *strided(*tensors), *_masks(q_a, *masks),
        heads, length_a, q_b.shape[2], width * q_a.element_size() // 16,
        scale * math.log2(math.e), threshold, 65536 / (65536 - threshold), _signed(seed), _signed(seed >> 32),
        *others,
    )  # fmt: skip
    return Launch(kernel, programs, args, {**constants, **parts(width)}, warps)


def _launch(kernel: Any, inputs: Args, options: Args, *others: Any) -> Launch:
    q_a = inputs[0]
    return launch_of_blocks(
        kernel, _blocks(kernel, q_a.dtype, q_a.shape[3], options[1] > 0), inputs[:6], inputs[6:], options, others
    )


def _forward(*args: Any) -> Launch:
    inputs, (out_a, out_b, logs_a, logs_b), options = args[:8], args[8:12], args[12:]
    save = logs_a is not None
    logs = (logs_a, logs_b) if save else (out_a.new_empty(0, dtype=torch.float32),) * 2
    outputs = (out_a, out_b, *logs, int(save))
    return _launch(kernels.cross_attention_forward_kernel, inputs, options, *outputs)


def _backward_query(*args: Any) -> Launch:
    inputs, outs, logs, grad_outs, deltas, grads, options = (
        args[:8], args[8:10], args[10:12], args[12:14], args[14:16], args[16:18], args[18:]
    )  # fmt: skip
    others = (*strided(*outs), *logs, *strided(*grad_outs), *deltas, *grads)
    return _launch(kernels.cross_attention_backward_query_kernel, inputs, options, *others)


def _backward_key(*args: Any) -> Launch:
    inputs, logs, grad_outs, deltas, grads, options = (
        args[:8], args[8:10], args[10:12], args[12:14], args[14:18], args[18:]
    )  # fmt: skip
    others = (*logs, *strided(*grad_outs), *deltas, *grads)
    return _launch(kernels.cross_attention_backward_key_kernel, inputs, options, *others)


def cross_attention_forward(*args: Any) -> None:
    _forward(*args).run()


def cross_attention_backward(*args: Any) -> None:
    """Two launches: the gradients of queries, which leave deltas to those of keys and values."""
    inputs, outs, logs, grad_outs, grads, options = (
        args[:8], args[8:10], args[10:12], args[12:14], args[14:20], args[20:]
    )  # fmt: skip
    grad_q_a, grad_k_a, grad_v_a, grad_q_b, grad_k_b, grad_v_b = grads
    deltas = [torch.empty_like(t) for t in logs]
    _backward_query(*inputs, *outs, *logs, *grad_outs, *deltas, grad_q_a, grad_q_b, *options).run()
    _backward_key(*inputs, *logs, *grad_outs, *deltas, grad_k_a, grad_k_b, grad_v_a, grad_v_b, *options).run()


def variants() -> Iterator[Launch]:
    """A launch of every kernel that a call may choose, on tensors without memory."""
    for dtype, width, threshold in product(DTYPES, WIDTHS, (0, 1)):
        x = torch.empty(1, 1, 1, width, dtype=dtype, device="meta")
        logs = torch.empty(1, 1, 1, device="meta")
        inputs, options = (*(x,) * 6, None, None), (1.0, threshold, 0)
        yield _forward(*inputs, x, x, logs, logs, *options)
        yield _backward_query(*inputs, x, x, logs, logs, x, x, logs, logs, x, x, *options)
        yield _backward_key(*inputs, logs, logs, x, x, logs, logs, x, x, x, x, *options)
