"""Each operator, forward plus backward, against what a user would pick instead.

Targets are the project's own and are shown beside the ratios; a missed one does not fail the run, a wrong result does.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peers import mambapy_selective_scan, textbook_hsic, transformers_mixer, two_sdpa_calls
from torch import Tensor

from bdam_kernels import (
    Mamba,
    bidirectional_cross_attention,
    hsic,
    pooled_bidirectional_cross_attention,
    selective_scan,
)

Compare = Callable[..., float]


def trainer(function: Callable[..., Any], leaves: list[Tensor]) -> Callable[[], list[Tensor]]:
    """A call that runs forward and backward and returns the outputs' and all leaves' gradients' tensors."""
    outputs = function()
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    weights = [torch.randn(o.shape, generator=torch.Generator().manual_seed(1)).to(o.dtype) for o in outputs]

    def step() -> list[Tensor]:
        outputs = function()
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return [*outputs, *torch.autograd.grad(outputs, leaves, weights)]

    return step


def assert_same(ours: list[Tensor], peer: list[Tensor], tolerance: float) -> None:
    for a, b in zip(ours, peer, strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max()


def scan_inputs(batch: int, channels: int, length: int, states: int = 16) -> list[Tensor]:
    inputs = [
        torch.randn(batch, channels, length),
        torch.rand(batch, channels, length) - 4,
        -torch.arange(1.0, states + 1).repeat(channels, 1),
        torch.randn(batch, states, length),
        torch.randn(batch, states, length),
        torch.randn(channels),
        torch.randn(batch, channels, length),
        torch.randn(channels),
    ]
    return [t.requires_grad_() for t in inputs]


@pytest.mark.parametrize(
    ("shape", "target"),
    [((16, 512, 197), 50), ((4, 512, 1024), 50), ((64, 512, 8), 25), ((1, 512, 4096), 50)],
    ids=["16-512-197", "4-512-1024", "64-512-8", "1-512-4096"],
)
def test_selective_scan(compare: Compare, shape: tuple[int, int, int], target: float) -> None:
    inputs = scan_inputs(*shape)
    ours = trainer(lambda: selective_scan(*inputs, delta_softplus=True), inputs)
    peer = trainer(lambda: mambapy_selective_scan(*inputs), inputs)
    assert_same(ours(), peer(), 1e-3)
    compare(ours, peer, "mambapy", target)


MEMORY_PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import re
from pathlib import Path
from peers import mambapy_selective_scan
from test_ops import scan_inputs
from bdam_kernels import selective_scan

def run(inputs):
    out = selective_scan(*inputs, delta_softplus=True) if sys.argv[2] == "ours" else mambapy_selective_scan(*inputs)
    out.sum().backward()

def resident(field):
    return int(re.search(field + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

run(scan_inputs(1, 512, 1))
inputs = scan_inputs(1, 512, 4096)
Path("/proc/self/clear_refs").write_text("5")  # the peak restarts from here
before = resident("VmRSS")
run(inputs)
print(resident("VmHWM") - before)
"""


def test_selective_scan_memory(benchmark: Any) -> None:
    """Growth of the resident set's peak over forward and backward at (1, 512, 4096), a fresh process each, in MiB.

    Linux only: it reads /proc.
    """
    folder = str(__import__("pathlib").Path(__file__).parent)

    def peak(contender: str) -> float:
        command = [sys.executable, "-c", MEMORY_PROGRAM, folder, contender]
        return float(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))

    ours, peer = peak("ours"), peak("peer")
    benchmark.extra_info.update(
        peer="mambapy", target=20, ratio=round(peer / ours, 2), ours_ms=ours, peer_ms=peer, unit="MiB", rounds=1
    )
    benchmark.pedantic(peak, args=("ours",), rounds=1)


@pytest.mark.parametrize(("dtype", "target"), [(torch.float32, 2.2), (torch.bfloat16, 4)], ids=["f32", "bf16"])
@pytest.mark.parametrize("length", [196, 197])
def test_cross_attention(compare: Compare, length: int, dtype: torch.dtype, target: float) -> None:
    inputs = [torch.randn(8, 12, length, 64).to(dtype).requires_grad_() for _ in range(6)]
    ours = trainer(lambda: bidirectional_cross_attention(*inputs), inputs)
    peer = trainer(lambda: two_sdpa_calls(*inputs), inputs)
    assert_same(ours(), peer(), 1e-4 if dtype == torch.float32 else 0.1)
    compare(ours, peer, "two SDPA calls", target)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_pooled_cross_attention(compare: Compare, dtype: torch.dtype) -> None:
    inputs = [torch.randn(8, 12, 196, 64).to(dtype).requires_grad_() for _ in range(6)]
    ours = trainer(lambda: pooled_bidirectional_cross_attention(*inputs), inputs)
    peer = trainer(lambda: tuple(out.mean(2) for out in bidirectional_cross_attention(*inputs)), inputs)
    assert_same(ours(), peer(), 1e-4 if dtype == torch.float32 else 0.1)
    compare(ours, peer, "the unpooled form and its mean", 1.5)


@pytest.mark.parametrize(("rows", "target"), [(64, 1.5), (128, 2), (1024, 6), (4096, 50)])
def test_hsic(compare: Compare, rows: int, target: float) -> None:
    inputs = [torch.randn(rows, 768).requires_grad_() for _ in range(2)]
    ours = trainer(lambda: hsic(*inputs), inputs)
    peer = trainer(lambda: textbook_hsic(*inputs), inputs)
    assert_same(ours(), peer(), 1e-3)
    compare(ours, peer, "the textbook form", target)


def test_mamba_layer(compare: Compare) -> None:
    peer_layer, layer = transformers_mixer(256), Mamba(256)
    layer.load_state_dict(peer_layer.state_dict())
    x = torch.randn(16, 197, 256, requires_grad=True)
    # The peer's parameters are listed in another order.
    names = [name for name, _ in layer.named_parameters()]
    peer_parameters = dict(peer_layer.named_parameters())
    ours = trainer(lambda: layer(x), [x, *layer.parameters()])
    peer = trainer(lambda: peer_layer(x), [x, *(peer_parameters[name] for name in names)])
    assert_same(ours(), peer(), 1e-3)
    compare(ours, peer, "transformers' MambaMixer", 15)
