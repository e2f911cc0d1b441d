"""Bidirectional cross-attention, averaged over its queries: schema, autograd and the public function."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from bdam_kernels import backend as backends
from bdam_kernels import reference
from bdam_kernels.autograd import reference_gradients, wants_double_backward
from bdam_kernels.ops import cross_attention as unpooled
from bdam_kernels.ops import cross_attention_gpu, pooled_cross_attention_gpu

_SAVED = f"Tensor key_weights_a, Tensor key_weights_b, {unpooled._SAVED}"
torch.library.define(
    "bdam::pooled_cross_attention_forward",
    f"({unpooled._INPUTS}, {unpooled._OPTIONS}, bool save, str backend) -> (Tensor out_a, Tensor out_b, {_SAVED})",
)
torch.library.define(
    "bdam::pooled_cross_attention_backward",
    f"({unpooled._INPUTS}, {_SAVED}, Tensor grad_out_a, Tensor grad_out_b, {unpooled._OPTIONS}, str backend) "
    "-> Tensor[]",
)

_reference = partial(unpooled._reference, function=reference.pooled_bidirectional_cross_attention)


def _as_query(pooled: Tensor) -> Tensor:
    """(B, H, d) as the single query that the kernels take it for."""
    return unpooled._unit_stride(pooled).unsqueeze(2)


@torch.library.impl("bdam::pooled_cross_attention_forward", ("cpu", "cuda"))
def _pooled_cross_attention_forward(*args: Any) -> tuple[Tensor, ...]:
    *inputs, mask_a, mask_b, scale, dropout_threshold, seed, _, backend = args
    results = _pooled_cross_attention_forward_fake(*args)
    outs, key_weights, saved = results[:2], results[2:4], results[4:]
    options = unpooled._kernel_options(scale, dropout_threshold, seed)
    if backend == "cpu":
        tensors = (*map(unpooled._unit_stride, inputs), mask_a, mask_b, *map(_as_query, outs), *key_weights, *saved)
        backends.cpu().pooled_cross_attention_forward(*unpooled._native(tensors), *options)
    else:
        pooled_cross_attention_gpu.forward(
            backend, inputs, (mask_a, mask_b), outs, key_weights, saved[2:], options[:3]
        )  # fmt: skip
    return results


@torch.library.register_fake("bdam::pooled_cross_attention_forward")
def _pooled_cross_attention_forward_fake(*args: Any) -> tuple[Tensor, ...]:
    """Both outputs, the mean weight of every key, (B, H, keys), and what `cross_attention_forward` saves."""
    q_a, k_a, _, q_b, k_b, *_, save, backend = args
    # A GPU's kernels hand the logarithms of sums on from queries to keys.
    saved = unpooled._saved(q_a, k_a, q_b, k_b, save or backend != "cpu", backend)
    return (
        *(q.new_empty(*q.shape[:2], q.shape[3]) for q in (q_a, q_b)),
        *(k.new_empty(k.shape[:3], dtype=torch.float32) for k in (q_b, q_a)),
        *saved,
    )


@torch.library.impl("bdam::pooled_cross_attention_backward", ("cpu", "cuda"))
def _pooled_cross_attention_backward(*args: Any) -> list[Tensor]:
    inputs, masks, saved, grad_outs, backend = args[:6], args[6:8], args[8:14], args[14:16], args[19]
    options = unpooled._kernel_options(*args[16:19])
    results = _pooled_cross_attention_backward_fake(*args)
    grads = [grad.to(inputs[0].dtype) for grad in grad_outs]
    if backend == "cpu":
        tensors = (*map(unpooled._unit_stride, inputs), *masks, *saved, *map(_as_query, grads), *results)
        backends.cpu().pooled_cross_attention_backward(*unpooled._native(tensors), *options)
    else:
        key_weights, logs = saved[:2], saved[4:]
        pooled_cross_attention_gpu.backward(
            backend, inputs, masks, key_weights, logs, grads, results, options[:3]
        )  # fmt: skip
    return results


@torch.library.register_fake("bdam::pooled_cross_attention_backward")
def _pooled_cross_attention_backward_fake(*args: Any) -> list[Tensor]:
    """The gradients of the six inputs, in order."""
    return unpooled._cross_attention_backward_fake(*args)


class _PooledCrossAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *args):  # type: ignore[no-untyped-def]
        *inputs, scale, dropout_threshold, seed, ctx.backend = args
        out_a, out_b, *saved = torch.ops.bdam.pooled_cross_attention_forward(*args[:-1], True, ctx.backend)
        ctx.options = (scale, dropout_threshold)
        ctx.save_for_backward(*inputs, seed, *saved)
        return out_a, out_b

    @staticmethod
    def backward(ctx, *grad_outs):  # type: ignore[no-untyped-def]
        *inputs, mask_a, mask_b, seed = ctx.saved_tensors[:9]
        saved = ctx.saved_tensors[9:]
        options = (*ctx.options, seed)
        if wants_double_backward():
            grads = reference_gradients(
                lambda *tensors: _reference(tensors, mask_a, mask_b, *options), inputs, grad_outs
            )
        else:
            grads = torch.ops.bdam.pooled_cross_attention_backward(
                *inputs, mask_a, mask_b, *saved, *grad_outs, *options, ctx.backend
            )
        return *grads, None, None, None, None, None, None


def pooled_bidirectional_cross_attention(
    q_a: Tensor,
    k_a: Tensor,
    v_a: Tensor,
    q_b: Tensor,
    k_b: Tensor,
    v_b: Tensor,
    *,
    key_padding_mask_a: Tensor | None = None,
    key_padding_mask_b: Tensor | None = None,
    dropout_p: float = 0.0,
    scale: float | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """The means over queries of what `bidirectional_cross_attention` returns, without an output for any query.

    mean_i (P V)_i = (mean_i P_i) V: the weights are averaged over all queries, and then weigh the values once.

    Args: as `bidirectional_cross_attention`, and for the same state of torch's generator dropout drops the same
        weights. Every query counts, padding or not: the masks hide keys. A query that has padding only counts as 0.
    Returns: pooled_a, pooled_b (B, H, d) in the inputs' dtype; 0 for a stream without queries.
    Raises: as `bidirectional_cross_attention`.
    """
    inputs: tuple[Tensor, ...] = (q_a, k_a, v_a, q_b, k_b, v_b)
    masks = (key_padding_mask_a, key_padding_mask_b)
    inputs = unpooled._validated(inputs, masks)
    if scale is None:
        scale = max(q_a.shape[3], 1) ** -0.5
    options = (*masks, scale, *unpooled._draw_dropout(dropout_p))

    kernels = {"cpu": backends.dtype_reason(inputs[0]), **cross_attention_gpu.reasons(inputs[0])}
    chosen = backends.choose(backend, q_a.device, kernels)
    if chosen == "reference" or any(t.numel() == 0 for t in inputs):
        return _reference(inputs, *options)
    if torch.is_grad_enabled() and any(t.requires_grad for t in inputs):
        return _PooledCrossAttention.apply(*inputs, *options, chosen)
    pooled_a, pooled_b, *_ = torch.ops.bdam.pooled_cross_attention_forward(*inputs, *options, False, chosen)
    return pooled_a, pooled_b
