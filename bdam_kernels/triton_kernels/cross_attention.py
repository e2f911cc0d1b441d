"""Launches of cross-attention's Triton kernels; for arguments see `bdam_kernels.ops.cross_attention_gpu`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from bdam_kernels.triton_kernels import cross_attention_kernels as kernels
from bdam_kernels.triton_kernels.launch import DTYPES, INTERPRETED, Launch

WIDTHS = (64, 128, 256)
"""Of heads, to which others are padded, in registers only."""

BLOCKS: dict[Any, dict[tuple[int, int], tuple[int, int, int, int]]] = {
    kernels.cross_attention_forward_kernel: {
        (2, 64): (64, 64, 16, 4), (2, 128): (64, 32, 32, 4), (2, 256): (64, 32, 32, 8),
        (4, 64): (64, 32, 16, 4), (4, 128): (32, 32, 32, 4), (4, 256): (32, 16, 16, 8),
    },
    kernels.cross_attention_backward_query_kernel: {
        (2, 64): (64, 64, 16, 4), (2, 128): (32, 32, 32, 4), (2, 256): (32, 32, 32, 8),
        (4, 64): (32, 32, 32, 4), (4, 128): (32, 16, 16, 8), (4, 256): (32, 16, 16, 8),
    },
    kernels.cross_attention_backward_key_kernel: {
        (2, 64): (64, 32, 32, 4), (2, 128): (32, 32, 32, 4), (2, 256): (32, 32, 32, 8),
        (4, 64): (32, 16, 16, 4), (4, 128): (32, 16, 16, 8), (4, 256): (16, 16, 16, 8),
    },
}  # fmt: skip
"""Rows of a program, of what it walks and of the walk's tail, and warps, by bytes of the dtype and padded width: as
large as leaves all in registers."""

Args = tuple[Any, ...]


def _blocks(kernel: Any, dtype: torch.dtype, width: int) -> tuple[dict[str, int], int]:
    """Rows of a program, of what it walks and of the walk's tail, padded width, and warps."""
    padded = next(n for n in WIDTHS if n >= width)
    rows, walk, tail, warps = BLOCKS[kernel][dtype.itemsize, padded]
    if INTERPRETED:
        # Whose time goes by operations, not by how many numbers each works on; dropout takes up to 64 keys.
        rows, walk = (64, 64) if kernel is kernels.cross_attention_backward_key_kernel else (256, 64)
    return {"BLOCK": rows, "WALK": walk, "TAIL": tail, "BLOCK_D": padded}, warps


def _strided(*tensors: Tensor) -> Args:
    """Tensors (B, H, L, d), each with its strides in vectors of 16 bytes."""
    return tuple(a for t in tensors for a in (t, *(s * t.element_size() // 16 for s in t.stride()[:3])))


def _masks(q: Tensor, *masks: Tensor | None) -> Args:
    """Key padding masks (B, L), each with its strides and length."""
    absent = (q.view(torch.uint8), 0, 0, 0)
    return tuple(a for m in masks for a in (absent if m is None else (m.view(torch.uint8), *m.stride(), m.shape[1])))


def _signed(word: int) -> int:
    return (word & 0xFFFFFFFF ^ 0x80000000) - 0x80000000


def _launch(kernel: Any, inputs: Args, scale: float, threshold: int, seed: int, *others: Any) -> Launch:
    """inputs: six, and two masks. others: the kernel's arguments after the options."""
    *tensors, mask_a, mask_b = inputs
    q_a, q_b = tensors[0], tensors[3]
    batch, heads, length_a, width = q_a.shape
    constants, warps = _blocks(kernel, q_a.dtype, width)
    blocks = sum(-(-q.shape[2] // constants["BLOCK"]) for q in (q_a, q_b))
    args = (
        *_strided(*tensors), *_masks(q_a, mask_a, mask_b),
        heads, length_a, q_b.shape[2], width * q_a.element_size() // 16,
        scale * math.log2(math.e), threshold, 65536 / (65536 - threshold), _signed(seed), _signed(seed >> 32),
        *others,
    )  # fmt: skip
    return Launch(kernel, batch * heads * blocks, args, constants, warps)


def _forward(*args: Any) -> Launch:
    inputs, (out_a, out_b, logs_a, logs_b), options = args[:8], args[8:12], args[12:]
    outputs = (out_a, out_b, logs_a, logs_b, int(logs_a.numel() > 0))
    return _launch(kernels.cross_attention_forward_kernel, inputs, *options, *outputs)


def _backward_query(*args: Any) -> Launch:
    inputs, outs, logs, grad_outs, deltas, grads, options = (
        args[:8], args[8:10], args[10:12], args[12:14], args[14:16], args[16:18], args[18:]
    )  # fmt: skip
    others = (*_strided(*outs), *logs, *_strided(*grad_outs), *deltas, *grads)
    return _launch(kernels.cross_attention_backward_query_kernel, inputs, *options, *others)


def _backward_key(*args: Any) -> Launch:
    inputs, logs, grad_outs, deltas, grads, options = (
        args[:8], args[8:10], args[10:12], args[12:14], args[14:18], args[18:]
    )  # fmt: skip
    others = (*logs, *_strided(*grad_outs), *deltas, *grads)
    return _launch(kernels.cross_attention_backward_key_kernel, inputs, *options, *others)


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
    for dtype, width in product(DTYPES, WIDTHS):
        x = torch.empty(1, 1, 1, width, dtype=dtype, device="meta")
        logs = torch.empty(1, 1, 1, device="meta")
        inputs, options = (*(x,) * 6, None, None), (1.0, 0, 0)
        yield _forward(*inputs, x, x, logs, logs, *options)
        yield _backward_query(*inputs, x, x, logs, logs, x, x, logs, logs, x, x, *options)
        yield _backward_key(*inputs, logs, logs, x, x, logs, logs, x, x, x, x, *options)
