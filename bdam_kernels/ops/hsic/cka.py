"""Centred kernel alignment of many pairs of layers at once: for one batch, over batches, and drawn as a heat map."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from bdam_kernels.ops.hsic.algebra import centre, divisors, full_precision

_STRIPE = 2**22
"""Elements of all layers' Gram matrices that are computed at once."""


def cka_matrix(
    list_x: Sequence[Tensor], list_y: Sequence[Tensor], *, estimator: Literal["biased", "unbiased"] = "biased"
) -> Tensor:
    """Linear centred kernel alignment of every layer of one model with every layer of another; differentiable.

    Entry (i, j) is `hsic(list_x[i], list_y[j], estimator=estimator, normalize=True)`, but every layer is centred once
    and met once with itself, and all pairs are a few matrix products.  Source: Kornblith et al. 2019, Eq. 3 and 5.

    Args:
        list_x, list_y: features of the same N samples, one (N, D) a layer, of any width; floating point.
        estimator: of HSIC, as in `hsic`; "unbiased" may give values outside of [0, 1].
    Returns: (len(list_x), len(list_y)), float32 (float64 if any layer is). A layer whose rows are all equal has 0.
    Raises: ValueError for shapes that do not fit, empty lists, or fewer than 2 (unbiased: 4) rows; TypeError for
        dtypes that are not floating point.
    """
    if estimator not in ("biased", "unbiased"):
        raise ValueError(f"estimator must be 'biased' or 'unbiased', got {estimator!r}")
    return _ratio(*_hsic_of_all(list_x, list_y, estimator == "unbiased"))


class MinibatchCKA:
    """`cka_matrix` of a data set, a batch at a time: unbiased HSIC of every pair is averaged over batches, and the
    ratio taken at the end, which converges to that of the whole set whatever the size of batches.

    Source: Nguyen et al. 2021, "Do wide and deep networks learn the same things?", Eq. 2.
    """

    def __init__(self) -> None:
        self._sums: tuple[Tensor, ...] | None = None

    @torch.no_grad()
    def update(self, list_x: Sequence[Tensor], list_y: Sequence[Tensor]) -> None:
        """Takes in a batch of at least 4 samples: arguments and errors as of `cka_matrix`. ValueError if the number
        of layers differs from earlier batches'."""
        terms = _hsic_of_all(list_x, list_y, unbiased=True)
        if self._sums is None:
            self._sums = terms
            return
        if terms[0].shape != self._sums[0].shape:
            before, now = tuple(self._sums[0].shape), tuple(terms[0].shape)
            raise ValueError(f"every batch must have the numbers of layers of the first one, {before}, got {now}")
        self._sums = tuple(a + b for a, b in zip(self._sums, terms, strict=True))

    def compute(self) -> Tensor:
        """(layers of x, layers of y), as `cka_matrix`. Raises: RuntimeError before the first batch."""
        if self._sums is None:
            raise RuntimeError("no batch was taken in: call update(list_x, list_y) first")
        return _ratio(*self._sums)


def draw_cka(
    matrix: Tensor,
    path: str | Path,
    *,
    names_x: Sequence[str] | None = None,
    names_y: Sequence[str] | None = None,
) -> None:
    """Draws a `cka_matrix` as a heat map, the first layers at the lower left, into a file that appears at once.

    Args:
        path: of the picture; its suffix says the format, png, pdf or svg.
        names_x, names_y: of the rows and columns; None numbers them.
    Raises: ValueError if matrix has not two axes, or the names are not as many as its rows and columns.
    """
    from matplotlib.figure import Figure

    if matrix.dim() != 2:
        raise ValueError(f"matrix must be (layers of x, layers of y), got {tuple(matrix.shape)}")
    for label, names, size in (("names_x", names_x, matrix.shape[0]), ("names_y", names_y, matrix.shape[1])):
        if names is not None and len(names) != size:
            raise ValueError(f"{label} must be {size} names, one a layer, got {len(names)}")
    rows, columns = matrix.shape
    figure = Figure(figsize=(2.5 + 0.3 * columns, 1.5 + 0.3 * rows), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(matrix.detach().float().cpu().numpy(), origin="lower", vmin=0, vmax=1, cmap="magma")
    figure.colorbar(image, label="CKA")
    axes.set_xticks(range(columns), names_y)
    axes.tick_params("x", rotation=90 if names_y else 0)
    axes.set_yticks(range(rows), names_x)
    path = Path(path)
    partial = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        figure.savefig(partial, dpi=150)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _hsic_of_all(list_x: Sequence[Tensor], list_y: Sequence[Tensor], unbiased: bool) -> tuple[Tensor, Tensor, Tensor]:
    """HSIC of every pair (a, b), of every x with itself (a), and of every y with itself (b)."""
    n = _check(list_x, list_y, unbiased)
    dtype = torch.float64 if torch.float64 in {t.dtype for t in (*list_x, *list_y)} else torch.float32
    xs, ys = ([centre(t.to(dtype)) for t in layers] for layers in (list_x, list_y))
    x_squares, y_squares = (torch.stack([t.square().sum(1) for t in layers]) for layers in (xs, ys))
    p, q, r = divisors(n, unbiased)

    def hsic(products: Tensor, diagonals: Tensor, totals: Tensor) -> Tensor:
        # Rows of Gram matrices of centred features add up to 0, so without the diagonal to minus the diagonal.
        return (products - diagonals * (n / p) + totals / q if unbiased else products) / r

    def hsic_with_self(layers: list[Tensor], squares: Tensor) -> Tensor:
        products = torch.stack([_products([t], [t])[0, 0] for t in layers])
        return hsic(products, squares.square().sum(1), squares.sum(1).square())

    with full_precision(xs[0]):
        pairs = hsic(_products(xs, ys), x_squares @ y_squares.mT, x_squares.sum(1).outer(y_squares.sum(1)))
        return pairs, hsic_with_self(xs, x_squares), hsic_with_self(ys, y_squares)


def _products(xs: list[Tensor], ys: list[Tensor]) -> Tensor:
    """<x x^T, y y^T> of every pair of centred features: from Gram matrices, a stripe of rows of all layers' at a time,
    or as |x^T y|^2, whichever takes fewer multiplications; the latter in an exported graph, which is for any N."""
    n = xs[0].shape[0]
    x_width, y_width = (sum(t.shape[1] for t in layers) for layers in (xs, ys))
    if torch.compiler.is_exporting() or n * (x_width + y_width + len(xs) * len(ys)) > x_width * y_width:
        widths = [t.shape[1] for t in ys]
        side_by_side = torch.cat(ys, 1)
        return torch.stack(
            [torch.stack([c.square().sum() for c in (x.mT @ side_by_side).split(widths, 1)]) for x in xs]
        )
    total = xs[0].new_zeros(len(xs), len(ys))
    rows = max(_STRIPE // (n * (len(xs) + len(ys))), 1)
    for first in range(0, n, rows):
        x_grams, y_grams = (
            torch.stack([(t[first : first + rows] @ t.mT).flatten() for t in layers]) for layers in (xs, ys)
        )
        total = total + x_grams @ y_grams.mT
    return total


def _ratio(pairs: Tensor, of_x: Tensor, of_y: Tensor) -> Tensor:
    constant = (of_x <= 0)[:, None] | (of_y <= 0)
    norms = torch.where(of_x <= 0, 1.0, of_x).sqrt().outer(torch.where(of_y <= 0, 1.0, of_y).sqrt())
    return torch.where(constant, 0.0, pairs / norms)


def _check(list_x: Sequence[Tensor], list_y: Sequence[Tensor], unbiased: bool) -> int:
    """The number of samples."""
    if not list_x or not list_y:
        raise ValueError(f"both lists must have a layer at least, got {len(list_x)} and {len(list_y)}")
    n = list_x[0].shape[0]
    for name, layers in (("list_x", list_x), ("list_y", list_y)):
        for i, t in enumerate(layers):
            if t.dim() != 2 or t.shape[0] != n:
                raise ValueError(f"{name}[{i}] must be (N, D) with N = {n} like list_x[0], got {tuple(t.shape)}")
            if not t.is_floating_point():
                raise TypeError(f"{name}[{i}] must be floating point, got {t.dtype}")
    if n < (4 if unbiased else 2):
        raise ValueError(f"at least {4 if unbiased else 2} rows are needed, got {n}")
    return n
