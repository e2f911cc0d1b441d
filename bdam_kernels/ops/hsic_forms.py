"""HSIC of two feature matrices in closed forms: schema of the kernels and autograd.

Nothing here forms the centring matrix, and linear kernels form an N x N matrix only where N is below the feature
width. The work is done by torch's GEMMs, on any device; linear kernels of few samples have a C++ kernel on the CPU.

The Functions return what their backward needs as further outputs. So a backward is made of plain operations on
tensors that autograd knows, and derivatives of any order follow from it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import reduce

import torch
from torch import Tensor

from bdam_kernels import backend as backends
from bdam_kernels.autograd import wants_double_backward

_TILE = 2**21
"""Elements of a Gaussian kernel matrix that are computed at once."""

torch.library.define(
    "bdam::hsic_forward",
    "(Tensor x, Tensor y) -> (Tensor product, Tensor x_centred, Tensor y_centred, Tensor x_gram, Tensor y_gram)",
)
torch.library.define(
    "bdam::hsic_backward",
    "(Tensor grad, Tensor x_weights, Tensor y_weights, Tensor x_centred, Tensor y_centred, float factor)"
    " -> (Tensor, Tensor)",
)


@torch.library.impl("bdam::hsic_forward", "cpu")
def _hsic_forward(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """Centred features, their Gram matrices K and L, and <K, L>."""
    x, y = (t if t.stride(1) == 1 else t.contiguous() for t in (x, y))
    outputs = _hsic_forward_fake(x, y)
    backends.cpu().hsic_forward(*map(backends.native, (x, y, *outputs)), torch.get_num_threads())
    return outputs


@torch.library.register_fake("bdam::hsic_forward")
def _hsic_forward_fake(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    n = x.shape[0]
    return x.new_empty(()), _empty(x), _empty(y), x.new_empty(n, n), x.new_empty(n, n)


@torch.library.impl("bdam::hsic_backward", "cpu")
def _hsic_backward(
    grad: Tensor, x_weights: Tensor, y_weights: Tensor, x: Tensor, y: Tensor, factor: float
) -> tuple[Tensor, Tensor]:
    """factor grad W x and factor grad V y for symmetric weights W and V."""
    tensors = [t.contiguous() for t in (grad, x_weights, y_weights, x, y)]
    grads = _empty(x), _empty(y)
    backends.cpu().hsic_backward(*map(backends.native, (*tensors, *grads)), factor, torch.get_num_threads())
    return grads


@torch.library.register_fake("bdam::hsic_backward")
def _hsic_backward_fake(
    grad: Tensor, x_weights: Tensor, y_weights: Tensor, x: Tensor, y: Tensor, factor: float
) -> tuple[Tensor, Tensor]:
    return _empty(x), _empty(y)


def _empty(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """Keeps autocast from rounding the products."""
    device = tensor.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def centre(x: Tensor) -> Tensor:
    """x minus its mean over rows; exactly zero for equal rows, and accurate for rows with a large common offset."""
    differences = x - x[:1]
    return differences - differences.mean(0)


def _divisors(n: int, unbiased: bool) -> tuple[int, int, int]:
    """(p, q, r) with r HSIC = <K, L> - 2/p <K 1, L 1> + (1^T K 1)(1^T L 1)/q; the unbiased one is for zero diagonals.

    Source: Gretton et al. 2005 (biased), Song et al. 2012, Eq. 5 (unbiased).
    """
    if unbiased:
        return n - 2, (n - 1) * (n - 2), n * (n - 3)
    return n, n * n, (n - 1) ** 2


def _sum(*terms: Tensor | None) -> Tensor | None:
    present = [t for t in terms if t is not None]
    return reduce(torch.add, present) if present else None


def _weights(gram: Tensor, unbiased: bool) -> Tensor:
    """M(L), linear in L, such that r HSIC = <K, M(L)> for Gram matrices K and L of centred features."""
    if not unbiased:
        return gram
    n = gram.shape[0]
    p, q, _ = _divisors(n, unbiased)
    diagonal = torch.eye(n, dtype=torch.bool, device=gram.device)
    gram = gram.masked_fill(diagonal, 0)
    sums = gram.sum(1)
    return (gram - (sums[:, None] + sums) / p + sums.sum() / q).masked_fill(diagonal, 0)


class _SampleForm(torch.autograd.Function):
    """Linear HSIC from the N x N Gram matrices of the centred features: r h = <K, M(L)>, r dh/dx = 2 M(L) x."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, y: Tensor, unbiased: bool, native: bool) -> tuple[Tensor, ...]:
        if native:
            product, x, y, x_gram, y_gram = torch.ops.bdam.hsic_forward(x, y)
        else:
            x, y = centre(x), centre(y)
            with full_precision(x):
                x_gram, y_gram = x @ x.mT, y @ y.mT
        if unbiased or not native:
            product = (x_gram * _weights(y_gram, unbiased)).sum()
        return product / _divisors(len(x), unbiased)[2], x, y, x_gram, y_gram

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        ctx.unbiased, ctx.native = inputs[2:]
        ctx.save_for_backward(*output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad, *grads):  # type: ignore[no-untyped-def]
        x, y, x_gram, y_gram = ctx.saved_tensors
        needs_x, needs_y = ctx.needs_input_grad[:2]
        factor = 2 / _divisors(len(x), ctx.unbiased)[2]
        only_value = grad is not None and all(g is None for g in grads)
        if ctx.native and only_value and needs_x and needs_y and not wants_double_backward():
            x_weights, y_weights = _weights(y_gram, ctx.unbiased), _weights(x_gram, ctx.unbiased)
            return *torch.ops.bdam.hsic_backward(grad, x_weights, y_weights, x, y, factor), None, None
        scale = None if grad is None else grad * factor

        def gradient(x: Tensor, other_gram: Tensor, grad_x: Tensor | None, grad_gram: Tensor | None) -> Tensor | None:
            by_value = None if scale is None else (scale * _weights(other_gram, ctx.unbiased)) @ x
            by_gram = None if grad_gram is None else (grad_gram + grad_gram.mT) @ x
            rest = _sum(by_gram, grad_x)
            return _sum(by_value, None if rest is None else centre(rest))

        with full_precision(x):
            grad_x = gradient(x, y_gram, grads[0], grads[2]) if needs_x else None
            grad_y = gradient(y, x_gram, grads[1], grads[3]) if needs_y else None
        return grad_x, grad_y, None, None


# Function.apply looks it up, in a tenth of the time of a small problem, unless it is there.
_SampleForm.forward.__signature__ = inspect.signature(_SampleForm.forward)  # type: ignore[attr-defined]


def _row_weights(y: Tensor) -> Tensor:
    """What the diagonals add to unbiased HSIC of centred features: r h = |x^T y|^2 + sum_i |x_i|^2 w_i(y); (N, 1)."""
    n = y.shape[0]
    p, q, _ = _divisors(n, True)
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
        return value / _divisors(len(x), unbiased)[2], x, y, cross

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        ctx.unbiased = inputs[2]
        ctx.save_for_backward(*output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad, grad_x, grad_y, grad_cross):  # type: ignore[no-untyped-def]
        x, y, cross = ctx.saved_tensors
        scale = None if grad is None else grad * (2 / _divisors(len(x), ctx.unbiased)[2])
        by_cross = _sum(None if scale is None else scale * cross, grad_cross)

        def gradient(x: Tensor, y: Tensor, by_cross: Tensor | None, grad_x: Tensor | None) -> Tensor | None:
            by_rows = scale * _row_weights(y) * x if ctx.unbiased and scale is not None else None
            rest = _sum(by_rows, grad_x)
            by_product = None if by_cross is None else y @ by_cross
            return _sum(by_product, None if rest is None else centre(rest))

        transposed = None if by_cross is None else by_cross.mT
        with full_precision(x):
            return (
                gradient(x, y, transposed, grad_x) if ctx.needs_input_grad[0] else None,
                gradient(y, x, by_cross, grad_y) if ctx.needs_input_grad[1] else None,
                None,
            )


def _apart(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """x and y as two tensors: torch.compile lets none be two inputs of a Function."""
    return x, y.view_as(y) if y is x else y


def linear_hsic(x: Tensor, y: Tensor, unbiased: bool) -> Tensor:
    x, y = _apart(x, y)
    n, (dx, dy) = len(x), (x.shape[1], y.shape[1])
    # Multiplications, with backward: two Gram matrices and two products with them, or three products with C.
    if 2 * n * (dx + dy) >= 3 * dx * dy:
        return _FeatureForm.apply(x, y, unbiased)[0]
    native = x.device.type == "cpu" and x.dtype == torch.float32 and not backends.backends()["cpu"]
    return _SampleForm.apply(x, y, unbiased, native)[0]


def _stripes(n: int) -> Iterator[slice]:
    rows = max(_TILE // n, 64)
    return (slice(i, min(i + rows, n)) for i in range(0, n, rows))


def _gaussian(x: Tensor, rows: slice) -> Tensor:
    """exp(-|x_i - x_j|^2 / 2) - 1 for i in rows and every j: zero on the diagonal, and accurate for a wide kernel.

    Neither estimator sees a constant that is added off the diagonal, nor the biased one a constant everywhere.
    """
    squares = x.square().sum(1)
    exponents = x[rows] @ x.mT - (squares[rows, None] + squares) / 2
    exponents.diagonal(rows.start).zero_()
    return torch.expm1(exponents)


class _GaussianForm(torch.autograd.Function):
    """HSIC with Gaussian kernels of width 1, a stripe of rows at a time, in O(N D) memory.

    With K and L less 1 and W = (L - (L 1 1^T + 1 1^T L)/p + 1^T L 1/q) * (K + 1): r dh/dx = 2 (W x - diag(W 1) x).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, y: Tensor, unbiased: bool) -> tuple[Tensor, ...]:
        p, q, r = _divisors(len(x), unbiased)
        inner, x_sums, y_sums = [], [], []
        with full_precision(x):
            for rows in _stripes(len(x)):
                x_gram, y_gram = _gaussian(x, rows), _gaussian(y, rows)
                inner.append((x_gram * y_gram).sum(1))
                x_sums.append(x_gram.sum(1))
                y_sums.append(y_gram.sum(1))
        sums = torch.cat(x_sums), torch.cat(y_sums)
        # Of independent features these terms cancel down to 1/N.
        a, b = (s.double() for s in sums)
        value = (torch.cat(inner).double().sum() - (a * b).sum() * (2 / p) + a.sum() * b.sum() / q) / r
        return value.to(x.dtype), *sums

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        x, y, ctx.unbiased = inputs
        ctx.save_for_backward(x, y, *output[1:])

    @staticmethod
    def backward(ctx, grad, grad_x_sums, grad_y_sums):  # type: ignore[no-untyped-def]
        x, y, x_sums, y_sums = ctx.saved_tensors
        p, q, r = _divisors(len(x), ctx.unbiased)
        scale = grad * (2 / r)
        x_terms = grad_x_sums + scale * (y_sums.sum() / (2 * q) - y_sums / p)
        y_terms = grad_y_sums + scale * (x_sums.sum() / (2 * q) - x_sums / p)

        def gradient(x: Tensor, rows: slice, x_gram: Tensor, y_gram: Tensor, terms: Tensor) -> Tensor:
            w = (scale * y_gram + (terms[rows, None] + terms)) * (x_gram + 1)
            return w @ x - w.sum(1, keepdim=True) * x[rows]

        grads_x, grads_y = [], []
        with full_precision(x):
            for rows in _stripes(len(x)):
                x_gram, y_gram = _gaussian(x, rows), _gaussian(y, rows)
                grads_x.append(gradient(x, rows, x_gram, y_gram, x_terms))
                grads_y.append(gradient(y, rows, y_gram, x_gram, y_terms))
        return torch.cat(grads_x), torch.cat(grads_y), None


def gaussian_hsic(x: Tensor, y: Tensor, unbiased: bool) -> Tensor:
    return _GaussianForm.apply(*_apart(x, y), unbiased)[0]
