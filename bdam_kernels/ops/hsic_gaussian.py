"""HSIC with Gaussian kernels: schema of the kernels and autograd.

With K and L less 1 and W = (L - (L 1 1^T + 1 1^T L)/p + 1^T L 1/q) * (K + 1): r dh/dx = 2 (W x - diag(W 1) x), for
features of width 1. Nothing of size N x N is in memory: kernels compute both matrices by tiles, forward and backward,
and where there is none, torch computes them a stripe of rows at a time.

Forward returns the sums of the matrices' rows, which backward needs, as further outputs. So a backward that is to be
differentiated is made of plain operations on tensors that autograd knows.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from bdam_kernels import backend as backends
from bdam_kernels import reference
from bdam_kernels.autograd import wants_double_backward
from bdam_kernels.ops.hsic_forms import apart, centre, divisors, empty, full_precision

_TILE = 2**21
"""Elements of a Gaussian kernel matrix that torch computes at once."""

_FEATURES = "Tensor x, Tensor y, Tensor x_sigma, Tensor y_sigma"
torch.library.define(
    "bdam::hsic_gaussian_forward", f"({_FEATURES}, str backend) -> (Tensor products, Tensor x_sums, Tensor y_sums)"
)
torch.library.define(
    "bdam::hsic_gaussian_backward",
    f"({_FEATURES}, Tensor scale, Tensor x_terms, Tensor y_terms, str backend) -> (Tensor, Tensor)",
)


def gaussian_reason(x: Tensor, y: Tensor) -> str:
    """"" if GPU kernels take these inputs, else why not."""
    return backends.dtype_reason(x, y)


@torch.library.impl("bdam::hsic_gaussian_forward", ("cpu", "cuda"))
def _gaussian_forward(x: Tensor, y: Tensor, x_sigma: Tensor, y_sigma: Tensor, backend: str) -> tuple[Tensor, ...]:
    """Of the Gaussian kernel matrices less 1, K and L: sums of the rows of K * L, of K and of L, in float32."""
    outputs = _gaussian_forward_fake(x, y, x_sigma, y_sigma, backend)
    _run("hsic_gaussian_forward", backend, x, y, x_sigma, y_sigma, outputs)
    return outputs


@torch.library.register_fake("bdam::hsic_gaussian_forward")
def _gaussian_forward_fake(x: Tensor, y: Tensor, x_sigma: Tensor, y_sigma: Tensor, backend: str) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(len(x), dtype=torch.float32) for _ in range(3))


@torch.library.impl("bdam::hsic_gaussian_backward", ("cpu", "cuda"))
def _gaussian_backward(
    x: Tensor, y: Tensor, x_sigma: Tensor, y_sigma: Tensor, scale: Tensor, x_terms: Tensor, y_terms: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(W x - diag(W 1) x) / sigma of the scaled features x, W_ij = (scale L_ij + x_terms_i + x_terms_j)(K_ij + 1), and
    the same for y."""
    grads = _gaussian_backward_fake(x, y, x_sigma, y_sigma, scale, x_terms, y_terms, backend)
    terms = [t.contiguous() for t in (scale, x_terms, y_terms)]
    _run("hsic_gaussian_backward", backend, x, y, x_sigma, y_sigma, (*terms, *grads))
    return grads


@torch.library.register_fake("bdam::hsic_gaussian_backward")
def _gaussian_backward_fake(x: Tensor, y: Tensor, *others: object) -> tuple[Tensor, Tensor]:
    return empty(x), empty(y)


def _run(
    name: str, backend: str, x: Tensor, y: Tensor, x_sigma: Tensor, y_sigma: Tensor, others: tuple[Tensor, ...]
) -> None:
    """A kernel, on centred features: that leaves distances as they are, but keeps them accurate."""
    if backend == "cpu":
        x, y = (t if t.stride(1) == 1 else t.contiguous() for t in (x, y))
    tensors = (x, y, _means(x), _means(y), 1 / x_sigma, 1 / y_sigma, *others)
    if backend == "cpu":
        getattr(backends.cpu(), name)(*tensors, torch.get_num_threads())
        return
    with torch.cuda.device_of(x):
        backends.launch(getattr(backends.gpu_module(backend, "hsic"), name), *tensors)


def _means(x: Tensor) -> Tensor:
    """About the means of the differences to the first row, of some rows, in float32: distances need no exact ones."""
    return (x[:: max(len(x) // 256, 1)] - x[0].float()).mean(0)


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


def _forward_stripes(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """As `_gaussian_forward`, of features with width 1."""
    products, x_sums, y_sums = [], [], []
    with full_precision(x):
        for rows in _stripes(len(x)):
            x_gram, y_gram = _gaussian(x, rows), _gaussian(y, rows)
            products.append((x_gram * y_gram).sum(1))
            x_sums.append(x_gram.sum(1))
            y_sums.append(y_gram.sum(1))
    return torch.cat(products), torch.cat(x_sums), torch.cat(y_sums)


def _backward_stripes(x: Tensor, y: Tensor, scale: Tensor, x_terms: Tensor, y_terms: Tensor) -> tuple[Tensor, Tensor]:
    """As `_gaussian_backward`, of features with width 1."""

    def gradient(x: Tensor, rows: slice, x_gram: Tensor, y_gram: Tensor, terms: Tensor) -> Tensor:
        w = (scale * y_gram + (terms[rows, None] + terms)) * (x_gram + 1)
        return w @ x - w.sum(1, keepdim=True) * x[rows]

    grads_x, grads_y = [], []
    with full_precision(x):
        for rows in _stripes(len(x)):
            x_gram, y_gram = _gaussian(x, rows), _gaussian(y, rows)
            grads_x.append(gradient(x, rows, x_gram, y_gram, x_terms))
            grads_y.append(gradient(y, rows, y_gram, x_gram, y_terms))
    return torch.cat(grads_x), torch.cat(grads_y)


class _GaussianForm(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, y: Tensor, x_sigma: Tensor, y_sigma: Tensor, unbiased: bool, backend: str | None
    ) -> tuple[Tensor, ...]:
        p, q, r = divisors(len(x), unbiased)
        if backend:
            products, *sums = torch.ops.bdam.hsic_gaussian_forward(x, y, x_sigma, y_sigma, backend)
        else:
            products, *sums = _forward_stripes(centre(x) / x_sigma, centre(y) / y_sigma)
        # Of independent features these terms cancel down to 1/N.
        a, b = (s.double() for s in sums)
        value = (products.double().sum() - (a * b).sum() * (2 / p) + a.sum() * b.sum() / q) / r
        return value.to(products.dtype), *sums

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        *features, ctx.unbiased, ctx.backend = inputs
        ctx.save_for_backward(*features, *output[1:])

    @staticmethod
    def backward(ctx, grad, grad_x_sums, grad_y_sums):  # type: ignore[no-untyped-def]
        x, y, x_sigma, y_sigma, x_sums, y_sums = ctx.saved_tensors
        p, q, r = divisors(len(x), ctx.unbiased)
        scale = grad * (2 / r)
        x_terms = grad_x_sums + scale * (y_sums.sum() / (2 * q) - y_sums / p)
        y_terms = grad_y_sums + scale * (x_sums.sum() / (2 * q) - x_sums / p)
        if ctx.backend and not wants_double_backward():
            grads = torch.ops.bdam.hsic_gaussian_backward(
                x, y, x_sigma, y_sigma, scale, x_terms, y_terms, ctx.backend
            )
            return *grads, None, None, None, None
        wide_x, wide_y = x.to(x_sums.dtype), y.to(y_sums.dtype)
        grad_x, grad_y = _backward_stripes(
            centre(wide_x) / x_sigma, centre(wide_y) / y_sigma, scale, x_terms, y_terms
        )
        return (grad_x / x_sigma).to(x.dtype), (grad_y / y_sigma).to(y.dtype), None, None, None, None


def gaussian_hsic(
    x: Tensor, y: Tensor, x_sigma: Tensor, y_sigma: Tensor, unbiased: bool, chosen: str
) -> Tensor:
    """HSIC with Gaussian kernels of widths x_sigma and y_sigma, scalars."""
    if chosen == "reference":
        return reference.gaussian_hsic(centre(x) / x_sigma, centre(y) / y_sigma, unbiased)
    has_kernel = chosen == "triton" or (chosen == "cpu" and x.dtype == torch.float32 and x.numel() and y.numel())
    native = chosen if has_kernel else None
    return _GaussianForm.apply(*apart(x, y), *apart(x_sigma, y_sigma), unbiased, native)[0]
