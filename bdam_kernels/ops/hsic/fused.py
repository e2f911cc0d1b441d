"""Linear HSIC of few samples in CUDA: one launch gives the value, and one both gradients.

Forward saves the centred features and the weights that backward multiplies them by. The second launch takes the
gradient of the value into its products, in float32, and rounds once. A backward pass that is to be differentiated
itself is written in plain operations here, and derivatives of any order follow.

Sums run in a fixed order: results are bit-equal from call to call.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bdam_kernels import dispatch
from bdam_kernels.autograd import apply, no_derivatives_of, wants_double_backward
from bdam_kernels.operators import operator
from bdam_kernels.ops.arguments import empty_contiguous
from bdam_kernels.ops.gpu import launch, on_device_of
from bdam_kernels.ops.hsic.algebra import centre, divisors, full_precision, gram_weights

MOST_ROWS = 512
"""Rows that the kernels take: more are faster on cuBLAS, which the closed forms use."""


_TILE = 64
"""Rows and columns of a tile in csrc/cuda/hsic.cuh."""


def reason(x_dtype: torch.dtype, y_dtype: torch.dtype, rows: int) -> str:
    """ "" if the kernels take such inputs, else why not."""
    if rows > MOST_ROWS:
        return f"its kernels of linear HSIC take up to {MOST_ROWS} rows, got {rows}"
    return dispatch.dtype_reason(x_dtype, y_dtype)


def _empty_forward(x: Tensor, y: Tensor, unbiased: bool) -> tuple[Tensor, Tensor]:
    value = x.new_empty((), dtype=torch.float32)
    return value, value.new_empty(_saved_floats(x.shape[0], x.shape[1], y.shape[1]))


def _saved_floats(rows: int, x_width: int, y_width: int) -> int:
    """Of both inputs, in whole tiles: centred features, weights (N, N) and a diagonal; and two sums."""
    n = _in_tiles(rows)
    return n * (_in_tiles(x_width) + _in_tiles(y_width) + 2 * n + 2) + 2


def _in_tiles(extent: int) -> int:
    return (extent + _TILE - 1) // _TILE * _TILE


@operator(
    "hsic_linear_forward(Tensor x, Tensor y, bool unbiased) -> (Tensor value, Tensor saved)",
    fake=_empty_forward,
)
def _forward(x: Tensor, y: Tensor, unbiased: bool) -> tuple[Tensor, Tensor]:
    """The value, and centred features, weights and sums for backward, all in float32."""
    if x.dtype != y.dtype:
        x, y = x.float(), y.float()
    value, saved = _empty_forward(x, y, unbiased)
    kernels, (p, q, r) = dispatch.cuda(), divisors(len(x), unbiased)
    with on_device_of(x):
        workspace = value.new_empty(kernels.hsic_linear_workspace(len(x), x.shape[1], y.shape[1]))
        launch(kernels.hsic_linear_forward, (x, y, value, saved, workspace), (1 / r, p, q, unbiased))
    return value, saved


no_derivatives_of("hsic_linear_forward")


def _empty_backward(grad: Tensor, saved: Tensor, x: Tensor, y: Tensor, unbiased: bool) -> tuple[Tensor, Tensor]:
    return empty_contiguous(x), empty_contiguous(y)


@operator(
    "hsic_linear_backward(Tensor grad, Tensor saved, Tensor x, Tensor y, bool unbiased) -> (Tensor, Tensor)",
    fake=_empty_backward,
)
def _backward(grad: Tensor, saved: Tensor, x: Tensor, y: Tensor, unbiased: bool) -> tuple[Tensor, Tensor]:
    """Gradients of x and y, of which no more than shape and dtype is asked here."""
    gradients = _empty_backward(grad, saved, x, y, unbiased)
    p, q, r = divisors(len(x), unbiased)
    with on_device_of(x):
        launch(dispatch.cuda().hsic_linear_backward, (grad, saved, *gradients), (2 / r, p, q, unbiased))
    return gradients


class _FusedForm(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, y: Tensor, unbiased: bool) -> tuple[Tensor, Tensor]:
        return _forward(x, y, unbiased)

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        x, y, ctx.unbiased = inputs
        ctx.save_for_backward(x, y, output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx, grad, _):  # type: ignore[no-untyped-def]
        x, y, saved = ctx.saved_tensors
        if wants_double_backward():
            return *_gradients(grad, x, y, ctx.unbiased), None
        return *_backward(grad, saved, x, y, ctx.unbiased), None


def _gradients(grad: Tensor, x: Tensor, y: Tensor, unbiased: bool) -> tuple[Tensor, Tensor]:
    """2/r M(L) x and 2/r M(K) y, times the gradient of the value."""
    scale = grad * (2 / divisors(len(x), unbiased)[2])
    wide_x, wide_y = centre(x.float()), centre(y.float())
    with full_precision(x):
        grad_x = (scale * gram_weights(wide_y @ wide_y.mT, unbiased)) @ wide_x
        grad_y = (scale * gram_weights(wide_x @ wide_x.mT, unbiased)) @ wide_y
    return grad_x.to(x.dtype), grad_y.to(y.dtype)


def linear_hsic(x: Tensor, y: Tensor, unbiased: bool) -> Tensor:
    """HSIC of x and y, two different tensors, in float32."""
    return apply(_FusedForm, x, y, unbiased)[0]
