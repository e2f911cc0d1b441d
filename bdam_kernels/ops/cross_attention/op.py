"""Bidirectional cross-attention: schema and the public function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bdam_kernels import dispatch
from bdam_kernels.operators import operator
from bdam_kernels.ops.arguments import cast, unit_strides
from bdam_kernels.ops.cross_attention import plan, reference
from bdam_kernels.ops.cross_attention.form import (
    INPUTS,
    OPTIONS,
    attend,
    empty_gradients,
    empty_heads_last,
    fake_gradients,
    form,
    kernel_options,
)
from bdam_kernels.ops.cross_attention.roles import Masks, Pair, Streams
from bdam_kernels.ops.cross_attention.saved import empty_saved, logs_of, most_saved_keys


def _empty_outputs(q_a: Tensor, k_a: Tensor, v_a: Tensor, q_b: Tensor, *others: Any) -> tuple[Any, ...]:
    """Of the operator's arguments: both outputs and what backward wants."""
    *_, save, backend = others
    return empty_heads_last(q_a), empty_heads_last(q_b), empty_saved(q_a, q_b, save, backend)


@operator(
    f"cross_attention_forward({INPUTS}, {OPTIONS}, bool save, str backend) "
    "-> (Tensor out_a, Tensor out_b, Tensor saved)",
    fake=_empty_outputs,
)
def _forward(
    q_a: Tensor, k_a: Tensor, v_a: Tensor, q_b: Tensor, k_b: Tensor, v_b: Tensor, mask_a: Tensor | None,
    mask_b: Tensor | None, scale: float, threshold: int, seed: Tensor | None, save: bool, backend: str,
) -> tuple[Any, ...]:  # fmt: skip
    out_a, out_b, saved = results = _empty_outputs(q_a, k_a, v_a, q_b, save, backend)
    options = kernel_options(scale, threshold, seed)
    if backend == "cpu":
        dispatch.cpu().cross_attention_forward(
            *unit_strides(q_a, k_a, v_a, q_b, k_b, v_b), mask_a, mask_b, out_a, out_b, saved,
            most_saved_keys(q_a.shape[3]), *options, torch.get_num_threads(),
        )  # fmt: skip
    else:
        plan.forward(
            backend,
            Streams(q_a, k_a, v_a, q_b, k_b, v_b),
            Masks(mask_a, mask_b),
            outs=Pair(out_a, out_b),
            logs=logs_of(saved, q_a, q_b) if save else (None, None),
            options=options,
        )
    return results


@operator(
    f"cross_attention_backward({INPUTS}, Tensor saved, Tensor? out_a, Tensor? out_b, Tensor grad_out_a, "
    f"Tensor grad_out_b, {OPTIONS}, str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    fake=fake_gradients,
)
def _backward(
    q_a: Tensor, k_a: Tensor, v_a: Tensor, q_b: Tensor, k_b: Tensor, v_b: Tensor, mask_a: Tensor | None,
    mask_b: Tensor | None, saved: Tensor, out_a: Any, out_b: Any, grad_a: Tensor, grad_b: Tensor,
    scale: float, threshold: int, seed: Tensor | None, backend: str,
) -> list[Tensor]:  # fmt: skip
    inputs = unit_strides(q_a, k_a, v_a, q_b, k_b, v_b)
    grads = empty_gradients(inputs, backend)
    grad_a, grad_b = unit_strides(cast(grad_a, q_a.dtype), cast(grad_b, q_a.dtype))
    options = kernel_options(scale, threshold, seed)
    if backend == "cpu":
        dispatch.cpu().cross_attention_backward(
            *inputs, mask_a, mask_b, saved, most_saved_keys(q_a.shape[3]), grad_a, grad_b, *grads, *options,
            torch.get_num_threads(),
        )  # fmt: skip
    else:
        plan.backward(
            backend,
            Streams(*inputs),
            Masks(mask_a, mask_b),
            outs=Pair(out_a, out_b),
            logs=logs_of(saved, q_a, q_b),
            grad_outs=Pair(grad_a, grad_b),
            grads=Streams(*grads),
            options=options,
        )
    return grads


by_kernels = form(_forward, _backward, reference.bidirectional_cross_attention, pooled=False)


def bidirectional_cross_attention(
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
    """Cross-attention of two streams in both directions at once.

    out_a = softmax(scale q_a k_b^T) v_b and out_b = softmax(scale q_b k_a^T) v_a.

    Args:
        q_a, k_a, v_a: stream a, (B, H, La, d), any strides; float16, bfloat16, float32 or float64, all of one dtype
            (under autocast, cast to its dtype).
        q_b, k_b, v_b: stream b, (B, H, Lb, d).
        key_padding_mask_a, key_padding_mask_b: (B, La), (B, Lb) bool, True where the stream's key is padding. A query
            that has padding only gets 0 and no gradient.
        dropout_p: probability of dropping an attention weight, in steps of 2^-16; 0 <= dropout_p < 1. The weights
            are drawn from torch's default generator.
        scale: 1/sqrt(d) if None.
        backend: see `bdam_kernels.backends`; None takes the best that runs.
    Returns: out_a (B, H, La, d), out_b (B, H, Lb, d) in the inputs' dtype; from a kernel, out.transpose(1, 2) is
        contiguous.
    Raises: ValueError for shapes or a dropout_p that do not fit; TypeError for dtypes that differ or are not floating
        point; BackendUnavailable if a forced backend cannot run.
    """
    streams, masks = Streams(q_a, k_a, v_a, q_b, k_b, v_b), Masks(key_padding_mask_a, key_padding_mask_b)
    return attend(by_kernels, reference.bidirectional_cross_attention, streams, masks, dropout_p, scale, backend)
