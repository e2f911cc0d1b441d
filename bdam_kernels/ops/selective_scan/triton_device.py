"""Functions that the selective scan's Triton kernels share.

States are tiles (N, D), so that lanes hold channels where there are enough of them. What streams over time is loaded,
and worked on where states have no part, as tiles (D, GROUP) or (N, GROUP) of GROUP steps, which are then split into
columns, one for each step. Everything is float32. Tuples that functions hand on:

    block   channels (D) and states (N) of this program, the tensors' numbers of both, past which nothing exists, and
            `unit`, which is 1: the stride of states, hidden from the compiler lest it lays tiles out for it
    clock   first step of the segment, its end, the index in memory of step 0, and the direction of time in memory
    stream  what varies over time: pointer, offsets, stride of time, and indices with the number of those that exist

Of what is absent, the number is 0.
"""

# mypy: disable-error-code="no-untyped-def, assignment"

from __future__ import annotations

import triton.language as tl

from bdam_kernels.ops.selective_scan import plan
from bdam_kernels.ops.triton_common import LOG2E, device

CHUNK = tl.constexpr(plan.CHUNK)
GROUP = tl.constexpr(4)
"""Steps that are loaded at once."""
GROUPS = tl.constexpr(plan.CHUNK // GROUP.value)
"""Groups of steps in a chunk."""

# Bits of the argument `flags`: options, and which optional tensors are there.
SOFTPLUS = tl.constexpr(1)
REVERSE = tl.constexpr(2)
HAS_D = tl.constexpr(4)
HAS_Z = tl.constexpr(8)
HAS_BIAS = tl.constexpr(16)
HAS_INITIAL_STATE = tl.constexpr(32)
HAS_GRAD_LAST_STATE = tl.constexpr(64)
CONSTANT_B = tl.constexpr(128)
CONSTANT_C = tl.constexpr(256)
HAS_CHECKPOINTS = tl.constexpr(512)


@device
def locate(channels, groups, states, unit, segments, window, first_block, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr):
    """This program's batch, group, segment, slot in the window of blocks, and block."""
    program = tl.program_id(0).to(tl.int64)
    slot = program % window
    group = program // window % groups
    segment = (program // window // groups % segments).to(tl.int32)
    batch = program // window // groups // segments
    size = channels // groups
    in_group = (first_block + slot) * BLOCK_D + tl.arange(0, BLOCK_D)
    channel = tl.where(in_group < size, group * size + in_group, channels)
    return batch, group, segment, slot, (channel, tl.arange(0, BLOCK_N), channels, states, unit)


@device
def clock_of(segment, segments, length, flags):
    chunks = (length + CHUNK - 1) // CHUNK
    steps = (chunks + segments - 1) // segments * CHUNK
    start = segment * steps
    backwards = (flags & REVERSE) != 0
    return start, tl.minimum(start + steps, length), tl.where(backwards, length - 1, 0), tl.where(backwards, -1, 1)


@device
def channel_stream(tensor, stride_batch, stride_channel, stride_time, batch, block, exists):
    """The block of a (B, D, L)."""
    channel, _, channels, _, _ = block
    channel = channel[:, None]
    return tensor + batch * stride_batch, channel * stride_channel, stride_time, channel, tl.where(exists, channels, 0)


@device
def state_stream(tensor, stride_batch, stride_group, stride_state, stride_time, batch, group, block, exists):
    """The states of a (B, G, N, L)."""
    _, n, _, states, _ = block
    n = n[:, None].to(tl.int64)
    start = tensor + batch * stride_batch + group * stride_group
    return start, n * stride_state, stride_time, n, tl.where(exists, states, 0)


@device
def reset_stream(resets, length, batch, PACKED: tl.constexpr):
    """The row of a contiguous (B, L), as of one channel."""
    nothing = tl.zeros((1, 1), tl.int64)
    return resets + batch * length, nothing, 1, nothing, 1 if PACKED else 0


@device
def steps_of(step):
    """The steps of a group, (1, GROUP)."""
    return step + tl.arange(0, GROUP)[None, :]


@device
def _group(stream, step, clock):
    """Pointers and mask of a stream at a group of steps."""
    start, offsets, stride, index, size = stream
    _, end, origin, direction = clock
    steps = steps_of(step)
    at = (origin + direction * steps).to(tl.int64) * stride
    return start + (offsets + at), (index < size) & (steps < end)


@device
def load_group(stream, step, clock):
    pointers, mask = _group(stream, step, clock)
    return tl.load(pointers, mask, other=0.0).to(tl.float32)


@device
def store_group(stream, step, clock, tile):
    pointers, mask = _group(stream, step, clock)
    tl.store(pointers, tile, mask)


@device
def add_group(stream, step, clock, tile, is_first):
    """Stores a tile, added to what earlier launches left unless this is the first."""
    pointers, mask = _group(stream, step, clock)
    if is_first == 0:
        tile += tl.load(pointers, mask, other=0.0)
    tl.store(pointers, tile, mask)


@device
def columns(tile):
    """The GROUP columns of a tile."""
    even, odd = tl.split(tl.reshape(tile, (tile.shape[0], 2, 2)))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@device
def from_columns(tiles):
    """A tile of GROUP columns."""
    even, odd = tl.join(tiles[0], tiles[2]), tl.join(tiles[1], tiles[3])
    return tl.reshape(tl.join(even, odd), (tiles[0].shape[0], 4))


@device
def _tile_at(row, block, exists):
    """Offsets and mask of the block of a contiguous (rows, D, N)."""
    channel, n, channels, states, unit = block
    mask = (channel[None, :] < channels) & (n[:, None] < tl.where(exists, states, 0))
    return (row * channels + channel[None, :]) * states + n[:, None] * unit, mask


@device
def load_tile(tensor, row, block, exists):
    at, mask = _tile_at(row, block, exists)
    return tl.load(tensor + at, mask, other=0.0)


@device
def store_tile(tensor, row, block, tile, exists):
    at, mask = _tile_at(row, block, exists)
    tl.store(tensor + at, tile, mask)


@device
def load_channels(tensor, row, block, exists):
    """The block of a contiguous (rows, D)."""
    channel, _, channels, _, _ = block
    return tl.load(tensor + row * channels + channel, channel < tl.where(exists, channels, 0), other=0.0)


@device
def store_channels(tensor, row, block, tile, exists):
    channel, _, channels, _, _ = block
    tl.store(tensor + row * channels + channel, tile, channel < tl.where(exists, channels, 0))


@device
def is_soft(x, flags):
    """Where a step size is softplus(x)."""
    return x <= tl.where((flags & SOFTPLUS) != 0, 20.0, float("-inf"))


@device
def softplus(x):
    """max(x, 0) + log1p(e) with e = exp(-|x|), as 2 atanh(s) with s = e / (2 + e) <= 1/3; series to 1e-9 of it."""
    e = tl.exp2(tl.abs(x) * -LOG2E)
    s = e / (2 + e)
    q = s * s
    p = 1 / 9 + q * (1 / 11 + q * (1 / 13 + q * (1 / 15)))
    p = 1 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * p)))
    return tl.maximum(x, 0.0) + 2 * s * p


@device
def step_sizes(x, step, clock, flags):
    """Step sizes from delta + bias; 0, which leaves the state as it is, past the end."""
    return tl.where(steps_of(step) < clock[1], tl.where(is_soft(x, flags), softplus(x), x), 0.0)


@device
def sigmoid(x):
    return 1 / (1 + tl.exp2(x * -LOG2E))


@device
def forget(reset, decayed, PACKED: tl.constexpr):
    """What comes over from one step to the next: a state or an adjoint, decayed, but for nothing at a reset, (1)."""
    return tl.where(reset[None, :] != 0, 0.0, decayed) if PACKED else decayed


@device
def advance(state, dt, drive, B, rate, reset, PACKED: tl.constexpr):
    """The state after a step. dt, drive: (D); B: (N); reset: (1)."""
    return forget(reset, tl.exp2(rate * dt[None, :]) * state, PACKED) + drive[None, :] * B


@device
def add_span(total, dt, resets, PACKED: tl.constexpr):
    """A sum of step sizes with those of a group, infinite from a reset on, through which nothing comes, be it NaN."""
    grown = total + tl.sum(dt, 1)
    return tl.where((tl.sum(resets, 1) > 0) | (total == float("inf")), float("inf"), grown) if PACKED else grown


@device
def through_segments(state, ends, step_sums, rate, first_row, count, direction, block):
    """What enters a segment: `state`, gone through `count` segments that from zero would leave `ends`."""
    for i in range(count):
        row = first_row + direction * i
        span = load_channels(step_sums, row, block, True)[None, :]
        decayed = tl.where(span == float("inf"), 0.0, tl.exp2(rate * span) * state)
        state = decayed + load_tile(ends, row, block, True)
    return state
