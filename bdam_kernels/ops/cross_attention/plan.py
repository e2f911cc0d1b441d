"""Bidirectional cross-attention on a GPU: what its kernels are given.

CUDA and Triton have the same two functions, `cross_attention_forward` and `cross_attention_backward`, which launch for
both directions and all heads at once. What several blocks need of a gradient is summed by one of them in a fixed order
and nothing is added atomically, so results are bit-equal. Forward saves a float32 for each query, the log2 of the sum
of its weights, from which backward computes the weights again.

Rows of the kernels' tensors start at multiples of 16 bytes and are multiples of 16 bytes wide, as they are in practice;
others are copied, with zeros behind each row, which change neither products nor sums. What kernels write is
(B, L, H, d) in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bdam_kernels import dispatch

WIDEST = {"cuda": 192, "triton": 256}
"""Width of heads that kernels take."""


def preference(length: int, width: int, dtype: torch.dtype) -> tuple[str, ...]:
    """The backends, the better first. Measured on an H200 in bfloat16, forward + backward: of 196 tokens of width 64
    Triton's kernels take 0.87 and CUDA's 0.92 ms, of 577 2.3 and 4.7; of few tokens both take as long, but CUDA's cost
    the host less; of width 192 CUDA's take 1.9 and Triton's 3.0 ms.
    """
    return ("triton", "cuda") if length > 128 and width <= 64 and dtype.itemsize == 2 else ("cuda", "triton")


Tensors = Sequence[Tensor]
Masks = Sequence[Tensor | None]
Options = tuple[float, int, int]
"""Scale, threshold of dropout, its seed."""


def forward(backend: str, inputs: Tensors, masks: Masks, outs: Tensors, logs: Tensors, options: Options) -> None:
    """Fills outs and, unless they are empty, logs (B, H, L)."""
    kernels = dispatch.gpu_module(backend, "cross_attention.triton_launches")
    with dispatch.on_device_of(outs[0]):
        rows = [with_whole_rows(t) for t in inputs]
        written = [whole_rows_like(t) for t in outs]
        dispatch.launch(kernels.cross_attention_forward, *rows, *masks, *written, *logs, *options)
        copy_back(written, outs)


def backward(
    backend: str, inputs: Tensors, masks: Masks, outs: Tensors, logs: Tensors, grad_outs: Tensors, grads: Tensors,
    options: Options,
) -> None:  # fmt: skip
    """Fills grads, of the six inputs."""
    kernels = dispatch.gpu_module(backend, "cross_attention.triton_launches")
    with dispatch.on_device_of(outs[0]):
        rows, out_rows, grad_rows = ([with_whole_rows(t) for t in group] for group in (inputs, outs, grad_outs))
        written = [whole_rows_like(t) for t in grads]
        dispatch.launch(
            kernels.cross_attention_backward, *rows, *masks, *out_rows, *logs, *grad_rows, *written, *options
        )
        copy_back(written, grads)


def _is_whole(tensor: Tensor) -> bool:
    """Whether rows start at multiples of 16 bytes and are as wide."""
    steps = [stride for stride, size in zip(tensor.stride()[:-1], tensor.shape, strict=False) if size > 1]
    bytes_apart = [n * tensor.element_size() for n in (*steps, tensor.shape[-1])]
    return tensor.stride(-1) == 1 and not any(n % 16 for n in (tensor.data_ptr(), *bytes_apart))


def with_whole_rows(tensor: Tensor) -> Tensor:
    return tensor if _is_whole(tensor) else _padded(tensor)


def _padded(tensor: Tensor) -> Tensor:
    vector = 16 // tensor.element_size()
    return torch.nn.functional.pad(tensor, (0, -tensor.shape[-1] % vector)).contiguous()


def whole_rows_like(tensor: Tensor) -> Tensor:
    """The tensor itself, or an empty wider one in (B, L, H, d) memory for `copy_back`."""
    if _is_whole(tensor):
        return tensor
    batch, heads, length, width = tensor.shape
    vector = 16 // tensor.element_size()
    return tensor.new_empty(batch, length, heads, width + -width % vector).transpose(1, 2)


def copy_back(written: Tensors, results: Tensors) -> None:
    for wide, result in zip(written, results, strict=True):
        if wide is not result:
            result.copy_(wide[..., : result.shape[-1]])
