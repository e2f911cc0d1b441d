"""Linear HSIC of two feature matrices in closed forms: schema of the kernels and autograd.

Nothing here forms the centring matrix, and an N x N matrix is formed only where N is below the feature width. The work
is done by torch's GEMMs, on any device; few samples have a C++ kernel on the CPU.

The Functions return what their backward needs as further outputs. So a backward is made of plain operations on
tensors that autograd knows, and derivatives of any order follow from it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import reduce

import torch
from torch import Tensor

from bdam_kernels import dispatch
from bdam_kernels.autograd import wants_double_backward
from bdam_kernels.operators import apply, operator
from bdam_kernels.ops.arguments import unit_stride


def empty(like: Tensor) -> Tensor:
    """A contiguous tensor like another, without values."""
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def _empty_forward(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    n = x.shape[0]
    return x.new_empty(()), empty(x), empty(y), x.new_empty(n, n), x.new_empty(n, n)


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
    return empty(x), empty(y)


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
    grads = empty(x), empty(y)
    dispatch.cpu().hsic_backward(*tensors, *grads, factor, torch.get_num_threads())
    return grads


# Asked for once, as torch 2.11 cannot compile the question.
_HAVE_AUTOCAST = frozenset(d for d in ("cpu", "cuda", "xpu", "mps") if torch.amp.is_autocast_available(d))


def full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """Keeps autocast from rounding the products."""
    device = tensor.device.type
    if device in _HAVE_AUTOCAST and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def centre(x: Tensor) -> Tensor:
    """x minus its mean over rows; exactly zero for equal rows, and accurate for rows with a large common offset."""
    differences = x - x[:1]
    return differences - differences.mean(0)


def divisors(n: int, unbiased: bool) -> tuple[int, int, int]:
    """(p, q, r) with r HSIC = <K, L> - 2/p <K 1, L 1> + (1^T K 1)(1^T L 1)/q; the unbiased one is for zero diagonals.

    Source: Gretton et al. 2005 (biased), Song et al. 2012, Eq. 5 (unbiased).
    """
    if unbiased:
        return n - 2, (n - 1) * (n - 2), n * (n - 3)
    return n, n * n, (n - 1) ** 2


def add_present(*terms: Tensor | None) -> Tensor | None:
    present = [t for t in terms if t is not None]
    return reduce(torch.add, present) if present else None


def gram_weights(gram: Tensor, unbiased: bool) -> Tensor:
    """M(L), linear in L, such that r HSIC = <K, M(L)> for Gram matrices K and L of centred features."""
    if not unbiased:
        return gram
    n = gram.shape[0]
    p, q, _ = divisors(n, unbiased)
    diagonal = torch.eye(n, dtype=torch.bool, device=gram.device)
    gram = gram.masked_fill(diagonal, 0)
    sums = gram.sum(1)
    return (gram - (sums[:, None] + sums) / p + sums.sum() / q).masked_fill(diagonal, 0)


class _SampleForm(torch.autograd.Function):
    """Linear HSIC from the N x N Gram matrices of the centred features: r h = <K, M(L)>, r dh/dx = 2 M(L) x."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, y: Tensor, unbiased: bool, fused: bool) -> tuple[Tensor, ...]:
        if fused:
            product, x, y, x_gram, y_gram = _forward(x, y)
        else:
            x, y = centre(x), centre(y)
            with full_precision(x):
                x_gram, y_gram = x @ x.mT, y @ y.mT
        if unbiased or not fused:
            product = (x_gram * gram_weights(y_gram, unbiased)).sum()
        return product / divisors(len(x), unbiased)[2], x, y, x_gram, y_gram

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        ctx.unbiased, ctx.fused = inputs[2:]
        ctx.save_for_backward(*output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad, *grads):  # type: ignore[no-untyped-def]
        x, y, x_gram, y_gram = ctx.saved_tensors
        needs_x, needs_y = ctx.needs_input_grad[:2]
        factor = 2 / divisors(len(x), ctx.unbiased)[2]
        only_value = grad is not None and all(g is None for g in grads)
        if ctx.fused and only_value and needs_x and needs_y and not wants_double_backward():
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
        return value / divisors(len(x), unbiased)[2], x, y, cross

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        ctx.unbiased = inputs[2]
        ctx.save_for_backward(*output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad, grad_x, grad_y, grad_cross):  # type: ignore[no-untyped-def]
        x, y, cross = ctx.saved_tensors
        scale = None if grad is None else grad * (2 / divisors(len(x), ctx.unbiased)[2])
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


def apart(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """x and y as two tensors: torch.compile lets none be two inputs of a Function."""
    return x, y.view_as(y) if y is x else y


def linear_hsic(x: Tensor, y: Tensor, unbiased: bool) -> Tensor:
    x, y = apart(x, y)
    n, (dx, dy) = len(x), (x.shape[1], y.shape[1])
    # Multiplications, with backward: two Gram matrices and two products with them, or three products with C.
    if 2 * n * (dx + dy) >= 3 * dx * dy:
        return apply(_FeatureForm, x, y, unbiased)[0]
    fused = x.device.type == "cpu" and x.dtype == torch.float32 and not dispatch.backends()["cpu"]
    return apply(_SampleForm, x, y, unbiased, fused)[0]
