"""HSIC with Gaussian kernels: schema of the kernels and autograd.

Neither estimator sees a constant that is added to a kernel matrix: the biased one everywhere, the unbiased one off the
diagonal, which is all that it looks at. So K here is the kernel matrix less a typical value c of its entries exp(e), as
c expm1(e - m) with c = exp(m): accurate where the kernel is wide and they are all nearly 1, and where it is narrow and
they are nearly 0. The diagonal, which is equal for all rows, is left out, and added to the sums:

    r h = <K, L> - 2/p <K 1, L 1> + (1^T K 1)(1^T L 1)/q, plus the diagonal's terms for the biased estimator
    dh/dx = W x - diag(W 1) x, for features of width 1, with W = (2 h_KL L + 4 h_KK K + t 1^T + 1 t^T) * (K + c),

where t, h_KL and h_KK are derivatives of h by K 1, <K, L> and <K, K>. Of independent features the terms of h cancel
down to 1/N, and those of alignment of narrow kernels down to the squares of their entries: they are added in float64.

Nothing of size N x N is in memory: kernels compute both matrices by tiles, forward and backward; where there is none,
torch computes them a stripe of rows at a time. One pass over the pairs gives <K, L>, <K, K> and <L, L>, all that the
normalised value takes. Forward returns the sums of rows, which backward needs, as a further output, so that a backward
that is to be differentiated is made of plain operations on tensors that autograd knows.

Distances come from products of centred features: an entry of K so has a relative error of about eps (|x| / sigma)^2,
which is 50 eps where the kernel is a tenth as wide as the median distance, and more than all other errors there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bdam_kernels import dispatch
from bdam_kernels.autograd import apply, no_derivatives_of, wants_double_backward
from bdam_kernels.operators import operator
from bdam_kernels.ops.arguments import cast, empty_contiguous, unit_stride
from bdam_kernels.ops.hsic import reference
from bdam_kernels.ops.hsic.algebra import apart, centre, divisors, full_precision

_TILE = 2**23
"""Elements of both Gaussian kernel matrices that torch computes at once."""

_MEDIAN_ROWS = 1024
"""Rows of which the median distance is taken: of more, so many evenly spaced ones."""


def _empty_sums(x: Tensor, y: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(3, x.shape[0], dtype=torch.float32), x.new_empty(2, x.shape[0], dtype=torch.float32)


@operator(
    "hsic_gaussian_forward(Tensor x, Tensor y, Tensor kernels) -> (Tensor products, Tensor sums)",
    fake=_empty_sums,
    devices=("cpu",),
)
def _forward(x: Tensor, y: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the rows, off the diagonal, of K * K, K * L and L * L, (3, N), and of K and L, (2, N), in float32."""
    products, sums = _empty_sums(x, y, kernels)
    dispatch.cpu().hsic_gaussian_forward(
        unit_stride(x), unit_stride(y), kernels.contiguous(), products, sums, torch.get_num_threads()
    )
    return products, sums


def _empty_gradients(x: Tensor, y: Tensor, *others: object) -> tuple[Tensor, Tensor]:
    return empty_contiguous(x), empty_contiguous(y)


@operator(
    "hsic_gaussian_backward(Tensor x, Tensor y, Tensor kernels, Tensor factors, Tensor terms) -> (Tensor, Tensor)",
    fake=_empty_gradients,
    devices=("cpu",),
)
def _backward(x: Tensor, y: Tensor, kernels: Tensor, factors: Tensor, terms: Tensor) -> tuple[Tensor, Tensor]:
    """(W x - diag(W 1) x) / sigma of the scaled features x, W_ij = (f_00 K_ij + f_01 L_ij + t_0i + t_0j)(K_ij + c),
    and the same for y; factors f are (2, 2), terms t (2, N)."""
    gradients, parameters = _empty_gradients(x, y), [t.contiguous() for t in (kernels, factors, terms)]
    dispatch.cpu().hsic_gaussian_backward(
        unit_stride(x), unit_stride(y), *parameters, *gradients, torch.get_num_threads()
    )
    return gradients


no_derivatives_of("hsic_gaussian_forward")


def _distances(x: Tensor) -> Tensor:
    """Of up to 64 pairs of different rows, detached. The stride is odd, as data often have even periods."""
    half = x.shape[0] // 2
    step = (half + 7) // 8 | 1
    dtype = torch.promote_types(x.dtype, torch.float32)
    x = x.detach()
    if torch.compiler.is_exporting():  # slices would restrict N
        places = torch.arange(8, device=x.device) * step
        some, others = x[places % half], x[half + places % (x.shape[0] - half)]
    else:
        some, others = x[:half:step], x[half::step]
    return torch.cdist(cast(some, dtype), cast(others, dtype))


def _kernels(x: Tensor, y: Tensor, x_sigma: Tensor, y_sigma: Tensor, scaled: bool) -> Tensor:
    """(1/sigma, m, c) of K and of L, (2, 3).

    `scaled` divides both matrices by a factor, c included, such that entries from exp(-60) to 1 can be multiplied in
    float32. A kernel of a tenth of the median distance has entries of exp(-50) for the most part.
    """
    widths = torch.stack([x_sigma, y_sigma])
    distances = [_distances(t) for t in (x, y)]
    # The bounds keep exp(e - m), with e <= 0, and products of two such entries, scaled, from overflow.
    exponents = level = _exponents([d.median() for d in distances], widths).clamp_min(-80)
    if scaled:
        level = exponents - _exponents([d.min() for d in distances], widths).clamp_min(-56) / 2
    return torch.stack([widths.reciprocal(), exponents, level.exp()], 1)


def _exponents(distances: list[Tensor], widths: Tensor) -> Tensor:
    return (torch.stack(distances) / widths).square().mul(-0.5)


def _stripes(n: int) -> Iterator[slice]:
    if torch.compiler.is_exporting():  # a graph of so many stripes would be for this N only
        return iter([slice(0, n)])
    rows = max(_TILE // (2 * n), 32)
    return (slice(i, min(i + rows, n)) for i in range(0, n, rows))


def _gaussians(x: Tensor, y: Tensor, kernels: Tensor) -> Callable[[slice], Tensor]:
    """A function that gives K_ij and L_ij for i in some rows and every j, (2, rows, N), zero on the diagonal, of
    features with width 1.

    It takes few operations on both at once: on a GPU it is the host that stripes wait for.
    """
    squares = torch.stack([t.square().sum(1) for t in (x, y)])
    # What the exponent of a pair of rows has of either, beside their product.
    halves = (squares + kernels[:, 1, None]) * -0.5
    of_rows, of_columns, levels = halves[:, :, None], halves[:, None], kernels[:, 2, None, None]
    transposed = x.mT, y.mT

    def of(rows: slice) -> Tensor:
        exponents = of_rows[:, rows] + of_columns
        exponents[0].addmm_(x[rows], transposed[0])
        exponents[1].addmm_(y[rows], transposed[1])
        grams = levels * exponents.expm1_()
        grams.diagonal(rows.start, 1, 2).zero_()
        return grams

    return of


def _forward_stripes(x: Tensor, y: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor]:
    """As `_forward`, of features with width 1."""
    squares, crosses, sums = [], [], []
    grams_of = _gaussians(x, y, kernels)
    with full_precision(x):
        for rows in _stripes(x.shape[0]):
            grams = grams_of(rows)
            sums.append(grams.sum(2))
            crosses.append((grams[0] * grams[1]).sum(1))
            squares.append((grams * grams).sum(2))
            del grams  # before the next ones
    of_x, of_y = torch.cat(squares, 1)
    return torch.stack([of_x, torch.cat(crosses), of_y]), torch.cat(sums, 1)


def _backward_stripes(x: Tensor, y: Tensor, kernels: Tensor, factors: Tensor, terms: Tensor) -> tuple[Tensor, Tensor]:
    """As `_backward`, of features with width 1 and symmetric factors, and without the division by the width."""
    # Of the terms, which are batched wherever anything is.
    grad_x, grad_y = terms.new_empty(x.shape), terms.new_empty(y.shape)
    grams_of, sums = _gaussians(x, y, kernels), []
    own, of_other, levels = factors.diagonal()[:, None, None], factors[0, 1], kernels[:, 2, None, None]
    of_rows, of_columns = terms[:, :, None], terms[:, None]
    with full_precision(x):
        for rows in _stripes(x.shape[0]):
            grams = grams_of(rows)
            weights = (of_rows[:, rows] + of_columns).addcmul_(own, grams)
            weights[0].addcmul_(of_other, grams[1])
            weights[1].addcmul_(of_other, grams[0])
            # In place, unless these products are to be differentiated themselves.
            weights.mul_(grams + levels if torch.is_grad_enabled() else grams.add_(levels))
            # A row's own weight cancels: the better if it is not there.
            weights.diagonal(rows.start, 1, 2).zero_()
            sums.append(weights.sum(2))
            grad_x[rows].addmm_(weights[0], x, beta=0)
            grad_y[rows].addmm_(weights[1], y, beta=0)
            del grams, weights  # before the next ones
    of_x, of_y = torch.cat(sums, 1)[:, :, None]
    return grad_x.addcmul_(of_x, x, value=-1), grad_y.addcmul_(of_y, y, value=-1)


def _diagonals(kernels: Tensor) -> Tensor:
    """Of K and L, which kernels leave out: exp(0) in the matrix's scale, less the level; (2,)."""
    _, exponents, levels = kernels.double().unbind(1)
    return levels * torch.expm1(-exponents)


class _GaussianForm(torch.autograd.Function):
    """HSIC of (x, x), (x, y), (y, x) and (y, y), (2, 2), and the sums of the rows of K and L, (2, N), in float64."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, y: Tensor, kernels: Tensor, unbiased: bool, native: bool) -> tuple[Tensor, Tensor]:
        n = x.shape[0]
        p, q, r = divisors(n, unbiased)
        if native:
            products, sums = _forward(x, y, kernels)
        else:
            products, sums = _forward_stripes(centre(x) * kernels[0, 0], centre(y) * kernels[1, 0], kernels)
        sums = sums.double()
        products, totals = products.sum(1, dtype=torch.float64).unfold(0, 2, 1), sums.sum(1)
        values = torch.addmm(products, sums, sums.mT, alpha=-2 / p)
        if unbiased:
            values += totals.outer(totals) / q
        else:
            diagonals = _diagonals(kernels)
            rest = totals / n - diagonals
            values += rest.outer(rest) + diagonals.outer(diagonals) * (n - 2)
        return values / r, sums

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        *tensors, ctx.unbiased, ctx.native = inputs
        ctx.save_for_backward(*tensors, output[1])

    @staticmethod
    def backward(ctx, grad_values, grad_sums):  # type: ignore[no-untyped-def]
        x, y, kernels, sums = ctx.saved_tensors
        n = x.shape[0]
        p, q, r = divisors(n, ctx.unbiased)
        totals = sums.sum(1, keepdim=True)
        rest = totals / q if ctx.unbiased else (totals / n - _diagonals(kernels)[:, None]) / n
        grads = (grad_values + grad_values.mT) / r
        terms = (grad_sums + grads @ (rest - sums * (2 / p))).to(kernels.dtype)
        factors = (2 * grads).to(kernels.dtype)
        if ctx.native and not wants_double_backward():
            return *_backward(x, y, kernels, factors, terms), None, None, None
        wide_x, wide_y = (centre(t.to(kernels.dtype)) * k[0] for t, k in ((x, kernels[0]), (y, kernels[1])))
        grad_x, grad_y = _backward_stripes(wide_x, wide_y, kernels, factors, terms)
        return (grad_x * kernels[0, 0]).to(x.dtype), (grad_y * kernels[1, 0]).to(y.dtype), None, None, None


def median_distance(x: Tensor) -> Tensor:
    """Median distance of two different rows, detached; the mean distance if that is 0, and 1 if all rows are equal."""
    x = x.detach()
    if torch.compiler.is_exporting() or x.shape[0] > _MEDIAN_ROWS:
        rows = torch.sym_min(x.shape[0], _MEDIAN_ROWS)
        x = x[torch.arange(rows, device=x.device) * (x.shape[0] - 1) // (rows - 1)]
    x = centre(x.to(torch.promote_types(x.dtype, torch.float32)))
    squares = x.square().sum(1)
    with full_precision(x):
        distances = _off_diagonal(squares[:, None] + squares - 2 * (x @ x.mT)).clamp_min(0).sqrt()
    # torch.median takes the lower of the two middle values; of the negatives that is the upper one.
    median = (distances.nanmedian() - (-distances).nanmedian()) / 2
    width = torch.where(median > 0, median, distances.nanmean())
    return torch.where(width == 0, torch.ones_like(width), width)


def _off_diagonal(symmetric: Tensor) -> Tensor:
    """Elements of a symmetric matrix: those above the diagonal. In an exported graph, which is for any N, those below
    as well, which moves no median and no mean, and NaN on the diagonal."""
    n, device = symmetric.shape[0], symmetric.device
    if torch.compiler.is_exporting():
        return symmetric.masked_fill(torch.eye(n, dtype=torch.bool, device=device), torch.nan)
    i, j = torch.triu_indices(n, n, 1, device=device)
    return symmetric[i, j]


def _widths(x: Tensor, y: Tensor, sigma: float | tuple[float, float] | None) -> tuple[Tensor, Tensor]:
    """Scalars on the inputs' device, where nothing waits for them."""
    if sigma is None:
        return median_distance(x), median_distance(y)
    pair = sigma if isinstance(sigma, (tuple, list)) else (sigma, sigma)
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.full((), pair[0], dtype=dtype, device=x.device), torch.full((), pair[1], dtype=dtype, device=x.device)


def gaussian_hsic(
    x: Tensor,
    y: Tensor,
    sigma: float | tuple[float, float] | None,
    unbiased: bool,
    normalize: bool,
    chosen: str,
) -> tuple[Tensor, ...]:
    """HSIC with Gaussian kernels, in float64; with `normalize` also that of x with itself and of y with itself, all
    three by kernels times constants, which cancel in alignment.

    Args:
        sigma: width of both, or of each; None for the median distances.
        chosen: a backend, or "closed" for closed forms on torch alone.
    """
    x_sigma, y_sigma = _widths(x, y, sigma)
    if chosen == "reference":
        wide_x, wide_y = centre(x.double()) / x_sigma, centre(y.double()) / y_sigma
        pairs = ((wide_x, wide_y), (wide_x, wide_x), (wide_y, wide_y))
        return tuple(reference.gaussian_hsic(*pair, unbiased) for pair in (pairs if normalize else pairs[:1]))
    native = chosen == "cpu" and x.dtype == torch.float32 and bool(x.numel() and y.numel())
    kernels = _kernels(x, y, x_sigma, y_sigma, scaled=normalize and unbiased)
    values, _ = apply(_GaussianForm, *apart(x, y), kernels, unbiased, native)
    return (values[0, 1], values[0, 0], values[1, 1]) if normalize else (values[0, 1],)


def kernels() -> dict[str, str]:
    """The backends that have kernels, which take all inputs that the closed forms take."""
    return {"cpu": ""}
