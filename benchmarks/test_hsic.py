"""hsic beyond `test_ops.py`, forward plus backward: Gaussian kernels on the CPU, and everything on a GPU.

Against the textbook form, which has the N x N matrices, in eager PyTorch, and on a GPU also under torch.compile. Ratios
and targets are recorded; a missed target does not fail the run, a wrong result does.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bdam_kernels import hsic

WIDTH, SIGMA = 768, 28.0
Step = Callable[[], list[Tensor]]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def textbook(x: Tensor, y: Tensor, kernel: str) -> Tensor:
    """tr(K H L H) / (N-1)^2."""

    def gram(t: Tensor) -> Tensor:
        return t @ t.T if kernel == "linear" else torch.exp(-torch.cdist(t, t).square() / (2 * SIGMA**2))

    n = len(x)
    centring = torch.eye(n, device=x.device) - 1.0 / n
    return torch.trace(gram(x) @ centring @ gram(y) @ centring) / (n - 1) ** 2


def ours(x: Tensor, y: Tensor, kernel: str) -> Tensor:
    return hsic(x, y, kernel=kernel, sigma=SIGMA if kernel == "rbf" else None)  # type: ignore[arg-type]


def inputs(rows: int, device: str) -> list[Tensor]:
    """y depends on x: of independent features the value is a small difference of large sums."""
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, rows, WIDTH, generator=generator)
    return [t.to(device).requires_grad_() for t in (x, x + 0.5 * noise)]


def step_of(function: Callable[..., Tensor], leaves: list[Tensor], kernel: str) -> Step:
    def step() -> list[Tensor]:
        value = function(*leaves, kernel)
        return [value, *torch.autograd.grad(value, leaves)]

    return step


def assert_same(results: list[Tensor], others: list[Tensor]) -> None:
    for a, b in zip(results, others, strict=True):
        assert (a - b).abs().max() <= 2e-3 * b.abs().max()


def test_rbf(compare: Callable[..., float]) -> None:
    leaves = inputs(4096, "cpu")
    steps = [step_of(function, leaves, "rbf") for function in (ours, textbook)]
    assert_same(steps[0](), steps[1]())
    compare(*steps, "the textbook form", 2)


def resident(field: str) -> float:
    """A line of this process's memory in MiB; Linux only."""
    status = Path("/proc/self/status").read_text()
    found = re.search(field + r":\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


def print_rbf_memory(contender: str) -> None:
    """Growth of the resident set's peak over forward and backward, the gradients included; for a fresh process."""
    function = {"ours": ours, "peer": textbook}[contender]
    step_of(function, inputs(64, "cpu"), "rbf")()
    step = step_of(function, inputs(4096, "cpu"), "rbf")
    Path("/proc/self/clear_refs").write_text("5")  # the peak restarts from here
    before = resident("VmRSS")
    step()
    print(resident("VmHWM") - before)


def test_rbf_memory(benchmark: Any) -> None:
    def peak(contender: str) -> float:
        command = [sys.executable, __file__, contender]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    mine, peer = peak("ours"), peak("peer")
    benchmark.extra_info.update(
        peer="the textbook form", target=20, ratio=round(peer / mine, 2), ours_ms=mine, peer_ms=peer, unit="MiB",
        rounds=1,
    )  # fmt: skip
    benchmark.pedantic(peak, args=("ours",), rounds=1)


def gpu_figures(step: Step) -> tuple[float, float]:
    """Median milliseconds, and mebibytes at the peak."""
    from triton.testing import do_bench

    ms = do_bench(step, warmup=50, rep=200, return_mode="median")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return ms, (torch.cuda.max_memory_allocated() - before) / 2**20


def in_graph(step: Step) -> Step:
    """The same launches without the host's work."""
    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()

    def replay() -> list[Tensor]:
        graph.replay()
        return results

    return replay


@needs_gpu
@pytest.mark.parametrize(
    ("kernel", "rows", "eager", "compiled"),
    [
        ("linear", 64, 10, 3),
        ("linear", 128, 10, 3),
        ("linear", 256, 10, 3),
        ("linear", 4096, 20, None),
        ("rbf", 4096, 3, None),
    ],
)
def test_hsic_on_a_gpu(benchmark: Any, kernel: str, rows: int, eager: float, compiled: float | None) -> None:
    leaves = inputs(rows, "cuda")
    step = step_of(ours, leaves, kernel)
    steps = {
        "ours": step,
        "ours in a graph": in_graph(step),
        "eager": step_of(textbook, leaves, kernel),
        "compiled": step_of(torch.compile(textbook), leaves, kernel),
    }
    for other in list(steps.values())[1:]:
        assert_same(step(), other())
    figures = {name: gpu_figures(other) for name, other in steps.items()}
    benchmark.extra_info.update(
        ms={name: round(ms, 4) for name, (ms, _) in figures.items()},
        peak_mib={name: round(mib, 2) for name, (_, mib) in figures.items()},
        target=eager, ratio=round(figures["eager"][0] / figures["ours"][0], 2),
        compiled_target=compiled, compiled_ratio=round(figures["compiled"][0] / figures["ours"][0], 2),
    )  # fmt: skip
    benchmark.pedantic(step, rounds=3)


if __name__ == "__main__":
    print_rbf_memory(sys.argv[1])
