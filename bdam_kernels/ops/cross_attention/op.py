"""Bidirectional cross-attention: schema, autograd and the public function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bdam_kernels import dispatch
from bdam_kernels.autograd import reference_gradients, wants_double_backward
from bdam_kernels.operators import differentiable, is_differentiated, operator
from bdam_kernels.ops.arguments import cast, unit_stride
from bdam_kernels.ops.cross_attention import plan, reference

_INPUTS = "Tensor q_a, Tensor k_a, Tensor v_a, Tensor q_b, Tensor k_b, Tensor v_b, Tensor? mask_a, Tensor? mask_b"
_OPTIONS = "float scale, int dropout_threshold, Tensor? seed"
_NAMES = ("q_a", "k_a", "v_a", "q_b", "k_b", "v_b")

# The weights of a query are saved for backward up to this many times its width, and else computed again: memory stays
# proportional to the inputs.
_SAVED_KEYS_PER_WIDTH = 8

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
Masks = tuple[Tensor | None, Tensor | None]


def _empty_outputs(q_a: Tensor, k_a: Tensor, _v_a: Tensor, q_b: Tensor, *others: Any) -> tuple[Any, ...]:
    """Of forward's arguments: both outputs and what backward wants."""
    *_, save, backend = others
    return _heads_last(q_a), _heads_last(q_b), empty_saved(q_a, q_b, save, backend)


def _heads_last(tensor: Tensor) -> Tensor:
    """Empty (B, H, L, d) in (B, L, H, d) memory, so that merging the heads copies nothing."""
    shape = _, heads, length, width = tensor.shape
    return tensor.new_empty_strided(shape, (length * heads * width, width, heads * width, 1))


def empty_saved(q_a: Tensor, q_b: Tensor, save: bool, backend: str, pooled: bool = False) -> Tensor | None:
    """With `save`, what backward wants, in one float32 tensor of one dimension.

    From the C++ kernels, for a and then for b: exp(scores - max), unless there are so many keys that backward computes
    them again; 1 / its row sums; of the pooled form, saved or not, the mean weight of every key. From a GPU's kernels
    no weights, and the logarithms of their sums.
    """
    batch, heads, length_a, width = q_a.shape
    length_b = q_b.shape[2]
    floats, rows = 0, length_a + length_b
    if save:
        floats += rows
        if backend == "cpu":
            for queries, keys in ((length_a, length_b), (length_b, length_a)):
                if keys <= most_saved_keys(width):
                    floats += _weights_of_head(queries, keys, q_a.dtype)
    if pooled:
        floats += rows
    return q_a.new_empty(batch * heads * floats, dtype=torch.float32) if save or pooled else None


def most_saved_keys(width: int) -> int:
    """Of queries so wide, from the C++ kernels."""
    return _SAVED_KEYS_PER_WIDTH * width


def _weights_of_head(queries: int, keys: int, dtype: torch.dtype) -> int:
    kernels = dispatch.cpu()
    pairs = (queries + 1) // 2
    rows = pairs if dtype == torch.bfloat16 and kernels.pairs_bfloat16 else 2 * pairs
    return rows * ((keys + kernels.lanes - 1) // kernels.lanes * kernels.lanes)


def parts_of_saved(saved: Tensor | None, q_a: Tensor, q_b: Tensor, pooled: bool = False) -> Sequence[Tensor | None]:
    """What a GPU's kernels save, each part for a and for b: logarithms and, of the pooled form, weights of keys."""
    if saved is None:
        return None, None
    pairs = q_a.shape[0] * q_a.shape[1]
    of_a, of_b = pairs * q_a.shape[2], pairs * q_b.shape[2]
    return saved.split([of_a, of_b, of_b, of_a] if pooled else [of_a, of_b])


@operator(
    f"cross_attention_forward({_INPUTS}, {_OPTIONS}, bool save, str backend) "
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
            unit_stride(q_a), unit_stride(k_a), unit_stride(v_a), unit_stride(q_b), unit_stride(k_b),
            unit_stride(v_b), mask_a, mask_b, out_a, out_b, saved, most_saved_keys(q_a.shape[3]), *options,
            torch.get_num_threads(),
        )  # fmt: skip
    else:
        inputs, masks, logs = (q_a, k_a, v_a, q_b, k_b, v_b), (mask_a, mask_b), parts_of_saved(saved, q_a, q_b)
        plan.forward(backend, inputs, masks, (out_a, out_b), logs, options)
    return results


def empty_gradients(*args: Any) -> list[Tensor]:
    """The gradients of the six inputs, in order."""
    return [torch.empty_like(unit_stride(tensor)) for tensor in args[:6]]


@operator(
    f"cross_attention_backward({_INPUTS}, Tensor saved, Tensor? out_a, Tensor? out_b, Tensor grad_out_a, "
    f"Tensor grad_out_b, {_OPTIONS}, str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    fake=empty_gradients,
)
def _backward(
    q_a: Tensor, k_a: Tensor, v_a: Tensor, q_b: Tensor, k_b: Tensor, v_b: Tensor, mask_a: Tensor | None,
    mask_b: Tensor | None, saved: Tensor, out_a: Any, out_b: Any, grad_a: Tensor, grad_b: Tensor,
    scale: float, threshold: int, seed: Tensor | None, backend: str,
) -> list[Tensor]:  # fmt: skip
    inputs = [unit_stride(t) for t in (q_a, k_a, v_a, q_b, k_b, v_b)]
    results = [torch.empty_like(t) for t in inputs]
    grad_a, grad_b = unit_stride(cast(grad_a, q_a.dtype)), unit_stride(cast(grad_b, q_a.dtype))
    options = kernel_options(scale, threshold, seed)
    if backend == "cpu":
        dispatch.cpu().cross_attention_backward(
            *inputs, mask_a, mask_b, saved, most_saved_keys(q_a.shape[3]), grad_a, grad_b, *results, *options,
            torch.get_num_threads(),
        )  # fmt: skip
    else:
        plan.backward(
            backend, inputs, (mask_a, mask_b), (out_a, out_b),
            parts_of_saved(saved, q_a, q_b), (grad_a, grad_b), results, options,
        )  # fmt: skip
    return results


def kernel_options(scale: float, threshold: int, seed: Tensor | None) -> tuple[float, int, int]:
    return scale, threshold, 0 if seed is None else int(seed)


class _CrossAttention(torch.autograd.Function):
    generate_vmap_rule = True

    forward = staticmethod(_forward)

    @staticmethod
    def setup_context(ctx, args, results):  # type: ignore[no-untyped-def]
        *inputs, scale, threshold, seed, _, backend = args
        ctx.options = scale, threshold, backend
        # Only GPU kernels want the outputs back, instead of weights.
        outs = (None, None) if backend == "cpu" else results[:2]
        ctx.save_for_backward(*inputs, seed, results[2], *outs)
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
            grad_a = torch.zeros_like(q_a) if grad_a is None else grad_a
            grad_b = torch.zeros_like(q_b) if grad_b is None else grad_b
            grads = _backward(*inputs, mask_a, mask_b, *saved, grad_a, grad_b, *options, backend)
        return *grads, None, None, None, None, None, None, None


_differentiable_forward = differentiable(_CrossAttention, outputs=2)


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
    inputs, masks = (q_a, k_a, v_a, q_b, k_b, v_b), (key_padding_mask_a, key_padding_mask_b)
    inputs, scale, threshold, seed, chosen = prepared(inputs, masks, dropout_p, scale, backend)
    if chosen == "reference":
        return _reference(inputs, *masks, scale, threshold, seed)
    differentiated = is_differentiated(inputs)
    run = _differentiable_forward if differentiated else _forward
    out_a, out_b, *_ = run(*inputs, *masks, scale, threshold, seed, differentiated, chosen)
    return out_a, out_b


def prepared(
    inputs: Inputs, masks: Masks, dropout_p: float, scale: float | None, backend: str | None
) -> tuple[Inputs, float, int, Tensor | None, str]:
    """Of the public functions' arguments, once they are checked: the inputs as autocast wants them, the scale, the
    threshold and the seed of dropout, and the backend."""
    _check(inputs)
    inputs = _cast_as_autocast(inputs)
    _check_dtypes(inputs)
    q_a, q_b = inputs[0], inputs[3]
    mask_a, mask_b = masks
    if mask_a is not None:
        _check_mask("key_padding_mask_a", mask_a, q_a)
    if mask_b is not None:
        _check_mask("key_padding_mask_b", mask_b, q_b)
    if scale is None:
        scale = max(q_a.shape[3], 1) ** -0.5
    threshold, seed = _draw_dropout(dropout_p) if dropout_p else (0, None)
    chosen = dispatch.choose(backend, q_a.device, _kernels(q_a))
    return inputs, scale, threshold, seed, chosen if q_a.numel() and q_b.numel() else "reference"


def _kernels(q: Tensor) -> dict[str, str]:
    """The backends that have kernels, each with "" or the reason why they do not take such queries."""
    dtype, (_, _, length, width) = dispatch.dtype_reason(q), q.shape
    kernels = {"cpu": dtype}
    for name in plan.preference(length, width, q.dtype):
        widest = plan.WIDEST[name]
        wide = "" if width <= widest else f"its kernels take heads up to {widest} wide, got {width}"
        kernels[name] = dtype or wide
    return kernels


def _draw_dropout(dropout_p: float) -> tuple[int, Tensor | None]:
    """Threshold of the weights' 16 random bits, and a seed for them."""
    if not 0.0 <= dropout_p < 1.0:
        raise ValueError(f"dropout_p must be at least 0 and below 1, got {dropout_p}")
    # Compilers cannot trace the question.
    captures = not torch.compiler.is_compiling() and torch.cuda.is_available()
    if captures and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            f"a CUDA graph would drop the same weights at every replay: capture with dropout_p = 0, got {dropout_p}"
        )
    threshold = min(round(65536 * dropout_p), 65535)
    return threshold, torch.randint(-(2**63), 2**63 - 1, ()) if threshold else None


def _cast_as_autocast(inputs: Inputs) -> Inputs:
    device = inputs[0].device.type
    if not torch.is_autocast_enabled(device):
        return inputs
    dtype = torch.get_autocast_dtype(device)
    cast: Any = (t.to(dtype) if t.is_floating_point() and t.dtype != torch.float64 else t for t in inputs)
    return tuple(cast)


def _check(inputs: Inputs) -> None:
    q_a, k_a, v_a, q_b, k_b, v_b = inputs
    of_a, of_b = q_a.shape, q_b.shape
    for name, shape in (("q_a", of_a), ("q_b", of_b)):
        if len(shape) != 4:
            raise ValueError(f"{name} must be (B, H, L, d), got {tuple(shape)}")
    if of_b[0] != of_a[0] or of_b[1] != of_a[1] or of_b[3] != of_a[3]:
        raise ValueError(
            f"q_b must have the B, H and d of q_a, {tuple(of_a)}, and may differ in L only, got {tuple(of_b)}"
        )
    if not (k_a.shape == of_a and v_a.shape == of_a and k_b.shape == of_b and v_b.shape == of_b):
        for name, tensor, shape in zip(_NAMES, inputs, (of_a, of_a, of_a, of_b, of_b, of_b), strict=True):
            if tensor.shape != shape:
                raise ValueError(f"{name} must be {tuple(shape)} like q of its stream, got {tuple(tensor.shape)}")
    device = q_a.device
    for i, tensor in enumerate(inputs):
        if not tensor.is_floating_point():
            raise TypeError(f"{_NAMES[i]} must be floating point, got {tensor.dtype}")
        if tensor.device != device:
            raise ValueError(f"{_NAMES[i]} must be on {device} like q_a, got {tensor.device}")


def _check_mask(name: str, mask: Tensor, q: Tensor) -> None:
    """q: of the mask's stream."""
    shape = (q.shape[0], q.shape[2])
    if mask.shape != shape:
        raise ValueError(f"{name} must be {shape}, got {tuple(mask.shape)}")
    if mask.dtype != torch.bool:
        raise TypeError(f"{name} must be bool, True where a key is padding, got {mask.dtype}")
    if mask.device != q.device:
        raise ValueError(f"{name} must be on {q.device} like q_a, got {mask.device}")


def _check_dtypes(inputs: Inputs) -> None:
    dtype = inputs[0].dtype
    for i, tensor in enumerate(inputs):
        if tensor.dtype != dtype:
            raise TypeError(f"{_NAMES[i]} must be {dtype} like q_a, got {tensor.dtype}")
