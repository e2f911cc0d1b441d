"""Launches of the causal convolution's Triton kernels: how memory is walked over."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton import next_power_of_2

from bdam_kernels.ops.causal_conv1d import triton_kernels as kernels
from bdam_kernels.ops.causal_conv1d.roles import Inputs, Outputs
from bdam_kernels.ops.triton_common import DTYPES, Launch, with_strides

WARPS = 4

PROGRAMS = 4096
"""Programs that fill a GPU: rather than start more, a program walks further."""

REDUCED_CHANNELS = 32

Args = dict[str, Any]
"""A kernel's arguments by name."""


class Plan(NamedTuple):
    """How memory is walked over."""

    channels_last: bool
    vector: int
    phase: int = 0
    """Elements between an aligned address and the tensors' first."""
    slack: int = 0
    """The most elements between an aligned address and a row's first."""

    def tile(self, backward: bool) -> tuple[int, int, int]:
        """Channels, groups, and steps of a group: to keep enough bytes in flight, and registers few."""
        if self.channels_last:
            return 64, 4, 4
        if self.vector > 1:
            return (16 if backward else 32), 8, 8
        return (8 if backward else 16), 32, 1

    def constants(self, width: int, silu: bool, edges: bool, packed: bool, backward: bool) -> dict[str, Any]:
        """edges: whether there is an initial state, or a gradient of the last one; packed: whether there are resets."""
        block_d, groups, group = self.tile(backward)
        return {
            "WIDTH": width, "PADDED": next_power_of_2(max(width - 1, 1)), "SILU": silu, "EDGES": edges,
            "PACKED": packed,
            "CHANNELS_LAST": self.channels_last, "VECTOR": self.vector,
            "BLOCK_D": block_d, "GROUPS": groups, "GROUP": group,
        }  # fmt: skip

    def registers(self, width: int, extra: bool, backward: bool) -> int:
        """So many that enough warps wait for memory at a time to keep it busy, where it can be had without spills.

        extra: whether there are edges or packed sequences.
        """
        if self.channels_last or self.vector == 1 or width > 4 or extra:
            return 255
        return 80 if backward else 72

    def walk(self, batch: int, channels: int, times: int, backward: bool) -> tuple[int, int, int]:
        """Blocks of channels, blocks of times, and tiles that a program walks over."""
        block_d, groups, group = self.tile(backward)
        channel_blocks, tiles = -(-channels // block_d), -(-times // (groups * group))
        steps = max(1, min(tiles, batch * channel_blocks * tiles // PROGRAMS))
        return channel_blocks, -(-tiles // steps), steps

    def memory(self, **tensors: Tensor) -> Args:
        """Tensors (B, D, L), each with its strides of batches, and of channels or times, whichever are not dense."""
        args: Args = {}
        for name, t in tensors.items():
            batch, channel, time = t.stride()
            args |= with_strides(name, ("batch", "pitch"), t, (batch, time if self.channels_last else channel))
        return args


def plan_of(*tensors: Tensor) -> Plan | None:
    """For tensors with the same one of channels and times dense, whichever the first one has; None if they have not.

    Where times are dense, rows begin anywhere, at the same place between aligned addresses in all tensors: vectors at
    a row's ends hold elements of its neighbours. They never leave 16 bytes of which some belong to the row.
    """
    first = tensors[0]
    size = first.element_size()
    vector = 16 // size
    channels_last = first.stride(1) < first.stride(2)
    dense = 1 if channels_last else 2
    if any(t.stride(dense) != 1 and t.shape[dense] > 1 for t in tensors):
        return None
    phases = {(t.data_ptr() // size % vector, t.stride(0) % vector, t.stride(3 - dense) % vector) for t in tensors}
    if len(phases) > 1 or first.data_ptr() % size:
        return Plan(channels_last, 1)
    ((phase, *strides),) = phases
    aligned = not any((phase, *strides)) and first.shape[dense] % vector == 0
    if channels_last:
        return Plan(True, vector if aligned else 1)
    return Plan(False, vector, phase, 0 if aligned else vector - 1)


def _edge(name: str, length: str, tensor: Tensor | None, like: Tensor) -> Args:
    """A (B, D, W-1) and its length, 0 if it is absent."""
    return {name: like, length: 0} if tensor is None else {name: tensor.contiguous(), length: tensor.shape[2]}


def _numbers(resets: Tensor | None, like: Tensor) -> Args:
    """Of every step's sequence in its row, (B, L), from 0 on."""
    return {"numbers": like if resets is None else resets.contiguous().cumsum(1, dtype=torch.int32)}


def _forward(plan: Plan, inputs: Inputs, outputs: Outputs, resets: Tensor | None, silu: bool) -> Launch:
    x, weight, bias, initial_state = inputs
    (batch, channels, length), width = x.shape, weight.shape[1]
    channel_blocks, time_blocks, steps = plan.walk(batch, channels, length + plan.slack, backward=False)
    args = {
        **plan.memory(x=x, out=outputs.out), "weight": weight, "bias": weight if bias is None else bias.contiguous(),
        "state": x if initial_state is None else initial_state.contiguous(), "final_state": outputs.final_state,
        "channels": channels, "length": length, "phase": plan.phase, "slack": plan.slack, "steps": steps,
        "has_bias": int(bias is not None), **_numbers(resets, x),
    }  # fmt: skip
    edges, packed = initial_state is not None, resets is not None
    return Launch(
        kernels.causal_conv1d_forward_kernel, batch * channel_blocks * time_blocks, args,
        plan.constants(width, silu, edges, packed, backward=False), WARPS,
        plan.registers(width, edges or packed, backward=False),
    )  # fmt: skip


def _backward(
    plan: Plan, inputs: Inputs, grad_outputs: Outputs, grads: Inputs, resets: Tensor | None, silu: bool
) -> tuple[Launch, Launch]:  # fmt: skip
    x, weight, bias, initial_state = inputs
    grad_out, grad_final_state = grad_outputs
    (batch, channels, length), width = x.shape, weight.shape[1]
    group = plan.tile(backward=True)[2]
    origin = 0 if grads.initial_state is None else -(-(width - 1) // group) * -group
    channel_blocks, time_blocks, steps = plan.walk(batch, channels, length + plan.slack - origin, backward=True)
    rows = batch * time_blocks
    partial = weight.new_empty(rows, width + 1, channels)
    args = {
        **plan.memory(x=x, grad_out=grad_out, grad_x=grads.x),
        "weight": weight, "bias": weight if bias is None else bias.contiguous(),
        **_edge("state", "state_length", initial_state, x),
        **_edge("grad_state", "grad_state_length", grads.initial_state, x),
        **_edge("grad_final_state", "final_length", grad_final_state, x),
        "partial": partial, "channels": channels, "length": length, "phase": plan.phase, "slack": plan.slack,
        "origin": origin, "steps": steps, "has_bias": int(bias is not None), **_numbers(resets, x),
    }  # fmt: skip
    edges, packed = initial_state is not None or grad_final_state is not None, resets is not None
    main = Launch(
        kernels.causal_conv1d_backward_kernel, rows * channel_blocks, args,
        plan.constants(width, silu, edges, packed, backward=True), WARPS,
        plan.registers(width, edges or packed, backward=True),
    )  # fmt: skip
    args = {
        "partial": partial, "rows": rows, "grad_weight": grads.weight,
        "grad_bias": grads.weight if grads.bias is None else grads.bias, "channels": channels,
        "has_bias": int(bias is not None),
    }  # fmt: skip
    constants = {"WIDTH": width, "BLOCK_D": REDUCED_CHANNELS, "BLOCK_ROWS": 32}
    programs = -(-channels // REDUCED_CHANNELS) * (width + 1)
    return main, Launch(kernels.causal_conv1d_reduce_kernel, programs, args, constants, WARPS)


def causal_conv1d_forward(inputs: Inputs, outputs: Outputs, resets: Tensor | None, silu: bool) -> None:
    """Fills outputs, final_state with the last W - 1 inputs of any sequence. weight, bias: float32; weight,
    final_state: contiguous."""
    plan = plan_of(inputs.x, outputs.out)
    if plan is None:
        dense = torch.empty_like(outputs.out, memory_format=torch.contiguous_format)
        causal_conv1d_forward(inputs._replace(x=inputs.x.contiguous()), outputs._replace(out=dense), resets, silu)
        outputs.out.copy_(dense)
        return
    _forward(plan, inputs, outputs, resets, silu).run()


def causal_conv1d_backward(
    inputs: Inputs, grad_outputs: Outputs, grads: Inputs, resets: Tensor | None, silu: bool
) -> None:
    """Fills the gradients of what is present. weight and the gradients of it and of the initial state: contiguous."""
    plan = plan_of(inputs.x, grads.x)
    if plan is None:
        dense = torch.empty_like(grads.x, memory_format=torch.contiguous_format)
        causal_conv1d_backward(
            inputs._replace(x=inputs.x.contiguous()), grad_outputs, grads._replace(x=dense), resets, silu
        )  # fmt: skip
        grads.x.copy_(dense)
        return
    if plan_of(inputs.x, grads.x, grad_outputs.out) != plan:
        grad_outputs = grad_outputs._replace(out=torch.empty_like(grads.x).copy_(grad_outputs.out))
    for launch in _backward(plan, inputs, grad_outputs, grads, resets, silu):
        launch.run()


def variants() -> Iterator[Launch]:
    """A launch of every kernel that a call with W = 4 and SiLU may choose, on tensors without memory."""
    sums = torch.empty(16, 4, device="meta")
    for dtype, channels_last, aligned in product(DTYPES, (False, True), (False, True)):
        x = torch.empty(1, 16, 16, dtype=dtype, device="meta")
        plan = Plan(channels_last, 16 // x.element_size() if aligned else 1)
        for edges in (None, x) if dtype == torch.bfloat16 else (None,):
            inputs = Inputs(x, sums, None, edges)
            for resets in (None, x.bool()[:, 0]) if dtype == torch.bfloat16 and edges is None else (None,):
                yield _forward(plan, inputs, Outputs(x, x), resets, True)
                main, reduce = _backward(plan, inputs, Outputs(x, edges), inputs, resets, True)
                yield main
    yield reduce
