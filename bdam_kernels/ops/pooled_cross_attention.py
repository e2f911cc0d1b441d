"""Bidirectional cross-attention, averaged over its queries: schema, autograd and the public function."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from bdam_kernels import backend as backends
from bdam_kernels import reference
from bdam_kernels.autograd import reference_gradients, wants_double_backward
from bdam_kernels.operators import differentiable, is_differentiated, operator
from bdam_kernels.ops import cross_attention as unpooled
from bdam_kernels.ops import pooled_cross_attention_gpu
from bdam_kernels.ops.arguments import cast, unit_stride
from bdam_kernels.ops.cross_attention import empty_gradients, empty_saved, kernel_options

_SAVED = f"Tensor key_weights_a, Tensor key_weights_b, {unpooled._SAVED}"
_reference = partial(unpooled._reference, function=reference.pooled_bidirectional_cross_attention)


def _empty_outputs(q_a: Tensor, k_a: Tensor, _v_a: Tensor, q_b: Tensor, k_b: Tensor, *others: Any) -> tuple[Any, ...]:
    """Of forward's arguments: both outputs, the mean weight of every key, (B, H, keys), and what
    `cross_attention_forward` saves."""
    *_, save, backend = others
    batch, heads, length_a, width = q_a.shape
    length_b = q_b.shape[2]
    return (
        q_a.new_empty(batch, heads, width),
        q_a.new_empty(batch, heads, width),
        q_a.new_empty(batch, heads, length_b, dtype=torch.float32),
        q_a.new_empty(batch, heads, length_a, dtype=torch.float32),
        # A GPU's kernels hand the logarithms of sums on from queries to keys.
        *empty_saved(q_a, k_a, q_b, k_b, save or backend != "cpu", backend),
    )


@operator(
    f"pooled_cross_attention_forward({unpooled._INPUTS}, {unpooled._OPTIONS}, bool save, str backend) "
    "-> (Tensor out_a, Tensor out_b, Tensor key_weights_a, Tensor key_weights_b, Tensor probabilities_a, "
    "Tensor probabilities_b, Tensor row_factors_a, Tensor row_factors_b)",
    fake=_empty_outputs,
)
def _forward(
    q_a: Tensor, k_a: Tensor, v_a: Tensor, q_b: Tensor, k_b: Tensor, v_b: Tensor, mask_a: Tensor | None,
    mask_b: Tensor | None, scale: float, threshold: int, seed: Tensor | None, save: bool, backend: str,
) -> tuple[Any, ...]:  # fmt: skip
    results = _empty_outputs(q_a, k_a, v_a, q_b, k_b, v_b, save, backend)
    options = kernel_options(scale, threshold, seed)
    if backend == "cpu":
        out_a, out_b, *saved = results
        backends.cpu().pooled_cross_attention_forward(
            unit_stride(q_a), unit_stride(k_a), unit_stride(v_a), unit_stride(q_b), unit_stride(k_b),
            unit_stride(v_b), mask_a, mask_b, out_a.unsqueeze(2), out_b.unsqueeze(2), *saved, *options,
            torch.get_num_threads(),
        )  # fmt: skip
    else:
        inputs, masks = (q_a, k_a, v_a, q_b, k_b, v_b), (mask_a, mask_b)
        pooled_cross_attention_gpu.forward(backend, inputs, masks, results[:2], results[2:4], results[6:], options)
    return results


@operator(
    f"pooled_cross_attention_backward({unpooled._INPUTS}, {_SAVED}, Tensor grad_out_a, Tensor grad_out_b, "
    f"{unpooled._OPTIONS}, str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    fake=empty_gradients,
)
def _backward(
    q_a: Tensor, k_a: Tensor, v_a: Tensor, q_b: Tensor, k_b: Tensor, v_b: Tensor, mask_a: Tensor | None,
    mask_b: Tensor | None, key_weights_a: Tensor, key_weights_b: Tensor, probabilities_a: Tensor | None,
    probabilities_b: Tensor | None, row_factors_a: Tensor, row_factors_b: Tensor, grad_a: Tensor, grad_b: Tensor,
    scale: float, threshold: int, seed: Tensor | None, backend: str,
) -> list[Tensor]:  # fmt: skip
    results = empty_gradients(q_a, k_a, v_a, q_b)
    grad_a, grad_b = cast(grad_a, q_a.dtype), cast(grad_b, q_a.dtype)
    options = kernel_options(scale, threshold, seed)
    if backend == "cpu":
        backends.cpu().pooled_cross_attention_backward(
            unit_stride(q_a), unit_stride(k_a), unit_stride(v_a), unit_stride(q_b), unit_stride(k_b),
            unit_stride(v_b), mask_a, mask_b, key_weights_a, key_weights_b, probabilities_a, probabilities_b,
            row_factors_a, row_factors_b, unit_stride(grad_a).unsqueeze(2), unit_stride(grad_b).unsqueeze(2),
            *results, *options, torch.get_num_threads(),
        )  # fmt: skip
    else:
        pooled_cross_attention_gpu.backward(
            backend, (q_a, k_a, v_a, q_b, k_b, v_b), (mask_a, mask_b), (key_weights_a, key_weights_b),
            (row_factors_a, row_factors_b), (grad_a, grad_b), results, options,
        )  # fmt: skip
    return results


class _PooledCrossAttention(torch.autograd.Function):
    generate_vmap_rule = True

    forward = staticmethod(_forward)

    @staticmethod
    def setup_context(ctx, args, results):  # type: ignore[no-untyped-def]
        *inputs, scale, threshold, seed, _, backend = args
        ctx.options = scale, threshold, backend
        ctx.save_for_backward(*inputs, seed, *results[2:])
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
