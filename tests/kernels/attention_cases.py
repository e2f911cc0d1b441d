"""What tests of cross-attention share: both forms of it, backends and dtypes, inputs, and the comparison."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from helpers import FACTOR, assert_matches, device_of
from torch import Tensor

from bdam_kernels import bidirectional_cross_attention, pooled_bidirectional_cross_attention

Form = Callable[..., tuple[Tensor, Tensor]]

BACKENDS = ("reference", "cpu", "triton", "cuda")
NAMES = ("q_a", "k_a", "v_a", "q_b", "k_b", "v_b")
ALL_DTYPES = [torch.float32, torch.bfloat16, torch.float16]
DTYPES = pytest.mark.parametrize("dtype", ALL_DTYPES, ids=["f32", "bf16", "f16"])
FORCED = pytest.mark.parametrize("backend", BACKENDS)
# Triton's interpreter takes seconds for what has many programs, many keys or dropout.
FORCED_DTYPES = pytest.mark.parametrize(
    ("backend", "dtype"),
    [*product(("reference", "cpu", "cuda"), ALL_DTYPES), ("triton", torch.float32)],
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


def mean_of_the_unpooled(*args: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    out_a, out_b = bidirectional_cross_attention(*args, **options)
    return out_a.mean(2), out_b.mean(2)


def run(form: Form, inputs: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
    """Outputs and gradients by name, for the loss <out_a, w_a> + <out_b, w_b>; w are exact in every dtype."""
    backend = options.get("backend", "reference")
    leaves = {name: t.detach().requires_grad_() for name, t in on_device(inputs, backend).items()}
    torch.manual_seed(7)
    outputs = form(**leaves, **on_device(options, backend))
    generator = torch.Generator().manual_seed(8)
    weights = (torch.randint(-128, 129, out.shape, generator=generator) / 64 for out in outputs)
    torch.autograd.backward(outputs, [w.to(out) for w, out in zip(weights, outputs, strict=True)])
    results = dict(zip(("out_a", "out_b"), outputs, strict=True)) | {f"grad_{n}": t.grad for n, t in leaves.items()}
    return {name: t.detach().cpu() for name, t in results.items()}  # type: ignore[union-attr]


def forward_only(form: Form, inputs: dict[str, Tensor], backend: str, **options: Any) -> tuple[Tensor, ...]:
    options = on_device({**options, "backend": backend}, backend)
    return tuple(out.cpu() for out in form(**on_device(inputs, backend), **options))


def check(form: Form, inputs: dict[str, Tensor], backend: str, **options: Any) -> dict[str, Tensor]:
    """Compares with float64, where the reference serves, the pooled form with the mean of the other one.

    Dropout draws the same seed on both sides.
    """
    actual = run(form, inputs, backend=backend, **options)
    expected_of = mean_of_the_unpooled if form is pooled_bidirectional_cross_attention else form
    expected = run(expected_of, {name: t.double() for name, t in inputs.items()}, **options)
    _assert_all_match(actual, expected, inputs["q_a"].dtype)
    return actual


def _assert_all_match(actual: dict[str, Tensor], expected: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Every output and gradient, of this dtype, against those in float64."""
    largest = max(t.abs().max().item() for t in expected.values())
    for name, value in expected.items():
        assert actual[name].dtype == dtype
        if value.abs().max() > 1e-12 * largest:
            assert_matches(actual[name], value, name)
        else:
            # The softmax over a single key is constant: the gradient is zero, and float64 gives its own rounding.
            assert actual[name].abs().max() <= FACTOR[dtype] * torch.finfo(dtype).eps * largest, name
