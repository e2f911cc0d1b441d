"""Bidirectional cross-attention: schema, autograd and the public function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bdam_kernels import backend as backends
from bdam_kernels import reference
from bdam_kernels.autograd import reference_gradients, wants_double_backward
from bdam_kernels.ops import cross_attention_gpu

_INPUTS = "Tensor q_a, Tensor k_a, Tensor v_a, Tensor q_b, Tensor k_b, Tensor v_b, Tensor? mask_a, Tensor? mask_b"
_OPTIONS = "float scale, int dropout_threshold, Tensor? seed"
_SAVED = "Tensor probabilities_a, Tensor probabilities_b, Tensor row_factors_a, Tensor row_factors_b"
torch.library.define(
    "bdam::cross_attention_forward",
    f"({_INPUTS}, {_OPTIONS}, bool save, str backend) -> (Tensor out_a, Tensor out_b, {_SAVED})",
)
torch.library.define(
    "bdam::cross_attention_backward",
    f"({_INPUTS}, {_SAVED}, Tensor? out_a, Tensor? out_b, Tensor grad_out_a, Tensor grad_out_b, {_OPTIONS}, "
    "str backend) -> Tensor[]",
)

_NAMES = ("q_a", "k_a", "v_a", "q_b", "k_b", "v_b")

# The weights of a query are saved for backward up to this many times its width, and else computed again: memory stays
# proportional to the inputs.
_SAVED_KEYS_PER_WIDTH = 8


def _native(tensors: tuple[Tensor | None, ...]) -> list[backends.NativeTensor | None]:
    """For the kernels, to which an empty tensor is an absent one."""
    return [None if t is None or t.numel() == 0 else backends.native(t) for t in tensors]


def _unit_stride(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _kernel_options(scale: float, dropout_threshold: int, seed: Tensor | None) -> tuple[float, int, int, int]:
    return scale, dropout_threshold, 0 if seed is None else int(seed), torch.get_num_threads()


@torch.library.impl("bdam::cross_attention_forward", ("cpu", "cuda"))
def _cross_attention_forward(*args: Any) -> tuple[Tensor, ...]:
    *inputs, mask_a, mask_b, scale, dropout_threshold, seed, _, backend = args
    results = _forward_fake(*args)
    options = _kernel_options(scale, dropout_threshold, seed)
    if backend == "cpu":
        tensors = (*map(_unit_stride, inputs), mask_a, mask_b, *results)
        backends.cpu().cross_attention_forward(*_native(tensors), *options)
    else:
        cross_attention_gpu.forward(backend, inputs, (mask_a, mask_b), results[:2], results[4:], options[:3])
    return results


@torch.library.register_fake("bdam::cross_attention_forward")
def _forward_fake(*args: Any) -> tuple[Tensor, ...]:
    """Both outputs and what backward wants."""
    q_a, k_a, _, q_b, k_b, *_, save, backend = args
    return _heads_last(q_a), _heads_last(q_b), *_saved(q_a, k_a, q_b, k_b, save, backend)


def _saved(q_a: Tensor, k_a: Tensor, q_b: Tensor, k_b: Tensor, save: bool, backend: str) -> tuple[Tensor, ...]:
    """With `save`, what backward wants of each direction: exp(scores - max), 1 / its row sums.

    From a GPU's kernels that is no weights, and their sums as logarithms.
    """
    directions = ((q_a, k_b), (q_b, k_a))
    return (
        *(_empty_probabilities(q, k, save and backend == "cpu") for q, k in directions),
        *(q.new_empty(q.shape[:3] if save else 0, dtype=torch.float32) for q, _ in directions),
    )


def _heads_last(tensor: Tensor) -> Tensor:
    """An empty (B, H, L, d) in (B, L, H, d) memory, so that merging the heads copies nothing."""
    batch, heads, length, width = tensor.shape
    return tensor.new_empty(batch, length, heads, width).transpose(1, 2)


def _empty_probabilities(q: Tensor, k: Tensor, save: bool) -> Tensor:
    keys = k.shape[2]
    # Only the dot product of bfloat16 pairs takes weights in bfloat16.
    paired = q.dtype == torch.bfloat16 and backends.cpu_isa() == "avx512_bf16"
    dtype = torch.bfloat16 if paired else torch.float32
    if not save or keys > _SAVED_KEYS_PER_WIDTH * q.shape[3]:
        return q.new_empty(0, dtype=dtype)
    batch, heads, queries, _ = q.shape
    lanes = backends.cpu().lanes
    return q.new_empty(batch, heads, (queries + 1) // 2 * 2, (keys + lanes - 1) // lanes * lanes, dtype=dtype)


@torch.library.impl("bdam::cross_attention_backward", ("cpu", "cuda"))
def _cross_attention_backward(*args: Any) -> list[Tensor]:
    inputs, masks, saved, outs, grad_outs, options, backend = (
        args[:6], args[6:8], args[8:12], args[12:14], args[14:16], args[16:19], args[19]
    )  # fmt: skip
    results = _cross_attention_backward_fake(*args)
    grads = [_unit_stride(grad.to(inputs[0].dtype)) for grad in grad_outs]
    if backend == "cpu":
        tensors = (*map(_unit_stride, inputs), *masks, *saved, *grads, *results)
        backends.cpu().cross_attention_backward(*_native(tensors), *_kernel_options(*options))
    else:
        logs = saved[2:]
        cross_attention_gpu.backward(
            backend, inputs, masks, outs, logs, grads, results, _kernel_options(*options)[:3]
        )  # fmt: skip
    return results


@torch.library.register_fake("bdam::cross_attention_backward")
def _cross_attention_backward_fake(*args: Any) -> list[Tensor]:
    """The gradients of the six inputs, in order."""
    return [_heads_last(t) for t in args[:6]]


class _CrossAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *args):  # type: ignore[no-untyped-def]
        *inputs, scale, dropout_threshold, seed, ctx.backend = args
        out_a, out_b, *saved = torch.ops.bdam.cross_attention_forward(*args[:-1], True, ctx.backend)
        ctx.options = (scale, dropout_threshold)
        # Only GPU kernels want the outputs back, instead of weights.
        outs = (None, None) if ctx.backend == "cpu" else (out_a, out_b)
        ctx.save_for_backward(*inputs, seed, *saved, *outs)
        ctx.set_materialize_grads(False)
        return out_a, out_b

    @staticmethod
    def backward(ctx, grad_a, grad_b):  # type: ignore[no-untyped-def]
        *inputs, mask_a, mask_b, seed = ctx.saved_tensors[:9]
        scale, threshold = ctx.options
        if wants_double_backward():
            grads = reference_gradients(
                lambda *tensors: _reference(tensors, mask_a, mask_b, scale, threshold, seed), inputs, (grad_a, grad_b)
            )
        else:
            grads = torch.ops.bdam.cross_attention_backward(
                *inputs, mask_a, mask_b, *ctx.saved_tensors[9:],
                torch.zeros_like(inputs[0]) if grad_a is None else grad_a,
                torch.zeros_like(inputs[3]) if grad_b is None else grad_b,
                scale, threshold, seed, ctx.backend,
            )  # fmt: skip
        return *grads, None, None, None, None, None, None


def _reference(
    inputs: tuple[Tensor, ...],
    mask_a: Tensor | None,
    mask_b: Tensor | None,
    scale: float,
    dropout_threshold: int,
    seed: Tensor | None,
    function: Callable[..., tuple[Tensor, Tensor]] = reference.bidirectional_cross_attention,
) -> tuple[Tensor, Tensor]:
    """The reference in float32, or float64 for float64 inputs, whatever autocast says; outputs in the inputs' dtype."""
    dtype = inputs[0].dtype
    wide: Any = [t.to(torch.float64 if dtype == torch.float64 else torch.float32) for t in inputs]
    options: Any = (mask_a, mask_b, scale, dropout_threshold, seed)
    with torch.autocast(inputs[0].device.type, enabled=False):
        out_a, out_b = function(*wide, *options)
    return out_a.to(dtype), out_b.to(dtype)


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
    inputs: tuple[Tensor, ...] = (q_a, k_a, v_a, q_b, k_b, v_b)
    masks = (key_padding_mask_a, key_padding_mask_b)
    inputs = _validated(inputs, masks)
    if scale is None:
        scale = max(q_a.shape[3], 1) ** -0.5
    threshold, seed = _draw_dropout(dropout_p)

    kernels = {"cpu": backends.dtype_reason(inputs[0]), **cross_attention_gpu.reasons(inputs[0])}
    chosen = backends.choose(backend, q_a.device, kernels)
    if chosen == "reference" or any(t.numel() == 0 for t in inputs):
        return _reference(inputs, *masks, scale, threshold, seed)
    if torch.is_grad_enabled() and any(t.requires_grad for t in inputs):
        return _CrossAttention.apply(*inputs, *masks, scale, threshold, seed, chosen)
    out_a, out_b, *_ = torch.ops.bdam.cross_attention_forward(*inputs, *masks, scale, threshold, seed, False, chosen)
    return out_a, out_b


def _validated(inputs: tuple[Tensor, ...], masks: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
    """The inputs as autocast wants them."""
    _check_shapes(inputs, masks)
    inputs = _cast_as_autocast(inputs)
    _check_dtypes(inputs, masks)
    return inputs


def _draw_dropout(dropout_p: float) -> tuple[int, Tensor | None]:
    """Threshold of the weights' 16 random bits, and a seed for them."""
    if not 0.0 <= dropout_p < 1.0:
        raise ValueError(f"dropout_p must be at least 0 and below 1, got {dropout_p}")
    threshold = min(round(65536 * dropout_p), 65535)
    return threshold, torch.randint(-(2**63), 2**63 - 1, ()) if threshold else None


def _cast_as_autocast(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    device = inputs[0].device.type
    if not torch.is_autocast_enabled(device):
        return inputs
    dtype = torch.get_autocast_dtype(device)
    return tuple(t.to(dtype) if t.is_floating_point() and t.dtype != torch.float64 else t for t in inputs)


def _check_shapes(inputs: tuple[Tensor, ...], masks: tuple[Tensor | None, ...]) -> None:
    q_a, _, _, q_b, *_ = inputs
    for name, q in (("q_a", q_a), ("q_b", q_b)):
        if q.dim() != 4:
            raise ValueError(f"{name} must be (B, H, L, d), got {tuple(q.shape)}")
    if (*q_b.shape[:2], q_b.shape[3]) != (*q_a.shape[:2], q_a.shape[3]):
        raise ValueError(
            f"q_b must have the B, H and d of q_a, {tuple(q_a.shape)}, and may differ in L only, got {tuple(q_b.shape)}"
        )
    for name, tensor, q in zip(_NAMES, inputs, (q_a, q_a, q_a, q_b, q_b, q_b), strict=True):
        if tensor.shape != q.shape:
            raise ValueError(f"{name} must be {tuple(q.shape)} like q of its stream, got {tuple(tensor.shape)}")
    for name, mask, q in zip(("key_padding_mask_a", "key_padding_mask_b"), masks, (q_a, q_b), strict=True):
        if mask is not None and mask.shape != (q.shape[0], q.shape[2]):
            raise ValueError(f"{name} must be {(q.shape[0], q.shape[2])}, got {tuple(mask.shape)}")


def _check_dtypes(inputs: tuple[Tensor, ...], masks: tuple[Tensor | None, ...]) -> None:
    q_a = inputs[0]
    for name, tensor in zip(_NAMES, inputs, strict=True):
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {tensor.dtype}")
        if tensor.dtype != q_a.dtype:
            raise TypeError(f"{name} must be {q_a.dtype} like q_a, got {tensor.dtype}")
    for name, mask in zip(("key_padding_mask_a", "key_padding_mask_b"), masks, strict=True):
        if mask is not None and mask.dtype != torch.bool:
            raise TypeError(f"{name} must be bool, True where a key is padding, got {mask.dtype}")
    for name, other in zip((*_NAMES, "key_padding_mask_a", "key_padding_mask_b"), (*inputs, *masks), strict=True):
        if other is not None and other.device != q_a.device:
            raise ValueError(f"{name} must be on {q_a.device} like q_a, got {other.device}")
