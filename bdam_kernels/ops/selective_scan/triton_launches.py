"""Launches of the selective scan's Triton kernels; for shapes see `bdam_kernels.ops.selective_scan_gpu`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from bdam_kernels.ops.selective_scan import triton_device as device
from bdam_kernels.ops.selective_scan import triton_kernels as kernels
from bdam_kernels.ops.triton_common import DTYPES, INTERPRETED, Launch

BLOCKS = {8: (16, 2), 16: (8, 1), 32: (4, 2), 64: (2, 4), 256: (1, 8)}
"""Channels and warps of a program, by padded number of states."""

BACKWARD_WARPS = {8: 2, 16: 4, 32: 4, 64: 4, 256: 8}
"""Warps of a program of backward, which keeps some 20 tiles and is not to spill them."""

WIDER = 4 if INTERPRETED else 1
"""Factor of the channels: the interpreter's time goes by operations, not by how many numbers each works on."""

Args = tuple[Any, ...]


def _padded(states: int) -> int:
    return next(n for n in BLOCKS if n >= states)


def selective_scan_block_channels(states: int, _varies: bool, _rows: int) -> int:
    """Channels that a program walks."""
    return BLOCKS[_padded(states)][0] * WIDER


def _varies(matrix: Tensor) -> bool:
    return matrix.dim() == 4


def _streams(like: Tensor, *tensors: Tensor | None) -> Args:
    """Tensors (B, D, L), each with its strides."""
    return tuple(a for t in tensors for a in ((like, 0, 0, 0) if t is None else (t, *t.stride())))


def _coefficients(like: Tensor, *pairs: tuple[Tensor, Tensor]) -> Args:
    """Tensors (B, G, N, L), each with its strides, of pairs with the B or C that says whether it varies over time."""
    return tuple(a for t, m in pairs for a in ((t, *t.stride()) if _varies(m) else (like, 0, 0, 0, 0)))


def _fixed(like: Tensor, *pairs: tuple[Tensor, Tensor]) -> Args:
    """The same for (D, N) or (B, S, D, N), where B or C does not vary."""
    return tuple(like if _varies(m) else t.contiguous() for t, m in pairs)


def _contiguous(like: Tensor, *tensors: Tensor | None) -> Args:
    return tuple(like if t is None else t.contiguous() for t in tensors)


def _flags(*bits: tuple[Any, bool]) -> int:
    return sum(bit.value for bit, is_set in bits if is_set)


def _launch(
    kernel: Any, tensors: Args, like: Tensor, A: Tensor, coefficients: tuple[Tensor, ...], segments: int, flags: int,
    first_block: int = 0, window: int | None = None, num_warps: int | None = None,
    **constants: bool,
) -> Launch:  # fmt: skip
    """A launch over every batch, segment and group, for a window of a group's blocks or for all of them."""
    batch, channels, length = like.shape
    states = A.shape[1]
    groups = next((m.shape[1] for m in coefficients if _varies(m)), 1)
    block_channels = selective_scan_block_channels(states, True, 0)
    window = window or -(-channels // groups // block_channels)
    args = (*tensors, channels, groups, length, states, 1, segments, window, first_block, flags)
    blocks = {"BLOCK_D": block_channels, "BLOCK_N": _padded(states)}
    warps = num_warps or BLOCKS[_padded(states)][1]
    return Launch(kernel, batch * segments * groups * window, args, blocks | constants, warps)


def _states(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, delta_bias: Tensor | None, states: Tensor, step_sums: Tensor,
    delta_softplus: bool, reverse: bool,
) -> Launch:  # fmt: skip
    A = A.contiguous()
    tensors = (
        *_streams(u, u, delta), *_coefficients(u, (B, B)),
        A, *_fixed(A, (B, B)), *_contiguous(A, delta_bias), states, step_sums,
    )  # fmt: skip
    flags = _flags(
        (device.SOFTPLUS, delta_softplus), (device.REVERSE, reverse),
        (device.HAS_BIAS, delta_bias is not None), (device.CONSTANT_B, not _varies(B)),
    )  # fmt: skip
    return _launch(kernels.selective_scan_states_kernel, tensors, u, A, (B,), states.shape[1], flags)


def _forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, initial_state: Tensor | None, states: Tensor | None, step_sums: Tensor | None,
    out: Tensor, last_state: Tensor, checkpoints: Tensor, delta_softplus: bool, reverse: bool,
) -> Launch:  # fmt: skip
    A = A.contiguous()
    tensors = (
        *_streams(u, u, delta, z, out), *_coefficients(u, (B, B), (C, C)),
        A, *_fixed(A, (B, B), (C, C)), *_contiguous(A, D, delta_bias, initial_state, states, step_sums),
        last_state, checkpoints,
    )  # fmt: skip
    flags = _flags(
        (device.SOFTPLUS, delta_softplus), (device.REVERSE, reverse), (device.HAS_D, D is not None),
        (device.HAS_Z, z is not None), (device.HAS_BIAS, delta_bias is not None),
        (device.HAS_INITIAL_STATE, initial_state is not None), (device.HAS_CHECKPOINTS, checkpoints.shape[1] > 0),
        (device.CONSTANT_B, not _varies(B)), (device.CONSTANT_C, not _varies(C)),
    )  # fmt: skip
    segments = 1 if states is None else states.shape[1]
    constant = not (_varies(B) and _varies(C))
    return _launch(
        kernels.selective_scan_forward_kernel, tensors, u, A, (B, C), segments, flags, CONSTANT=constant
    )


def _adjoints(
    delta: Tensor, A: Tensor, C: Tensor, z: Tensor | None, delta_bias: Tensor | None, grad_out: Tensor,
    adjoints: Tensor, step_sums: Tensor, delta_softplus: bool, reverse: bool,
) -> Launch:  # fmt: skip
    A = A.contiguous()
    tensors = (
        *_streams(delta, delta, z, grad_out), *_coefficients(delta, (C, C)),
        A, *_fixed(A, (C, C)), *_contiguous(A, delta_bias), adjoints, step_sums,
    )  # fmt: skip
    flags = _flags(
        (device.SOFTPLUS, delta_softplus), (device.REVERSE, reverse), (device.HAS_Z, z is not None),
        (device.HAS_BIAS, delta_bias is not None), (device.CONSTANT_C, not _varies(C)),
    )  # fmt: skip
    return _launch(kernels.selective_scan_adjoints_kernel, tensors, delta, A, (C,), adjoints.shape[1], flags)


def _backward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, initial_state: Tensor | None, checkpoints: Tensor, grad_out: Tensor,
    grad_last_state: Tensor | None, adjoints: Tensor | None, step_sums: Tensor | None,
    grad_u: Tensor, grad_delta: Tensor, grad_z: Tensor | None, grad_initial_state: Tensor | None,
    partial_A: Tensor, partial_B: Tensor, partial_C: Tensor, partial_D: Tensor | None, partial_bias: Tensor | None,
    first_block: int, segments: int, delta_softplus: bool, reverse: bool,
) -> Launch:  # fmt: skip
    A = A.contiguous()
    flags = _flags(
        (device.SOFTPLUS, delta_softplus), (device.REVERSE, reverse), (device.HAS_D, D is not None),
        (device.HAS_Z, z is not None), (device.HAS_BIAS, delta_bias is not None),
        (device.HAS_INITIAL_STATE, initial_state is not None),
        (device.HAS_GRAD_LAST_STATE, grad_last_state is not None),
        (device.CONSTANT_B, not _varies(B)), (device.CONSTANT_C, not _varies(C)),
    )  # fmt: skip
    shared = next(((p, m) for p, m in ((partial_B, B), (partial_C, C)) if _varies(m)), None)
    window = shared[0].shape[1] // shared[1].shape[1] if shared else None
    constant = not (_varies(B) and _varies(C))

    def launch(scratch: Tensor) -> Launch:
        tensors = (
            *_streams(u, u, delta, z, grad_out, grad_u, grad_delta, grad_z),
            *_coefficients(u, (B, B), (C, C)), *_coefficients(A, (partial_B, B), (partial_C, C)),
            A, *_fixed(A, (B, B), (C, C)), *_contiguous(A, D, delta_bias, initial_state),
            checkpoints, *_contiguous(A, grad_last_state, adjoints, step_sums, grad_initial_state),
            partial_A, *_fixed(A, (partial_B, B), (partial_C, C)), *_contiguous(A, partial_D, partial_bias), scratch,
        )  # fmt: skip
        return _launch(
            kernels.selective_scan_backward_kernel, tensors, u, A, (B, C), segments, flags, first_block, window,
            BACKWARD_WARPS[_padded(A.shape[1])], CONSTANT=constant,
        )  # fmt: skip

    # For the states before each group of a chunk's steps.
    states = A.shape[1]
    tile = _padded(states) * selective_scan_block_channels(states, True, 0)
    return launch(A.new_empty(launch(A).programs, device.GROUPS.value, tile))


def selective_scan_states(*args: Any) -> None:
    _states(*args).run()


def selective_scan_forward(*args: Any) -> None:
    _forward(*args).run()


def selective_scan_adjoints(*args: Any) -> None:
    _adjoints(*args).run()


def selective_scan_backward(*args: Any) -> None:
    _backward(*args).run()


def selective_scan_sums(*args: Tensor | None) -> None:
    """Adds up the parts (args[:5]) of the gradients of A, B, C, D and delta_bias (args[5:]); any may be None."""
    for parts, grad in zip(args[:5], args[5:], strict=True):
        if parts is not None and grad is not None:
            # B and C have parts by (batch, groups * window, N, L), the others by (batch, segments, ...).
            outer = grad.shape[:2].numel() if grad.dim() == 4 else 1
            torch.sum(parts.view(outer, -1, grad.numel() // outer), 1, out=grad.view(outer, -1))


def variants() -> Iterator[Launch]:
    """A launch of every kernel that a call may choose, on tensors without memory."""
    for dtype, states, constant in product(DTYPES, BLOCKS, (False, True)):
        stream = torch.empty(1, 1, 1, dtype=dtype, device="meta")
        A = torch.empty(1, states, device="meta")
        B = A if constant else torch.empty(1, 1, states, 1, dtype=dtype, device="meta")
        tiles, sums = torch.empty(1, 1, 1, states, device="meta"), torch.empty(1, 1, 1, device="meta")
        optional = (None, None, None, None)
        if not constant:
            yield _states(stream, stream, A, B, None, tiles, sums, True, False)
            yield _adjoints(stream, A, B, None, None, stream, tiles, sums, True, False)
        yield _forward(stream, stream, A, B, B, *optional, None, None, stream, tiles, tiles, True, False)
        yield _backward(
            stream, stream, A, B, B, *optional, tiles, stream, None, None, None, stream, stream, None, None,
            tiles, tiles, tiles, None, None, 0, 1, True, False,
        )  # fmt: skip
