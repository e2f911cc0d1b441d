"""The one error bound of the test-suite, and which backends a test runs on."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from bdam_kernels import backends

# |actual - reference| <= FACTOR * eps(dtype) * max|reference|, the reference in float64 on inputs rounded to dtype.
# float32 is also what sums run in: a sum of n terms of either sign may cancel to sqrt(n) times less than its parts,
# and the tests sum up to some thousand terms. Half types are rounded once, after such a sum.
FACTOR = {torch.float64: 100, torch.float32: 100, torch.bfloat16: 2, torch.float16: 2}


def assert_matches(actual: Tensor, expected: Tensor, name: str, dtype: torch.dtype | None = None) -> None:
    """Asserts that a result agrees with its float64 reference. dtype: the inputs' dtype, if not the result's."""
    assert actual.shape == expected.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    if expected.numel() == 0:
        return
    dtype = dtype or actual.dtype
    bound = FACTOR[dtype] * torch.finfo(dtype).eps * expected.abs().max().item()
    error = (actual.to(expected.dtype) - expected).abs().max().item()
    assert error <= bound, f"{name}: error {error:.3g} exceeds {bound:.3g}"


def require(backend: str) -> str:
    """The backend's name; skips the test with the recorded reason if it cannot run, unless BDAM_REQUIRE names it."""
    reason = backends()[backend]
    if reason and backend in os.environ.get("BDAM_REQUIRE", "").split(","):
        pytest.fail(f"BDAM_REQUIRE names {backend}, but: {reason}")
    if reason:
        pytest.skip(reason)
    return backend


without_the_real_packages = pytest.mark.skipif(
    any(find_spec(package) for package in ("mamba_ssm", "causal_conv1d")),
    reason="a real mamba_ssm or causal_conv1d is installed, beside which compat.install() refuses",
)


def device_of(backend: str) -> torch.device:
    """Where a backend's tests keep their tensors: on the GPU if it runs on one, else on the CPU."""
    on_gpu = backend in ("triton", "cuda") and torch.cuda.is_available()
    return torch.device("cuda" if on_gpu else "cpu")
