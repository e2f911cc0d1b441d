"""Bidirectional cross-attention on a GPU: what its kernels are given.

CUDA and Triton have the same functions, a forward and a backward, which launch for both directions and all heads at
once; the pooled form takes the means of what they return. What several blocks need of a gradient is summed by one of
them in a fixed order and nothing is added atomically, so results are bit-equal. Forward saves a float32 for each query,
the log2 of the sum of its weights, from which backward computes the weights again.

Rows of the kernels' tensors start at multiples of 16 bytes and are multiples of 16 bytes wide, as they are in practice;
others are copied, with zeros behind each row, which change neither products nor sums. Rows may be the same one, as
those of the pooled form's gradients are. What kernels write is (B, L, H, d) in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bdam_kernels import dispatch
from bdam_kernels.ops.cross_attention.roles import Masks, Options, Pair, Streams
from bdam_kernels.ops.gpu import gpu_module, launch, on_device_of

WIDEST = {"cuda": 192, "triton": 256}
"""Width of heads that kernels take."""


def _preference(length: int, width: int, dtype: torch.dtype) -> tuple[str, ...]:
    """The backends, the better first. Measured on an H200 in bfloat16, forward + backward in a graph: of 196 tokens of
    width 64 Triton's kernels take 0.87 and CUDA's 0.65 ms, of 577 2.4 and 2.6; of few tokens Triton's are as quick or
    quicker, but cost the host twice as much; of width 192 CUDA's take 2.0 and Triton's 3.0 ms.
    """
    return ("triton", "cuda") if length > 224 and width <= 64 and dtype.itemsize == 2 else ("cuda", "triton")


def kernels(dtype: torch.dtype, length: int, width: int) -> dict[str, str]:
    """The backends that have kernels of either form, each with "" or the reason why they do not take such queries."""
    unfit = dispatch.dtype_reason(dtype)
    found = {"cpu": unfit}
    for name in _preference(length, width, dtype):
        wide = "" if width <= WIDEST[name] else f"its kernels take heads up to {WIDEST[name]} wide, got {width}"
        found[name] = unfit or wide
    return found


def forward(
    backend: str, inputs: Streams, masks: Masks, *, outs: Pair, logs: Pair | tuple[None, None], options: Options
) -> None:
    """Fills outs and, unless they are None, logs (B, H, L)."""
    module = gpu_module(backend, "cross_attention.triton_launches")
    with on_device_of(outs.a):
        rows = Streams(*_with_whole_rows(inputs))
        written = Pair(*_whole_rows_like(outs))
        launch(module.cross_attention_forward, rows, masks, written, logs, options)
        _copy_back(written, outs)


def backward(
    backend: str,
    inputs: Streams,
    masks: Masks,
    *,
    outs: Pair,
    logs: Pair,
    grad_outs: Pair,
    grads: Streams,
    options: Options,
) -> None:
    """Fills grads."""
    module = gpu_module(backend, "cross_attention.triton_launches")
    with on_device_of(outs.a):
        rows = Streams(*_with_whole_rows(inputs))
        out_rows, grad_rows = Pair(*_with_whole_rows(outs)), Pair(*_with_whole_rows(grad_outs))
        written = Streams(*_whole_rows_like(grads))
        deltas = Pair(*[torch.empty_like(t) for t in logs])
        launch(module.cross_attention_backward, rows, masks, out_rows, logs, grad_rows, deltas, written, options)
        _copy_back(written, grads)


def _is_whole(tensor: Tensor) -> bool:
    """Whether rows start at multiples of 16 bytes and are as wide."""
    steps = [stride for stride, size in zip(tensor.stride()[:-1], tensor.shape, strict=False) if size > 1]
    bytes_apart = [n * tensor.element_size() for n in (*steps, tensor.shape[-1])]
    return tensor.stride(-1) == 1 and not any(n % 16 for n in (tensor.data_ptr(), *bytes_apart))


def _with_whole_rows(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    if dispatch.have_whole_rows(*tensors):
        return tensors
    return [t if _is_whole(t) else _padded(t) for t in tensors]


def _padded(tensor: Tensor) -> Tensor:
    vector = 16 // tensor.element_size()
    return torch.nn.functional.pad(tensor, (0, -tensor.shape[-1] % vector)).contiguous()


def _whole_rows_like(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """The tensors themselves, or for some an empty wider one in (B, L, H, d) memory for `_copy_back`."""
    return tensors if dispatch.have_whole_rows(*tensors) else [t if _is_whole(t) else _wider(t) for t in tensors]


def _wider(tensor: Tensor) -> Tensor:
    batch, heads, length, width = tensor.shape
    vector = 16 // tensor.element_size()
    return tensor.new_empty(batch, length, heads, width + -width % vector).transpose(1, 2)


def _copy_back(written: Sequence[Tensor], results: Sequence[Tensor]) -> None:
    for wide, result in zip(written, results, strict=True):
        if wide is not result:
            result.copy_(wide[..., : result.shape[-1]])
