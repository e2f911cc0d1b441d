"""Bidirectional cross-attention, averaged over its queries: schema, autograd and the public function."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from bdam_kernels import dispatch
from bdam_kernels.autograd import reference_gradients, wants_double_backward
from bdam_kernels.operators import differentiable, is_differentiated, operator
from bdam_kernels.ops.arguments import cast, unit_stride
from bdam_kernels.ops.cross_attention import op as unpooled
from bdam_kernels.ops.cross_attention import pooled_plan, reference
from bdam_kernels.ops.cross_attention.op import (
    empty_gradients,
    empty_saved,
    kernel_options,
    most_saved_keys,
    parts_of_saved,
)

_reference = partial(unpooled._reference, function=reference.pooled_bidirectional_cross_attention)


def _empty_outputs(q_a: Tensor, k_a: Tensor, _v_a: Tensor, q_b: Tensor, *others: Any) -> tuple[Tensor, Tensor, Any]:
    """Of forward's arguments: both outputs and what backward wants."""
    *_, save, backend = others
    batch, heads, _, width = q_a.shape
    # A GPU's kernels hand the logarithms of sums on from queries to keys.
    saved = empty_saved(q_a, q_b, save or backend != "cpu", backend, pooled=True)
    return q_a.new_empty(batch, heads, width), q_a.new_empty(batch, heads, width), saved


@operator(
    f"pooled_cross_attention_forward({unpooled._INPUTS}, {unpooled._OPTIONS}, bool save, str backend) "
    "-> (Tensor out_a, Tensor out_b, Tensor saved)",
    fake=_empty_outputs,
)
def _forward(
    q_a: Tensor, k_a: Tensor, v_a: Tensor, q_b: Tensor, k_b: Tensor, v_b: Tensor, mask_a: Tensor | None,
    mask_b: Tensor | None, scale: float, threshold: int, seed: Tensor | None, save: bool, backend: str,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    out_a, out_b, saved = results = _empty_outputs(q_a, k_a, v_a, q_b, save, backend)
    options = kernel_options(scale, threshold, seed)
    if backend == "cpu":
        dispatch.cpu().pooled_cross_attention_forward(
            unit_stride(q_a), unit_stride(k_a), unit_stride(v_a), unit_stride(q_b), unit_stride(k_b),
            unit_stride(v_b), mask_a, mask_b, out_a, out_b, saved, most_saved_keys(q_a.shape[3]), save, *options,
            torch.get_num_threads(),
        )  # fmt: skip
    else:
        inputs, masks = (q_a, k_a, v_a, q_b, k_b, v_b), (mask_a, mask_b)
        *logs, keys_a, keys_b = parts_of_saved(saved, q_a, q_b, pooled=True)
        pooled_plan.forward(backend, inputs, masks, (out_a, out_b), (keys_a, keys_b), logs, options)
    return results


@operator(
    f"pooled_cross_attention_backward({unpooled._INPUTS}, Tensor saved, Tensor grad_out_a, Tensor grad_out_b, "
    f"{unpooled._OPTIONS}, str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    fake=empty_gradients,
)
def _backward(
    q_a: Tensor, k_a: Tensor, v_a: Tensor, q_b: Tensor, k_b: Tensor, v_b: Tensor, mask_a: Tensor | None,
    mask_b: Tensor | None, saved: Tensor, grad_a: Tensor, grad_b: Tensor, scale: float, threshold: int,
    seed: Tensor | None, backend: str,
) -> list[Tensor]:  # fmt: skip
    inputs = [unit_stride(t) for t in (q_a, k_a, v_a, q_b, k_b, v_b)]
    results = [torch.empty_like(t) for t in inputs]
    grad_a, grad_b = unit_stride(cast(grad_a, q_a.dtype)), unit_stride(cast(grad_b, q_a.dtype))
    options = kernel_options(scale, threshold, seed)
    if backend == "cpu":
        dispatch.cpu().pooled_cross_attention_backward(
            *inputs, mask_a, mask_b, saved, most_saved_keys(q_a.shape[3]), grad_a, grad_b, *results, *options,
            torch.get_num_threads(),
        )  # fmt: skip
    else:
        *logs, keys_a, keys_b = parts_of_saved(saved, q_a, q_b, pooled=True)
        pooled_plan.backward(
            backend, inputs, (mask_a, mask_b), (keys_a, keys_b), logs, (grad_a, grad_b),
            results, options,
        )  # fmt: skip
    return results


class _PooledCrossAttention(torch.autograd.Function):
    generate_vmap_rule = True

    forward = staticmethod(_forward)

    @staticmethod
    def setup_context(ctx, args, results):  # type: ignore[no-untyped-def]
        *inputs, scale, threshold, seed, _, backend = args
        ctx.options = scale, threshold, backend
        ctx.save_for_backward(*inputs, seed, results[2])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad_a, grad_b, *_):  # type: ignore[no-untyped-def]
        q_a, k_a, v_a, q_b, k_b, v_b, mask_a, mask_b, seed, *saved = ctx.saved_tensors
        scale, threshold, backend = ctx.options
        inputs, options = (q_a, k_a, v_a, q_b, k_b, v_b), (scale, threshold, seed)
        if wants_double_backward():
            grads = reference_gradients(
                lambda *tensors: _reference(tensors, mask_a, mask_b, *options),
                inputs,
                (grad_a, grad_b),
                ctx.needs_input_grad,
            )
        else:
            grad_a = torch.zeros_like(q_a[:, :, 0]) if grad_a is None else grad_a
            grad_b = torch.zeros_like(q_b[:, :, 0]) if grad_b is None else grad_b
            grads = _backward(*inputs, mask_a, mask_b, *saved, grad_a, grad_b, *options, backend)
        return *grads, None, None, None, None, None, None, None


_differentiable_forward = differentiable(_PooledCrossAttention, outputs=2)


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
    inputs, masks = (q_a, k_a, v_a, q_b, k_b, v_b), (key_padding_mask_a, key_padding_mask_b)
    inputs, scale, threshold, seed, chosen = unpooled.prepared(inputs, masks, dropout_p, scale, backend)
    if chosen == "reference":
        return _reference(inputs, *masks, scale, threshold, seed)
    differentiated = is_differentiated(inputs)
    run = _differentiable_forward if differentiated else _forward
    pooled_a, pooled_b, *_ = run(*inputs, *masks, scale, threshold, seed, differentiated, chosen)
    return pooled_a, pooled_b
