"""Triton kernels of bidirectional cross-attention: online softmax, nothing of the size of the scores in memory.

A program has a block of the queries (or, for their gradients, keys and values) of one head in one direction and walks
the other stream: whole blocks of WALK rows, then TAIL rows at a time, so that 196 keys cost 208 or 224, not 256. Rows
lie anywhere, but start at multiples of 16 bytes and are as wide: strides and widths count such vectors, which tells the
compiler so. Weights are powers of two: `scale` includes log2(e). Of absent masks, the length is 0.
"""

# mypy: disable-error-code="no-untyped-def, assignment"

from __future__ import annotations

import triton.language as tl

from bdam_kernels.triton_kernels.launch import INTERPRETED, device, kernel

_PIECE = tl.constexpr(32)
"""Columns of float32 that `_products` takes at once."""

_LN2 = tl.constexpr(0.6931471805599453)

# Triton's interpreter keeps bfloat16 as bits, which its dot product takes for integers.
_WIDENED = tl.constexpr(INTERPRETED)


@device
def _locate(length_a, length_b, heads, BLOCK: tl.constexpr):
    """This program's first row, whether it is of stream b, its batch and its head."""
    blocks_a = (length_a + BLOCK - 1) // BLOCK
    blocks = blocks_a + (length_b + BLOCK - 1) // BLOCK
    block, index = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    of_b = block >= blocks_a
    return tl.where(of_b, block - blocks_a, block) * BLOCK, of_b, (index // heads).to(tl.int64), index % heads


@device
def _strided(x, x_batch, x_head, x_row, y, y_batch, y_head, y_row, second, batch, head):
    """The first row of a head of x, or of y if `second`, and the stride of rows, in elements."""
    vector: tl.constexpr = 128 // x.dtype.element_ty.primitive_bitwidth
    offset = batch * tl.where(second, y_batch, x_batch) + head * tl.where(second, y_head, x_head)
    return tl.multiple_of(tl.where(second, y, x) + offset * vector, 16), tl.where(second, y_row, x_row) * vector


@device
def _merged(x, y, second, batch, head, heads, length, width):
    """The same for a dense (B, L, H, d)."""
    vector: tl.constexpr = 128 // x.dtype.element_ty.primitive_bitwidth
    offset = (batch * length * heads + head) * width
    return tl.multiple_of(tl.where(second, y, x) + offset * vector, 16), heads * width * vector


@device
def _padding(x, x_batch, x_key, x_length, y, y_batch, y_key, y_length, second, batch):
    """What `_scores` takes of the key padding mask x, or y if `second`."""
    start = tl.where(second, y, x) + batch * tl.where(second, y_batch, x_batch)
    return start, tl.where(second, y_key, x_key), tl.where(second, y_length, x_length)


@device
def _pointers(tensor, rows, length, width, BLOCK_D: tl.constexpr, first_column=0):
    """Of rows, (ROWS, BLOCK_D), and which exist."""
    first, stride = tensor
    vector: tl.constexpr = 128 // first.dtype.element_ty.primitive_bitwidth
    columns = first_column + tl.arange(0, BLOCK_D)[None, :]
    pointers = first + (rows.to(tl.int64) * stride)[:, None] + columns
    return pointers, (rows < length)[:, None] & (columns < width * vector)


@device
def _load(tensor, rows, length, width, BLOCK_D: tl.constexpr, first_column=0):
    pointers, exist = _pointers(tensor, rows, length, width, BLOCK_D, first_column)
    return tl.load(pointers, exist, other=0.0)


@device
def _store(tensor, rows, length, width, BLOCK_D: tl.constexpr, tile):
    pointers, exist = _pointers(tensor, rows, length, width, BLOCK_D)
    tl.store(pointers, tile.to(pointers.dtype.element_ty), exist)


@device
def _dot(x, y):
    """x y in float32, x rounded to the dtype of y."""
    x = x.to(y.dtype)
    if _WIDENED:
        x, y = x.to(tl.float32), y.to(tl.float32)
    return tl.dot(x, y, input_precision="tf32x3")


@device
def _products(x, x_at, y, y_at, width, BLOCK_D: tl.constexpr):
    """x y^T, of rows at (tensor, rows, length): float32, whose parts would fill the registers, is loaded by pieces."""
    if x.dtype == tl.float32:
        total = tl.zeros((x.shape[0], y.shape[0]), tl.float32)
        for column in tl.range(0, BLOCK_D, _PIECE):
            total += _dot(_load(*x_at, width, _PIECE, column), tl.trans(_load(*y_at, width, _PIECE, column)))
    else:
        total = _dot(x, tl.trans(y))
    return total


@device
def _visible(padding, keys, length):
    """Which keys are there and no padding."""
    hidden, stride, hidden_length = padding
    return (keys < length) & (tl.load(hidden + keys * stride, keys < hidden_length, other=0) == 0)


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
def _keep(queries, first_key, dropout, KEYS: tl.constexpr):
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


@device
def _attend(state, q, q_at, k_head, v_head, padding, start, sizes, dropout, KEYS: tl.constexpr, BLOCK_D: tl.constexpr):
    """Takes keys into the state: each query's largest score, sum of weights, and weighted sum of values."""
    largest, total, out = state
    length, width, scale = sizes
    keys = start + tl.arange(0, KEYS)
    k = _load(k_head, keys, length, width, BLOCK_D)
    scores = _products(q, q_at, k, (k_head, keys, length), width, BLOCK_D) * scale
    scores = tl.where(_visible(padding, keys, length)[None, :], scores, -float("inf"))
    now_largest = tl.maximum(largest, tl.max(scores, 1))
    # -inf, before there is any key, can be subtracted from nothing.
    origin = tl.where(now_largest == -float("inf"), 0.0, now_largest)
    weights = tl.exp2(scores - origin[:, None])
    shrink = tl.exp2(largest - origin)
    total = total * shrink + tl.sum(weights, 1)
    if dropout[0] > 0:
        weights = tl.where(_keep(q_at[1], start, dropout, KEYS), weights, 0.0)
    return now_largest, total, out * shrink[:, None] + _dot(weights, _load(v_head, keys, length, width, BLOCK_D))


@kernel
def cross_attention_forward_kernel(
    q_a, q_a_batch, q_a_head, q_a_row, k_a, k_a_batch, k_a_head, k_a_row, v_a, v_a_batch, v_a_head, v_a_row,
    q_b, q_b_batch, q_b_head, q_b_row, k_b, k_b_batch, k_b_head, k_b_row, v_b, v_b_batch, v_b_head, v_b_row,
    mask_a, mask_a_batch, mask_a_key, mask_a_length, mask_b, mask_b_batch, mask_b_key, mask_b_length,
    heads, length_a, length_b, width, scale, threshold, keep_scale, seed_low, seed_high,
    out_a, out_b, logs_a, logs_b, save,
    BLOCK: tl.constexpr, WALK: tl.constexpr, TAIL: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    first, of_b, batch, head = _locate(length_a, length_b, heads, BLOCK)
    length, others = tl.where(of_b, length_b, length_a), tl.where(of_b, length_a, length_b)
    q_head = _strided(q_a, q_a_batch, q_a_head, q_a_row, q_b, q_b_batch, q_b_head, q_b_row, of_b, batch, head)
    k_head = _strided(k_b, k_b_batch, k_b_head, k_b_row, k_a, k_a_batch, k_a_head, k_a_row, of_b, batch, head)
    v_head = _strided(v_b, v_b_batch, v_b_head, v_b_row, v_a, v_a_batch, v_a_head, v_a_row, of_b, batch, head)
    padding = _padding(
        mask_b, mask_b_batch, mask_b_key, mask_b_length, mask_a, mask_a_batch, mask_a_key, mask_a_length, of_b, batch
    )
    row = batch * heads + head
    dropout = (threshold, seed_low, seed_high, row, of_b)
    sizes = (others, width, scale)

    queries = first + tl.arange(0, BLOCK)
    q_at = (q_head, queries, length)
    q = _load(q_head, queries, length, width, BLOCK_D)
    largest = tl.full((BLOCK,), -float("inf"), tl.float32)
    state = (largest, tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK, BLOCK_D), tl.float32))
    whole = others // WALK * WALK if TAIL < WALK else 0
    if TAIL < WALK:
        for start in tl.range(0, whole, WALK, num_stages=2):
            state = _attend(state, q, q_at, k_head, v_head, padding, start, sizes, dropout, WALK, BLOCK_D)
    for start in tl.range(whole, others, TAIL, num_stages=1 if TAIL < WALK else 2):
        state = _attend(state, q, q_at, k_head, v_head, padding, start, sizes, dropout, TAIL, BLOCK_D)
    largest, total, out = state

    # NaN counts as a key; the largest score does not know of it.
    has_key = total != 0
    total = tl.where(has_key, total, 1.0)
    out *= (keep_scale / total)[:, None]
    _store(_merged(out_a, out_b, of_b, batch, head, heads, length, width), queries, length, width, BLOCK_D, out)
    logs = tl.where(has_key, largest + tl.log2(total), float("inf"))
    at = tl.where(of_b, logs_b, logs_a) + row * length + queries
    tl.store(at, logs, queries < tl.where(save != 0, length, 0))


@device
def _query_gradient(
    grad_q, q, q_at, grad_out, grad_out_at, log, delta, k_head, v_head, padding, start, sizes, dropout, keep_scale,
    KEYS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """grad_q with what some keys add to it."""
    length, width, scale = sizes
    keys = start + tl.arange(0, KEYS)
    k = _load(k_head, keys, length, width, BLOCK_D)
    is_key = _visible(padding, keys, length)[None, :]
    scores = _products(q, q_at, k, (k_head, keys, length), width, BLOCK_D) * scale
    scores = tl.where(is_key, scores, -float("inf"))
    weights = tl.exp2(scores - log[:, None])
    v = _load(v_head, keys, length, width, BLOCK_D)
    grad_weights = _products(grad_out, grad_out_at, v, (v_head, keys, length), width, BLOCK_D)
    if dropout[0] > 0:
        grad_weights = tl.where(_keep(q_at[1], start, dropout, KEYS), grad_weights, 0.0)
    return grad_q + _dot(weights * (grad_weights * keep_scale - delta[:, None]), k)


@kernel
def cross_attention_backward_query_kernel(
    q_a, q_a_batch, q_a_head, q_a_row, k_a, k_a_batch, k_a_head, k_a_row, v_a, v_a_batch, v_a_head, v_a_row,
    q_b, q_b_batch, q_b_head, q_b_row, k_b, k_b_batch, k_b_head, k_b_row, v_b, v_b_batch, v_b_head, v_b_row,
    mask_a, mask_a_batch, mask_a_key, mask_a_length, mask_b, mask_b_batch, mask_b_key, mask_b_length,
    heads, length_a, length_b, width, scale, threshold, keep_scale, seed_low, seed_high,
    out_a, out_a_batch, out_a_head, out_a_row, out_b, out_b_batch, out_b_head, out_b_row, logs_a, logs_b,
    grad_a, grad_a_batch, grad_a_head, grad_a_row, grad_b, grad_b_batch, grad_b_head, grad_b_row,
    deltas_a, deltas_b, grad_q_a, grad_q_b,
    BLOCK: tl.constexpr, WALK: tl.constexpr, TAIL: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """grad_q, and for the other kernel delta: the product of a query's output and its gradient."""
    first, of_b, batch, head = _locate(length_a, length_b, heads, BLOCK)
    length, others = tl.where(of_b, length_b, length_a), tl.where(of_b, length_a, length_b)
    q_head = _strided(q_a, q_a_batch, q_a_head, q_a_row, q_b, q_b_batch, q_b_head, q_b_row, of_b, batch, head)
    k_head = _strided(k_b, k_b_batch, k_b_head, k_b_row, k_a, k_a_batch, k_a_head, k_a_row, of_b, batch, head)
    v_head = _strided(v_b, v_b_batch, v_b_head, v_b_row, v_a, v_a_batch, v_a_head, v_a_row, of_b, batch, head)
    out_head = _strided(
        out_a, out_a_batch, out_a_head, out_a_row, out_b, out_b_batch, out_b_head, out_b_row, of_b, batch, head
    )
    grad_head = _strided(
        grad_a, grad_a_batch, grad_a_head, grad_a_row, grad_b, grad_b_batch, grad_b_head, grad_b_row, of_b, batch, head
    )
    padding = _padding(
        mask_b, mask_b_batch, mask_b_key, mask_b_length, mask_a, mask_a_batch, mask_a_key, mask_a_length, of_b, batch
    )
    row = batch * heads + head
    dropout = (threshold, seed_low, seed_high, row, of_b)
    sizes = (others, width, scale)

    queries = first + tl.arange(0, BLOCK)
    q_at = (q_head, queries, length)
    q = _load(q_head, queries, length, width, BLOCK_D)
    grad_out_at = (grad_head, queries, length)
    grad_out = _load(grad_head, queries, length, width, BLOCK_D)
    out = _load(out_head, queries, length, width, BLOCK_D)
    delta = tl.sum(grad_out.to(tl.float32) * out.to(tl.float32), 1)
    tl.store(tl.where(of_b, deltas_b, deltas_a) + row * length + queries, delta, queries < length)
    log = tl.load(tl.where(of_b, logs_b, logs_a) + row * length + queries, queries < length, other=float("inf"))

    grad_q = tl.zeros((BLOCK, BLOCK_D), tl.float32)
    whole = others // WALK * WALK if TAIL < WALK else 0
    if TAIL < WALK:
        for start in tl.range(0, whole, WALK, num_stages=2):
            grad_q = _query_gradient(
                grad_q, q, q_at, grad_out, grad_out_at, log, delta, k_head, v_head, padding, start, sizes, dropout,
                keep_scale, WALK, BLOCK_D,
            )  # fmt: skip
    for start in tl.range(whole, others, TAIL, num_stages=1 if TAIL < WALK else 2):
        grad_q = _query_gradient(
            grad_q, q, q_at, grad_out, grad_out_at, log, delta, k_head, v_head, padding, start, sizes, dropout,
            keep_scale, TAIL, BLOCK_D,
        )  # fmt: skip
    grad_q *= scale * _LN2
    grad_q_head = _merged(grad_q_a, grad_q_b, of_b, batch, head, heads, length, width)
    _store(grad_q_head, queries, length, width, BLOCK_D, grad_q)


@device
def _key_gradients(
    grad_k, grad_v, k, k_at, v, v_at, is_key, q_head, grad_head, logs, deltas, first, start, sizes, dropout, keep_scale,
    KEYS: tl.constexpr, QUERIES: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """grad_k and grad_v with what some queries add to them; weights are (KEYS, QUERIES)."""
    length, width, scale = sizes
    queries = start + tl.arange(0, QUERIES)
    q = _load(q_head, queries, length, width, BLOCK_D)
    grad_out = _load(grad_head, queries, length, width, BLOCK_D)
    log = tl.load(logs + queries, queries < length, other=float("inf"))
    delta = tl.load(deltas + queries, queries < length, other=0.0)
    scores = _products(k, k_at, q, (q_head, queries, length), width, BLOCK_D) * scale
    scores = tl.where(is_key[:, None], scores, -float("inf"))
    weights = tl.exp2(scores - log[None, :])
    kept = weights
    grad_weights = _products(v, v_at, grad_out, (grad_head, queries, length), width, BLOCK_D)
    if dropout[0] > 0:
        keep = tl.trans(_keep(queries, first, dropout, KEYS))
        grad_weights = tl.where(keep, grad_weights, 0.0)
        kept = tl.where(keep, weights, 0.0)
    grad_scores = weights * (grad_weights * keep_scale - delta[None, :])
    return grad_k + _dot(grad_scores, q), grad_v + _dot(kept, grad_out)


@kernel
def cross_attention_backward_key_kernel(
    q_a, q_a_batch, q_a_head, q_a_row, k_a, k_a_batch, k_a_head, k_a_row, v_a, v_a_batch, v_a_head, v_a_row,
    q_b, q_b_batch, q_b_head, q_b_row, k_b, k_b_batch, k_b_head, k_b_row, v_b, v_b_batch, v_b_head, v_b_row,
    mask_a, mask_a_batch, mask_a_key, mask_a_length, mask_b, mask_b_batch, mask_b_key, mask_b_length,
    heads, length_a, length_b, width, scale, threshold, keep_scale, seed_low, seed_high, logs_a, logs_b,
    grad_a, grad_a_batch, grad_a_head, grad_a_row, grad_b, grad_b_batch, grad_b_head, grad_b_row,
    deltas_a, deltas_b, grad_k_a, grad_k_b, grad_v_a, grad_v_b,
    BLOCK: tl.constexpr, WALK: tl.constexpr, TAIL: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """grad_k and grad_v, by program of a block of keys."""
    first, of_b, batch, head = _locate(length_a, length_b, heads, BLOCK)
    length, others = tl.where(of_b, length_b, length_a), tl.where(of_b, length_a, length_b)
    k_head = _strided(k_a, k_a_batch, k_a_head, k_a_row, k_b, k_b_batch, k_b_head, k_b_row, of_b, batch, head)
    v_head = _strided(v_a, v_a_batch, v_a_head, v_a_row, v_b, v_b_batch, v_b_head, v_b_row, of_b, batch, head)
    q_head = _strided(q_b, q_b_batch, q_b_head, q_b_row, q_a, q_a_batch, q_a_head, q_a_row, of_b, batch, head)
    grad_head = _strided(
        grad_b, grad_b_batch, grad_b_head, grad_b_row, grad_a, grad_a_batch, grad_a_head, grad_a_row, of_b, batch, head
    )
    padding = _padding(
        mask_a, mask_a_batch, mask_a_key, mask_a_length, mask_b, mask_b_batch, mask_b_key, mask_b_length, of_b, batch
    )
    row = batch * heads + head
    dropout = (threshold, seed_low, seed_high, row, of_b == 0)
    sizes = (others, width, scale)

    keys = first + tl.arange(0, BLOCK)
    k_at, v_at = (k_head, keys, length), (v_head, keys, length)
    k, v = _load(k_head, keys, length, width, BLOCK_D), _load(v_head, keys, length, width, BLOCK_D)
    is_key = _visible(padding, keys, length)
    logs = tl.where(of_b, logs_a, logs_b) + row * others
    deltas = tl.where(of_b, deltas_a, deltas_b) + row * others
    grad_k, grad_v = tl.zeros((BLOCK, BLOCK_D), tl.float32), tl.zeros((BLOCK, BLOCK_D), tl.float32)
    whole = others // WALK * WALK if TAIL < WALK else 0
    if TAIL < WALK:
        for start in tl.range(0, whole, WALK, num_stages=2):
            grad_k, grad_v = _key_gradients(
                grad_k, grad_v, k, k_at, v, v_at, is_key, q_head, grad_head, logs, deltas, first, start, sizes, dropout,
                keep_scale, BLOCK, WALK, BLOCK_D,
            )  # fmt: skip
    for start in tl.range(whole, others, TAIL, num_stages=1 if TAIL < WALK else 2):
        grad_k, grad_v = _key_gradients(
            grad_k, grad_v, k, k_at, v, v_at, is_key, q_head, grad_head, logs, deltas, first, start, sizes, dropout,
            keep_scale, BLOCK, TAIL, BLOCK_D,
        )  # fmt: skip
    grad_k *= scale * _LN2
    grad_v *= keep_scale
    _store(_merged(grad_k_a, grad_k_b, of_b, batch, head, heads, length, width), keys, length, width, BLOCK_D, grad_k)
    _store(_merged(grad_v_a, grad_v_b, of_b, batch, head, heads, length, width), keys, length, width, BLOCK_D, grad_v)
