"""Bidirectional cross-attention, averaged over its queries: schema and the public function.

The operators are the CPU's. On a GPU kernels of their own gained nothing but memory over the unpooled form's and a
mean, which run there instead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bdam_kernels import dispatch
from bdam_kernels.autograd import apply, is_differentiated
from bdam_kernels.operators import operator
from bdam_kernels.ops.arguments import cast, unit_strides
from bdam_kernels.ops.cross_attention import op, reference
from bdam_kernels.ops.cross_attention.form import (
    INPUTS,
    OPTIONS,
    Dropout,
    Outputs,
    attend,
    fake_gradients,
    form,
    kernel_options,
)
from bdam_kernels.ops.cross_attention.roles import Masks, Streams
from bdam_kernels.ops.cross_attention.saved import empty_saved, most_saved_keys


def _empty_outputs(q_a: Tensor, k_a: Tensor, v_a: Tensor, q_b: Tensor, *others: Any) -> tuple[Tensor, Tensor, Any]:
    """Of the operator's arguments: both outputs and what backward wants."""
    batch, heads, _, width = q_a.shape
    saved = empty_saved(q_a, q_b, others[-1], "cpu", pooled=True)
    return q_a.new_empty(batch, heads, width), q_a.new_empty(batch, heads, width), saved


@operator(
    f"pooled_cross_attention_forward({INPUTS}, {OPTIONS}, bool save) -> (Tensor out_a, Tensor out_b, Tensor saved)",
    fake=_empty_outputs,
    devices=["cpu"],
)
def _forward(
    q_a: Tensor, k_a: Tensor, v_a: Tensor, q_b: Tensor, k_b: Tensor, v_b: Tensor, mask_a: Tensor | None,
    mask_b: Tensor | None, scale: float, threshold: int, seed: Tensor | None, save: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    out_a, out_b, saved = results = _empty_outputs(q_a, k_a, v_a, q_b, save)
    dispatch.cpu().pooled_cross_attention_forward(
        *unit_strides(q_a, k_a, v_a, q_b, k_b, v_b), mask_a, mask_b, out_a, out_b, saved,
        most_saved_keys(q_a.shape[3]), save, *kernel_options(scale, threshold, seed), torch.get_num_threads(),
    )  # fmt: skip
    return results


def _fake_gradients(*args: Any) -> list[Tensor]:
    return fake_gradients(*args, "cpu")


@operator(
    f"pooled_cross_attention_backward({INPUTS}, Tensor saved, Tensor grad_out_a, Tensor grad_out_b, {OPTIONS}) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    fake=_fake_gradients,
    devices=["cpu"],
)
def _backward(
    q_a: Tensor, k_a: Tensor, v_a: Tensor, q_b: Tensor, k_b: Tensor, v_b: Tensor, mask_a: Tensor | None,
    mask_b: Tensor | None, saved: Tensor, grad_a: Tensor, grad_b: Tensor, scale: float, threshold: int,
    seed: Tensor | None,
) -> list[Tensor]:  # fmt: skip
    inputs = unit_strides(q_a, k_a, v_a, q_b, k_b, v_b)
    grads = _fake_gradients(*inputs)
    grad_a, grad_b = unit_strides(cast(grad_a, q_a.dtype), cast(grad_b, q_a.dtype))
    dispatch.cpu().pooled_cross_attention_backward(
        *inputs, mask_a, mask_b, saved, most_saved_keys(q_a.shape[3]), grad_a, grad_b, *grads,
        *kernel_options(scale, threshold, seed), torch.get_num_threads(),
    )  # fmt: skip
    return grads


_by_cpu_kernels = form(_forward, _backward, reference.pooled_bidirectional_cross_attention, pooled=True)


class QueryMean(torch.autograd.Function):
    """The mean over queries of (B, H, L, d). Its gradient is one row for all queries, of which torch's own mean makes
    as many copies."""

    generate_vmap_rule = True

    @staticmethod
    def forward(out):  # type: ignore[no-untyped-def]
        return out.mean(2)

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        ctx.queries = inputs[0].shape[2]

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return (grad / ctx.queries).unsqueeze(2).expand(-1, -1, ctx.queries, -1)


def _by_kernels(streams: Streams, masks: Masks, scale: float, dropout: Dropout, backend: str) -> Outputs:
    if backend == "cpu":
        return _by_cpu_kernels(streams, masks, scale, dropout)
    out_a, out_b = op.by_kernels(streams, masks, scale, dropout, backend)
    return _query_mean(out_a), _query_mean(out_b)


def _query_mean(out: Tensor) -> Tensor:
    return apply(QueryMean, out) if is_differentiated([out]) else out.mean(2)


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
    """The means over queries of what `bidirectional_cross_attention` returns.

    On the CPU without an output for any query: mean_i (P V)_i = (mean_i P_i) V, the weights are averaged over all
    queries and then weigh the values once.

    Args: as `bidirectional_cross_attention`, and for the same state of torch's generator dropout drops the same
        weights. Every query counts, padding or not: the masks hide keys. A query that has padding only counts as 0.
    Returns: pooled_a, pooled_b (B, H, d) in the inputs' dtype; 0 for a stream without queries.
    Raises: as `bidirectional_cross_attention`.
    """
    streams, masks = Streams(q_a, k_a, v_a, q_b, k_b, v_b), Masks(key_padding_mask_a, key_padding_mask_b)
    formula = reference.pooled_bidirectional_cross_attention
    return attend(_by_kernels, formula, streams, masks, dropout_p, scale, backend)
