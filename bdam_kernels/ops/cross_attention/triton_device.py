"""Functions that the Triton kernels of cross-attention share.

Rows lie anywhere, but start at multiples of 16 bytes and are as wide: strides and widths count such vectors, which
tells the compiler so. Tiles of rows are tuples of one or two parts, BLOCK_D and then REST columns wide, since a part's
width is a power of two and a head's, 96 or 192, need not be. Weights are powers of two: `scale` includes log2(e). Of
absent masks, the length is 0.
"""

# mypy: disable-error-code="no-untyped-def, assignment"

from __future__ import annotations

import triton.language as tl

from bdam_kernels.ops.triton_common import INTERPRETED, device

_PIECE = tl.constexpr(32)
"""Columns of float32 that `row_products` takes at once."""

# Triton's interpreter keeps bfloat16 as bits, which its dot product takes for integers.
_WIDENED = tl.constexpr(INTERPRETED)


@device
def locate(length_a, length_b, heads, BLOCK: tl.constexpr):
    """This program's first row, whether it is of stream b, its batch and its head."""
    blocks_a = (length_a + BLOCK - 1) // BLOCK
    blocks = blocks_a + (length_b + BLOCK - 1) // BLOCK
    block, index = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    of_b = block >= blocks_a
    return tl.where(of_b, block - blocks_a, block) * BLOCK, of_b, (index // heads).to(tl.int64), index % heads


@device
def strided_head(x, x_batch, x_head, x_row, y, y_batch, y_head, y_row, second, batch, head):
    """The first row of a head of x, or of y if `second`, and the stride of rows, in elements."""
    vector: tl.constexpr = 128 // x.dtype.element_ty.primitive_bitwidth
    offset = batch * tl.where(second, y_batch, x_batch) + head * tl.where(second, y_head, x_head)
    return tl.multiple_of(tl.where(second, y, x) + offset * vector, 16), tl.where(second, y_row, x_row) * vector


@device
def merged_head(x, y, second, batch, head, heads, length, width):
    """The same for a dense (B, L, H, d)."""
    vector: tl.constexpr = 128 // x.dtype.element_ty.primitive_bitwidth
    offset = (batch * length * heads + head) * width
    return tl.multiple_of(tl.where(second, y, x) + offset * vector, 16), heads * width * vector


@device
def padding_of(x, x_batch, x_key, x_length, y, y_batch, y_key, y_length, second, batch):
    """What `visible` takes of the key padding mask x, or y if `second`."""
    start = tl.where(second, y, x) + batch * tl.where(second, y_batch, x_batch)
    return start, tl.where(second, y_key, x_key), tl.where(second, y_length, x_length)


@device
def _pointers(tensor, rows, length, width, COLUMNS: tl.constexpr, first_column):
    """Of rows, (ROWS, COLUMNS), and which exist."""
    first, stride = tensor
    vector: tl.constexpr = 128 // first.dtype.element_ty.primitive_bitwidth
    columns = first_column + tl.arange(0, COLUMNS)[None, :]
    pointers = first + (rows.to(tl.int64) * stride)[:, None] + columns
    return pointers, (rows < length)[:, None] & (columns < width * vector)


@device
def _load_part(tensor, rows, length, width, COLUMNS: tl.constexpr, first_column):
    pointers, exist = _pointers(tensor, rows, length, width, COLUMNS, first_column)
    return tl.load(pointers, exist, other=0.0)


@device
def _store_part(tensor, rows, length, width, COLUMNS: tl.constexpr, first_column, part):
    pointers, exist = _pointers(tensor, rows, length, width, COLUMNS, first_column)
    tl.store(pointers, part.to(pointers.dtype.element_ty), exist)


@device
def load_rows(tensor, rows, length, width, BLOCK_D: tl.constexpr, REST: tl.constexpr):
    first = _load_part(tensor, rows, length, width, BLOCK_D, 0)
    return (first, _load_part(tensor, rows, length, width, REST, BLOCK_D)) if REST else (first,)


@device
def store_rows(tensor, rows, length, width, BLOCK_D: tl.constexpr, REST: tl.constexpr, tile):
    _store_part(tensor, rows, length, width, BLOCK_D, 0, tile[0])
    if REST:
        _store_part(tensor, rows, length, width, REST, BLOCK_D, tile[1])


@device
def zero_rows(ROWS: tl.constexpr, BLOCK_D: tl.constexpr, REST: tl.constexpr):
    first = tl.zeros((ROWS, BLOCK_D), tl.float32)
    return (first, tl.zeros((ROWS, REST), tl.float32)) if REST else (first,)


@device
def scale_rows(tile, factor, REST: tl.constexpr):
    first = tile[0].to(tl.float32) * factor
    return (first, tile[1].to(tl.float32) * factor) if REST else (first,)


@device
def row_sums(x, y, REST: tl.constexpr):
    """Of the products of two tiles' elements."""
    total = tl.sum(x[0].to(tl.float32) * y[0].to(tl.float32), 1)
    if REST:
        total += tl.sum(x[1].to(tl.float32) * y[1].to(tl.float32), 1)
    return total


@device
def _dot(x, y):
    """x y in float32, x rounded to the dtype of y."""
    x = x.to(y.dtype)
    if _WIDENED:
        x, y = x.to(tl.float32), y.to(tl.float32)
    return tl.dot(x, y, input_precision="tf32x3")


@device
def row_products(x, x_at, y, y_at, width, BLOCK_D: tl.constexpr, REST: tl.constexpr):
    """x y^T, of rows at (tensor, rows, length): float32, whose parts would fill the registers, is loaded by pieces."""
    if x[0].dtype == tl.float32:
        total = tl.zeros((x[0].shape[0], y[0].shape[0]), tl.float32)
        for column in tl.range(0, BLOCK_D + REST, _PIECE):
            piece = _load_part(*x_at, width, _PIECE, column)
            total += _dot(piece, tl.trans(_load_part(*y_at, width, _PIECE, column)))
    else:
        total = _dot(x[0], tl.trans(y[0]))
        if REST:
            total += _dot(x[1], tl.trans(y[1]))
    return total


@device
def add_weighted(total, weights, rows, REST: tl.constexpr):
    """total + weights rows, of which total and rows are tiles."""
    first = total[0] + _dot(weights, rows[0])
    return (first, total[1] + _dot(weights, rows[1])) if REST else (first,)


@device
def visible(padding, keys, length):
    """Which keys are there and no padding."""
    hidden, stride, hidden_length = padding
    return (keys < length) & (tl.load(hidden + keys * stride, keys < hidden_length, other=0) == 0)


@device
def scores_of_queries(
    q, q_at, k_head, padding, start, sizes, KEYS: tl.constexpr, BLOCK_D: tl.constexpr, REST: tl.constexpr
):
    """(QUERIES, KEYS) from key `start` on, -inf where a key is none, and these keys."""
    length, width, scale = sizes
    keys = start + tl.arange(0, KEYS)
    k = load_rows(k_head, keys, length, width, BLOCK_D, REST)
    scores = row_products(q, q_at, k, (k_head, keys, length), width, BLOCK_D, REST) * scale
    return tl.where(visible(padding, keys, length)[None, :], scores, -float("inf")), k


@device
def weights_of_keys(k, k_at, is_key, q_head, logs, queries, sizes, BLOCK_D: tl.constexpr, REST: tl.constexpr):
    """(KEYS, QUERIES), before dropout, and these queries."""
    length, width, scale = sizes
    q = load_rows(q_head, queries, length, width, BLOCK_D, REST)
    log = tl.load(logs + queries, queries < length, other=float("inf"))
    scores = row_products(k, k_at, q, (q_head, queries, length), width, BLOCK_D, REST) * scale
    scores = tl.where(is_key[:, None], scores, -float("inf"))
    return tl.exp2(scores - log[None, :]), q


@device
def softmax_step(largest, total, scores):
    """Each query's largest score and sum of weights with more keys; their weights, and what the others shrink by."""
    now_largest = tl.maximum(largest, tl.max(scores, 1))
    # -inf, before there is any key, can be subtracted from nothing.
    origin = tl.where(now_largest == -float("inf"), 0.0, now_largest)
    weights = tl.exp2(scores - origin[:, None])
    shrink = tl.exp2(largest - origin)
    return now_largest, total * shrink + tl.sum(weights, 1), weights, shrink


@device
def log_of(largest, total):
    """Of a query's sum of weights; infinite without a key. NaN counts as a key: the largest score does not know it."""
    return tl.where(total != 0, largest + tl.log2(total), float("inf"))


@device
def _philox(c0, c1, c2, c3, key0, key1):
    """Philox-4x32-10 of unsigned integers, as in `reference`; unlike tl.philox, it starts small where counters do."""
    for _ in tl.static_range(10):
        high0, low0 = tl.umulhi(c0, 0xD2511F53), c0 * 0xD2511F53
        high2, low2 = tl.umulhi(c2, 0xCD9E8D57), c2 * 0xCD9E8D57
        c0, c1, c2, c3 = high2 ^ c1 ^ key0, low2, high0 ^ c3 ^ key1, low0
        key0, key1 = key0 + 0x9E3779B9, key1 + 0xBB67AE85
    return c0, c1, c2, c3


@device
def dropout_keep(queries, first_key, dropout, KEYS: tl.constexpr):
    """Which weights (M, KEYS) dropout keeps, as `reference.dropout_keep` decides it. first_key: multiple of KEYS.

    A Philox counter has the bits of 8 keys, 16 apart.
    """
    threshold, low, high, row, direction = dropout
    counter = (first_key // 128 * 16 + tl.arange(0, 16)[None, :]).to(tl.uint32)
    word0, word1, word2, word3 = _philox(
        counter, queries[:, None].to(tl.uint32), row.to(tl.uint32), direction.to(tl.uint32),
        low.to(tl.uint32), high.to(tl.uint32),
    )  # fmt: skip
    upper = first_key % 128 >= 64
    even, odd = tl.where(upper, word2, word0), tl.where(upper, word3, word1)
    words = tl.join(even, odd) if KEYS == 64 else tl.where(first_key % 64 >= 32, odd, even)
    if KEYS == 16:
        bits = tl.where(first_key % 32 >= 16, words >> 16, words & 0xFFFF)
    else:
        bits = tl.reshape(tl.join(words & 0xFFFF, words >> 16), (queries.shape[0], 16, KEYS // 16))
        bits = tl.reshape(tl.permute(bits, (0, 2, 1)), (queries.shape[0], KEYS))
    return bits.to(tl.int32) >= threshold
