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

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor
from triton import next_power_of_2

from bdam_kernels.ops.triton_common import DTYPES, INTERPRETED, Launch, device, kernel

WARPS = 4

PROGRAMS = 4096
"""Programs that fill a GPU: rather than start more, a program walks further."""

REDUCED_CHANNELS = 32

IN_INTERPRETER = tl.constexpr(INTERPRETED)


@device
def _locate(channels, length, origin, steps, BLOCK_D: tl.constexpr, GROUPS: tl.constexpr, GROUP: tl.constexpr,
            CHANNELS_LAST: tl.constexpr):  # fmt: skip
    """This program's batch, number of the block of times, first time and end, channels, and times of groups."""
    program = tl.program_id(0)
    channel_blocks = (channels + BLOCK_D - 1) // BLOCK_D
    walk = steps * GROUPS * GROUP
    time_blocks = (length - origin + walk - 1) // walk
    axis: tl.constexpr = 0 if CHANNELS_LAST else 1
    if CHANNELS_LAST:
        channel_block = program % channel_blocks
        time_block = program // channel_blocks % time_blocks
    else:
        time_block = program % time_blocks
        channel_block = program // time_blocks % channel_blocks
    batch = program // channel_blocks // time_blocks
    first = origin + time_block * walk
    d = tl.expand_dims(channel_block * BLOCK_D + tl.arange(0, BLOCK_D), axis)
    times = tl.expand_dims(tl.arange(0, GROUPS) * GROUP, 1 - axis)
    row = batch.to(tl.int64) * time_blocks + time_block
    return batch.to(tl.int64), row, first, tl.minimum(first + walk, length), d, times


@device
def _rows(tensor, batch_stride, pitch, batch, d, CHANNELS_LAST: tl.constexpr):
    """Pointers to time 0: of channels or, where these are dense and come last, of the batch."""
    rows = tensor + batch * batch_stride
    return rows if CHANNELS_LAST else rows + d.to(tl.int64) * pitch


@device
def _shift(batch_stride, pitch, phase, batch, d, VECTOR: tl.constexpr):
    """Elements between an aligned address and time 0 of the channels; phase: those before the tensor."""
    return ((phase + batch * batch_stride + d.to(tl.int64) * pitch) & (VECTOR - 1)).to(tl.int32)


@device
def _at(rows, t, pitch, CHANNELS_LAST: tl.constexpr):
    return rows + (t.to(tl.int64) * pitch if CHANNELS_LAST else t)


@device
def _join2(a, b, DIM: tl.constexpr):
    joined = tl.join(a, b)
    return tl.reshape(joined, (joined.shape[0], joined.shape[1], DIM))


@device
def _split2(value, DIM: tl.constexpr):
    return tl.split(tl.reshape(value, (value.shape[0], value.shape[1], DIM, 2)))


@device
def _split4(value):
    even, odd = _split2(value, 2)
    a, c = tl.split(even)
    b, d = tl.split(odd)
    return a, b, c, d


@device
def _columns_of(value, VECTOR: tl.constexpr):
    """A (., ., VECTOR) as so many (., .)."""
    if VECTOR == 4:
        return _split4(value)
    else:
        even, odd = _split2(value, 4)
        a, c, e, g = _split4(even)
        b, d, f, h = _split4(odd)
        return a, b, c, d, e, f, g, h


@device
def _vector_of(columns, FIRST: tl.constexpr, VECTOR: tl.constexpr):
    """The inverse, of columns from FIRST on."""
    if VECTOR == 4:
        even = tl.join(columns[FIRST], columns[FIRST + 2])
        odd = tl.join(columns[FIRST + 1], columns[FIRST + 3])
        return _join2(even, odd, 4)
    else:
        even_even = tl.join(columns[FIRST], columns[FIRST + 4])
        even_odd = tl.join(columns[FIRST + 2], columns[FIRST + 6])
        odd_even = tl.join(columns[FIRST + 1], columns[FIRST + 5])
        odd_odd = tl.join(columns[FIRST + 3], columns[FIRST + 7])
        return _join2(_join2(even_even, even_odd, 4), _join2(odd_even, odd_odd, 4), 8)


@device
def _vectors(at, VECTOR: tl.constexpr):
    """Pointers to VECTOR steps from each on, known to be aligned."""
    pointers = tl.expand_dims(at, 2) + tl.arange(0, VECTOR)[None, None, :]
    return tl.max_contiguous(tl.multiple_of(pointers, (1, 1, 16)), (1, 1, VECTOR))


@device
def _pointers(at, step, pitch, d, CHANNELS_LAST: tl.constexpr, VECTOR: tl.constexpr):
    """Pointers to a column."""
    if CHANNELS_LAST:
        BYTES: tl.constexpr = 16 if VECTOR > 1 else 1
        # Last, so that the hint is not lost when the compiler reorders additions.
        return tl.max_contiguous(tl.multiple_of((at + step * pitch) + d, (1, BYTES)), (1, VECTOR))
    else:
        return at + step


@device
def _load(at, pitch, d, t, length, exists, border, FIRST: tl.constexpr, END: tl.constexpr, CHANNELS_LAST: tl.constexpr,
          VECTOR: tl.constexpr):  # fmt: skip
    """Columns FIRST to END - 1 steps after the times t to which `at` points, float32; 0 where time is outside."""
    columns = ()
    if CHANNELS_LAST or VECTOR == 1:
        for step in tl.static_range(FIRST, END):
            pointers = _pointers(at, step, pitch, d, CHANNELS_LAST, VECTOR)
            value = tl.load(pointers, exists & (t + step >= 0) & (t + step < length), other=0.0)
            columns = columns + (value.to(tl.float32),)
    else:
        for step in tl.static_range(FIRST, END, VECTOR):
            touches = tl.expand_dims(exists & (t + step > -VECTOR) & (t + step < length), 2)
            value = tl.load(_vectors(at + step, VECTOR), touches, other=0.0).to(tl.float32)
            columns = columns + _columns_of(value, VECTOR)
        if border:
            columns = _clear_outside(columns, t, length, FIRST)
    return columns


@device
def _clear_outside(columns, t, length, FIRST: tl.constexpr):
    """Columns, the first of which is at t + FIRST, without what vectors hold of other rows."""
    result = ()
    for c in tl.static_range(len(columns)):
        time = t + (FIRST + c)
        result = result + (tl.where((time >= 0) & (time < length), columns[c], 0.0),)
    return result


@device
def _store(at, pitch, d, t, length, exists, border, columns, GROUP: tl.constexpr, CHANNELS_LAST: tl.constexpr,
           VECTOR: tl.constexpr):  # fmt: skip
    if CHANNELS_LAST or VECTOR == 1:
        for step in tl.static_range(GROUP):
            pointers = _pointers(at, step, pitch, d, CHANNELS_LAST, VECTOR)
            value = columns[step].to(at.dtype.element_ty)
            tl.store(pointers, value, exists & (t + step >= 0) & (t + step < length))
    else:
        for step in tl.static_range(0, GROUP, VECTOR):
            whole = exists & (t + step >= 0) & (t + step + VECTOR <= length)
            value = _vector_of(columns, step, VECTOR).to(at.dtype.element_ty)
            tl.store(_vectors(at + step, VECTOR), value, tl.expand_dims(whole, 2))
            if border:
                for c in tl.static_range(step, step + VECTOR):
                    inside = exists & (t + c >= 0) & (t + c < length) & (whole == 0)
                    tl.store(at + c, columns[c].to(at.dtype.element_ty), inside)


@device
def _add_edge(columns, rows, edge, t, first, length, exists, FIRST: tl.constexpr, END: tl.constexpr):
    """Columns, the first of which is at t + first, with those from FIRST to END - 1 increased by the (B, D, length)
    that begins at the time `edge`."""
    result = ()
    for c in tl.static_range(len(columns)):
        if c >= FIRST and c < END:
            index = t + (first + c) - edge
            value = tl.load(rows + index, exists & (index >= 0) & (index < length), other=0.0)
            result = result + (columns[c] + value.to(tl.float32),)
        else:
            result = result + (columns[c],)
    return result


@device
def _weights(weight, bias, d, exists, channels, has_bias, WIDTH: tl.constexpr):
    weights = ()
    for w in tl.static_range(WIDTH):
        weights = weights + (tl.load(weight + d * WIDTH + w, exists, other=0.0),)
    return weights, tl.load(bias + d, d < tl.where(has_bias != 0, channels, 0), other=0.0)


@device
def _convolve(columns, weights, bias, FIRST: tl.constexpr, WIDTH: tl.constexpr):
    total = bias + weights[0] * columns[FIRST]
    for w in tl.static_range(1, WIDTH):
        total += weights[w] * columns[FIRST + w]
    return total


@device
def _sigmoid(x):
    above = 1 + tl.exp2(x * -1.4426950408889634)
    if IN_INTERPRETER:
        return 1 / above
    else:
        # Triton's division takes four instructions more, a tenth of backward, for divisors beyond 2^126.
        return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [above], tl.float32, True, 1)


@kernel
def causal_conv1d_forward_kernel(
    x, x_batch, x_pitch, out, out_batch, out_pitch, weight, bias, state, final_state,
    channels, length, phase, slack, steps, has_bias,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, SILU: tl.constexpr, EDGES: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, VECTOR: tl.constexpr, BLOCK_D: tl.constexpr, GROUPS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    CHUNK: tl.constexpr = 1 if CHANNELS_LAST else VECTOR
    BEFORE: tl.constexpr = (WIDTH - 2 + CHUNK) // CHUNK * CHUNK
    STATES: tl.constexpr = WIDTH - 1
    if CHANNELS_LAST:
        channels = channels // VECTOR * VECTOR
    batch, _, first, end, d, times = _locate(
        channels, length + slack, 0, steps, BLOCK_D, GROUPS, GROUP, CHANNELS_LAST
    )  # fmt: skip
    exists = d < channels
    weights, bias = _weights(weight, bias, d, exists, channels, has_bias, WIDTH)
    x_rows = _rows(x, x_batch, x_pitch, batch, d, CHANNELS_LAST)
    out_rows = _rows(out, out_batch, out_pitch, batch, d, CHANNELS_LAST)
    edge_rows = (batch * channels + d) * STATES
    shift = _shift(x_batch, x_pitch, phase, batch, d, CHUNK)
    for start in range(first, end, GROUPS * GROUP):
        t = start + times - shift
        border = (start < BEFORE + CHUNK) | (start + GROUPS * GROUP + BEFORE > length)
        at = _at(x_rows, t, x_pitch, CHANNELS_LAST)
        columns = _load(at, x_pitch, d, t, length, exists, border, -BEFORE, GROUP, CHANNELS_LAST, VECTOR)
        if EDGES and start < STATES + CHUNK:
            columns = _add_edge(columns, state + edge_rows, -STATES, t, -BEFORE, STATES, exists, 0, BEFORE + CHUNK - 1)
        outs = ()
        for step in tl.static_range(GROUP):
            y = _convolve(columns, weights, bias, BEFORE - STATES + step, WIDTH)
            if SILU:
                y = y * _sigmoid(y)
            outs = outs + (y,)
        at = _at(out_rows, t, out_pitch, CHANNELS_LAST)
        _store(at, out_pitch, d, t, length, exists, border, outs, GROUP, CHANNELS_LAST, VECTOR)
    if (STATES > 0) & (end == length + slack):
        axis: tl.constexpr = 0 if CHANNELS_LAST else 1
        index = tl.expand_dims(tl.arange(0, PADDED), 1 - axis)
        t = length - STATES + index
        inside = exists & (index < STATES)
        at = _at(x_rows, t, x_pitch, CHANNELS_LAST) + (d if CHANNELS_LAST else 0)
        value = tl.load(at, inside & (t >= 0), other=0.0)
        if EDGES:
            value += tl.load(state + edge_rows + (t + STATES), inside & (t < 0), other=0.0)
        tl.store(final_state + edge_rows + index, value, inside)


@kernel
def causal_conv1d_backward_kernel(
    x, x_batch, x_pitch, grad_out, grad_out_batch, grad_out_pitch,
    grad_x, grad_x_batch, grad_x_pitch, weight, bias, state, state_length, grad_state,
    grad_state_length, grad_final_state, final_length, partial,
    channels, length, phase, slack, origin, steps, has_bias,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, SILU: tl.constexpr, EDGES: tl.constexpr,
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
    batch, row, first, end, d, times = _locate(
        channels, length + slack, origin, steps, BLOCK_D, GROUPS, GROUP, CHANNELS_LAST
    )
    exists = d < channels
    weights, bias = _weights(weight, bias, d, exists, channels, has_bias, WIDTH)
    x_rows = _rows(x, x_batch, x_pitch, batch, d, CHANNELS_LAST)
    grad_rows = _rows(grad_out, grad_out_batch, grad_out_pitch, batch, d, CHANNELS_LAST)
    out_rows = _rows(grad_x, grad_x_batch, grad_x_pitch, batch, d, CHANNELS_LAST)
    edge_rows = (batch * channels + d) * STATES

    sums = ()
    for _ in tl.static_range(WIDTH + 1):
        sums = sums + (tl.zeros((GROUPS, BLOCK_D) if CHANNELS_LAST else (BLOCK_D, GROUPS), tl.float32),)
    shift = _shift(x_batch, x_pitch, phase, batch, d, CHUNK)
    for start in range(first, end, GROUPS * GROUP):
        t = start + times - shift
        border = (start < BEFORE + CHUNK) | (start + GROUPS * GROUP + BEFORE > length)
        at = _at(x_rows, t, x_pitch, CHANNELS_LAST)
        columns = _load(at, x_pitch, d, t, length, exists, border, -BEFORE, GROUP + BEFORE, CHANNELS_LAST, VECTOR)
        at = _at(grad_rows, t, grad_out_pitch, CHANNELS_LAST)
        grads = _load(at, grad_out_pitch, d, t, length, exists, border, 0, GROUP + BEFORE, CHANNELS_LAST, VECTOR)
        if EDGES and start < STATES + CHUNK:
            columns = _add_edge(
                columns, state + edge_rows, -STATES, t, -BEFORE, state_length, exists, 0, GROUP + 2 * BEFORE
            )  # fmt: skip
        # The gradient of what the activation takes, which is 0 where the gradient of its result is.
        inner = ()
        for step in tl.static_range(GROUP + STATES):
            grad = grads[step]
            if SILU:
                y = _convolve(columns, weights, bias, BEFORE - STATES + step, WIDTH)
                gate = _sigmoid(y)
                grad = grad * (gate * (1 + y * (1 - gate)))
            inner = inner + (grad,)
        outs = ()
        new_sums = ()
        for w in tl.static_range(WIDTH):
            total = sums[w]
            for step in tl.static_range(GROUP):
                total += inner[step] * columns[BEFORE - STATES + step + w]
            new_sums = new_sums + (total,)
        total = sums[WIDTH]
        for step in tl.static_range(GROUP):
            total += inner[step]
            grad = weights[0] * inner[step + STATES]
            for w in tl.static_range(1, WIDTH):
                grad += weights[w] * inner[step + STATES - w]
            outs = outs + (grad,)
        sums = new_sums + (total,)
        if EDGES and start + GROUPS * GROUP + STATES > length:
            outs = _add_edge(
                outs, grad_final_state + edge_rows, length - STATES, t, 0, final_length, exists, 0, GROUP
            )  # fmt: skip
        at = _at(out_rows, t, grad_x_pitch, CHANNELS_LAST)
        _store(at, grad_x_pitch, d, t, length, exists, border, outs, GROUP, CHANNELS_LAST, VECTOR)
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


class _Plan(NamedTuple):
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

    def constants(self, width: int, silu: bool, edges: bool, backward: bool) -> dict[str, Any]:
        """edges: whether there is an initial state, or a gradient of the last one."""
        block_d, groups, group = self.tile(backward)
        return {
            "WIDTH": width, "PADDED": next_power_of_2(max(width - 1, 1)), "SILU": silu, "EDGES": edges,
            "CHANNELS_LAST": self.channels_last, "VECTOR": self.vector,
            "BLOCK_D": block_d, "GROUPS": groups, "GROUP": group,
        }  # fmt: skip

    def registers(self, width: int, edges: bool, backward: bool) -> int:
        """So many that enough warps wait for memory at a time to keep it busy, where it can be had without spills."""
        if self.channels_last or self.vector == 1 or width > 4 or edges:
            return 255
        return 80 if backward else 72

    def walk(self, batch: int, channels: int, times: int, backward: bool) -> tuple[int, int, int]:
        """Blocks of channels, blocks of times, and tiles that a program walks over."""
        block_d, groups, group = self.tile(backward)
        channel_blocks, tiles = -(-channels // block_d), -(-times // (groups * group))
        steps = max(1, min(tiles, batch * channel_blocks * tiles // PROGRAMS))
        return channel_blocks, -(-tiles // steps), steps

    def memory(self, tensor: Tensor) -> tuple[Tensor, int, int]:
        """A (B, D, L), its stride of batches, and that of channels or times, whichever are not dense."""
        batch, channel, time = tensor.stride()
        return tensor, batch, time if self.channels_last else channel


def _plan(*tensors: Tensor) -> _Plan | None:
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
        return _Plan(channels_last, 1)
    ((phase, *strides),) = phases
    aligned = not any((phase, *strides)) and first.shape[dense] % vector == 0
    if channels_last:
        return _Plan(True, vector if aligned else 1)
    return _Plan(False, vector, phase, 0 if aligned else vector - 1)


def _optional(tensor: Tensor | None, like: Tensor) -> tuple[Tensor, int]:
    """A (B, D, W-1) and its length, 0 if it is absent."""
    return (like, 0) if tensor is None else (tensor.contiguous(), tensor.shape[2])


def _forward(
    plan: _Plan, x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, out: Tensor,
    final_state: Tensor, silu: bool,
) -> Launch:  # fmt: skip
    (batch, channels, length), width = x.shape, weight.shape[1]
    channel_blocks, time_blocks, steps = plan.walk(batch, channels, length + plan.slack, backward=False)
    args = (
        *plan.memory(x), *plan.memory(out), weight, weight if bias is None else bias.contiguous(),
        x if initial_state is None else initial_state.contiguous(), final_state, channels, length,
        plan.phase, plan.slack, steps, int(bias is not None),
    )  # fmt: skip
    edges = initial_state is not None
    return Launch(
        causal_conv1d_forward_kernel, batch * channel_blocks * time_blocks, args,
        plan.constants(width, silu, edges, backward=False), WARPS, plan.registers(width, edges, backward=False),
    )  # fmt: skip


def _backward(
    plan: _Plan, x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, grad_out: Tensor,
    grad_final_state: Tensor | None, grad_x: Tensor, grad_weight: Tensor, grad_bias: Tensor | None,
    grad_state: Tensor | None, silu: bool,
) -> tuple[Launch, Launch]:  # fmt: skip
    (batch, channels, length), width = x.shape, weight.shape[1]
    group = plan.tile(backward=True)[2]
    origin = 0 if grad_state is None else -(-(width - 1) // group) * -group
    channel_blocks, time_blocks, steps = plan.walk(batch, channels, length + plan.slack - origin, backward=True)
    rows = batch * time_blocks
    partial = weight.new_empty(rows, width + 1, channels)
    args = (
        *plan.memory(x), *plan.memory(grad_out), *plan.memory(grad_x),
        weight, weight if bias is None else bias.contiguous(), *_optional(initial_state, x),
        *_optional(grad_state, x), *_optional(grad_final_state, x), partial,
        channels, length, plan.phase, plan.slack, origin, steps, int(bias is not None),
    )  # fmt: skip
    edges = initial_state is not None or grad_final_state is not None
    main = Launch(
        causal_conv1d_backward_kernel, rows * channel_blocks, args,
        plan.constants(width, silu, edges, backward=True), WARPS, plan.registers(width, edges, backward=True),
    )  # fmt: skip
    args = (
        partial, rows, grad_weight, grad_weight if grad_bias is None else grad_bias, channels, int(bias is not None)
    )  # fmt: skip
    constants = {"WIDTH": width, "BLOCK_D": REDUCED_CHANNELS, "BLOCK_ROWS": 32}
    programs = -(-channels // REDUCED_CHANNELS) * (width + 1)
    return main, Launch(causal_conv1d_reduce_kernel, programs, args, constants, WARPS)


def causal_conv1d_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, out: Tensor, final_state: Tensor,
    silu: bool,
) -> None:  # fmt: skip
    """Fills out, and final_state with the last W - 1 inputs. weight, bias: float32; weight, final_state: contiguous."""
    plan = _plan(x, out)
    if plan is None:
        x, dense = x.contiguous(), torch.empty_like(out, memory_format=torch.contiguous_format)
        causal_conv1d_forward(x, weight, bias, initial_state, dense, final_state, silu)
        out.copy_(dense)
        return
    _forward(plan, x, weight, bias, initial_state, out, final_state, silu).run()


def causal_conv1d_backward(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, grad_out: Tensor,
    grad_final_state: Tensor | None, grad_x: Tensor, grad_weight: Tensor, grad_bias: Tensor | None,
    grad_initial_state: Tensor | None, silu: bool,
) -> None:  # fmt: skip
    """Fills the gradients of what is present. weight, grad_weight and grad_initial_state: contiguous."""
    plan = _plan(x, grad_x)
    if plan is None:
        x, dense = x.contiguous(), torch.empty_like(grad_x, memory_format=torch.contiguous_format)
        causal_conv1d_backward(
            x, weight, bias, initial_state, grad_out, grad_final_state, dense, grad_weight, grad_bias,
            grad_initial_state, silu,
        )  # fmt: skip
        grad_x.copy_(dense)
        return
    if _plan(x, grad_x, grad_out) != plan:
        grad_out = torch.empty_like(grad_x).copy_(grad_out)
    launches = _backward(
        plan, x, weight, bias, initial_state, grad_out, grad_final_state, grad_x, grad_weight, grad_bias,
        grad_initial_state, silu,
    )  # fmt: skip
    for launch in launches:
        launch.run()


def variants() -> Iterator[Launch]:
    """A launch of every kernel that a call with W = 4 and SiLU may choose, on tensors without memory."""
    sums = torch.empty(16, 4, device="meta")
    for dtype, channels_last, aligned in product(DTYPES, (False, True), (False, True)):
        x = torch.empty(1, 16, 16, dtype=dtype, device="meta")
        plan = _Plan(channels_last, 16 // x.element_size() if aligned else 1)
        for edges in (None, x) if dtype == torch.bfloat16 else (None,):
            yield _forward(plan, x, sums, None, edges, x, x, True)
            main, reduce = _backward(plan, x, sums, None, edges, x, edges, x, sums, None, edges, True)
            yield main
    yield reduce
