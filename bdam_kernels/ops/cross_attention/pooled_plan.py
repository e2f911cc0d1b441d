"""Cross-attention's pooled form on a GPU: what its kernels are given, beside `cross_attention_gpu`.

CUDA and Triton have the same two functions, `pooled_cross_attention_forward` and `pooled_cross_attention_backward`.
What is pooled is (B, H, d), dense; of a direction's queries and the keys that they look at, there are, in float32,

    key_weights  mean weight of a key after dropout, (B, H, keys)
    logs         as the unpooled form has them, (B, H, queries)
    key_grads    product of a key's value and the upstream gradient, (B, H, keys)
    deltas       sum of a query's weights after dropout times their keys' key_grads, (B, H, queries)

of which the last two are backward's workspace, scaled as a backend likes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bdam_kernels import dispatch
from bdam_kernels.ops.cross_attention.plan import Masks, Options, Tensors, copy_back, whole_rows_like, with_whole_rows


def forward(
    backend: str, inputs: Tensors, masks: Masks, pooled: Tensors, key_weights: Tensors, logs: Tensors, options: Options
) -> None:
    """Fills pooled, key_weights and logs."""
    kernels = dispatch.gpu_module(backend, "cross_attention.triton_pooled_launches")
    with dispatch.on_device_of(pooled[0]):
        rows = [with_whole_rows(t) for t in inputs]
        written = [_of_width(t, rows[0].shape[3]) for t in pooled]
        dispatch.launch(
            kernels.pooled_cross_attention_forward, *rows, *masks, *written, *key_weights, *logs, *options
        )
        copy_back(written, pooled)


def backward(
    backend: str, inputs: Tensors, masks: Masks, key_weights: Tensors, logs: Tensors, grad_pooled: Tensors,
    grads: Tensors, options: Options,
) -> None:  # fmt: skip
    """Fills grads, of the six inputs."""
    kernels = dispatch.gpu_module(backend, "cross_attention.triton_pooled_launches")
    with dispatch.on_device_of(grads[0]):
        rows = [with_whole_rows(t) for t in inputs]
        grad_rows = [with_whole_rows(t.contiguous()) for t in grad_pooled]
        workspace = [torch.empty_like(t) for t in (*key_weights, *logs)]
        written = [whole_rows_like(t) for t in grads]
        dispatch.launch(
            kernels.pooled_cross_attention_backward, *rows, *masks, *key_weights, *logs, *grad_rows, *workspace,
            *written, *options,
        )  # fmt: skip
        copy_back(written, grads)


def _of_width(pooled: Tensor, width: int) -> Tensor:
    return pooled if pooled.shape[2] == width else pooled.new_empty(*pooled.shape[:2], width)
