"""Depthwise causal convolution in Triton: a program takes a block of channels and times of one batch.

Tiles have channels and times in the order in which lanes lie along whichever of the two is dense in memory
(CHANNELS_LAST); reductions over time take that axis. Time t < 0 is the initial state, of W - 1 steps. What is absent
is a pointer to anything of its dtype with a length of 0.
"""

# mypy: disable-error-code="no-untyped-def, assignment"

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from bdam_kernels.triton_kernels.launch import DTYPES, Launch, device, kernel

BLOCKS = {False: (16, 64), True: (64, 16)}
"""Channels and times of a program, by CHANNELS_LAST."""

WARPS = 4


@device
def _locate(channels, times, BLOCK_D: tl.constexpr, BLOCK_T: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """This program's batch, number of the block of times, channels and times, broadcastable to a tile."""
    program = tl.program_id(0).to(tl.int64)
    channel_blocks = (channels + BLOCK_D - 1) // BLOCK_D
    time_blocks = (times + BLOCK_T - 1) // BLOCK_T
    axis: tl.constexpr = 0 if CHANNELS_LAST else 1
    d = tl.expand_dims(program % channel_blocks * BLOCK_D + tl.arange(0, BLOCK_D), axis)
    time_block = program // channel_blocks % time_blocks
    t = tl.expand_dims(time_block * BLOCK_T + tl.arange(0, BLOCK_T), 1 - axis)
    return program // channel_blocks // time_blocks, time_block, d, t


@device
def _load_input(x, x_channel, x_time, state, state_length, d, t, channels, length, states):
    """x at any time from -states on, float32. x and state: pointers to the batch."""
    in_x = (d < channels) & (t >= 0) & (t < length)
    in_state = (d < channels) & (t < 0) & (t + states < state_length)
    value = tl.load(x + d * x_channel + t * x_time, in_x, other=0.0).to(tl.float32)
    return value + tl.load(state + d * states + (t + states), in_state, other=0.0).to(tl.float32)


@device
def _convolve(x, x_channel, x_time, weight, bias, state, state_length, d, t, channels, length, width, has_bias):
    total = tl.load(bias + d, d < tl.where(has_bias != 0, channels, 0), other=0.0) + tl.zeros_like(t).to(tl.float32)
    for w in range(width):
        value = _load_input(
            x, x_channel, x_time, state, state_length, d, t - (width - 1) + w, channels, length, width - 1
        )
        total += tl.load(weight + d * width + w, d < channels, other=0.0) * value
    return total


@device
def _sigmoid(x):
    return 1 / (1 + tl.exp2(x * -1.4426950408889634))


@kernel
def causal_conv1d_forward_kernel(
    x, x_batch, x_channel, x_time, out, out_batch, out_channel, out_time, weight, bias, state, state_length,
    channels, length, width, has_bias, silu,
    BLOCK_D: tl.constexpr, BLOCK_T: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    batch, _, d, t = _locate(channels, length, BLOCK_D, BLOCK_T, CHANNELS_LAST)
    states = state + batch * channels * (width - 1)
    y = _convolve(
        x + batch * x_batch, x_channel, x_time, weight, bias, states, state_length, d, t, channels, length, width,
        has_bias,
    )  # fmt: skip
    y = tl.where(silu != 0, y * _sigmoid(y), y)
    tl.store(out + batch * out_batch + d * out_channel + t * out_time, y, (d < channels) & (t < length))


@kernel
def causal_conv1d_backward_weight_kernel(
    x, x_batch, x_channel, x_time, grad_out, grad_out_batch, grad_out_channel, grad_out_time,
    weight, bias, state, state_length, grad_y, partial_weight, partial_bias,
    channels, length, width, has_bias, silu,
    BLOCK_D: tl.constexpr, BLOCK_T: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """Gradient of what the activation takes, as (B, D, L) in x's order of memory, and each program's sums over time."""
    batch, time_block, d, t = _locate(channels, length, BLOCK_D, BLOCK_T, CHANNELS_LAST)
    in_tile = (d < channels) & (t < length)
    x += batch * x_batch
    states = state + batch * channels * (width - 1)
    y = _convolve(
        x, x_channel, x_time, weight, bias, states, state_length, d, t, channels, length, width, has_bias
    )
    gate = _sigmoid(y)
    at = grad_out + batch * grad_out_batch + d * grad_out_channel + t * grad_out_time
    grad = tl.load(at, in_tile, other=0.0).to(tl.float32)
    grad = tl.where(silu != 0, grad * gate * (1 + y * (1 - gate)), grad)
    grad = tl.where(in_tile, grad, 0.0)
    dense = (t * channels + d) if CHANNELS_LAST else (d * length + t)
    tl.store(grad_y + batch * channels * length + dense, grad, in_tile)

    axis: tl.constexpr = 0 if CHANNELS_LAST else 1
    row = (batch * ((length + BLOCK_T - 1) // BLOCK_T) + time_block) * channels + d
    tl.store(partial_bias + row, tl.sum(grad, axis, keep_dims=True), d < channels)
    for w in range(width):
        value = _load_input(
            x, x_channel, x_time, states, state_length, d, t - (width - 1) + w, channels, length, width - 1
        )
        tl.store(partial_weight + row * width + w, tl.sum(grad * value, axis, keep_dims=True), d < channels)


@kernel
def causal_conv1d_backward_input_kernel(
    grad_x, grad_x_batch, grad_x_channel, grad_x_time, grad_y, weight, grad_state, state_length,
    grad_final_state, final_length, channels, length, width,
    BLOCK_D: tl.constexpr, BLOCK_T: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    states = width - 1
    batch, _, d, t = _locate(channels, length + states, BLOCK_D, BLOCK_T, CHANNELS_LAST)
    t -= states
    grad_y += batch * channels * length
    final = t - length + states
    at = (batch * channels + d) * states + final
    grad = tl.load(
        grad_final_state + at, (d < channels) & (final >= 0) & (final < final_length), other=0.0
    ).to(tl.float32)  # fmt: skip
    for w in range(width):
        later = t + (states - w)
        dense = (later * channels + d) if CHANNELS_LAST else (d * length + later)
        g = tl.load(grad_y + dense, (d < channels) & (later >= 0) & (later < length), other=0.0)
        grad += tl.load(weight + d * width + w, d < channels, other=0.0) * g
    tl.store(
        grad_x + batch * grad_x_batch + d * grad_x_channel + t * grad_x_time, grad,
        (d < channels) & (t >= 0) & (t < length),
    )  # fmt: skip
    before = t + states
    tl.store(
        grad_state + (batch * channels + d) * states + before, grad,
        (d < channels) & (t < 0) & (before < state_length),
    )  # fmt: skip


def _launch(kernel: Any, args: tuple[Any, ...], x: Tensor, times: int) -> Launch:
    batch, channels, _ = x.shape
    channels_last = x.stride(1) < x.stride(2)
    block_d, block_t = BLOCKS[channels_last]
    constants = {"BLOCK_D": block_d, "BLOCK_T": block_t, "CHANNELS_LAST": channels_last}
    return Launch(kernel, batch * -(-channels // block_d) * -(-times // block_t), args, constants, WARPS)


def _optional(tensor: Tensor | None, like: Tensor) -> tuple[Tensor, int]:
    """A (B, D, W-1) and its length, 0 if it is absent."""
    return (like, 0) if tensor is None else (tensor.contiguous(), tensor.shape[2])


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, out: Tensor, silu: bool
) -> Launch:
    width = weight.shape[1]
    args = (
        x, *x.stride(), out, *out.stride(), weight, weight if bias is None else bias.contiguous(),
        *_optional(initial_state, x), x.shape[1], x.shape[2], width, int(bias is not None), int(silu),
    )  # fmt: skip
    return _launch(causal_conv1d_forward_kernel, args, x, x.shape[2])


def _backward_weight(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, grad_out: Tensor,
    grad_y: Tensor, partial_weight: Tensor, partial_bias: Tensor, silu: bool,
) -> Launch:  # fmt: skip
    args = (
        x, *x.stride(), grad_out, *grad_out.stride(), weight, weight if bias is None else bias.contiguous(),
        *_optional(initial_state, x), grad_y, partial_weight, partial_bias,
        x.shape[1], x.shape[2], weight.shape[1], int(bias is not None), int(silu),
    )  # fmt: skip
    return _launch(causal_conv1d_backward_weight_kernel, args, x, x.shape[2])


def _backward_input(
    x: Tensor, weight: Tensor, grad_y: Tensor, grad_final_state: Tensor | None, grad_x: Tensor,
    grad_state: Tensor | None,
) -> Launch:  # fmt: skip
    width = weight.shape[1]
    args = (
        grad_x, *grad_x.stride(), grad_y, weight, *_optional(grad_state, x), *_optional(grad_final_state, x),
        x.shape[1], x.shape[2], width,
    )  # fmt: skip
    return _launch(causal_conv1d_backward_input_kernel, args, x, x.shape[2] + width - 1)


def causal_conv1d_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, out: Tensor, final_state: Tensor,
    silu: bool,
) -> None:  # fmt: skip
    """Fills out, and final_state with the last W - 1 inputs."""
    states, length = weight.shape[1] - 1, x.shape[2]
    if length < states:
        old = x.new_zeros(final_state.shape) if initial_state is None else initial_state
        final_state.copy_(torch.cat((old, x), 2)[..., length:])
    else:
        final_state.copy_(x[..., length - states :])
    _forward(x, weight, bias, initial_state, out, silu).run()


def causal_conv1d_backward(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, grad_out: Tensor,
    grad_final_state: Tensor | None, grad_x: Tensor, grad_weight: Tensor, grad_bias: Tensor | None,
    grad_initial_state: Tensor | None, silu: bool,
) -> None:  # fmt: skip
    """Fills the gradients of what is present. grad_initial_state: contiguous."""
    batch, channels, length = x.shape
    time_blocks = -(-length // BLOCKS[x.stride(1) < x.stride(2)][1])
    grad_y = weight.new_empty(x.shape)
    partial_weight = weight.new_empty(batch, time_blocks, *weight.shape)
    partial_bias = weight.new_empty(batch, time_blocks, channels)
    _backward_weight(
        x, weight, bias, initial_state, grad_out, grad_y, partial_weight, partial_bias, silu
    ).run()
    _backward_input(x, weight, grad_y, grad_final_state, grad_x, grad_initial_state).run()
    torch.sum(partial_weight, (0, 1), out=grad_weight)
    if grad_bias is not None:
        torch.sum(partial_bias, (0, 1), out=grad_bias)


def variants() -> Iterator[Launch]:
    """A launch of every kernel that a call may choose, on tensors without memory."""
    for dtype, channels_last in product(DTYPES, (False, True)):
        x = torch.empty(1, 2, 2, dtype=dtype, device="meta")
        x = x.transpose(1, 2) if channels_last else x
        sums = torch.empty(2, 2, device="meta")
        yield _forward(x, sums, None, None, x, True)
        yield _backward_weight(x, sums, None, None, x, sums, sums, sums, True)
        yield _backward_input(x, sums, sums, None, x, None)
