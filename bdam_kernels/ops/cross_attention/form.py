"""What both forms of cross-attention share: their arguments, checked and in order, and their place in autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bdam_kernels import dispatch
from bdam_kernels.autograd import (
    derivatives_of,
    differentiable,
    exported_without_gradients,
    is_differentiated,
    reference_gradients,
    wants_double_backward,
)
from bdam_kernels.ops.arguments import check_kinds, checked_once, unit_strides
from bdam_kernels.ops.cross_attention import plan
from bdam_kernels.ops.cross_attention.roles import Masks, Options, Streams

INPUTS = "Tensor q_a, Tensor k_a, Tensor v_a, Tensor q_b, Tensor k_b, Tensor v_b, Tensor? mask_a, Tensor? mask_b"
OPTIONS = "float scale, int dropout_threshold, Tensor? seed"


class Dropout(NamedTuple):
    threshold: int
    """A weight is dropped if its 16 random bits are below; 0 drops none."""
    seed: Tensor | None
    """int64 scalar, on the CPU."""


Outputs = tuple[Tensor, Tensor]


def form(
    run_forward: Callable[..., Any], run_backward: Callable[..., Any], reference: Callable[..., Any], pooled: bool
) -> Callable[..., Outputs]:
    """The function of streams, masks, scale, dropout and (not of the pooled form, which has the CPU's kernels only)
    backend, that runs kernels and is differentiable; returns both outputs.

    Args:
        run_forward: operator of streams, masks, scale, dropout, save and backend; returns both outputs and what it
            saves.
        run_backward: operator of streams, masks, what is saved and (not of the pooled form) the outputs, which only a
            GPU's kernels want, then the gradients of outputs, scale, dropout and backend; returns those of streams.
        reference: function of streams, masks, scale and dropout; returns both outputs.
    """

    class Form(torch.autograd.Function):
        generate_vmap_rule = True

        forward = staticmethod(run_forward)

        @staticmethod
        def setup_context(ctx, args, results):  # type: ignore[no-untyped-def]
            inputs, (scale, threshold, seed, save, *backend) = args[:8], args[8:]
            if not save:
                raise exported_without_gradients()
            ctx.options = scale, threshold, *backend
            outs = () if pooled else (None, None) if backend == ["cpu"] else results[:2]
            ctx.save_for_backward(*inputs, seed, results[2], *outs)
            ctx.set_materialize_grads(False)

        @staticmethod
        def backward(ctx, grad_a, grad_b, *_):  # type: ignore[no-untyped-def]
            tensors = ctx.saved_tensors
            streams, masks, seed, kept = tensors[:6], tensors[6:8], tensors[8], tensors[9:]
            scale, threshold, *backend = ctx.options
            if wants_double_backward():
                grads = reference_gradients(
                    lambda *tensors: _widened(reference, tensors, masks, scale, Dropout(threshold, seed)),
                    streams,
                    (grad_a, grad_b),
                    ctx.needs_input_grad,
                )
            else:
                grad_a = _zeros(streams[0], pooled) if grad_a is None else grad_a
                grad_b = _zeros(streams[3], pooled) if grad_b is None else grad_b
                grads = run_backward(*streams, *masks, *kept, grad_a, grad_b, scale, threshold, seed, *backend)
            return *grads, *[None] * (len(ctx.needs_input_grad) - 6)

    Form.__name__ = "PooledCrossAttention" if pooled else "CrossAttention"
    derivatives_of("pooled_cross_attention_forward" if pooled else "cross_attention_forward", Form)
    differentiable_forward = differentiable(Form, outputs=2)

    def by_kernels(streams: Streams, masks: Masks, scale: float, dropout: Dropout, *backend: str) -> Outputs:
        differentiated = is_differentiated(streams)
        run = differentiable_forward if differentiated else run_forward
        out_a, out_b, *_ = run(*streams, *masks, scale, *dropout, differentiated, *backend)
        return out_a, out_b

    return by_kernels


def attend(
    by_kernels: Callable[[Streams, Masks, float, Dropout, str], Outputs], reference: Callable[..., Outputs],
    streams: Streams, masks: Masks, dropout_p: float, scale: float | None, backend: str | None,
) -> Outputs:  # fmt: skip
    """What the public function of a form returns: checks its arguments, draws dropout and chooses a backend."""
    streams = _as_autocast_wants(streams, _check(*streams, *masks))
    q_a, q_b = streams.q_a, streams.q_b
    # On it depends which of a GPU's backends is the best; elsewhere an exporter is not to fix it.
    length, width = q_a.shape[2] if q_a.is_cuda else 0, q_a.shape[3]
    if scale is None:
        scale = max(width, 1) ** -0.5
    dropout = _draw_dropout(dropout_p) if dropout_p else Dropout(0, None)
    chosen = dispatch.choose(backend, q_a.device, plan.kernels, q_a.dtype, length, width)
    if chosen == "reference" or not (q_a.numel() and q_b.numel()):
        return _widened(reference, streams, masks, scale, dropout)
    return by_kernels(streams, masks, scale, dropout, chosen)


def kernel_options(scale: float, threshold: int, seed: Tensor | None) -> Options:
    return Options(scale, threshold, 0 if seed is None else int(seed))


def empty_heads_last(tensor: Tensor) -> Tensor:
    """Empty (B, H, L, d) in (B, L, H, d) memory, so that merging the heads copies nothing."""
    shape = _, heads, length, width = tensor.shape
    return tensor.new_empty_strided(shape, (length * heads * width, width, heads * width, 1))


def empty_gradients(inputs: Sequence[Tensor], backend: str) -> list[Tensor]:
    """The gradients of the inputs, of unit strides, in order. From the C++ kernels they lie as inputs do; what a GPU's
    kernels write is (B, L, H, d) in memory."""
    like = torch.empty_like if backend == "cpu" else empty_heads_last
    return [like(tensor) for tensor in inputs]


def fake_gradients(*args: Any) -> list[Tensor]:
    """What backward returns, of its arguments."""
    return empty_gradients(unit_strides(*args[:6]), args[-1])


def _zeros(q: Tensor, pooled: bool) -> Tensor:
    """The gradient of an output that has none."""
    return torch.zeros_like(q[:, :, 0] if pooled else q)


def _widened(reference: Callable[..., Outputs], streams: Any, masks: Any, scale: float, dropout: Dropout) -> Outputs:
    """The reference in float32, or float64 for float64 inputs, whatever autocast says; outputs in the inputs' dtype."""
    dtype = streams[0].dtype
    wide = [t.to(torch.float64 if dtype == torch.float64 else torch.float32) for t in streams]
    with torch.autocast(streams[0].device.type, enabled=False):
        out_a, out_b = reference(*wide, *masks, scale, *dropout)
    return out_a.to(dtype), out_b.to(dtype)


def _draw_dropout(dropout_p: float) -> Dropout:
    if not 0.0 <= dropout_p < 1.0:
        raise ValueError(f"dropout_p must be at least 0 and below 1, got {dropout_p}")
    # Compilers cannot trace the question.
    captures = not torch.compiler.is_compiling() and torch.cuda.is_available()
    if captures and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            f"a CUDA graph would drop the same weights at every replay: capture with dropout_p = 0, got {dropout_p}"
        )
    threshold = min(round(65536 * dropout_p), 65535)
    return Dropout(threshold, torch.randint(-(2**63), 2**63 - 1, ()) if threshold else None)


@checked_once
def _check(*tensors: Tensor | None) -> bool:
    """Of all streams and both masks; whether they have one dtype."""
    streams, masks = Streams(*tensors[:6]), Masks(*tensors[6:])  # type: ignore[arg-type]
    q_a, q_b = streams.q_a, streams.q_b
    of_a, of_b = q_a.shape, q_b.shape
    for name, shape in (("q_a", of_a), ("q_b", of_b)):
        if len(shape) != 4:
            raise ValueError(f"{name} must be (B, H, L, d), got {tuple(shape)}")
    if of_b[0] != of_a[0] or of_b[1] != of_a[1] or of_b[3] != of_a[3]:
        raise ValueError(
            f"q_b must have the B, H and d of q_a, {tuple(of_a)}, and may differ in L only, got {tuple(of_b)}"
        )
    for name, tensor, shape in zip(Streams._fields, streams, (of_a, of_a, of_a, of_b, of_b, of_b), strict=True):
        if tensor.shape != shape:
            raise ValueError(f"{name} must be {tuple(shape)} like q of its stream, got {tuple(tensor.shape)}")
    check_kinds(Streams._fields, streams)
    for name, mask, q in (("key_padding_mask_a", masks.a, q_a), ("key_padding_mask_b", masks.b, q_b)):
        if mask is not None:
            _check_mask(name, mask, q)
    return all([t.dtype == q_a.dtype for t in streams])


def _as_autocast_wants(streams: Streams, alike: bool) -> Streams:
    """The streams in one dtype, which they must have unless autocast gives it to them. alike: whether they have it."""
    device = streams.q_a.device.type
    if torch.is_autocast_enabled(device):
        streams = _cast(streams, torch.get_autocast_dtype(device))
        alike = False
    if not alike:
        _check_dtypes(streams)
    return streams


def _check_dtypes(streams: Streams) -> None:
    dtype = streams.q_a.dtype
    for name, tensor in zip(Streams._fields, streams, strict=True):
        if tensor.dtype != dtype:
            raise TypeError(f"{name} must be {dtype} like q_a, got {tensor.dtype}")


def _cast(streams: Streams, dtype: torch.dtype) -> Streams:
    """Autocast leaves float64 as it is."""
    return Streams(*[t if t.dtype == torch.float64 else t.to(dtype) for t in streams])


def _check_mask(name: str, mask: Tensor, q: Tensor) -> None:
    """q: of the mask's stream."""
    shape = (q.shape[0], q.shape[2])
    if mask.shape != shape:
        raise ValueError(f"{name} must be {shape}, got {tuple(mask.shape)}")
    if mask.dtype != torch.bool:
        raise TypeError(f"{name} must be bool, True where a key is padding, got {mask.dtype}")
    if mask.device != q.device:
        raise ValueError(f"{name} must be on {q.device} like q_a, got {mask.device}")
