"""Bidirectional cross-attention, averaged over its queries: schema and the public function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bdam_kernels import dispatch
from bdam_kernels.operators import operator
from bdam_kernels.ops.arguments import cast, unit_strides
from bdam_kernels.ops.cross_attention import plan, reference
from bdam_kernels.ops.cross_attention.form import INPUTS, OPTIONS, empty_gradients, fake_gradients, form, kernel_options
from bdam_kernels.ops.cross_attention.roles import Masks, Pair, Streams
from bdam_kernels.ops.cross_attention.saved import empty_saved, most_saved_keys, pooled_parts_of


def _empty_outputs(q_a: Tensor, k_a: Tensor, v_a: Tensor, q_b: Tensor, *others: Any) -> tuple[Tensor, Tensor, Any]:
    """Of the operator's arguments: both outputs and what backward wants."""
    *_, save, backend = others
    batch, heads, _, width = q_a.shape
    # A GPU's kernels hand the logarithms of sums on from queries to keys.
    saved = empty_saved(q_a, q_b, save or backend != "cpu", backend, pooled=True)
    return q_a.new_empty(batch, heads, width), q_a.new_empty(batch, heads, width), saved


@operator(
    f"pooled_cross_attention_forward({INPUTS}, {OPTIONS}, bool save, str backend) "
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
            *unit_strides(q_a, k_a, v_a, q_b, k_b, v_b), mask_a, mask_b, out_a, out_b, saved,
            most_saved_keys(q_a.shape[3]), save, *options, torch.get_num_threads(),
        )  # fmt: skip
    else:
        logs, key_weights = pooled_parts_of(saved, q_a, q_b)
        plan.pooled_forward(
            backend,
            Streams(q_a, k_a, v_a, q_b, k_b, v_b),
            Masks(mask_a, mask_b),
            pooled=Pair(out_a, out_b),
            key_weights=key_weights,
            logs=logs,
            options=options,
        )
    return results


@operator(
    f"pooled_cross_attention_backward({INPUTS}, Tensor saved, Tensor grad_out_a, Tensor grad_out_b, "
    f"{OPTIONS}, str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    fake=fake_gradients,
)
def _backward(
    q_a: Tensor, k_a: Tensor, v_a: Tensor, q_b: Tensor, k_b: Tensor, v_b: Tensor, mask_a: Tensor | None,
    mask_b: Tensor | None, saved: Tensor, grad_a: Tensor, grad_b: Tensor, scale: float, threshold: int,
    seed: Tensor | None, backend: str,
) -> list[Tensor]:  # fmt: skip
    inputs = unit_strides(q_a, k_a, v_a, q_b, k_b, v_b)
    grads = empty_gradients(inputs, backend)
    grad_a, grad_b = unit_strides(cast(grad_a, q_a.dtype), cast(grad_b, q_a.dtype))
    options = kernel_options(scale, threshold, seed)
    if backend == "cpu":
        dispatch.cpu().pooled_cross_attention_backward(
            *inputs, mask_a, mask_b, saved, most_saved_keys(q_a.shape[3]), grad_a, grad_b, *grads, *options,
            torch.get_num_threads(),
        )  # fmt: skip
    else:
        logs, key_weights = pooled_parts_of(saved, q_a, q_b)
        plan.pooled_backward(
            backend,
            Streams(*inputs),
            Masks(mask_a, mask_b),
            key_weights=key_weights,
            logs=logs,
            grad_pooled=Pair(grad_a, grad_b),
            grads=Streams(*grads),
            options=options,
        )
    return grads


_attend = form(_forward, _backward, reference.pooled_bidirectional_cross_attention, pooled=True)


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
    masks = Masks(key_padding_mask_a, key_padding_mask_b)
    return _attend(Streams(q_a, k_a, v_a, q_b, k_b, v_b), masks, dropout_p, scale, backend)
