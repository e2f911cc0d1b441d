"""Functions that the causal convolution's Triton kernels share: where a program is, and columns of steps in memory."""

# mypy: disable-error-code="no-untyped-def, assignment, var-annotated"
# ruff: noqa: RUF005 (kernels cannot unpack tuples into tuples)

from __future__ import annotations

import triton.language as tl

from bdam_kernels.ops.triton_common import INTERPRETED, LOG2E, device

IN_INTERPRETER = tl.constexpr(INTERPRETED)


@device
def locate(
    channels, length, origin, steps, BLOCK_D: tl.constexpr, GROUPS: tl.constexpr, GROUP: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
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
def rows_of(tensor, batch_stride, pitch, batch, d, CHANNELS_LAST: tl.constexpr):
    """Pointers to time 0: of channels or, where these are dense and come last, of the batch."""
    rows = tensor + batch * batch_stride
    return rows if CHANNELS_LAST else rows + d.to(tl.int64) * pitch


@device
def shift_of(batch_stride, pitch, phase, batch, d, VECTOR: tl.constexpr):
    """Elements between an aligned address and time 0 of the channels; phase: those before the tensor."""
    return ((phase + batch * batch_stride + d.to(tl.int64) * pitch) & (VECTOR - 1)).to(tl.int32)


@device
def at_time(rows, t, pitch, CHANNELS_LAST: tl.constexpr):
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
def load_columns(
    at, pitch, d, t, length, exists, border, FIRST: tl.constexpr, END: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    VECTOR: tl.constexpr,
):  # fmt: skip
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
def store_columns(
    at, pitch, d, t, length, exists, border, columns, GROUP: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    VECTOR: tl.constexpr,
):  # fmt: skip
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
def add_edge(columns, rows, edge, t, first, length, exists, FIRST: tl.constexpr, END: tl.constexpr):
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
def load_weights(weight, bias, d, exists, channels, has_bias, WIDTH: tl.constexpr):
    weights = ()
    for w in tl.static_range(WIDTH):
        weights = weights + (tl.load(weight + d * WIDTH + w, exists, other=0.0),)
    return weights, tl.load(bias + d, d < tl.where(has_bias != 0, channels, 0), other=0.0)


@device
def load_numbers(rows, t, length, FIRST: tl.constexpr, END: tl.constexpr):
    """Of the sequences that the columns belong to; 0, that of a row's first, where time is outside."""
    numbers = ()
    for step in tl.static_range(FIRST, END):
        numbers = numbers + (tl.load(rows + (t + step), (t + step >= 0) & (t + step < length), other=0),)
    return numbers


@device
def within(numbers, value, A: tl.constexpr, B: tl.constexpr, PACKED: tl.constexpr):
    """A value that goes from one column to another, 0 if these are of different sequences."""
    return tl.where(numbers[A] == numbers[B], value, 0.0) if PACKED else value


@device
def convolve(columns, numbers, weights, bias, FIRST: tl.constexpr, WIDTH: tl.constexpr, PACKED: tl.constexpr):
    LAST: tl.constexpr = FIRST + WIDTH - 1
    total = bias + weights[0] * within(numbers, columns[FIRST], FIRST, LAST, PACKED)
    for w in tl.static_range(1, WIDTH):
        total += weights[w] * within(numbers, columns[FIRST + w], FIRST + w, LAST, PACKED)
    return total


@device
def sigmoid(x):
    above = 1 + tl.exp2(x * -LOG2E)
    if IN_INTERPRETER:
        return 1 / above
    else:
        # Triton's division takes four instructions more, a tenth of backward, for divisors beyond 2^126.
        return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [above], tl.float32, True, 1)
