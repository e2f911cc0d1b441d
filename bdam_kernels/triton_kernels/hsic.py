"""Triton kernels of HSIC and their launches; for arguments see `bdam_kernels.ops.hsic_gpu` and `.hsic_gaussian`.

Linear kernels, few rows: a program has a block of rows of one input's gradient and a slice of its columns. It computes
its rows of the other input's Gram matrix, over all N columns, in registers, and multiplies them with the slice: nothing
of size N x N is in memory, at the price that every slice computes those rows again. What is loaded is centred in
registers, as whole columns are there.

Gaussian kernels, any number of rows: a program has a block of rows and walks all others.
"""

# mypy: disable-error-code="no-untyped-def, assignment"

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from bdam_kernels.triton_kernels.launch import DTYPES, Launch, device, kernel

LINEAR_BLOCKS = {64: (16, 64, 32, 4), 128: (16, 64, 32, 4), 256: (32, 64, 32, 8), 512: (16, 32, 16, 8)}
"""Rows of a program, columns of its slice and of the other input at once, and warps, by the most rows of an input."""

GAUSSIAN_BLOCKS = (64, 64, 32, 4)
"""Rows of a program, of what it walks at once, columns in a step of a product, and warps."""

GAUSSIAN_SLICE = 128
"""Columns of a program's gradient."""


@device
def _dot(x, y):
    return tl.dot(x, y, input_precision="tf32x3")


@device
def _columns(x, column_stride, first, width, COUNT: tl.constexpr):
    """Addresses of columns of the first row, and which exist."""
    columns = first + tl.arange(0, COUNT)
    return x + columns.to(tl.int64)[None, :] * column_stride, (columns < width)[None, :]


@device
def _centred(x, row_stride, column_stride, first, width, rows, n, tile, COUNT: tl.constexpr):
    """Columns of x in float32 minus their means: of all N rows, (ALL, COUNT), and of the rows `tile`."""
    at, exist = _columns(x, column_stride, first, width, COUNT)
    # Means of differences to the first row: equal rows give exactly zero, and a common offset costs no accuracy.
    origin = tl.load(at, exist, other=0.0).to(tl.float32)
    is_row = (rows < n)[:, None]
    whole = tl.load(at + rows.to(tl.int64)[:, None] * row_stride, is_row & exist, other=0.0).to(tl.float32)
    whole = tl.where(is_row, whole - origin, 0.0)
    mean = (tl.sum(whole, 0) / n)[None, :]
    part = tl.load(at + tile.to(tl.int64)[:, None] * row_stride, (tile < n)[:, None] & exist, other=0.0)
    part = tl.where((tile < n)[:, None], part.to(tl.float32) - origin - mean, 0.0)
    return tl.where(is_row, whole - mean, 0.0), part


@kernel
def hsic_linear_kernel(
    x, x_row, x_column, x_width, y, y_row, y_column, y_width, n, gradients, shares, factor, p, q, unbiased,
    ROWS: tl.constexpr, ALL: tl.constexpr, SLICE: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    tiles, x_slices = (n + ROWS - 1) // ROWS, (x_width + SLICE - 1) // SLICE
    of_y = tl.program_id(0) >= tiles * x_slices
    index = tl.where(of_y, tl.program_id(0) - tiles * x_slices, tl.program_id(0))
    rows, tile = tl.arange(0, ALL), index % tiles * ROWS + tl.arange(0, ROWS)

    # W, of which the gradient is the product with this input: the other input's Gram matrix, or for the unbiased
    # estimator M of it, where the sum of a row without its diagonal is minus the diagonal, as features are centred.
    other, other_width = tl.where(of_y, x, y), tl.where(of_y, x_width, y_width)
    other_row, other_column = tl.where(of_y, x_row, y_row), tl.where(of_y, x_column, y_column)
    weights = tl.zeros((ROWS, ALL), tl.float32)
    squares, tile_squares = tl.zeros((ALL,), tl.float32), tl.zeros((ROWS,), tl.float32)
    for first in tl.range(0, other_width, STEP):
        whole, part = _centred(other, other_row, other_column, first, other_width, rows, n, tile, STEP)
        weights += _dot(part, tl.trans(whole))
        squares += tl.sum(whole * whole, 1)
        tile_squares += tl.sum(part * part, 1)
    if unbiased != 0:
        weights += (tile_squares[:, None] + squares[None, :]) / p - tl.sum(squares, 0) / q
        weights = tl.where(tile[:, None] == rows[None, :], 0.0, weights)

    own, width = tl.where(of_y, y, x), tl.where(of_y, y_width, x_width)
    own_row, own_column = tl.where(of_y, y_row, x_row), tl.where(of_y, y_column, x_column)
    first = index // tiles * SLICE
    whole, part = _centred(own, own_row, own_column, first, width, rows, n, tile, SLICE)
    gradient = factor * _dot(weights, whole)
    columns = first + tl.arange(0, SLICE)
    to = gradients + tl.where(of_y, n * x_width, 0) + tile[:, None] * width + columns[None, :]
    tl.store(to, gradient, (tile < n)[:, None] & (columns < width)[None, :])
    # The value is quadratic in x: half of <x, gradient>.
    if of_y == 0:
        tl.store(shares + tl.program_id(0), tl.sum(tl.sum(part * gradient, 1), 0) * 0.5)


@device
def _scaled(x, row_stride, column_stride, first, width, shift, scale, rows, n, COUNT: tl.constexpr):
    """Columns of rows of x in float32, minus a common row and scaled; zero where there are none."""
    columns = first + tl.arange(0, COUNT)
    is_column, exist = columns < width, (rows < n)[:, None] & (columns < width)[None, :]
    at = rows.to(tl.int64)[:, None] * row_stride + columns.to(tl.int64)[None, :] * column_stride
    values = tl.load(x + at, exist, other=0.0).to(tl.float32)
    common = tl.load(shift + columns, is_column, other=0.0)[None, :]
    return tl.where(exist, (values - common) * scale, 0.0)


@device
def _gram_less_one(features, rows, others, n, STEP: tl.constexpr):
    """exp(-|x_i - x_j|^2 / 2) - 1 for i in rows, j in others."""
    x, row_stride, column_stride, width, shift, scale = features
    exponents = tl.zeros((rows.shape[0], others.shape[0]), tl.float32)
    squares, other_squares = tl.zeros((rows.shape[0],), tl.float32), tl.zeros((others.shape[0],), tl.float32)
    for first in tl.range(0, width, STEP):
        a = _scaled(x, row_stride, column_stride, first, width, shift, scale, rows, n, STEP)
        b = _scaled(x, row_stride, column_stride, first, width, shift, scale, others, n, STEP)
        exponents += _dot(a, tl.trans(b))
        squares += tl.sum(a * a, 1)
        other_squares += tl.sum(b * b, 1)
    exponents -= (squares[:, None] + other_squares[None, :]) * 0.5
    exponents = tl.where(rows[:, None] == others[None, :], 0.0, exponents)
    return _expm1(exponents)


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


@kernel
def hsic_gaussian_forward_kernel(
    x, x_row, x_column, x_width, y, y_row, y_column, y_width, n, x_shift, y_shift, x_scale, y_scale,
    products, x_sums, y_sums,
    ROWS: tl.constexpr, WALK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    of_x = (x, x_row, x_column, x_width, x_shift, tl.load(x_scale))
    of_y = (y, y_row, y_column, y_width, y_shift, tl.load(y_scale))
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    product, x_sum = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    y_sum = tl.zeros((ROWS,), tl.float32)
    for start in tl.range(0, n, WALK):
        others = start + tl.arange(0, WALK)
        there = (others < n)[None, :]
        x_gram = tl.where(there, _gram_less_one(of_x, rows, others, n, STEP), 0.0)
        y_gram = tl.where(there, _gram_less_one(of_y, rows, others, n, STEP), 0.0)
        product += tl.sum(x_gram * y_gram, 1)
        x_sum += tl.sum(x_gram, 1)
        y_sum += tl.sum(y_gram, 1)
    tl.store(products + rows, product, rows < n)
    tl.store(x_sums + rows, x_sum, rows < n)
    tl.store(y_sums + rows, y_sum, rows < n)


@kernel
def hsic_gaussian_backward_kernel(
    x, x_row, x_column, x_width, y, y_row, y_column, y_width, n, x_shift, y_shift, x_scale, y_scale,
    scale, x_terms, y_terms, x_grad, y_grad,
    ROWS: tl.constexpr, WALK: tl.constexpr, STEP: tl.constexpr, SLICE: tl.constexpr,
):  # fmt: skip
    """A program has rows of one input's gradient, and a slice of its columns."""
    tiles, x_slices = (n + ROWS - 1) // ROWS, (x_width + SLICE - 1) // SLICE
    of_y = tl.program_id(0) >= tiles * x_slices
    index = tl.where(of_y, tl.program_id(0) - tiles * x_slices, tl.program_id(0))
    rows, first = index % tiles * ROWS + tl.arange(0, ROWS), index // tiles * SLICE
    x_scale, y_scale, scale = tl.load(x_scale), tl.load(y_scale), tl.load(scale)
    # From here on, x is the input whose gradient this is.
    own, own_row, own_column = tl.where(of_y, y, x), tl.where(of_y, y_row, x_row), tl.where(of_y, y_column, x_column)
    own_width, own_shift = tl.where(of_y, y_width, x_width), tl.where(of_y, y_shift, x_shift)
    own_scale, terms = tl.where(of_y, y_scale, x_scale), tl.where(of_y, y_terms, x_terms)
    other, other_row = tl.where(of_y, x, y), tl.where(of_y, x_row, y_row)
    other_column, other_width = tl.where(of_y, x_column, y_column), tl.where(of_y, x_width, y_width)
    other_shift, other_scale = tl.where(of_y, x_shift, y_shift), tl.where(of_y, x_scale, y_scale)
    of_own = (own, own_row, own_column, own_width, own_shift, own_scale)
    of_other = (other, other_row, other_column, other_width, other_shift, other_scale)

    row_terms = tl.load(terms + rows, rows < n, other=0.0)
    gradient, sums = tl.zeros((ROWS, SLICE), tl.float32), tl.zeros((ROWS,), tl.float32)
    for start in tl.range(0, n, WALK):
        others = start + tl.arange(0, WALK)
        weights = scale * _gram_less_one(of_other, rows, others, n, STEP)
        weights += row_terms[:, None] + tl.load(terms + others, others < n, other=0.0)[None, :]
        weights *= _gram_less_one(of_own, rows, others, n, STEP) + 1.0
        weights = tl.where((others < n)[None, :], weights, 0.0)
        sums += tl.sum(weights, 1)
        walked = _scaled(own, own_row, own_column, first, own_width, own_shift, own_scale, others, n, SLICE)
        gradient += _dot(weights, walked)
    part = _scaled(own, own_row, own_column, first, own_width, own_shift, own_scale, rows, n, SLICE)
    gradient = (gradient - sums[:, None] * part) * own_scale
    columns = first + tl.arange(0, SLICE)
    to = tl.where(of_y, y_grad, x_grad) + rows.to(tl.int64)[:, None] * own_width + columns[None, :]
    tl.store(to, gradient.to(to.dtype.element_ty), (rows < n)[:, None] & (columns < own_width)[None, :])


def _rounded(n: int) -> int:
    return max(16, 1 << (n - 1).bit_length())


def _linear_blocks(n: int) -> tuple[int, int, int, int]:
    return next(blocks for most, blocks in LINEAR_BLOCKS.items() if n <= most)


def _linear_programs(n: int, width: int) -> int:
    rows, columns, *_ = _linear_blocks(n)
    return -(-n // rows) * -(-width // columns)


def hsic_linear_workspace(n: int, x_width: int, y_width: int) -> int:
    """Floats: a share of the value from every program of x."""
    return _linear_programs(n, x_width)


def _linear(x: Tensor, y: Tensor, gradients: Tensor, workspace: Tensor, *numbers: Any) -> Launch:
    n, (x_width, y_width) = len(x), (x.shape[1], y.shape[1])
    rows, columns, step, warps = _linear_blocks(n)
    args = (x, *x.stride(), x_width, y, *y.stride(), y_width, n, gradients, workspace, *numbers)
    constants = {"ROWS": rows, "ALL": _rounded(n), "SLICE": columns, "STEP": step}
    programs = _linear_programs(n, x_width) + _linear_programs(n, y_width)
    return Launch(hsic_linear_kernel, programs, args, constants, warps)


def hsic_linear(
    x: Tensor, y: Tensor, value: Tensor, gradients: Tensor, workspace: Tensor,
    factor: float, p: float, q: float, unbiased: bool,
) -> None:  # fmt: skip
    _linear(x, y, gradients, workspace, factor, p, q, int(unbiased)).run()
    torch.sum(workspace, 0, out=value)


def _gaussian_args(x: Tensor, y: Tensor, *scaling: Tensor) -> tuple[Any, ...]:
    return x, *x.stride(), x.shape[1], y, *y.stride(), y.shape[1], len(x), *scaling


def _gaussian_forward(x: Tensor, y: Tensor, *others: Tensor) -> Launch:
    """others: common rows of x and of y, scales of x and of y, and the outputs."""
    rows, walk, step, warps = GAUSSIAN_BLOCKS
    constants = {"ROWS": rows, "WALK": walk, "STEP": step}
    args = _gaussian_args(x, y, *others)
    return Launch(hsic_gaussian_forward_kernel, -(-len(x) // rows), args, constants, warps)


def _gaussian_backward(x: Tensor, y: Tensor, *others: Tensor) -> Launch:
    """others: as in forward, then the scale of the gradient of the value, and terms of the rows."""
    rows, walk, step, warps = GAUSSIAN_BLOCKS
    constants = {"ROWS": rows, "WALK": walk, "STEP": step, "SLICE": GAUSSIAN_SLICE}
    programs = -(-len(x) // rows) * sum(-(-t.shape[1] // GAUSSIAN_SLICE) for t in (x, y))
    return Launch(hsic_gaussian_backward_kernel, programs, _gaussian_args(x, y, *others), constants, warps)


def hsic_gaussian_forward(*args: Tensor) -> None:
    _gaussian_forward(*args).run()


def hsic_gaussian_backward(*args: Tensor) -> None:
    _gaussian_backward(*args).run()


def variants() -> Iterator[Launch]:
    """A launch of every kernel that a call may choose, on tensors without memory."""
    for dtype, n in product(DTYPES, (16, 32, 64, 128, 256, 512)):
        x = torch.empty(n, 8, dtype=dtype, device="meta")
        floats = torch.empty(1, device="meta")
        yield _linear(x, x, floats, floats, 1.0, 1.0, 1.0, 0)
    for dtype in DTYPES:
        x = torch.empty(1, 1, dtype=dtype, device="meta")
        yield _gaussian_forward(x, x, *(floats,) * 7)
        yield _gaussian_backward(x, x, *(floats,) * 7, x, x)
