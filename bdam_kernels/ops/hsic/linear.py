"""Linear HSIC of two feature matrices: closed forms, with schema of their kernels and autograd.

Nothing here forms the centring matrix, and an N x N matrix is formed only where N is below the feature width. The work
is done by torch's GEMMs, on any device; few samples have a C++ kernel on the CPU, and one in CUDA, in `fused`.

The Functions return what their backward needs as further outputs. So a backward is made of plain operations on
tensors that autograd knows, and derivatives of any order follow from it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bdam_kernels import dispatch
from bdam_kernels.autograd import apply, wants_double_backward
from bdam_kernels.operators import operator
from bdam_kernels.ops.arguments import empty_contiguous, unit_stride
from bdam_kernels.ops.hsic import fused, reference
from bdam_kernels.ops.hsic.algebra import add_present, apart, centre, divisors, full_precision, gram_weights


def _empty_forward(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    n = x.shape[0]
    return x.new_empty(()), empty_contiguous(x), empty_contiguous(y), x.new_empty(n, n), x.new_empty(n, n)


@operator(
    "hsic_forward(Tensor x, Tensor y) "
    "-> (Tensor product, Tensor x_centred, Tensor y_centred, Tensor x_gram, Tensor y_gram)",
    fake=_empty_forward,
    devices="cpu",
)
def _forward(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """Centred features, their Gram matrices K and L, and <K, L>."""
    x, y = unit_stride(x), unit_stride(y)
    outputs = _empty_forward(x, y)
    dispatch.cpu().hsic_forward(x, y, *outputs, torch.get_num_threads())
    return outputs


def _empty_backward(
    grad: Tensor, x_weights: Tensor, y_weights: Tensor, x: Tensor, y: Tensor, factor: float
) -> tuple[Tensor, Tensor]:
    return empty_contiguous(x), empty_contiguous(y)


@operator(
    "hsic_backward(Tensor grad, Tensor x_weights, Tensor y_weights, Tensor x_centred, Tensor y_centred, float factor) "
    "-> (Tensor, Tensor)",
    fake=_empty_backward,
    devices="cpu",
)
def _backward(
    grad: Tensor, x_weights: Tensor, y_weights: Tensor, x: Tensor, y: Tensor, factor: float
) -> tuple[Tensor, Tensor]:
    """factor grad W x and factor grad V y for symmetric weights W and V."""
    tensors = [t.contiguous() for t in (grad, x_weights, y_weights, x, y)]
    grads = empty_contiguous(x), empty_contiguous(y)
    dispatch.cpu().hsic_backward(*tensors, *grads, factor, torch.get_num_threads())
    return grads


class _SampleForm(torch.autograd.Function):
    """Linear HSIC from the N x N Gram matrices of the centred features: r h = <K, M(L)>, r dh/dx = 2 M(L) x."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, y: Tensor, unbiased: bool, native: bool) -> tuple[Tensor, ...]:
        if native:
            product, x, y, x_gram, y_gram = _forward(x, y)
        else:
            x, y = centre(x), centre(y)
            with full_precision(x):
                x_gram, y_gram = x @ x.mT, y @ y.mT
        if unbiased or not native:
            product = (x_gram * gram_weights(y_gram, unbiased)).sum()
        return product / divisors(x.shape[0], unbiased)[2], x, y, x_gram, y_gram

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        ctx.unbiased, ctx.native = inputs[2:]
        ctx.save_for_backward(*output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad, *grads):  # type: ignore[no-untyped-def]
        x, y, x_gram, y_gram = ctx.saved_tensors
        needs_x, needs_y = ctx.needs_input_grad[:2]
        factor = 2 / divisors(x.shape[0], ctx.unbiased)[2]
        only_value = grad is not None and all(g is None for g in grads)
        if ctx.native and only_value and needs_x and needs_y and not wants_double_backward():
            x_weights, y_weights = gram_weights(y_gram, ctx.unbiased), gram_weights(x_gram, ctx.unbiased)
            return *_backward(grad, x_weights, y_weights, x, y, factor), None, None
        scale = None if grad is None else grad * factor

        def gradient(x: Tensor, other_gram: Tensor, grad_x: Tensor | None, grad_gram: Tensor | None) -> Tensor | None:
            by_value = None if scale is None else (scale * gram_weights(other_gram, ctx.unbiased)) @ x
            by_gram = None if grad_gram is None else (grad_gram + grad_gram.mT) @ x
            rest = add_present(by_gram, grad_x)
            return add_present(by_value, None if rest is None else centre(rest))

        with full_precision(x):
            grad_x = gradient(x, y_gram, grads[0], grads[2]) if needs_x else None
            grad_y = gradient(y, x_gram, grads[1], grads[3]) if needs_y else None
        return grad_x, grad_y, None, None


def _row_weights(y: Tensor) -> Tensor:
    """What the diagonals add to unbiased HSIC of centred features: r h = |x^T y|^2 + sum_i |x_i|^2 w_i(y); (N, 1)."""
    n = y.shape[0]
    p, q, _ = divisors(n, True)
    squares = y.square().sum(1, keepdim=True)
    return squares.sum() / q - squares * (n / p)


class _FeatureForm(torch.autograd.Function):
    """Linear HSIC from the Dx x Dy matrix C = x^T y of the centred features: r h = |C|^2, r dh/dx = 2 y C^T."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, y: Tensor, unbiased: bool) -> tuple[Tensor, ...]:
        x, y = centre(x), centre(y)
        with full_precision(x):
            cross = x.mT @ y
        value = cross.square().sum()
        if unbiased:
            value = value + (x.square() * _row_weights(y)).sum()
        return value / divisors(x.shape[0], unbiased)[2], x, y, cross

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        ctx.unbiased = inputs[2]
        ctx.save_for_backward(*output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad, grad_x, grad_y, grad_cross):  # type: ignore[no-untyped-def]
        x, y, cross = ctx.saved_tensors
        scale = None if grad is None else grad * (2 / divisors(x.shape[0], ctx.unbiased)[2])
        by_cross = add_present(None if scale is None else scale * cross, grad_cross)

        def gradient(x: Tensor, y: Tensor, by_cross: Tensor | None, grad_x: Tensor | None) -> Tensor | None:
            by_rows = scale * _row_weights(y) * x if ctx.unbiased and scale is not None else None
            rest = add_present(by_rows, grad_x)
            by_product = None if by_cross is None else y @ by_cross
            return add_present(by_product, None if rest is None else centre(rest))

        transposed = None if by_cross is None else by_cross.mT
        with full_precision(x):
            return (
                gradient(x, y, transposed, grad_x) if ctx.needs_input_grad[0] else None,
                gradient(y, x, by_cross, grad_y) if ctx.needs_input_grad[1] else None,
                None,
            )


def linear_hsic(x: Tensor, y: Tensor, unbiased: bool, normalize: bool, chosen: str) -> tuple[Tensor, ...]:
    """HSIC with linear kernels; with `normalize` also that of x with itself and of y with itself.

    Args:
        chosen: a backend, or "closed" for closed forms on torch alone.
    """
    pairs = ((x, y), (x, x), (y, y)) if normalize else ((x, y),)
    return tuple(_linear_hsic(*pair, unbiased, chosen) for pair in pairs)


def _linear_hsic(x: Tensor, y: Tensor, unbiased: bool, chosen: str) -> Tensor:
    if chosen == "reference":
        return reference.linear_hsic(x, y, unbiased)
    x, y = apart(x, y)
    if chosen == "cuda":
        return fused.linear_hsic(x, y, unbiased)
    n, (dx, dy) = x.shape[0], (x.shape[1], y.shape[1])
    # Multiplications, with backward: two Gram matrices and two products with them, or three products with C.
    # An exported graph is for any N, and the second form is as well.
    if torch.compiler.is_exporting() or 2 * n * (dx + dy) >= 3 * dx * dy:
        return apply(_FeatureForm, x, y, unbiased)[0]
    return apply(_SampleForm, x, y, unbiased, chosen == "cpu" and x.dtype == torch.float32)[0]


def kernels(x_dtype: torch.dtype, y_dtype: torch.dtype, rows: int) -> dict[str, str]:
    """The backends that have kernels, each with "" or the reason why they do not take such inputs."""
    return {"cpu": "", "cuda": fused.reason(x_dtype, y_dtype, rows)}
