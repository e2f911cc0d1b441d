"""Depthwise causal convolution in Triton: a program takes a block of channels of one batch and walks over time.

It walks in tiles of GROUPS groups of GROUP steps. What varies over time is held as columns: one tile of channels and
groups, in the order in which lanes lie along whichever of channels and time is dense in memory (CHANNELS_LAST), for
each step of a group. VECTOR elements, 16 bytes, are loaded at once, or 1 where tensors differ in alignment; steps
before and after a group, which its neighbours load too, come from the cache. Backward recomputes the activation's
argument for as many steps after a group as the group's gradient takes. Time t < 0 is the initial state, of W - 1 steps,
in kernels with EDGES. What is absent is a pointer to anything of its dtype, with a length of 0 where both may be.
"""

# mypy: disable-error-code="no-untyped-def, assignment, var-annotated"
# ruff: noqa: RUF005 (kernels cannot unpack tuples into tuples)

from __future__ import annotations

import triton.language as tl

from bdam_kernels.ops.causal_conv1d.triton_device import (
    add_edge,
    at_time,
    convolve,
    load_columns,
    load_numbers,
    load_weights,
    locate,
    rows_of,
    shift_of,
    sigmoid,
    store_columns,
    within,
)
from bdam_kernels.ops.triton_common import kernel


@kernel
def causal_conv1d_forward_kernel(
    x, x_batch, x_pitch, out, out_batch, out_pitch, weight, bias, state, final_state,
    numbers, channels, length, phase, slack, steps, has_bias,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, SILU: tl.constexpr, EDGES: tl.constexpr, PACKED: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, VECTOR: tl.constexpr, BLOCK_D: tl.constexpr, GROUPS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    CHUNK: tl.constexpr = 1 if CHANNELS_LAST else VECTOR
    BEFORE: tl.constexpr = (WIDTH - 2 + CHUNK) // CHUNK * CHUNK
    STATES: tl.constexpr = WIDTH - 1
    if CHANNELS_LAST:
        channels = channels // VECTOR * VECTOR
    batch, _, first, end, d, times = locate(
        channels, length + slack, 0, steps, BLOCK_D, GROUPS, GROUP, CHANNELS_LAST
    )  # fmt: skip
    exists = d < channels
    weights, bias = load_weights(weight, bias, d, exists, channels, has_bias, WIDTH)
    x_rows = rows_of(x, x_batch, x_pitch, batch, d, CHANNELS_LAST)
    out_rows = rows_of(out, out_batch, out_pitch, batch, d, CHANNELS_LAST)
    edge_rows = (batch * channels + d) * STATES
    shift = shift_of(x_batch, x_pitch, phase, batch, d, CHUNK)
    for start in range(first, end, GROUPS * GROUP):
        t = start + times - shift
        border = (start < BEFORE + CHUNK) | (start + GROUPS * GROUP + BEFORE > length)
        at = at_time(x_rows, t, x_pitch, CHANNELS_LAST)
        columns = load_columns(at, x_pitch, d, t, length, exists, border, -BEFORE, GROUP, CHANNELS_LAST, VECTOR)
        if EDGES and start < STATES + CHUNK:
            columns = add_edge(columns, state + edge_rows, -STATES, t, -BEFORE, STATES, exists, 0, BEFORE + CHUNK - 1)
        owners = load_numbers(numbers + batch * length, t, length, -BEFORE, GROUP) if PACKED else columns
        outs = ()
        for step in tl.static_range(GROUP):
            y = convolve(columns, owners, weights, bias, BEFORE - STATES + step, WIDTH, PACKED)
            if SILU:
                y = y * sigmoid(y)
            outs = outs + (y,)
        at = at_time(out_rows, t, out_pitch, CHANNELS_LAST)
        store_columns(at, out_pitch, d, t, length, exists, border, outs, GROUP, CHANNELS_LAST, VECTOR)
    if (STATES > 0) & (end == length + slack):
        axis: tl.constexpr = 0 if CHANNELS_LAST else 1
        index = tl.expand_dims(tl.arange(0, PADDED), 1 - axis)
        t = length - STATES + index
        inside = exists & (index < STATES)
        at = at_time(x_rows, t, x_pitch, CHANNELS_LAST) + (d if CHANNELS_LAST else 0)
        value = tl.load(at, inside & (t >= 0), other=0.0)
        if EDGES:
            value += tl.load(state + edge_rows + (t + STATES), inside & (t < 0), other=0.0)
        tl.store(final_state + edge_rows + index, value, inside)


@kernel
def causal_conv1d_backward_kernel(
    x, x_batch, x_pitch, grad_out, grad_out_batch, grad_out_pitch,
    grad_x, grad_x_batch, grad_x_pitch, weight, bias, state, state_length, grad_state,
    grad_state_length, grad_final_state, final_length, partial,
    numbers, channels, length, phase, slack, origin, steps, has_bias,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, SILU: tl.constexpr, EDGES: tl.constexpr, PACKED: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, VECTOR: tl.constexpr, BLOCK_D: tl.constexpr, GROUPS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Gradients of x, and of the initial state if times begin at an origin < 0; each program's sums over time.

    partial: (programs over batch and time, W + 1, D), for the weight's steps and the bias.
    """
    CHUNK: tl.constexpr = 1 if CHANNELS_LAST else VECTOR
    BEFORE: tl.constexpr = (WIDTH - 2 + CHUNK) // CHUNK * CHUNK
    STATES: tl.constexpr = WIDTH - 1
    axis: tl.constexpr = 0 if CHANNELS_LAST else 1
    if CHANNELS_LAST:
        channels = channels // VECTOR * VECTOR
    batch, row, first, end, d, times = locate(
        channels, length + slack, origin, steps, BLOCK_D, GROUPS, GROUP, CHANNELS_LAST
    )
    exists = d < channels
    weights, bias = load_weights(weight, bias, d, exists, channels, has_bias, WIDTH)
    x_rows = rows_of(x, x_batch, x_pitch, batch, d, CHANNELS_LAST)
    grad_rows = rows_of(grad_out, grad_out_batch, grad_out_pitch, batch, d, CHANNELS_LAST)
    out_rows = rows_of(grad_x, grad_x_batch, grad_x_pitch, batch, d, CHANNELS_LAST)
    edge_rows = (batch * channels + d) * STATES

    sums = ()
    for _ in tl.static_range(WIDTH + 1):
        sums = sums + (tl.zeros((GROUPS, BLOCK_D) if CHANNELS_LAST else (BLOCK_D, GROUPS), tl.float32),)
    shift = shift_of(x_batch, x_pitch, phase, batch, d, CHUNK)
    for start in range(first, end, GROUPS * GROUP):
        t = start + times - shift
        border = (start < BEFORE + CHUNK) | (start + GROUPS * GROUP + BEFORE > length)
        at = at_time(x_rows, t, x_pitch, CHANNELS_LAST)
        columns = load_columns(
            at, x_pitch, d, t, length, exists, border, -BEFORE, GROUP + BEFORE, CHANNELS_LAST, VECTOR
        )  # fmt: skip
        at = at_time(grad_rows, t, grad_out_pitch, CHANNELS_LAST)
        grads = load_columns(at, grad_out_pitch, d, t, length, exists, border, 0, GROUP + BEFORE, CHANNELS_LAST, VECTOR)
        if EDGES and start < STATES + CHUNK:
            columns = add_edge(
                columns, state + edge_rows, -STATES, t, -BEFORE, state_length, exists, 0, GROUP + 2 * BEFORE
            )  # fmt: skip
        owners = load_numbers(numbers + batch * length, t, length, -BEFORE, GROUP + BEFORE) if PACKED else columns
        # The gradient of what the activation takes, which is 0 where the gradient of its result is.
        inner = ()
        for step in tl.static_range(GROUP + STATES):
            grad = grads[step]
            if SILU:
                y = convolve(columns, owners, weights, bias, BEFORE - STATES + step, WIDTH, PACKED)
                gate = sigmoid(y)
                grad = grad * (gate * (1 + y * (1 - gate)))
            inner = inner + (grad,)
        outs = ()
        new_sums = ()
        for w in tl.static_range(WIDTH):
            total = sums[w]
            for step in tl.static_range(GROUP):
                tap = columns[BEFORE - STATES + step + w]
                total += inner[step] * within(owners, tap, BEFORE - STATES + step + w, BEFORE + step, PACKED)
            new_sums = new_sums + (total,)
        total = sums[WIDTH]
        for step in tl.static_range(GROUP):
            total += inner[step]
            grad = weights[0] * within(owners, inner[step + STATES], BEFORE + step, BEFORE + step + STATES, PACKED)
            for w in tl.static_range(1, WIDTH):
                later = inner[step + STATES - w]
                grad += weights[w] * within(owners, later, BEFORE + step, BEFORE + step + STATES - w, PACKED)
            outs = outs + (grad,)
        sums = new_sums + (total,)
        if EDGES and start + GROUPS * GROUP + STATES > length:
            outs = add_edge(
                outs, grad_final_state + edge_rows, length - STATES, t, 0, final_length, exists, 0, GROUP
            )  # fmt: skip
        at = at_time(out_rows, t, grad_x_pitch, CHANNELS_LAST)
        store_columns(at, grad_x_pitch, d, t, length, exists, border, outs, GROUP, CHANNELS_LAST, VECTOR)
        if EDGES and start < CHUNK:
            for step in tl.static_range(GROUP):
                index = t + step + STATES
                value = outs[step].to(grad_state.dtype.element_ty)
                inside = exists & (index >= 0) & (index < STATES) & (index < grad_state_length)
                tl.store(grad_state + edge_rows + index, value, inside)
    for w in tl.static_range(WIDTH + 1):
        at = partial + (row * (WIDTH + 1) + w) * channels + d
        tl.store(at, tl.sum(sums[w], axis, keep_dims=True), exists)


@kernel
def causal_conv1d_reduce_kernel(
    partial, rows, grad_weight, grad_bias, channels, has_bias, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    """Sums of (rows, W + 1, D) over rows: of one w and a block of channels."""
    program = tl.program_id(0)
    w = program % (WIDTH + 1)
    d = program // (WIDTH + 1) * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    exists = d < channels
    total = tl.zeros((BLOCK_ROWS, BLOCK_D), tl.float32)
    for first in range(0, rows, BLOCK_ROWS):
        row = (first + tl.arange(0, BLOCK_ROWS)[:, None]).to(tl.int64)
        total += tl.load(partial + (row * (WIDTH + 1) + w) * channels + d, exists & (row < rows), other=0.0)
    result = tl.sum(total, 0, keep_dims=True)
    if w == WIDTH:
        tl.store(grad_bias + d, result, d < tl.where(has_bias != 0, channels, 0))
    else:
        tl.store(grad_weight + d * WIDTH + w, result, exists)
