"""Triton kernels of cross-attention's pooled form, whose mean weights weigh the values once: no product with values.

A program has a block of the queries or keys of one head in one direction, and walks the other stream. All queries give
a weight the same gradient, `key_grads`, the product of its key's value and the upstream gradient; what their mean
divides by comes last, lest it leave float16.
"""

# mypy: disable-error-code="no-untyped-def, assignment"

from __future__ import annotations

import triton.language as tl

from bdam_kernels.ops.cross_attention.triton_device import (
    add_rows,
    add_weighted,
    column_sums,
    dropout_keep,
    load_rows,
    locate,
    log_of,
    merged_head,
    padding_of,
    row_sums,
    scale_rows,
    scores_of_queries,
    softmax_step,
    store_rows,
    strided_head,
    visible,
    weights_of_keys,
    zero_rows,
)
from bdam_kernels.ops.triton_common import LN2, device, kernel


@kernel
def pooled_cross_attention_forward_query_kernel(
    q_a, q_a_batch, q_a_head, q_a_row, k_a, k_a_batch, k_a_head, k_a_row,
    q_b, q_b_batch, q_b_head, q_b_row, k_b, k_b_batch, k_b_head, k_b_row,
    mask_a, mask_a_batch, mask_a_key, mask_a_length, mask_b, mask_b_batch, mask_b_key, mask_b_length,
    heads, length_a, length_b, width, scale, threshold, keep_scale, seed_low, seed_high, logs_a, logs_b,
    BLOCK: tl.constexpr, WALK: tl.constexpr, BLOCK_D: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    """The logarithms of queries' sums of weights."""
    first, of_b, batch, head = locate(length_a, length_b, heads, BLOCK)
    length, others = tl.where(of_b, length_b, length_a), tl.where(of_b, length_a, length_b)
    q_head = strided_head(q_a, q_a_batch, q_a_head, q_a_row, q_b, q_b_batch, q_b_head, q_b_row, of_b, batch, head)
    k_head = strided_head(k_b, k_b_batch, k_b_head, k_b_row, k_a, k_a_batch, k_a_head, k_a_row, of_b, batch, head)
    padding = padding_of(
        mask_b, mask_b_batch, mask_b_key, mask_b_length, mask_a, mask_a_batch, mask_a_key, mask_a_length, of_b, batch
    )
    row = batch * heads + head

    queries = first + tl.arange(0, BLOCK)
    q = load_rows(q_head, queries, length, width, BLOCK_D, REST)
    largest, total = tl.full((BLOCK,), -float("inf"), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for start in tl.range(0, others, WALK, num_stages=2):
        scores, _ = scores_of_queries(
            q, (q_head, queries, length), k_head, padding, start, (others, width, scale), WALK, BLOCK_D, REST
        )
        largest, total, _, _ = softmax_step(largest, total, scores)
    at = tl.where(of_b, logs_b, logs_a) + row * length + queries
    tl.store(at, log_of(largest, total), queries < length)


@kernel
def pooled_cross_attention_forward_key_kernel(
    q_a, q_a_batch, q_a_head, q_a_row, k_a, k_a_batch, k_a_head, k_a_row,
    q_b, q_b_batch, q_b_head, q_b_row, k_b, k_b_batch, k_b_head, k_b_row,
    mask_a, mask_a_batch, mask_a_key, mask_a_length, mask_b, mask_b_batch, mask_b_key, mask_b_length,
    heads, length_a, length_b, width, scale, threshold, keep_scale, seed_low, seed_high,
    logs_a, logs_b, key_weights_a, key_weights_b,
    BLOCK: tl.constexpr, WALK: tl.constexpr, BLOCK_D: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    """The mean weights of keys."""
    first, of_b, batch, head = locate(length_a, length_b, heads, BLOCK)
    length, others = tl.where(of_b, length_b, length_a), tl.where(of_b, length_a, length_b)
    k_head = strided_head(k_a, k_a_batch, k_a_head, k_a_row, k_b, k_b_batch, k_b_head, k_b_row, of_b, batch, head)
    q_head = strided_head(q_b, q_b_batch, q_b_head, q_b_row, q_a, q_a_batch, q_a_head, q_a_row, of_b, batch, head)
    padding = padding_of(
        mask_a, mask_a_batch, mask_a_key, mask_a_length, mask_b, mask_b_batch, mask_b_key, mask_b_length, of_b, batch
    )
    row = batch * heads + head
    dropout = (threshold, seed_low, seed_high, row, of_b == 0)

    keys = first + tl.arange(0, BLOCK)
    k = load_rows(k_head, keys, length, width, BLOCK_D, REST)
    is_key = visible(padding, keys, length)
    logs = tl.where(of_b, logs_a, logs_b) + row * others
    total = tl.zeros((BLOCK, WALK), tl.float32)
    for start in tl.range(0, others, WALK, num_stages=2):
        queries = start + tl.arange(0, WALK)
        weights, _ = weights_of_keys(
            k, (k_head, keys, length), is_key, q_head, logs, queries, (others, width, scale), BLOCK_D, REST
        )
        if threshold > 0:
            weights = tl.where(tl.trans(dropout_keep(queries, first, dropout, BLOCK)), weights, 0.0)
        total += weights
    at = tl.where(of_b, key_weights_a, key_weights_b) + row * length + keys
    tl.store(at, tl.sum(total, 1) * keep_scale / others, keys < length)


@device
def _pooled_head(x, y, second, row, width):
    """Of a dense (B, H, d): a tensor of one row, that row, and the number of rows."""
    vector: tl.constexpr = 128 // x.dtype.element_ty.primitive_bitwidth
    return (tl.multiple_of(tl.where(second, y, x) + row * width * vector, 16), 0), tl.arange(0, 1), 1


@kernel
def pooled_cross_attention_forward_value_kernel(
    v_a, v_a_batch, v_a_head, v_a_row, v_b, v_b_batch, v_b_head, v_b_row, heads, length_a, length_b, width,
    key_weights_a, key_weights_b, pooled_a, pooled_b,
    BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    """The weighted sums of values; a program has all keys of one head in one direction."""
    row, of_b = (tl.program_id(0) // 2).to(tl.int64), tl.program_id(0) % 2 == 1
    length = tl.where(of_b, length_a, length_b)
    v_head = strided_head(
        v_b, v_b_batch, v_b_head, v_b_row, v_a, v_a_batch, v_a_head, v_a_row, of_b, row // heads, row % heads
    )
    key_weights = tl.where(of_b, key_weights_b, key_weights_a) + row * length
    total = zero_rows(BLOCK, BLOCK_D, REST)
    for start in tl.range(0, length, BLOCK, num_stages=2):
        keys = start + tl.arange(0, BLOCK)
        weights = tl.load(key_weights + keys, keys < length, other=0.0)
        v = load_rows(v_head, keys, length, width, BLOCK_D, REST)
        total = add_rows(total, scale_rows(v, weights[:, None], REST), REST)
    store_rows(*_pooled_head(pooled_a, pooled_b, of_b, row, width), width, BLOCK_D, REST, column_sums(total, REST))


@kernel
def pooled_cross_attention_backward_value_kernel(
    v_a, v_a_batch, v_a_head, v_a_row, v_b, v_b_batch, v_b_head, v_b_row, heads, length_a, length_b, width,
    key_weights_a, key_weights_b, grad_a, grad_b, key_grads_a, key_grads_b, grad_v_a, grad_v_b,
    BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    """grad_v, and for the other kernels the gradient of every weight of a key."""
    first, of_b, batch, head = locate(length_a, length_b, heads, BLOCK)
    length = tl.where(of_b, length_b, length_a)
    v_head = strided_head(v_a, v_a_batch, v_a_head, v_a_row, v_b, v_b_batch, v_b_head, v_b_row, of_b, batch, head)
    row = batch * heads + head
    keys = first + tl.arange(0, BLOCK)
    at = row * length + keys
    grad = load_rows(*_pooled_head(grad_b, grad_a, of_b, row, width), width, BLOCK_D, REST)
    key_grads = row_sums(load_rows(v_head, keys, length, width, BLOCK_D, REST), grad, REST)
    tl.store(tl.where(of_b, key_grads_a, key_grads_b) + at, key_grads, keys < length)
    weights = tl.load(tl.where(of_b, key_weights_a, key_weights_b) + at, keys < length, other=0.0)
    grad_v_head = merged_head(grad_v_a, grad_v_b, of_b, batch, head, heads, length, width)
    store_rows(grad_v_head, keys, length, width, BLOCK_D, REST, scale_rows(grad, weights[:, None], REST))


@device
def _weights_and_gradients(
    q, q_at, log, k_head, key_grads, padding, start, sizes, dropout, keep_scale,
    KEYS: tl.constexpr, BLOCK_D: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    """Of queries, (QUERIES, KEYS): weights before dropout and their gradients from dropout; and the keys."""
    keys = start + tl.arange(0, KEYS)
    scores, k = scores_of_queries(q, q_at, k_head, padding, start, sizes, KEYS, BLOCK_D, REST)
    weights = tl.exp2(scores - log[:, None])
    grads = tl.load(key_grads + keys, keys < sizes[0], other=0.0) * keep_scale
    grads = tl.broadcast_to(grads[None, :], weights.shape)
    if dropout[0] > 0:
        grads = tl.where(dropout_keep(q_at[1], start, dropout, KEYS), grads, 0.0)
    return weights, grads, k


@kernel
def pooled_cross_attention_backward_query_kernel(
    q_a, q_a_batch, q_a_head, q_a_row, k_a, k_a_batch, k_a_head, k_a_row,
    q_b, q_b_batch, q_b_head, q_b_row, k_b, k_b_batch, k_b_head, k_b_row,
    mask_a, mask_a_batch, mask_a_key, mask_a_length, mask_b, mask_b_batch, mask_b_key, mask_b_length,
    heads, length_a, length_b, width, scale, threshold, keep_scale, seed_low, seed_high,
    logs_a, logs_b, key_grads_a, key_grads_b, deltas_a, deltas_b, grad_q_a, grad_q_b,
    BLOCK: tl.constexpr, WALK: tl.constexpr, BLOCK_D: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    """grad_q, and for the other kernel delta: the sum of a query's weights times their gradients."""
    first, of_b, batch, head = locate(length_a, length_b, heads, BLOCK)
    length, others = tl.where(of_b, length_b, length_a), tl.where(of_b, length_a, length_b)
    q_head = strided_head(q_a, q_a_batch, q_a_head, q_a_row, q_b, q_b_batch, q_b_head, q_b_row, of_b, batch, head)
    k_head = strided_head(k_b, k_b_batch, k_b_head, k_b_row, k_a, k_a_batch, k_a_head, k_a_row, of_b, batch, head)
    padding = padding_of(
        mask_b, mask_b_batch, mask_b_key, mask_b_length, mask_a, mask_a_batch, mask_a_key, mask_a_length, of_b, batch
    )
    row = batch * heads + head
    dropout = (threshold, seed_low, seed_high, row, of_b)
    sizes = (others, width, scale)

    queries = first + tl.arange(0, BLOCK)
    at = row * length + queries
    q_at = (q_head, queries, length)
    q = load_rows(q_head, queries, length, width, BLOCK_D, REST)
    log = tl.load(tl.where(of_b, logs_b, logs_a) + at, queries < length, other=float("inf"))
    key_grads = tl.where(of_b, key_grads_b, key_grads_a) + row * others
    total = tl.zeros((BLOCK, WALK), tl.float32)
    for start in tl.range(0, others, WALK, num_stages=2):
        weights, grads, _ = _weights_and_gradients(
            q, q_at, log, k_head, key_grads, padding, start, sizes, dropout, keep_scale, WALK, BLOCK_D, REST
        )
        total += weights * grads
    delta = tl.sum(total, 1)
    tl.store(tl.where(of_b, deltas_b, deltas_a) + at, delta, queries < length)

    grad_q = zero_rows(BLOCK, BLOCK_D, REST)
    for start in tl.range(0, others, WALK, num_stages=2):
        weights, grads, k = _weights_and_gradients(
            q, q_at, log, k_head, key_grads, padding, start, sizes, dropout, keep_scale, WALK, BLOCK_D, REST
        )
        grad_q = add_weighted(grad_q, weights * (grads - delta[:, None]), k, REST)
    grad_q_head = merged_head(grad_q_a, grad_q_b, of_b, batch, head, heads, length, width)
    store_rows(grad_q_head, queries, length, width, BLOCK_D, REST, scale_rows(grad_q, scale * LN2 / length, REST))


@kernel
def pooled_cross_attention_backward_key_kernel(
    q_a, q_a_batch, q_a_head, q_a_row, k_a, k_a_batch, k_a_head, k_a_row,
    q_b, q_b_batch, q_b_head, q_b_row, k_b, k_b_batch, k_b_head, k_b_row,
    mask_a, mask_a_batch, mask_a_key, mask_a_length, mask_b, mask_b_batch, mask_b_key, mask_b_length,
    heads, length_a, length_b, width, scale, threshold, keep_scale, seed_low, seed_high,
    logs_a, logs_b, key_grads_a, key_grads_b, deltas_a, deltas_b, grad_k_a, grad_k_b,
    BLOCK: tl.constexpr, WALK: tl.constexpr, BLOCK_D: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    """grad_k."""
    first, of_b, batch, head = locate(length_a, length_b, heads, BLOCK)
    length, others = tl.where(of_b, length_b, length_a), tl.where(of_b, length_a, length_b)
    k_head = strided_head(k_a, k_a_batch, k_a_head, k_a_row, k_b, k_b_batch, k_b_head, k_b_row, of_b, batch, head)
    q_head = strided_head(q_b, q_b_batch, q_b_head, q_b_row, q_a, q_a_batch, q_a_head, q_a_row, of_b, batch, head)
    padding = padding_of(
        mask_a, mask_a_batch, mask_a_key, mask_a_length, mask_b, mask_b_batch, mask_b_key, mask_b_length, of_b, batch
    )
    row = batch * heads + head
    dropout = (threshold, seed_low, seed_high, row, of_b == 0)

    keys = first + tl.arange(0, BLOCK)
    k = load_rows(k_head, keys, length, width, BLOCK_D, REST)
    is_key = visible(padding, keys, length)
    logs = tl.where(of_b, logs_a, logs_b) + row * others
    deltas = tl.where(of_b, deltas_a, deltas_b) + row * others
    at = tl.where(of_b, key_grads_a, key_grads_b) + row * length + keys
    key_grads = tl.load(at, keys < length, other=0.0) * keep_scale
    grad_k = zero_rows(BLOCK, BLOCK_D, REST)
    for start in tl.range(0, others, WALK, num_stages=2):
        queries = start + tl.arange(0, WALK)
        weights, q = weights_of_keys(
            k, (k_head, keys, length), is_key, q_head, logs, queries, (others, width, scale), BLOCK_D, REST
        )
        grads = tl.broadcast_to(key_grads[:, None], weights.shape)
        if threshold > 0:
            grads = tl.where(tl.trans(dropout_keep(queries, first, dropout, BLOCK)), grads, 0.0)
        delta = tl.load(deltas + queries, queries < others, other=0.0)
        grad_k = add_weighted(grad_k, weights * (grads - delta[None, :]), q, REST)
    grad_k_head = merged_head(grad_k_a, grad_k_b, of_b, batch, head, heads, length, width)
    store_rows(grad_k_head, keys, length, width, BLOCK_D, REST, scale_rows(grad_k, scale * LN2 / others, REST))
