"""The selective scan on a GPU, forward plus backward in bfloat16: our backends side by side, and mamba-ssm where it is.

Medians of triton.testing.do_bench in one process. Every contender's result is compared before it is timed.
"""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from bdam_kernels import Mamba, backends, selective_scan

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

SHAPES = {
    (128, 512, 1): 2, (128, 512, 16): 2, (128, 512, 64): 2, (64, 512, 197): 2,
    (16, 1536, 1024): 1.3, (8, 1536, 2048): 1.3, (1, 2048, 16384): 1.3,
}  # fmt: skip
"""(B, D, L), and how many times faster than mamba-ssm the best of ours should be."""

STATES = 16
Step = Callable[[], list[Tensor]]


def scan_inputs(batch: int, channels: int, length: int) -> list[Tensor]:
    def stream(*shape: int) -> Tensor:
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)

    u, delta, z = (stream(batch, channels, length) for _ in range(3))
    B, C = (stream(batch, STATES, length) for _ in range(2))
    A = -torch.arange(1.0, STATES + 1, device="cuda").repeat(channels, 1)
    D, bias = torch.randn(2, channels, device="cuda").unbind()
    return [t.detach().requires_grad_() for t in (u, delta - 4, A, B, C, D, z, bias)]


def contenders() -> dict[str, Callable[..., Tensor]]:
    """Our GPU backends that run here, and mamba-ssm's CUDA kernel if it is installed."""
    found: dict[str, Callable[..., Tensor]] = {
        name: lambda *args, _name=name, **options: selective_scan(*args, **options, backend=_name)
        for name in ("cuda", "triton")
        if not backends()[name]
    }
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError:
        return found
    return {**found, "mamba-ssm": selective_scan_fn}


def trainer(forward: Callable[[], Tensor], leaves: list[Tensor]) -> Step:
    weight = torch.randn_like(forward())

    def step() -> list[Tensor]:
        out = forward()
        return [out, *torch.autograd.grad(out, leaves, weight)]

    return step


def peak_memory(step: Step) -> int:
    """Bytes that a step allocates at most, besides what is allocated before it."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def measure(step: Step) -> tuple[float, float]:
    """Median milliseconds, and mebibytes at the peak."""
    from triton.testing import do_bench

    return do_bench(step, warmup=50, rep=200, return_mode="median"), peak_memory(step) / 2**20


@cache
def copy_bandwidth() -> float:
    """Bytes read and written in a second by a large copy."""
    from triton.testing import do_bench

    source = torch.randn(2**28, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / (1e-3 * do_bench(lambda: target.copy_(source), return_mode="median"))


@cache
def exp_rate() -> float:
    """Exponentials in a second: 16 in a cycle on each multiprocessor, at the highest clock."""
    query = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
    clock = float(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0])
    return 16 * torch.cuda.get_device_properties(0).multi_processor_count * clock * 1e6


def floor_ms(batch: int, channels: int, length: int) -> float:
    """The least time of forward and backward: every tensor moved once each way, and an exponential a state each way."""
    elements = batch * channels * length
    moved = 2 * (11 * elements + 6 * batch * STATES * length)
    return 1e3 * max(moved / copy_bandwidth(), 2 * STATES * elements / exp_rate())


def assert_close(ours: list[Tensor], others: list[Tensor]) -> None:
    for a, b in zip(ours, others, strict=True):
        assert (a.float() - b.float()).abs().max() <= 0.02 * b.float().abs().max()


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "-".join(map(str, s)))
def test_selective_scan(benchmark: Any, shape: tuple[int, int, int]) -> None:
    inputs = scan_inputs(*shape)
    steps = {
        name: trainer(lambda scan=scan: scan(*inputs, delta_softplus=True), inputs)
        for name, scan in contenders().items()
    }
    for first, second in itertools.pairwise(steps.values()):
        assert_close(first(), second())
    report(benchmark, steps, SHAPES[shape], floor_ms=round(floor_ms(*shape), 4))


def test_mamba_layer(benchmark: Any) -> None:
    x = torch.randn(128, 264, 256, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    layers: dict[str, torch.nn.Module] = {"ours": Mamba(256, device="cuda")}
    try:
        from mamba_ssm import Mamba as PeerMamba
    except ImportError:
        pass
    else:
        layers["mamba-ssm"] = PeerMamba(256, device="cuda")
        layers["mamba-ssm"].load_state_dict(layers["ours"].state_dict())

    def step_of(layer: torch.nn.Module) -> Step:
        names = sorted(name for name, _ in layer.named_parameters())
        parameters = dict(layer.named_parameters())

        def forward() -> Tensor:
            with torch.autocast("cuda", torch.bfloat16):
                return layer(x)

        return trainer(forward, [x, *(parameters[name] for name in names)])

    report(benchmark, {name: step_of(layer) for name, layer in layers.items()}, 1.2)


def report(benchmark: Any, steps: dict[str, Step], target: float, **facts: float) -> None:
    """Times the contenders and records the figures; the ratio is of mamba-ssm over the best of ours."""
    figures = {name: measure(step) for name, step in steps.items()}
    best = min((name for name in figures if name != "mamba-ssm"), key=lambda name: figures[name][0])
    peer = figures.get("mamba-ssm")
    benchmark.extra_info.update(
        ms={name: round(ms, 4) for name, (ms, _) in figures.items()},
        peak_mib={name: round(mib, 2) for name, (_, mib) in figures.items()},
        best=best, target=target, ratio=round(peer[0] / figures[best][0], 2) if peer else None, **facts,
    )  # fmt: skip
    benchmark.pedantic(steps[best], rounds=3)
