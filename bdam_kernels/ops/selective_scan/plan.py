"""Selective scan on a GPU: how a call is cut into blocks, segments and launches, its workspaces, and its last sums.

CUDA and Triton have the same four kernels. A block walks through time for the channels it has, their states in
registers, so nothing is ever B x D x L x N. Where batch and channels alone would leave most of the GPU idle, time is
cut into segments that are walked at once, in two passes: `states` (`adjoints` on the way back) walks each segment from
zero, and `forward` (`backward`) starts each from what the segments before it add up to. Nothing is added atomically:
gradients that many blocks share are written side by side and summed in a fixed order, so results are bit-equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from bdam_kernels import dispatch

CHUNK = 32
"""Steps between the states that forward saves; backward recomputes the states in between."""

BLOCKS = {"cuda": 4, "triton": 8}
"""Blocks that fill a multiprocessor: with fewer, time is cut into segments; backward launches about twice as many at
once."""

SEGMENT_CHUNKS = 4
"""A segment has at least so many chunks, as walking it twice must pay."""

Tensors = Sequence[Tensor | None]


def chunks(length: int) -> int:
    return -(-length // CHUNK)


@cache
def _multiprocessors(device: int) -> int:
    """Of a GPU; on the CPU, where kernels are only tested, a number that some of the tests' calls fill."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device >= 0 else 64


def _groups(B: Tensor, C: Tensor) -> int:
    return next((m.shape[1] for m in (B, C) if m.dim() == 4), 1)


def _segments(wanted: int, length: int) -> int:
    """Pieces that time is cut into, all but the last of the same whole number of chunks."""
    wanted = min(wanted, chunks(length) // SEGMENT_CHUNKS)
    return 1 if wanted < 2 else -(-chunks(length) // -(-chunks(length) // wanted))


class _Plan:
    """Of one call: its kernels, blocks of channels in each group of B and C, and segments of time."""

    def __init__(self, backend: str, u: Tensor, A: Tensor, B: Tensor, C: Tensor) -> None:
        self.kernels = dispatch.gpu_module(backend, "selective_scan.triton_launches")
        self.batch, channels, length = u.shape
        self.groups = _groups(B, C)
        both_vary = B.dim() == 4 and C.dim() == 4
        block = self.kernels.selective_scan_block_channels(A.shape[1], both_vary, self.batch * channels)
        self.blocks = -(-channels // self.groups // block)
        full = BLOCKS[backend] * _multiprocessors(u.get_device())
        self.segments = _segments(full // (self.batch * self.groups * self.blocks), length)
        # Blocks of each group in one launch of backward; later launches add to what earlier ones left.
        wanted = -(-2 * full // (self.batch * self.groups * self.segments))
        self.window = min(self.blocks, wanted) if B.dim() == 4 or C.dim() == 4 else self.blocks

    def workspaces(self, A: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """What a first pass leaves: end states (B, S, D, N) and sums of step sizes (B, S, D); None without one."""
        if self.segments == 1:
            return None, None
        states = A.new_empty(self.batch, self.segments, *A.shape)
        return states, states.new_empty(states.shape[:3])


def forward(backend: str, inputs: Tensors, outputs: Tensors, delta_softplus: bool, reverse: bool) -> None:
    """Fills outputs: out, last_state, checkpoints (B, K, D, N): states before the chunks 1, 2, ...; K may be 0."""
    u, delta, A, B, C, _, _, delta_bias, _ = inputs
    assert u is not None and A is not None and B is not None and C is not None
    plan = _Plan(backend, u, A, B, C)
    flags = (delta_softplus, reverse)
    with dispatch.on_device_of(u):
        states, step_sums = plan.workspaces(A)
        if states is not None:
            dispatch.launch(plan.kernels.selective_scan_states, u, delta, A, B, delta_bias, states, step_sums, *flags)
        dispatch.launch(plan.kernels.selective_scan_forward, *inputs, states, step_sums, *outputs, *flags)


def backward(
    backend: str, inputs: Tensors, outer: Tensors, grads: Tensors, delta_softplus: bool, reverse: bool
) -> None:
    """Fills grads, one for each input that is present. outer: checkpoints, grad_out, grad_last_state."""
    u, delta, A, B, C, _, z, delta_bias, _ = inputs
    grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_z, grad_bias, grad_initial = grads
    _, grad_out, _ = outer
    assert u is not None and A is not None and B is not None and C is not None and grad_A is not None
    plan = _Plan(backend, u, A, B, C)
    flags = (delta_softplus, reverse)

    def partial(grad: Tensor | None) -> Tensor | None:
        """Where blocks leave their parts of a gradient, which they share over batch, time or channels."""
        if grad is None:
            return None
        over_time = grad.dim() == 4
        shape = (plan.groups * plan.window, *grad.shape[2:]) if over_time else (plan.segments, *grad.shape)
        return A.new_empty(plan.batch, *shape)

    with dispatch.on_device_of(u):
        adjoints, step_sums = plan.workspaces(A)
        if adjoints is not None:
            dispatch.launch(
                plan.kernels.selective_scan_adjoints, delta, A, C, z, delta_bias, grad_out, adjoints, step_sums, *flags
            )
        shared = (grad_A, grad_B, grad_C, grad_D, grad_bias)
        partials = [partial(grad) for grad in shared]
        for first_block in range(0, plan.blocks, plan.window):
            dispatch.launch(
                plan.kernels.selective_scan_backward, *inputs, *outer, adjoints, step_sums,
                grad_u, grad_delta, grad_z, grad_initial, *partials, first_block, plan.segments, *flags,
            )  # fmt: skip
        dispatch.launch(plan.kernels.selective_scan_sums, *partials, *shared)
