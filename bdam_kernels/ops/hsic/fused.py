"""Linear HSIC of few samples in CUDA: one launch gives the value and both gradients.

The gradients are kept for backward, which only multiplies them with the gradient of the value, on the device. They are
outputs of the Function, so that autograd knows where they come from: a gradient of theirs is the Hessian's product with
it, which is written in plain operations here, and derivatives of any order follow.

Sums run in a fixed order: results are bit-equal from call to call.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bdam_kernels import dispatch
from bdam_kernels.autograd import apply, no_derivatives_of
from bdam_kernels.operators import operator
from bdam_kernels.ops.gpu import launch, on_device_of
from bdam_kernels.ops.hsic.algebra import add_present, centre, divisors, full_precision, gram_weights

MOST_ROWS = 512
"""Rows that the kernels take: more are faster on cuBLAS, which the closed forms use."""


def reason(x_dtype: torch.dtype, y_dtype: torch.dtype, rows: int) -> str:
    """ "" if the kernels take such inputs, else why not."""
    if rows > MOST_ROWS:
        return f"its kernels of linear HSIC take up to {MOST_ROWS} rows, got {rows}"
    return dispatch.dtype_reason(x_dtype, y_dtype)


def _empty_results(x: Tensor, y: Tensor, unbiased: bool) -> tuple[Tensor, Tensor]:
    gradients = x.new_empty(x.numel() + y.numel(), dtype=torch.float32)
    return gradients.new_empty(()), gradients


@operator(
    "hsic_linear(Tensor x, Tensor y, bool unbiased) -> (Tensor value, Tensor gradients)",
    fake=_empty_results,
)
def _linear(x: Tensor, y: Tensor, unbiased: bool) -> tuple[Tensor, Tensor]:
    """The value, and both gradients one after the other, all in float32."""
    kernels = dispatch.cuda()
    if x.dtype != y.dtype:
        x, y = x.float(), y.float()
    value, gradients = _empty_results(x, y, unbiased)
    p, q, r = divisors(len(x), unbiased)
    with on_device_of(x):
        workspace = value.new_empty(kernels.hsic_linear_workspace(len(x), x.shape[1], y.shape[1]))
        launch(kernels.hsic_linear, (x, y, value, gradients, workspace), (2 / r, p, q, unbiased))
    return value, gradients


no_derivatives_of("hsic_linear")


class _FusedForm(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, y: Tensor, unbiased: bool) -> tuple[Tensor, Tensor]:
        return _linear(x, y, unbiased)

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        x, y, ctx.unbiased = inputs
        ctx.save_for_backward(x, y, output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad, grad_gradients):  # type: ignore[no-untyped-def]
        x, y, gradients = ctx.saved_tensors
        by_value = None if grad is None else grad * gradients
        by_gradients = None if grad_gradients is None else _hessian_product(x, y, ctx.unbiased, grad_gradients)
        total = add_present(by_value, by_gradients)
        if total is None:
            return None, None, None
        return *(g.to(t.dtype) for g, t in zip(_split(total, x, y), (x, y), strict=True)), None


def _split(both: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    of_x, of_y = both.split([x.numel(), y.numel()])
    return of_x.view(x.shape), of_y.view(y.shape)


def _hessian_product(x: Tensor, y: Tensor, unbiased: bool, direction: Tensor) -> Tensor:
    """Derivative of both gradients, 2/r M(L) x and 2/r M(K) y, as (x, y) moves in a direction."""
    x_step, y_step = (centre(t) for t in _split(direction, x, y))
    x, y = centre(x.float()), centre(y.float())

    def of_gradient(x: Tensor, x_step: Tensor, y: Tensor, y_step: Tensor) -> Tensor:
        half = y_step @ y.mT
        return gram_weights(half + half.mT, unbiased) @ x + gram_weights(y @ y.mT, unbiased) @ x_step

    with full_precision(x):
        of_x, of_y = of_gradient(x, x_step, y, y_step), of_gradient(y, y_step, x, x_step)
    return torch.cat([of_x.flatten(), of_y.flatten()]) * (2 / divisors(len(x), unbiased)[2])


def linear_hsic(x: Tensor, y: Tensor, unbiased: bool) -> Tensor:
    """HSIC of x and y, two different tensors, in float32."""
    return apply(_FusedForm, x, y, unbiased)[0]
