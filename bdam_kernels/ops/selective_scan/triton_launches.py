"""Launches of the selective scan's Triton kernels; for shapes see `roles`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from bdam_kernels.ops.selective_scan import triton_device as device
from bdam_kernels.ops.selective_scan import triton_kernels as kernels
from bdam_kernels.ops.selective_scan.roles import (
    AdjointDrive,
    Drive,
    Inputs,
    Options,
    Outer,
    Outputs,
    OwnGradients,
    Packed,
    Segments,
    SharedGradients,
    Window,
    varies,
)
from bdam_kernels.ops.triton_common import DTYPES, INTERPRETED, Launch, with_strides

BLOCKS = {8: (16, 2), 16: (8, 1), 32: (4, 2), 64: (2, 4), 256: (1, 8)}
"""Channels and warps of a program, by padded number of states."""

BACKWARD_WARPS = {8: 2, 16: 4, 32: 4, 64: 4, 256: 8}
"""Warps of a program of backward, which keeps some 20 tiles and is not to spill them."""

WIDER = 4 if INTERPRETED else 1
"""Factor of the channels: the interpreter's time goes by operations, not by how many numbers each works on."""

Args = dict[str, Any]
"""A kernel's arguments by name."""

_STREAM = ("batch", "channel", "time")
_MATRIX = ("batch", "group", "state", "time")


def _padded(states: int) -> int:
    return next(n for n in BLOCKS if n >= states)


def selective_scan_block_channels(states: int, _varies: bool, _packed: bool, _rows: int) -> int:
    """Channels that a program walks."""
    return BLOCKS[_padded(states)][0] * WIDER


def _streams(like: Tensor, **tensors: Tensor | None) -> Args:
    """Tensors (B, D, L), each with its strides."""
    args: Args = {}
    for name, t in tensors.items():
        args |= with_strides(name, _STREAM, *((like, (0, 0, 0)) if t is None else (t, t.stride())))
    return args


def _coefficients(name: str, fixed: str, tensor: Tensor, matrix: Tensor, like: Tensor, A: Tensor) -> Args:
    """A tensor that belongs to the `matrix` B or C: (B, G, N, L) with its strides or, if that does not vary over time,
    (D, N) or (B, S, D, N), for which the kernel has another parameter, `fixed`."""
    if varies(matrix):
        return {**with_strides(name, _MATRIX, tensor, tensor.stride()), fixed: A}
    return {**with_strides(name, _MATRIX, like, (0, 0, 0, 0)), fixed: tensor.contiguous()}


def _contiguous(anything: Tensor, /, **tensors: Tensor | None) -> Args:
    return {name: anything if t is None else t.contiguous() for name, t in tensors.items()}


def _flags(*bits: tuple[Any, bool]) -> int:
    return sum(bit.value for bit, is_set in bits if is_set)


def _launch(
    kernel: Any,
    args: Args,
    *,
    like: Tensor,
    A: Tensor,
    matrices: tuple[Tensor, ...],
    segments: int,
    flags: int,
    resets: Tensor | None,
    first_block: int = 0,
    window: int | None = None,
    num_warps: int | None = None,
    **constants: bool,
) -> Launch:
    """A launch over every batch, segment and group, for a window of a group's blocks or for all of them."""
    batch, channels, length = like.shape
    states = A.shape[1]
    groups = next((m.shape[1] for m in matrices if varies(m)), 1)
    block_channels = selective_scan_block_channels(states, True, False, 0)
    window = window or -(-channels // groups // block_channels)
    sizes: Args = {
        "channels": channels, "groups": groups, "length": length, "states": states, "unit": 1, "segments": segments,
        "window": window, "first_block": first_block, "flags": flags,
    }  # fmt: skip
    sizes["resets"] = A if resets is None else resets.view(torch.uint8)
    blocks = {"BLOCK_D": block_channels, "BLOCK_N": _padded(states), "PACKED": resets is not None}
    warps = num_warps or BLOCKS[_padded(states)][1]
    return Launch(kernel, batch * segments * groups * window, args | sizes, blocks | constants, warps)


def _states(drive: Drive, segments: Segments, options: Options, resets: Tensor | None = None) -> Launch:
    u, delta, A, B, delta_bias = drive
    ends, step_sums = segments
    assert ends is not None
    A = A.contiguous()
    args = {
        **_streams(u, u=u, delta=delta), **_coefficients("B", "fixed_B", B, B, u, A),
        **_contiguous(A, A=A, delta_bias=delta_bias, ends=ends, step_sums=step_sums),
    }  # fmt: skip
    flags = _flags(
        (device.SOFTPLUS, options.delta_softplus), (device.REVERSE, options.reverse),
        (device.HAS_BIAS, delta_bias is not None), (device.CONSTANT_B, not varies(B)),
    )  # fmt: skip
    return _launch(
        kernels.selective_scan_states_kernel, args, like=u, A=A, matrices=(B,), segments=ends.shape[1], flags=flags,
        resets=resets,
    )  # fmt: skip


def _forward(
    inputs: Inputs, segments: Segments, outputs: Outputs, options: Options, resets: Tensor | None = None
) -> Launch:
    u, delta, A, B, C, D, z, delta_bias, initial_state = inputs
    out, last_state, checkpoints = outputs
    ends, step_sums = segments
    assert checkpoints is not None
    A = A.contiguous()
    args = {
        **_streams(u, u=u, delta=delta, z=z, out=out),
        **_coefficients("B", "fixed_B", B, B, u, A), **_coefficients("C", "fixed_C", C, C, u, A),
        **_contiguous(A, A=A, D=D, delta_bias=delta_bias, initial_state=initial_state, ends=ends, step_sums=step_sums),
        "last_state": last_state, "checkpoints": checkpoints,
    }  # fmt: skip
    flags = _flags(
        (device.SOFTPLUS, options.delta_softplus), (device.REVERSE, options.reverse), (device.HAS_D, D is not None),
        (device.HAS_Z, z is not None), (device.HAS_BIAS, delta_bias is not None),
        (device.HAS_INITIAL_STATE, initial_state is not None), (device.HAS_CHECKPOINTS, checkpoints.shape[1] > 0),
        (device.CONSTANT_B, not varies(B)), (device.CONSTANT_C, not varies(C)),
    )  # fmt: skip
    return _launch(
        kernels.selective_scan_forward_kernel, args, like=u, A=A, matrices=(B, C),
        segments=1 if ends is None else ends.shape[1], flags=flags, resets=resets,
        CONSTANT=not (varies(B) and varies(C)),
    )  # fmt: skip


def _adjoints(drive: AdjointDrive, segments: Segments, options: Options, resets: Tensor | None = None) -> Launch:
    delta, A, C, z, delta_bias, grad_out = drive
    adjoints, step_sums = segments
    assert adjoints is not None
    A = A.contiguous()
    args = {
        **_streams(delta, delta=delta, z=z, grad_out=grad_out), **_coefficients("C", "fixed_C", C, C, delta, A),
        **_contiguous(A, A=A, delta_bias=delta_bias, adjoints=adjoints, step_sums=step_sums),
    }  # fmt: skip
    flags = _flags(
        (device.SOFTPLUS, options.delta_softplus), (device.REVERSE, options.reverse), (device.HAS_Z, z is not None),
        (device.HAS_BIAS, delta_bias is not None), (device.CONSTANT_C, not varies(C)),
    )  # fmt: skip
    return _launch(
        kernels.selective_scan_adjoints_kernel, args, like=delta, A=A, matrices=(C,), segments=adjoints.shape[1],
        flags=flags, resets=resets,
    )  # fmt: skip


def _backward(
    inputs: Inputs,
    outer: Outer,
    segments: Segments,
    own: OwnGradients,
    parts: SharedGradients,
    window: Window,
    options: Options,
    resets: Tensor | None = None,
) -> Launch:
    u, delta, A, B, C, D, z, delta_bias, initial_state = inputs
    checkpoints, grad_out, grad_last_state = outer
    adjoints, step_sums = segments
    assert parts.B is not None and parts.C is not None
    A = A.contiguous()
    flags = _flags(
        (device.SOFTPLUS, options.delta_softplus), (device.REVERSE, options.reverse), (device.HAS_D, D is not None),
        (device.HAS_Z, z is not None), (device.HAS_BIAS, delta_bias is not None),
        (device.HAS_INITIAL_STATE, initial_state is not None),
        (device.HAS_GRAD_LAST_STATE, grad_last_state is not None),
        (device.CONSTANT_B, not varies(B)), (device.CONSTANT_C, not varies(C)),
    )  # fmt: skip
    args = {
        **_streams(
            u, u=u, delta=delta, z=z, grad_out=grad_out, grad_u=own.u, grad_delta=own.delta, grad_z=own.z
        ),
        **_coefficients("B", "fixed_B", B, B, u, A), **_coefficients("C", "fixed_C", C, C, u, A),
        **_coefficients("partial_B", "partial_fixed_B", parts.B, B, A, A),
        **_coefficients("partial_C", "partial_fixed_C", parts.C, C, A, A),
        **_contiguous(
            A, A=A, D=D, delta_bias=delta_bias, initial_state=initial_state, grad_last_state=grad_last_state,
            adjoints=adjoints, step_sums=step_sums, grad_initial_state=own.initial_state, partial_D=parts.D,
            partial_bias=parts.delta_bias,
        ),
        "checkpoints": checkpoints, "partial_A": parts.A,
    }  # fmt: skip
    shared = next(((p, m) for p, m in ((parts.B, B), (parts.C, C)) if varies(m)), None)
    launch = _launch(
        kernels.selective_scan_backward_kernel, args, like=u, A=A, matrices=(B, C), segments=window.segments,
        flags=flags, resets=resets, first_block=window.first_block,
        window=shared[0].shape[1] // shared[1].shape[1] if shared else None,
        num_warps=BACKWARD_WARPS[_padded(A.shape[1])], CONSTANT=not (varies(B) and varies(C)),
    )  # fmt: skip
    # For the states before each group of a chunk's steps.
    tile = launch.constants["BLOCK_D"] * launch.constants["BLOCK_N"]
    launch.args["scratch"] = A.new_empty(launch.programs, device.GROUPS.value, tile)
    return launch


def selective_scan_states(drive: Drive, segments: Segments, options: Options, packed: Packed) -> None:
    """Fills segments."""
    _states(drive, segments, options, *packed).run()


def selective_scan_forward(
    inputs: Inputs, segments: Segments, outputs: Outputs, options: Options, packed: Packed
) -> None:
    """Fills outputs."""
    _forward(inputs, segments, outputs, options, *packed).run()


def selective_scan_adjoints(drive: AdjointDrive, segments: Segments, options: Options, packed: Packed) -> None:
    """Fills segments."""
    _adjoints(drive, segments, options, *packed).run()


def selective_scan_backward(
    inputs: Inputs,
    outer: Outer,
    segments: Segments,
    own: OwnGradients,
    parts: SharedGradients,
    window: Window,
    options: Options,
    packed: Packed,
) -> None:
    """Fills own gradients, and the window's parts of shared ones."""
    _backward(inputs, outer, segments, own, parts, window, options, *packed).run()


def selective_scan_sums(parts: SharedGradients, grads: SharedGradients) -> None:
    """Adds up the parts of gradients."""
    for part, grad in zip(parts, grads, strict=True):
        if part is not None and grad is not None:
            # B and C have parts by (batch, groups * window, N, L), the others by (batch, segments, ...).
            outer = grad.shape[:2].numel() if grad.dim() == 4 else 1
            torch.sum(part.view(outer, -1, grad.numel() // outer), 1, out=grad.view(outer, -1))


def variants() -> Iterator[Launch]:
    """A launch of every kernel that a call may choose, on tensors without memory."""
    options = Options(delta_softplus=True, reverse=False)
    for dtype, states, constant in product(DTYPES, BLOCKS, (False, True)):
        x = torch.empty(1, 1, 1, dtype=dtype, device="meta")
        A = torch.empty(1, states, device="meta")
        B = A if constant else torch.empty(1, 1, states, 1, dtype=dtype, device="meta")
        tiles, sums = torch.empty(1, 1, 1, states, device="meta"), torch.empty(1, 1, 1, device="meta")
        inputs = Inputs(x, x, A, B, B, None, None, None, None)
        if not constant:
            yield _states(Drive(x, x, A, B, None), Segments(tiles, sums), options)
            yield _adjoints(AdjointDrive(x, A, B, None, None, x), Segments(tiles, sums), options)
        one_walk = Segments(None, None)
        yield _forward(inputs, one_walk, Outputs(x, tiles, tiles), options)
        own, parts = OwnGradients(x, x, None, None), SharedGradients(tiles, tiles, tiles, None, None)
        yield _backward(inputs, Outer(tiles, x, None), one_walk, own, parts, Window(0, 1), options)
        if states == 16 and dtype == torch.bfloat16 and not constant:
            resets = torch.empty(1, 1, dtype=torch.bool, device="meta")
            yield _states(Drive(x, x, A, B, None), Segments(tiles, sums), options, resets)
            yield _adjoints(AdjointDrive(x, A, B, None, None, x), Segments(tiles, sums), options, resets)
            yield _forward(inputs, one_walk, Outputs(x, tiles, tiles), options, resets)
            yield _backward(inputs, Outer(tiles, x, None), one_walk, own, parts, Window(0, 1), options, resets)
