"""One time step of the causal convolution and of the selective scan in Triton: states are updated in place.

A program takes a block of channels of one batch. What is absent is a pointer to anything; constants say so.
"""

# mypy: disable-error-code="no-untyped-def, assignment, var-annotated"
# ruff: noqa: RUF005 (kernels cannot unpack tuples into tuples)

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton.language as tl
from torch import Tensor
from triton import next_power_of_2

from bdam_kernels.ops.selective_scan.triton_device import sigmoid, softplus
from bdam_kernels.ops.triton_common import DTYPES, LOG2E, Launch, kernel, with_strides

WARPS = 4
CONV_CHANNELS = 128
SCAN_ELEMENTS = 1024
"""Channels times states of a program."""


@kernel
def causal_conv1d_update_kernel(
    x, x_batch, x_channel, state, state_batch, state_channel, state_time, weight, bias, out, channels,
    WIDTH: tl.constexpr, STATES: tl.constexpr, HAS_BIAS: tl.constexpr, SILU: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The last W of the states and x, convolved; states shift by one."""
    blocks = (channels + BLOCK_D - 1) // BLOCK_D
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    d = tl.program_id(0) % blocks * BLOCK_D + tl.arange(0, BLOCK_D)
    exists = d < channels
    states = state + batch * state_batch + d.to(tl.int64) * state_channel
    last = tl.load(x + batch * x_batch + d.to(tl.int64) * x_channel, exists, other=0.0)
    window = ()
    for s in tl.static_range(1, STATES):
        window = window + (tl.load(states + s * state_time, exists, other=0.0),)
    window = window + (last,)
    total = tl.zeros((BLOCK_D,), tl.float32)
    if HAS_BIAS:
        total += tl.load(bias + d, exists, other=0.0).to(tl.float32)
    # The state may be one shorter than the window: its first is then part of the window.
    if STATES < WIDTH:
        first = tl.load(states, exists, other=0.0).to(tl.float32)
        total += first * tl.load(weight + d * WIDTH, exists, other=0.0).to(tl.float32)
    for w in tl.static_range(WIDTH - STATES if WIDTH > STATES else 0, WIDTH):
        value = window[STATES - WIDTH + w].to(tl.float32)
        total += value * tl.load(weight + d * WIDTH + w, exists, other=0.0).to(tl.float32)
    for s in tl.static_range(STATES):
        tl.store(states + s * state_time, window[s].to(state.dtype.element_ty), exists)
    if SILU:
        total = total * sigmoid(total)
    tl.store(out + batch * channels + d, total.to(out.dtype.element_ty), exists)


@kernel
def selective_state_update_kernel(
    state, x, x_batch, dt, dt_batch, A, B, B_batch, C, C_batch, D, z, z_batch, dt_bias, out, channels, states,
    SOFTPLUS: tl.constexpr, LOG_A: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr,
    ALIGNED: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """h = exp(dt A) h + dt x B, out = (C . h + D x) silu(z)."""
    blocks = (channels + BLOCK_D - 1) // BLOCK_D
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    d = (tl.program_id(0) % blocks * BLOCK_D + tl.arange(0, BLOCK_D))[:, None]
    n = tl.arange(0, BLOCK_N)[None, :]
    exists = d < channels
    # A single condition where it can be, so that vectors are not cut by masks.
    inside = exists & (n < (BLOCK_N if ALIGNED else states))
    stride = BLOCK_N if ALIGNED else states
    at = (d * stride) + n
    h_at = state + batch * channels * stride + at
    A_at = A + at
    if ALIGNED:
        h_at = tl.max_contiguous(tl.multiple_of(h_at, (16, 16)), (1, BLOCK_N))
        A_at = tl.max_contiguous(tl.multiple_of(A_at, (16, 16)), (1, BLOCK_N))
    h = tl.load(h_at, inside, other=0.0).to(tl.float32)
    a = tl.load(A_at, inside, other=0.0).to(tl.float32)
    if LOG_A:
        a = -tl.exp(a)
    u = tl.load(x + batch * x_batch + d, exists, other=0.0).to(tl.float32)
    step = tl.load(dt + batch * dt_batch + d, exists, other=0.0).to(tl.float32)
    if HAS_BIAS:
        step += tl.load(dt_bias + d, exists, other=0.0).to(tl.float32)
    if SOFTPLUS:
        step = softplus(step)
    b = tl.load(B + batch * B_batch + n, n < states, other=0.0).to(tl.float32)
    c = tl.load(C + batch * C_batch + n, n < states, other=0.0).to(tl.float32)
    h = tl.exp2(step * a * LOG2E) * h + step * u * b
    tl.store(h_at, h.to(state.dtype.element_ty), inside)
    y = tl.sum(h * c, 1, keep_dims=True)
    if HAS_D:
        y += u * tl.load(D + d, exists, other=0.0).to(tl.float32)
    if HAS_Z:
        gate = tl.load(z + batch * z_batch + d, exists, other=0.0).to(tl.float32)
        y = y * gate * sigmoid(gate)
    tl.store(out + batch * channels + d, y.to(out.dtype.element_ty), exists)


def _update_conv(x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, silu: bool) -> Launch:
    batch, channels, states = state.shape
    args = {
        **with_strides("x", ("batch", "channel"), x, x.stride()),
        **with_strides("state", ("batch", "channel", "time"), state, state.stride()),
        "weight": weight, "bias": weight if bias is None else bias, "out": out, "channels": channels,
    }  # fmt: skip
    constants = {
        "WIDTH": weight.shape[1], "STATES": states, "HAS_BIAS": bias is not None, "SILU": silu,
        "BLOCK_D": CONV_CHANNELS,
    }  # fmt: skip
    return Launch(causal_conv1d_update_kernel, batch * -(-channels // CONV_CHANNELS), args, constants, WARPS)


def _update_state(
    state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    dt_bias: Tensor | None, out: Tensor, dt_softplus: bool, log_A: bool,
) -> Launch:  # fmt: skip
    batch, channels, states = state.shape
    padded = next_power_of_2(states)
    block_d = max(1, SCAN_ELEMENTS // padded)
    aligned = padded == states >= 8 and state.data_ptr() % 16 == 0 == A.data_ptr() % 16
    args = {
        "state": state, "A": A, "D": x if D is None else D, "dt_bias": x if dt_bias is None else dt_bias, "out": out,
        "x": x, "x_batch": x.stride(0), "dt": dt, "dt_batch": dt.stride(0), "B": B, "B_batch": B.stride(0),
        "C": C, "C_batch": C.stride(0), "z": x if z is None else z, "z_batch": 0 if z is None else z.stride(0),
        "channels": channels, "states": states,
    }  # fmt: skip
    constants = {
        "SOFTPLUS": dt_softplus, "LOG_A": log_A, "HAS_D": D is not None, "HAS_Z": z is not None,
        "HAS_BIAS": dt_bias is not None, "ALIGNED": aligned, "BLOCK_D": block_d, "BLOCK_N": padded,
    }  # fmt: skip
    return Launch(selective_state_update_kernel, batch * -(-channels // block_d), args, constants, WARPS)


def causal_conv1d_update(
    x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, silu: bool
) -> None:  # fmt: skip
    """Fills out (B, D), contiguous. x: (B, D); state: (B, D, S), S >= W - 1; weight (D, W), bias: contiguous."""
    _update_conv(x, state, weight, bias, out, silu).run()


def selective_state_update(
    state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    dt_bias: Tensor | None, out: Tensor, dt_softplus: bool, log_A: bool,
) -> None:  # fmt: skip
    """Fills out (B, D), contiguous. state, A, D and dt_bias: contiguous; the rest: dense rows. log_A: A is log(-A)."""
    _update_state(state, x, dt, A, B, C, D, z, dt_bias, out, dt_softplus, log_A).run()


def variants() -> Iterator[Launch]:
    """A launch of every kernel that `Mamba.step` with W = 4 may choose, on tensors without memory."""
    for dtype in DTYPES:
        for states in (16, 12):
            x, matrix = (torch.empty(16, n, dtype=dtype, device="meta") for n in (16, states))
            state = torch.empty(16, 16, states, dtype=dtype, device="meta")
            A, D = torch.empty(16, states, device="meta"), torch.empty(16, device="meta")
            yield _update_state(state, x, x, A, matrix, matrix, D, x, D.to(dtype), x, True, True)
        weight = torch.empty(16, 4, dtype=dtype, device="meta")
        yield _update_conv(x, state[..., :4], weight, D.to(dtype), x, True)
