"""Each operator once on each backend, forward and backward against float64, at sizes that its users have: the first
thing to run on a new machine, one case in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from helpers import assert_matches, device_of, require
from torch import Tensor

from bdam_kernels import (
    bidirectional_cross_attention,
    causal_conv1d,
    hsic,
    pooled_bidirectional_cross_attention,
    selective_scan,
)

ON_GPU = torch.cuda.is_available()


class Case(NamedTuple):
    """An operator, and what makes its inputs in float64: as large as on a GPU, or small."""

    op: Callable[..., Any]
    inputs: Callable[..., list[Tensor]]
    large: list[tuple[int, ...]]
    small: list[tuple[int, ...]]


def rounded(*shape: int) -> Tensor:
    """Normal numbers that every dtype has."""
    return torch.randn(*shape).bfloat16().double()


def scan_inputs(batch: int, channels: int, length: int) -> list[Tensor]:
    streams = [rounded(batch, channels, length) for _ in range(3)]
    coefficients = [rounded(batch, 16, length) for _ in range(2)]
    u, delta, z = streams
    return [u, delta, -torch.rand(channels, 16).bfloat16().double(), *coefficients, rounded(channels), z]


def attention_inputs(*shape: int) -> list[Tensor]:
    return [rounded(*shape) for _ in range(6)]


def features(rows: int, width: int) -> list[Tensor]:
    x = rounded(rows, width)
    return [x, (x + 0.5 * rounded(rows, width)).bfloat16().double()]


CASES = {
    "selective_scan": Case(
        lambda *inputs, backend: selective_scan(*inputs, delta_softplus=True, backend=backend),
        scan_inputs, [(64, 512, 197), (2, 96, 600), (130, 64, 1)], [(2, 17, 40), (1, 3, 300)],
    ),
    "cross_attention": Case(
        bidirectional_cross_attention,
        attention_inputs, [(4, 12, 196, 64), (2, 4, 577, 64), (2, 4, 49, 32), (2, 2, 197, 192)], [(1, 2, 21, 24)],
    ),
    "pooled_cross_attention": Case(
        pooled_bidirectional_cross_attention,
        attention_inputs, [(4, 12, 196, 64), (2, 4, 577, 64), (2, 4, 49, 32), (2, 2, 197, 192)], [(1, 2, 21, 24)],
    ),
    "hsic": Case(hsic, features, [(64, 768), (256, 768), (512, 100)], [(18, 9)]),
    "causal_conv1d": Case(
        lambda *inputs, backend: causal_conv1d(*inputs, activation="silu", backend=backend),
        lambda batch, channels, length: [rounded(batch, channels, length), rounded(channels, 4), rounded(channels)],
        [(64, 512, 197), (8, 96, 1)], [(2, 5, 9)],
    ),
}  # fmt: skip


WITHOUT_KERNELS = (("hsic", "triton"), ("causal_conv1d", "cuda"))


def results(op: Callable[..., Any], leaves: list[Tensor], backend: str) -> list[Tensor]:
    outputs = op(*leaves, backend=backend)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    generator = torch.Generator().manual_seed(1)
    weights = [(torch.randint(-64, 65, out.shape, generator=generator) / 64).to(out) for out in outputs]
    return [*outputs, *torch.autograd.grad(outputs, leaves, weights)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "f32"])
@pytest.mark.parametrize("backend", ["cpu", "triton", "cuda"])
@pytest.mark.parametrize("name", CASES)
def test_smoke(name: str, backend: str, dtype: torch.dtype) -> None:
    if (name, backend) in WITHOUT_KERNELS:
        pytest.skip("has no such kernel")
    case, device = CASES[name], device_of(require(backend))
    for shape in case.large if ON_GPU else case.small:
        exact = [t.to(device).requires_grad_() for t in case.inputs(*shape)]
        inputs = [t.detach().to(dtype).requires_grad_() for t in exact]
        expected, actual = results(case.op, exact, "reference"), results(case.op, inputs, backend)
        for index, (a, e) in enumerate(zip(actual, expected, strict=True)):
            assert_matches(a, e, f"{shape}: result {index}", dtype=dtype)
