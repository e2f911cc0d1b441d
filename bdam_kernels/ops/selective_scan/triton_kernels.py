"""The selective scan's Triton kernels: a program walks a block of channels through a segment of time.

Parameters: every stream of time with its strides, then contiguous tensors, sizes, flags. What is absent, or constant
over time (`fixed_B`, `fixed_C`), is a pointer to anything of its dtype and a bit of `flags`.
"""

# Types are Triton's, and so is the syntax: it cannot unpack into a tuple.
# mypy: disable-error-code="no-untyped-def, assignment"
# ruff: noqa: RUF005

from __future__ import annotations

import triton.language as tl

from bdam_kernels.ops.selective_scan.triton_device import (
    CHUNK,
    CONSTANT_B,
    CONSTANT_C,
    GROUP,
    GROUPS,
    HAS_BIAS,
    HAS_CHECKPOINTS,
    HAS_D,
    HAS_GRAD_LAST_STATE,
    HAS_INITIAL_STATE,
    HAS_Z,
    add_group,
    add_span,
    advance,
    channel_stream,
    clock_of,
    columns,
    forget,
    from_columns,
    is_soft,
    load_channels,
    load_group,
    load_tile,
    locate,
    reset_stream,
    sigmoid,
    state_stream,
    step_sizes,
    steps_of,
    store_channels,
    store_group,
    store_tile,
    through_segments,
)
from bdam_kernels.ops.triton_common import LN2, LOG2E, device, kernel

NOTHING = tl.constexpr(-0.0)
"""What adding takes no instruction: x + 0.0 is not x for x = -0.0."""


@kernel
def selective_scan_states_kernel(
    u, u_batch, u_channel, u_time, delta, delta_batch, delta_channel, delta_time,
    B, B_batch, B_group, B_state, B_time, A, fixed_B, delta_bias, ends, step_sums, resets,
    channels, groups, length, states, unit, segments, window, first_block, flags,
    BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    batch, group, segment, _, block = locate(
        channels, groups, states, unit, segments, window, first_block, BLOCK_D, BLOCK_N
    )
    clock = clock_of(segment, segments, length, flags)
    fixed = (flags & CONSTANT_B) != 0
    u_stream = channel_stream(u, u_batch, u_channel, u_time, batch, block, True)
    delta_stream = channel_stream(delta, delta_batch, delta_channel, delta_time, batch, block, True)
    B_stream = state_stream(B, B_batch, B_group, B_state, B_time, batch, group, block, fixed == 0)
    reset_row = reset_stream(resets, length, batch, PACKED)
    constant = load_tile(fixed_B, 0, block, fixed)
    rate = load_tile(A, 0, block, True) * LOG2E
    bias = load_channels(delta_bias, 0, block, (flags & HAS_BIAS) != 0)

    h = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    total = tl.zeros((BLOCK_D,), tl.float32)
    start, end, _, _ = clock
    for step in range(start, end, GROUP):
        dt = step_sizes(load_group(delta_stream, step, clock) + bias[:, None], step, clock, flags)
        dts = columns(dt)
        drives = columns(dt * load_group(u_stream, step, clock))
        Bs = columns(load_group(B_stream, step, clock))
        news = load_group(reset_row, step, clock) if PACKED else dt
        starts = columns(news)
        total = add_span(total, dt, news, PACKED)
        for i in tl.static_range(GROUP):
            h = advance(h, dts[i], drives[i], Bs[i][:, None] + constant, rate, starts[i], PACKED)
    row = batch * segments + segment
    store_tile(ends, row, block, h, True)
    store_channels(step_sums, row, block, total, True)


@kernel
def selective_scan_forward_kernel(
    u, u_batch, u_channel, u_time, delta, delta_batch, delta_channel, delta_time,
    z, z_batch, z_channel, z_time, out, out_batch, out_channel, out_time,
    B, B_batch, B_group, B_state, B_time, C, C_batch, C_group, C_state, C_time,
    A, fixed_B, fixed_C, D, delta_bias, initial_state, ends, step_sums, last_state, checkpoints, resets,
    channels, groups, length, states, unit, segments, window, first_block, flags,
    BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, CONSTANT: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    batch, group, segment, _, block = locate(
        channels, groups, states, unit, segments, window, first_block, BLOCK_D, BLOCK_N
    )
    clock = clock_of(segment, segments, length, flags)
    has_z = (flags & HAS_Z) != 0
    B_fixed, C_fixed = (flags & CONSTANT_B) != 0, (flags & CONSTANT_C) != 0
    u_stream = channel_stream(u, u_batch, u_channel, u_time, batch, block, True)
    delta_stream = channel_stream(delta, delta_batch, delta_channel, delta_time, batch, block, True)
    z_stream = channel_stream(z, z_batch, z_channel, z_time, batch, block, has_z)
    out_stream = channel_stream(out, out_batch, out_channel, out_time, batch, block, True)
    B_stream = state_stream(B, B_batch, B_group, B_state, B_time, batch, group, block, B_fixed == 0)
    C_stream = state_stream(C, C_batch, C_group, C_state, C_time, batch, group, block, C_fixed == 0)
    constant_B = load_tile(fixed_B, 0, block, B_fixed) if CONSTANT else NOTHING
    constant_C = load_tile(fixed_C, 0, block, C_fixed) if CONSTANT else NOTHING
    rate = load_tile(A, 0, block, True) * LOG2E
    skip = load_channels(D, 0, block, (flags & HAS_D) != 0)
    bias = load_channels(delta_bias, 0, block, (flags & HAS_BIAS) != 0)

    reset_row = reset_stream(resets, length, batch, PACKED)
    h = load_tile(initial_state, batch, block, (flags & HAS_INITIAL_STATE) != 0)
    h = through_segments(h, ends, step_sums, rate, batch * segments, segment, 1, block)
    start, end, _, _ = clock
    for step in range(start, end, GROUP):
        chunk = step // CHUNK
        checkpoint = batch * ((length - 1) // CHUNK) + chunk - 1
        is_kept = ((flags & HAS_CHECKPOINTS) != 0) & (step > 0) & (step == chunk * CHUNK)
        store_tile(checkpoints, checkpoint, block, h, is_kept)
        us = load_group(u_stream, step, clock)
        dt = step_sizes(load_group(delta_stream, step, clock) + bias[:, None], step, clock, flags)
        zs = load_group(z_stream, step, clock)
        dts, drives = columns(dt), columns(dt * us)
        Bs, Cs = columns(load_group(B_stream, step, clock)), columns(load_group(C_stream, step, clock))
        starts = columns(load_group(reset_row, step, clock)) if PACKED else dts
        ys = ()
        for i in tl.static_range(GROUP):
            h = advance(h, dts[i], drives[i], Bs[i][:, None] + constant_B, rate, starts[i], PACKED)
            ys += (tl.sum((Cs[i][:, None] + constant_C) * h, 0),)
        y = from_columns(ys) + skip[:, None] * us
        store_group(out_stream, step, clock, tl.where(has_z, y * zs * sigmoid(zs), y))
    store_tile(last_state, batch, block, h, segment == segments - 1)


@kernel
def selective_scan_adjoints_kernel(
    delta, delta_batch, delta_channel, delta_time, z, z_batch, z_channel, z_time,
    grad_out, grad_out_batch, grad_out_channel, grad_out_time, C, C_batch, C_group, C_state, C_time,
    A, fixed_C, delta_bias, adjoints, step_sums, resets,
    channels, groups, length, states, unit, segments, window, first_block, flags,
    BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    batch, group, segment, _, block = locate(
        channels, groups, states, unit, segments, window, first_block, BLOCK_D, BLOCK_N
    )
    clock = clock_of(segment, segments, length, flags)
    has_z = (flags & HAS_Z) != 0
    fixed = (flags & CONSTANT_C) != 0
    delta_stream = channel_stream(delta, delta_batch, delta_channel, delta_time, batch, block, True)
    z_stream = channel_stream(z, z_batch, z_channel, z_time, batch, block, has_z)
    grad_stream = channel_stream(grad_out, grad_out_batch, grad_out_channel, grad_out_time, batch, block, True)
    C_stream = state_stream(C, C_batch, C_group, C_state, C_time, batch, group, block, fixed == 0)
    reset_row = reset_stream(resets, length, batch, PACKED)
    constant = load_tile(fixed_C, 0, block, fixed)
    rate = load_tile(A, 0, block, True) * LOG2E
    bias = load_channels(delta_bias, 0, block, (flags & HAS_BIAS) != 0)

    carry = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    total = tl.zeros((BLOCK_D,), tl.float32)
    start, end, _, _ = clock
    count = (end - start + GROUP - 1) // GROUP
    for back in range(count):
        step = start + (count - 1 - back) * GROUP
        dt = step_sizes(load_group(delta_stream, step, clock) + bias[:, None], step, clock, flags)
        zs = load_group(z_stream, step, clock)
        grad = load_group(grad_stream, step, clock)
        dts, gs = columns(dt), columns(tl.where(has_z, grad * zs * sigmoid(zs), grad))
        Cs = columns(load_group(C_stream, step, clock))
        news = load_group(reset_row, step, clock) if PACKED else dt
        starts = columns(news)
        total = add_span(total, dt, news, PACKED)
        for i in tl.static_range(GROUP - 1, -1, -1):
            adjoint = carry + (Cs[i][:, None] + constant) * gs[i][None, :]
            carry = forget(starts[i], tl.exp2(rate * dts[i][None, :]) * adjoint, PACKED)
    row = batch * segments + segment
    store_tile(adjoints, row, block, carry, True)
    store_channels(step_sums, row, block, total, True)


@device
def _scratch_tile(scratch, group_of_steps, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr):
    """Pointers to where this program keeps the state before a group of the chunk's steps."""
    tile = tl.program_id(0).to(tl.int64) * GROUPS + group_of_steps
    within = tl.arange(0, BLOCK_N)[:, None] * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    return scratch + tile * (BLOCK_N * BLOCK_D) + within


@kernel
def selective_scan_backward_kernel(
    u, u_batch, u_channel, u_time, delta, delta_batch, delta_channel, delta_time,
    z, z_batch, z_channel, z_time, grad_out, grad_out_batch, grad_out_channel, grad_out_time,
    grad_u, grad_u_batch, grad_u_channel, grad_u_time,
    grad_delta, grad_delta_batch, grad_delta_channel, grad_delta_time,
    grad_z, grad_z_batch, grad_z_channel, grad_z_time,
    B, B_batch, B_group, B_state, B_time, C, C_batch, C_group, C_state, C_time,
    partial_B, partial_B_batch, partial_B_group, partial_B_state, partial_B_time,
    partial_C, partial_C_batch, partial_C_group, partial_C_state, partial_C_time,
    A, fixed_B, fixed_C, D, delta_bias, initial_state, checkpoints, grad_last_state, adjoints, step_sums,
    grad_initial_state, partial_A, partial_fixed_B, partial_fixed_C, partial_D, partial_bias, scratch, resets,
    channels, groups, length, states, unit, segments, window, first_block, flags,
    BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, CONSTANT: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    batch, group, segment, slot, block = locate(
        channels, groups, states, unit, segments, window, first_block, BLOCK_D, BLOCK_N
    )
    clock = clock_of(segment, segments, length, flags)
    has_z = (flags & HAS_Z) != 0
    B_fixed, C_fixed = (flags & CONSTANT_B) != 0, (flags & CONSTANT_C) != 0
    u_stream = channel_stream(u, u_batch, u_channel, u_time, batch, block, True)
    delta_stream = channel_stream(delta, delta_batch, delta_channel, delta_time, batch, block, True)
    z_stream = channel_stream(z, z_batch, z_channel, z_time, batch, block, has_z)
    grad_stream = channel_stream(grad_out, grad_out_batch, grad_out_channel, grad_out_time, batch, block, True)
    grad_u_stream = channel_stream(grad_u, grad_u_batch, grad_u_channel, grad_u_time, batch, block, True)
    grad_delta_stream = channel_stream(
        grad_delta, grad_delta_batch, grad_delta_channel, grad_delta_time, batch, block, True
    )
    grad_z_stream = channel_stream(grad_z, grad_z_batch, grad_z_channel, grad_z_time, batch, block, has_z)
    B_stream = state_stream(B, B_batch, B_group, B_state, B_time, batch, group, block, B_fixed == 0)
    C_stream = state_stream(C, C_batch, C_group, C_state, C_time, batch, group, block, C_fixed == 0)
    # Past a group's last block there is nothing to add to what other launches left.
    in_group = (first_block + slot) * BLOCK_D < channels // groups
    shared = group * window + slot
    partial_B_stream = state_stream(
        partial_B, partial_B_batch, partial_B_group, partial_B_state, partial_B_time, batch, shared, block,
        in_group & (B_fixed == 0),
    )  # fmt: skip
    partial_C_stream = state_stream(
        partial_C, partial_C_batch, partial_C_group, partial_C_state, partial_C_time, batch, shared, block,
        in_group & (C_fixed == 0),
    )  # fmt: skip
    constant_B = load_tile(fixed_B, 0, block, B_fixed) if CONSTANT else NOTHING
    constant_C = load_tile(fixed_C, 0, block, C_fixed) if CONSTANT else NOTHING
    rate = load_tile(A, 0, block, True) * LOG2E
    skip = load_channels(D, 0, block, (flags & HAS_D) != 0)
    bias = load_channels(delta_bias, 0, block, (flags & HAS_BIAS) != 0)

    reset_row = reset_stream(resets, length, batch, PACKED)
    row = batch * segments + segment
    carry = load_tile(grad_last_state, batch, block, (flags & HAS_GRAD_LAST_STATE) != 0)
    carry = through_segments(
        carry, adjoints, step_sums, rate, batch * segments + segments - 1, segments - 1 - segment, -1, block
    )
    grad_A = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    grad_fixed_B = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    grad_fixed_C = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    grad_D = tl.zeros((BLOCK_D,), tl.float32)
    grad_bias = tl.zeros((BLOCK_D,), tl.float32)
    start, end, _, _ = clock
    chunks = (end - start + CHUNK - 1) // CHUNK
    for chunk_back in range(chunks):
        first = start + (chunks - 1 - chunk_back) * CHUNK
        step_groups = (tl.minimum(first + CHUNK, end) - first + GROUP - 1) // GROUP
        checkpoint = batch * ((length - 1) // CHUNK) + first // CHUNK - 1
        h = load_tile(checkpoints, checkpoint, block, first > 0)
        h += load_tile(initial_state, batch, block, (first == 0) & ((flags & HAS_INITIAL_STATE) != 0))
        tl.store(_scratch_tile(scratch, 0, BLOCK_D, BLOCK_N), h)
        for k in range(1, step_groups):
            step = first + (k - 1) * GROUP
            dt = step_sizes(load_group(delta_stream, step, clock) + bias[:, None], step, clock, flags)
            dts, drives = columns(dt), columns(dt * load_group(u_stream, step, clock))
            Bs = columns(load_group(B_stream, step, clock))
            starts = columns(load_group(reset_row, step, clock)) if PACKED else dts
            for i in tl.static_range(GROUP):
                h = advance(h, dts[i], drives[i], Bs[i][:, None] + constant_B, rate, starts[i], PACKED)
            tl.store(_scratch_tile(scratch, k, BLOCK_D, BLOCK_N), h)
        # What a thread loads from the scratch another may have stored.
        tl.debug_barrier()
        for k_back in range(step_groups):
            k = step_groups - 1 - k_back
            step = first + k * GROUP
            us = load_group(u_stream, step, clock)
            x = load_group(delta_stream, step, clock) + bias[:, None]
            zs = load_group(z_stream, step, clock)
            grad = load_group(grad_stream, step, clock)
            dt = step_sizes(x, step, clock, flags)
            gate = sigmoid(zs)
            g = tl.where(has_z, grad * zs * gate, grad)
            dts, drives, gs = columns(dt), columns(dt * us), columns(g)
            Bs, Cs = columns(load_group(B_stream, step, clock)), columns(load_group(C_stream, step, clock))

            starts = columns(load_group(reset_row, step, clock)) if PACKED else dts

            h = tl.load(_scratch_tile(scratch, k, BLOCK_D, BLOCK_N))
            befores, decays = (), ()
            for i in tl.static_range(GROUP):
                befores += (h,)
                decays += (tl.exp2(rate * dts[i][None, :]),)
                h = forget(starts[i], decays[i] * h, PACKED) + drives[i][None, :] * (Bs[i][:, None] + constant_B)

            ys, through_A, through_B, sums_B, sums_C = (), (), (), (), ()
            for i in tl.static_range(GROUP - 1, -1, -1):
                B_t, C_t, g_t = Bs[i][:, None] + constant_B, Cs[i][:, None] + constant_C, gs[i][None, :]
                dh = C_t * g_t + carry
                carry = forget(starts[i], decays[i] * dh, PACKED)
                drift = forget(starts[i], carry * befores[i], PACKED)
                grad_A += dts[i][None, :] * drift
                grad_B, grad_C = drives[i][None, :] * dh, h * g_t
                if CONSTANT:
                    grad_fixed_B += grad_B
                    grad_fixed_C += grad_C
                ys = (tl.sum(C_t * h, 0),) + ys
                through_A = (tl.sum(drift * rate, 0),) + through_A
                through_B = (tl.sum(dh * B_t, 0),) + through_B
                sums_B = (tl.sum(grad_B, 1),) + sums_B
                sums_C = (tl.sum(grad_C, 1),) + sums_C
                h = befores[i]

            add_group(partial_B_stream, step, clock, from_columns(sums_B), first_block == 0)
            add_group(partial_C_stream, step, clock, from_columns(sums_C), first_block == 0)
            y = from_columns(ys) + skip[:, None] * us
            store_group(grad_z_stream, step, clock, grad * y * gate * (1 + zs * (1 - gate)))
            grad_drive = from_columns(through_B)
            store_group(grad_u_stream, step, clock, skip[:, None] * g + dt * grad_drive)
            grad_dt = from_columns(through_A) * LN2 + us * grad_drive
            grad_x = tl.where(is_soft(x, flags), grad_dt * sigmoid(x), grad_dt)
            store_group(grad_delta_stream, step, clock, grad_x)
            grad_D += tl.sum(g * us, 1)
            grad_bias += tl.sum(tl.where(steps_of(step) < end, grad_x, 0.0), 1)
        tl.debug_barrier()

    store_tile(grad_initial_state, batch, block, carry, (segment == 0) & ((flags & HAS_INITIAL_STATE) != 0))
    store_tile(partial_A, row, block, grad_A, True)
    store_channels(partial_D, row, block, grad_D, (flags & HAS_D) != 0)
    store_channels(partial_bias, row, block, grad_bias, (flags & HAS_BIAS) != 0)
    if CONSTANT:
        store_tile(partial_fixed_B, row, block, grad_fixed_B, B_fixed)
        store_tile(partial_fixed_C, row, block, grad_fixed_C, C_fixed)
