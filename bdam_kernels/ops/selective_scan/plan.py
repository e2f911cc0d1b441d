"""Selective scan on a GPU: how a call is cut into blocks, segments and launches, its workspaces, and its last sums.

CUDA and Triton have the same four kernels. A block walks through time for the channels it has, their states in
registers, so nothing is ever B x D x L x N. Where batch and channels alone would leave most of the GPU idle, time is
cut into segments that are walked at once, in two passes: `states` (`adjoints` on the way back) walks each segment from
zero, and `forward` (`backward`) starts each from what the segments before it add up to. Nothing is added atomically:
gradients that many blocks share are written side by side and summed in a fixed order, so results are bit-equal.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from bdam_kernels.ops.gpu import gpu_module, launch, on_device_of
from bdam_kernels.ops.packed import dense
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

CHUNK = 32
"""Steps between the states that forward saves; backward recomputes the states in between."""

BLOCKS = {"cuda": 4, "triton": 8}
"""Blocks that fill a multiprocessor: with fewer, time is cut into segments; backward launches about twice as many at
once."""

SEGMENT_CHUNKS = 4
"""A segment has at least so many chunks, as walking it twice must pay."""


def chunks(length: int) -> int:
    return -(-length // CHUNK)


@cache
def _multiprocessors(device: int) -> int:
    """Of a GPU; on the CPU, where kernels are only tested, a number that some of the tests' calls fill."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device >= 0 else 64


def _segments(wanted: int, length: int) -> int:
    """Pieces that time is cut into, all but the last of the same whole number of chunks."""
    wanted = min(wanted, chunks(length) // SEGMENT_CHUNKS)
    return 1 if wanted < 2 else -(-chunks(length) // -(-chunks(length) // wanted))


class _Plan:
    """Of one call: its kernels, blocks of channels in each group of B and C, and segments of time."""

    def __init__(self, backend: str, inputs: Inputs, packed: Packed) -> None:
        self.kernels = gpu_module(backend, "selective_scan.triton_launches")
        u, A, B, C = inputs.u, inputs.A, inputs.B, inputs.C
        self.batch, channels, length = u.shape
        self.groups = next((m.shape[1] for m in (B, C) if varies(m)), 1)
        both_vary, is_packed = varies(B) and varies(C), packed.resets is not None
        block = self.kernels.selective_scan_block_channels(A.shape[1], both_vary, is_packed, self.batch * channels)
        self.blocks = -(-channels // self.groups // block)
        full = BLOCKS[backend] * _multiprocessors(u.get_device())
        self.segments = _segments(full // (self.batch * self.groups * self.blocks), length)
        # Blocks of each group in one launch of backward; later launches add to what earlier ones left.
        wanted = -(-2 * full // (self.batch * self.groups * self.segments))
        self.window = min(self.blocks, wanted) if varies(B) or varies(C) else self.blocks

    def first_pass(self, A: Tensor) -> Segments:
        """Room for what a first pass leaves, if there is to be one."""
        if self.segments == 1:
            return Segments(None, None)
        ends = A.new_empty(self.batch, self.segments, *A.shape)
        return Segments(ends, ends.new_empty(ends.shape[:3]))

    def room_for_parts(self, grad: Tensor | None, A: Tensor) -> Tensor | None:
        """Where blocks leave their parts of a gradient, to which they add over batch, time or channels."""
        if grad is None:
            return None
        shape = (self.groups * self.window, *grad.shape[2:]) if varies(grad) else (self.segments, *grad.shape)
        return A.new_empty(self.batch, *shape)


def forward(backend: str, inputs: Inputs, outputs: Outputs, options: Options, resets: Tensor | None) -> None:
    """Fills outputs."""
    packed = Packed(dense(resets))
    plan = _Plan(backend, inputs, packed)
    kernels = plan.kernels
    with on_device_of(inputs.u):
        segments = plan.first_pass(inputs.A)
        if segments.ends is not None:
            drive = Drive(inputs.u, inputs.delta, inputs.A, inputs.B, inputs.delta_bias)
            launch(kernels.selective_scan_states, drive, segments, options, packed)
        launch(kernels.selective_scan_forward, inputs, segments, outputs, options, packed)


def backward(
    backend: str, inputs: Inputs, outer: Outer, grads: Inputs, options: Options, resets: Tensor | None
) -> None:
    """Fills grads, one for each input that is present."""
    packed = Packed(dense(resets))
    plan = _Plan(backend, inputs, packed)
    kernels = plan.kernels
    with on_device_of(inputs.u):
        segments = plan.first_pass(inputs.A)
        if segments.ends is not None:
            drive = AdjointDrive(inputs.delta, inputs.A, inputs.C, inputs.z, inputs.delta_bias, outer.grad_out)
            launch(kernels.selective_scan_adjoints, drive, segments, options, packed)
        own = OwnGradients(grads.u, grads.delta, grads.z, grads.initial_state)
        shared = SharedGradients(grads.A, grads.B, grads.C, grads.D, grads.delta_bias)
        parts = SharedGradients(*[plan.room_for_parts(grad, inputs.A) for grad in shared])
        for first_block in range(0, plan.blocks, plan.window):
            window = Window(first_block, plan.segments)
            launch(kernels.selective_scan_backward, inputs, outer, segments, own, parts, window, options, packed)
        launch(kernels.selective_scan_sums, parts, shared)
