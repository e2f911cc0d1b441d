"""What the tests of both forms of cross-attention share: backends and dtypes, inputs, layouts, and the comparison."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from helpers import FACTOR, assert_matches, device_of
from torch import Tensor

BACKENDS = ("reference", "cpu", "triton", "cuda")
NAMES = ("q_a", "k_a", "v_a", "q_b", "k_b", "v_b")
DTYPES = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["f32", "bf16", "f16"]
)
FORCED = pytest.mark.parametrize("backend", BACKENDS)
# Triton's interpreter takes seconds for what has many programs, many keys or dropout.
FORCED_DTYPES = pytest.mark.parametrize(
    ("backend", "dtype"),
    [*product(("reference", "cpu", "cuda"), (torch.float32, torch.bfloat16, torch.float16)), ("triton", torch.float32)],
    ids=lambda value: str(value).removeprefix("torch."),
)


def make_inputs(
    batch: int, heads: int, length_a: int, length_b: int, width: int, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    lengths = {"a": length_a, "b": length_b}
    return {name: torch.randn(batch, heads, lengths[name[-1]], width).to(dtype) for name in NAMES}


def padding(batch: int, length: int) -> Tensor:
    """Random padding that leaves a key in every row."""
    mask = torch.rand(batch, length) < 0.4
    mask[:, 0] = False
    return mask


def on_device(inputs: dict[str, Any], backend: str) -> dict[str, Any]:
    return {name: t.to(device_of(backend)) if isinstance(t, Tensor) else t for name, t in inputs.items()}


def assert_all_match(actual: dict[str, Tensor], expected: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Every output and gradient, of this dtype, against those in float64."""
    largest = max(t.abs().max().item() for t in expected.values())
    for name, value in expected.items():
        assert actual[name].dtype == dtype
        if value.abs().max() > 1e-12 * largest:
            assert_matches(actual[name], value, name)
        else:
            # The softmax over a single key is constant: the gradient is zero, and float64 gives its own rounding.
            assert actual[name].abs().max() <= FACTOR[dtype] * torch.finfo(dtype).eps * largest, name


def _merged(t: Tensor) -> Tensor:
    """Heads beside each other in memory, as a projection leaves them, with other columns in between."""
    batch, heads, length, width = t.shape
    packed = torch.randn(batch, length, 3, heads, width).to(t.dtype)
    packed[:, :, 1] = t.transpose(1, 2)
    return packed[:, :, 1].transpose(1, 2)


def _transposed(t: Tensor) -> Tensor:
    return t.transpose(2, 3).contiguous().transpose(2, 3)


def _every_second(t: Tensor) -> Tensor:
    return t.repeat_interleave(2, dim=2)[:, :, ::2]


def _unaligned(t: Tensor) -> Tensor:
    return torch.cat([t[..., :1], t], -1)[..., 1:]


LAYOUTS = pytest.mark.parametrize(
    "layout", [_merged, _transposed, _every_second, _unaligned], ids=lambda f: f.__name__
)


def transposed_mask(mask: Tensor) -> Tensor:
    return mask.T.contiguous().T
