"""What the native modules refuse instead of reading memory that is not there."""

from __future__ import annotations

import pytest
import torch
from helpers import require

from bdam_kernels import dispatch

X = torch.zeros(1, 2, 3)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (X.double(), TypeError, "float32, bfloat16, float16 and bool, got DLPack's type 2 of 64 bits"),
        (X.to("meta"), RuntimeError, "meta"),
        (X[None, None], ValueError, "at most 4 dimensions, got 5"),
        ([1.0], RuntimeError, "list"),
        (1, RuntimeError, "int"),
    ],
)
def test_tensors_are_checked(x: object, error: type[Exception], message: str) -> None:
    require("cpu")
    with pytest.raises(error, match=message):
        dispatch.cpu().causal_conv1d_forward(x, None, None, None, None, None, None, False, 1)


@pytest.mark.parametrize(
    ("silu", "threads", "error"), [(False, 1.5, TypeError), (False, 1 << 40, OverflowError), (X, 1, RuntimeError)]
)
def test_numbers_are_checked(silu: object, threads: object, error: type[Exception]) -> None:
    require("cpu")
    with pytest.raises(error):
        dispatch.cpu().causal_conv1d_forward(X, None, None, None, None, X, None, silu, threads)


def test_arguments_are_counted() -> None:
    require("cpu")
    with pytest.raises(TypeError, match="expected 9 arguments, got 1"):
        dispatch.cpu().causal_conv1d_forward(X)


def test_fake_tensors_have_no_memory() -> None:
    require("cpu")
    with torch._subclasses.FakeTensorMode(), pytest.raises((ValueError, RuntimeError)):
        dispatch.cpu().causal_conv1d_forward(torch.empty(1, 2, 3), None, None, None, None, None, None, False, 1)
