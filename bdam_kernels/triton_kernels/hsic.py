"""Triton kernels of HSIC and their launches; for arguments see `bdam_kernels.ops.hsic_gpu` and `.hsic_gaussian`.

A program has a block of rows, of a gradient also a slice of its columns, and walks all rows: of the ones it is at, it
computes a tile of the Gram matrices in registers and multiplies it with the slice. So nothing of size N x N is in
memory, at the price that every slice computes its rows of the matrices again, and nothing is added atomically.
"""

# mypy: disable-error-code="no-untyped-def, assignment"

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from bdam_kernels.triton_kernels.launch import DTYPES, Launch, device, kernel

LINEAR_BLOCKS = (32, 32, 16, 64, 4)
GAUSSIAN_FORWARD_BLOCKS = (32, 32, 16, 4)
GAUSSIAN_BACKWARD_BLOCKS = (32, 16, 16, 64, 8)
"""Rows of a program, of what it walks at once, columns in a step of a product and in a slice, and warps."""

MEAN_BLOCKS = (32, 32, 4)
"""Rows and columns that a program takes the means of at once, and warps."""


@device
def _dot(x, y):
    return tl.dot(x, y, input_precision="tf32x3")


@device
def _load(features, first, rows, n, COUNT: tl.constexpr):
    """Columns of rows in float32, centred and scaled; zero where there are none.

    The first row goes first, `shift` is the mean of what remains: so a common offset costs no accuracy, and equal rows
    give exactly zero.
    """
    x, row_stride, column_stride, width, shift, scale = features
    columns = first + tl.arange(0, COUNT)
    exist = (rows < n)[:, None] & (columns < width)[None, :]
    at = x + columns.to(tl.int64) * column_stride
    origin = tl.load(at, columns < width, other=0.0).to(tl.float32)
    mean = tl.load(shift + columns, columns < width, other=0.0)
    values = tl.load(at[None, :] + rows.to(tl.int64)[:, None] * row_stride, exist, other=0.0).to(tl.float32)
    return tl.where(exist, (values - origin[None, :] - mean[None, :]) * scale, 0.0)


@device
def _store(to, width, first, rows, n, tile):
    columns = first + tl.arange(0, tile.shape[1])
    at = to + rows.to(tl.int64)[:, None] * width + columns[None, :]
    tl.store(at, tile.to(at.dtype.element_ty), (rows < n)[:, None] & (columns < width)[None, :])


@device
def _locate(n, x_width, ROWS: tl.constexpr, SLICE: tl.constexpr):
    """Whether this program's gradient is that of y, its rows, and the first column of its slice."""
    tiles, x_slices = (n + ROWS - 1) // ROWS, (x_width + SLICE - 1) // SLICE
    of_y = tl.program_id(0) >= tiles * x_slices
    index = tl.where(of_y, tl.program_id(0) - tiles * x_slices, tl.program_id(0))
    return of_y, index % tiles * ROWS + tl.arange(0, ROWS), index // tiles * SLICE


@device
def _pick(second, x, x_row, x_column, x_width, x_shift, x_scale, y, y_row, y_column, y_width, y_shift, y_scale):
    """The features x, or y if `second`, as `_load` takes them."""
    return (
        tl.where(second, y, x), tl.where(second, y_row, x_row), tl.where(second, y_column, x_column),
        tl.where(second, y_width, x_width), tl.where(second, y_shift, x_shift), tl.where(second, y_scale, x_scale),
    )  # fmt: skip


@device
def _gram(features, rows, others, n, STEP: tl.constexpr):
    """<x_i, x_j> for i in rows and j in others, and the squares of both."""
    products = tl.zeros((rows.shape[0], others.shape[0]), tl.float32)
    squares, other_squares = tl.zeros((rows.shape[0],), tl.float32), tl.zeros((others.shape[0],), tl.float32)
    for first in tl.range(0, features[3], STEP):
        a, b = _load(features, first, rows, n, STEP), _load(features, first, others, n, STEP)
        products += _dot(a, tl.trans(b))
        squares += tl.sum(a * a, 1)
        other_squares += tl.sum(b * b, 1)
    return products, squares, other_squares


@device
def _expm1(x):
    """exp(x) - 1, accurate near 0: there by its series, of which the rest is below 2^-26 of the result."""
    series = 1.0 / 5040
    series = series * x + 1.0 / 720
    series = series * x + 1.0 / 120
    series = series * x + 1.0 / 24
    series = series * x + 1.0 / 6
    series = series * x + 0.5
    series = series * x + 1.0
    return tl.where(tl.abs(x) < 0.35, series * x, tl.exp(x) - 1.0)


@device
def _gaussian_input(x, row_stride, column_stride, width, shift, kernels, INDEX: tl.constexpr):
    """Features as `_load` takes them, and the exponent and the level of their kernel's typical value."""
    kernel = kernels + 3 * INDEX
    return (x, row_stride, column_stride, width, shift, tl.load(kernel)), tl.load(kernel + 1), tl.load(kernel + 2)


@device
def _gaussian(features, exponent, level, rows, others, n, STEP: tl.constexpr):
    """exp(-|x_i - x_j|^2 / 2), in the matrix's scale, less its level, for i in rows and j in others; else, and on the
    diagonal, zero."""
    products, squares, other_squares = _gram(features, rows, others, n, STEP)
    exponents = products - (squares[:, None] + other_squares[None, :]) * 0.5
    there = (others < n)[None, :] & (rows[:, None] != others[None, :])
    return tl.where(there, level * _expm1(exponents - exponent), 0.0)


@kernel
def hsic_means_kernel(
    x, x_row, x_column, x_width, y, y_row, y_column, y_width, n, x_means, y_means,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Of each input the mean of the differences of its rows to the first one."""
    x_blocks = (x_width + COLUMNS - 1) // COLUMNS
    of_y = tl.program_id(0) >= x_blocks
    own, width = tl.where(of_y, y, x), tl.where(of_y, y_width, x_width)
    row_stride, column_stride = tl.where(of_y, y_row, x_row), tl.where(of_y, y_column, x_column)
    columns = tl.where(of_y, tl.program_id(0) - x_blocks, tl.program_id(0)) * COLUMNS + tl.arange(0, COLUMNS)
    at = own + columns.to(tl.int64) * column_stride
    origin = tl.load(at, columns < width, other=0.0).to(tl.float32)
    sums = tl.zeros((COLUMNS,), tl.float32)
    for start in tl.range(0, n, ROWS):
        rows = start + tl.arange(0, ROWS)
        there = (rows < n)[:, None] & (columns < width)[None, :]
        tile = tl.load(at[None, :] + rows.to(tl.int64)[:, None] * row_stride, there, other=0.0).to(tl.float32)
        sums += tl.sum(tl.where(there, tile - origin[None, :], 0.0), 0)
    tl.store(tl.where(of_y, y_means, x_means) + columns, sums / n, columns < width)


@kernel
def hsic_linear_kernel(
    x, x_row, x_column, x_width, y, y_row, y_column, y_width, n, x_means, y_means, gradients, shares,
    factor, p, q, unbiased,
    ROWS: tl.constexpr, WALK: tl.constexpr, STEP: tl.constexpr, SLICE: tl.constexpr,
):  # fmt: skip
    of_y, rows, first = _locate(n, x_width, ROWS, SLICE)
    own = _pick(of_y, x, x_row, x_column, x_width, x_means, 1.0, y, y_row, y_column, y_width, y_means, 1.0)
    other = _pick(of_y, y, y_row, y_column, y_width, y_means, 1.0, x, x_row, x_column, x_width, x_means, 1.0)
    gradient = tl.zeros((ROWS, SLICE), tl.float32)
    squares, total = tl.zeros((ROWS,), tl.float32), 0.0
    for start in tl.range(0, n, WALK):
        others = start + tl.arange(0, WALK)
        weights, squares, other_squares = _gram(other, rows, others, n, STEP)
        if unbiased != 0:
            weights += other_squares[None, :] / p
            weights = tl.where(rows[:, None] == others[None, :], 0.0, weights)
            total += tl.sum(other_squares, 0)
        gradient += _dot(weights, _load(own, first, others, n, SLICE))
    part = _load(own, first, rows, n, SLICE)
    if unbiased != 0:
        # Rows of a Gram matrix of centred features add up to 0, so without the diagonal to minus the diagonal, and
        # the features of all rows but one to minus the features of that one.
        gradient += (total / q - squares / p)[:, None] * part
    gradient *= factor
    _store(gradients + tl.where(of_y, n * x_width, 0), own[3], first, rows, n, gradient)
    # The value is quadratic in x: half of <x, gradient>.
    if of_y == 0:
        tl.store(shares + tl.program_id(0), tl.sum(tl.sum(part * gradient, 1), 0) * 0.5)


@kernel
def hsic_gaussian_forward_kernel(
    x, x_row, x_column, x_width, y, y_row, y_column, y_width, n, x_shift, y_shift, kernels, products, sums,
    ROWS: tl.constexpr, WALK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    of_x, x_exponent, x_level = _gaussian_input(x, x_row, x_column, x_width, x_shift, kernels, 0)
    of_y, y_exponent, y_level = _gaussian_input(y, y_row, y_column, y_width, y_shift, kernels, 1)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    xx, xy, yy = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    x_sum, y_sum = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    for start in tl.range(0, n, WALK):
        others = start + tl.arange(0, WALK)
        x_gram = _gaussian(of_x, x_exponent, x_level, rows, others, n, STEP)
        y_gram = _gaussian(of_y, y_exponent, y_level, rows, others, n, STEP)
        xx += tl.sum(x_gram * x_gram, 1)
        xy += tl.sum(x_gram * y_gram, 1)
        yy += tl.sum(y_gram * y_gram, 1)
        x_sum += tl.sum(x_gram, 1)
        y_sum += tl.sum(y_gram, 1)
    tl.store(products + rows, xx, rows < n)
    tl.store(products + n + rows, xy, rows < n)
    tl.store(products + 2 * n + rows, yy, rows < n)
    tl.store(sums + rows, x_sum, rows < n)
    tl.store(sums + n + rows, y_sum, rows < n)


@device
def _pair_sums(terms, rows, others, n):
    return tl.load(terms + rows, rows < n, other=0.0)[:, None] + tl.load(terms + others, others < n, other=0.0)[None, :]


@kernel
def hsic_gaussian_backward_kernel(
    x, x_row, x_column, x_width, y, y_row, y_column, y_width, n, x_shift, y_shift, kernels, factors, terms,
    x_grad, y_grad,
    ROWS: tl.constexpr, WALK: tl.constexpr, STEP: tl.constexpr, SLICE: tl.constexpr,
):  # fmt: skip
    """A program has a slice of the columns of both gradients, as both take the same two matrices."""
    tiles = (n + ROWS - 1) // ROWS
    rows, first = tl.program_id(0) % tiles * ROWS + tl.arange(0, ROWS), tl.program_id(0) // tiles * SLICE
    of_x, x_exponent, x_level = _gaussian_input(x, x_row, x_column, x_width, x_shift, kernels, 0)
    of_y, y_exponent, y_level = _gaussian_input(y, y_row, y_column, y_width, y_shift, kernels, 1)
    xx, xy, yy = tl.load(factors), tl.load(factors + 1), tl.load(factors + 3)
    x_gradient, x_sums = tl.zeros((ROWS, SLICE), tl.float32), tl.zeros((ROWS,), tl.float32)
    y_gradient, y_sums = tl.zeros((ROWS, SLICE), tl.float32), tl.zeros((ROWS,), tl.float32)
    for start in tl.range(0, n, WALK, num_stages=1):
        others = start + tl.arange(0, WALK)
        x_gram = _gaussian(of_x, x_exponent, x_level, rows, others, n, STEP)
        y_gram = _gaussian(of_y, y_exponent, y_level, rows, others, n, STEP)
        x_weights = xy * y_gram + xx * x_gram + _pair_sums(terms, rows, others, n)
        y_weights = xy * x_gram + yy * y_gram + _pair_sums(terms + n, rows, others, n)
        # A row's own weight cancels: the better if it is not there.
        there = (others < n)[None, :] & (rows[:, None] != others[None, :])
        x_weights = tl.where(there, x_weights * (x_gram + x_level), 0.0)
        y_weights = tl.where(there, y_weights * (y_gram + y_level), 0.0)
        x_sums += tl.sum(x_weights, 1)
        y_sums += tl.sum(y_weights, 1)
        x_gradient += _dot(x_weights, _load(of_x, first, others, n, SLICE))
        y_gradient += _dot(y_weights, _load(of_y, first, others, n, SLICE))
    x_gradient = (x_gradient - x_sums[:, None] * _load(of_x, first, rows, n, SLICE)) * of_x[5]
    y_gradient = (y_gradient - y_sums[:, None] * _load(of_y, first, rows, n, SLICE)) * of_y[5]
    _store(x_grad, x_width, first, rows, n, x_gradient)
    _store(y_grad, y_width, first, rows, n, y_gradient)


def _features(x: Tensor, y: Tensor) -> tuple[Any, ...]:
    return x, *x.stride(), x.shape[1], y, *y.stride(), y.shape[1], len(x)


def _gradient_programs(n: int, width: int, blocks: tuple[int, ...]) -> int:
    rows, _, _, columns, _ = blocks
    return -(-n // rows) * -(-width // columns)


def _means(x: Tensor, y: Tensor, x_means: Tensor, y_means: Tensor) -> Launch:
    rows, columns, warps = MEAN_BLOCKS
    programs = sum(-(-t.shape[1] // columns) for t in (x, y))
    args = (*_features(x, y), x_means, y_means)
    return Launch(hsic_means_kernel, programs, args, {"ROWS": rows, "COLUMNS": columns}, warps)


def _linear(x: Tensor, y: Tensor, *others: Any) -> Launch:
    constants = dict(zip(("ROWS", "WALK", "STEP", "SLICE"), LINEAR_BLOCKS, strict=False))
    programs = sum(_gradient_programs(len(x), t.shape[1], LINEAR_BLOCKS) for t in (x, y))
    return Launch(hsic_linear_kernel, programs, (*_features(x, y), *others), constants, LINEAR_BLOCKS[-1])


def _gaussian_forward(x: Tensor, y: Tensor, *others: Tensor) -> Launch:
    rows, *_, warps = GAUSSIAN_FORWARD_BLOCKS
    constants = dict(zip(("ROWS", "WALK", "STEP"), GAUSSIAN_FORWARD_BLOCKS, strict=False))
    return Launch(hsic_gaussian_forward_kernel, -(-len(x) // rows), (*_features(x, y), *others), constants, warps)


def _gaussian_backward(x: Tensor, y: Tensor, *others: Tensor) -> Launch:
    blocks = GAUSSIAN_BACKWARD_BLOCKS
    constants = dict(zip(("ROWS", "WALK", "STEP", "SLICE"), blocks, strict=False))
    programs = _gradient_programs(len(x), max(x.shape[1], y.shape[1]), blocks)
    return Launch(hsic_gaussian_backward_kernel, programs, (*_features(x, y), *others), constants, blocks[-1])


def hsic_linear_workspace(n: int, x_width: int, y_width: int) -> int:
    """Floats: the means of both, and a share of the value from every program of x."""
    return x_width + y_width + _gradient_programs(n, x_width, LINEAR_BLOCKS)


def hsic_linear(
    x: Tensor, y: Tensor, value: Tensor, gradients: Tensor, workspace: Tensor,
    factor: float, p: float, q: float, unbiased: bool,
) -> None:  # fmt: skip
    x_means, y_means, shares = workspace.tensor_split([x.shape[1], x.shape[1] + y.shape[1]])
    _means(x, y, x_means, y_means).run()
    _linear(x, y, x_means, y_means, gradients, shares, float(factor), float(p), float(q), int(unbiased)).run()
    torch.sum(shares, 0, out=value)


def hsic_gaussian_forward(*args: Tensor) -> None:
    _gaussian_forward(*args).run()


def hsic_gaussian_backward(*args: Tensor) -> None:
    _gaussian_backward(*args).run()


def variants() -> Iterator[Launch]:
    """A launch of every kernel that a call may choose, on tensors without memory."""
    floats = torch.empty(1, device="meta")
    for dtype in DTYPES:
        x = torch.empty(1, 1, dtype=dtype, device="meta")
        yield _means(x, x, floats, floats)
        yield _linear(x, x, *(floats,) * 4, 1.0, 1.0, 1.0, 0)
        yield _gaussian_forward(x, x, *(floats,) * 5)
        yield _gaussian_backward(x, x, *(floats,) * 5, x, x)
