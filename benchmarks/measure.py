"""Time, peak memory and error of contenders that take turns in one process."""

from __future__ import annotations

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"

Step = Callable[[], Any]
Outputs = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class Contender:
    """Something that computes, and the tensors that its training step differentiates by."""

    function: Callable[[], Outputs]
    leaves: Sequence[Tensor]
    module: nn.Module | None = None
    """What to put into evaluation mode for a forward pass, and into training mode for a training step."""
    outer_gradients: list[Tensor] = field(default_factory=list, init=False, repr=False)
    """Those of the outputs, from the first training step on: drawing them is no part of a step's time."""

    def forward(self) -> list[Tensor]:
        """The outputs, without a graph."""
        with torch.no_grad():
            return _listed(self.function())

    def train(self) -> list[Tensor]:
        """The outputs and the gradients of all leaves, for outer gradients that are the same for every contender."""
        outputs = _listed(self.function())
        if not self.outer_gradients:
            self.outer_gradients.extend(map(_outer_gradient, outputs))
        gradients = torch.autograd.grad(outputs, self.leaves, self.outer_gradients)
        return [*(output.detach() for output in outputs), *gradients]


def _listed(outputs: Outputs) -> list[Tensor]:
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


def _outer_gradient(output: Tensor) -> Tensor:
    generator = torch.Generator(output.device).manual_seed(output.numel())
    # Rounded for all alike: the oracle's are the same numbers as those of the dtype under test.
    return torch.randn(output.shape, device=output.device, generator=generator).bfloat16().to(output.dtype)


@dataclass(frozen=True)
class Budget:
    """How often a step is timed."""

    seconds: float = 1.0
    """Spent on a contender, once it has run `fewest` times."""
    fewest: int = 3
    most: int = 40


ONCE = Budget(0.0, 1, 1)
_ROUND_SECONDS = 0.005
_FEW_ROUNDS = {20.0: 1, 4.0: 2}
"""Enough for a step that takes more than so many seconds."""


def in_turns(steps: Mapping[str, Step], budget: Budget) -> dict[str, list[float]]:
    """Milliseconds of each step in each of its rounds.

    Every step runs once a round, or as often as takes 5 ms, until its budget is spent; one of more than 4 s runs in
    two rounds at most, one of more than 20 s in one.
    """
    first = {name: _seconds(step, 1) for name, step in steps.items()}
    calls = {name: max(1, math.ceil(_ROUND_SECONDS / seconds)) for name, seconds in first.items()}
    # The first call of a short step may still be slow for reasons of its own, such as cold caches.
    times = {name: [seconds] if seconds > min(_FEW_ROUNDS) else [] for name, seconds in first.items()}
    while waiting := [name for name in steps if not _spent(times[name], calls[name], budget)]:
        for name in waiting:
            times[name].append(_seconds(steps[name], calls[name]))
    return {name: [1e3 * seconds for seconds in values] for name, values in times.items()}


def _spent(times: Sequence[float], calls: int, budget: Budget) -> bool:
    if not times:
        return False
    fewest = min([budget.fewest, *(rounds for seconds, rounds in _FEW_ROUNDS.items() if times[0] > seconds)])
    enough = len(times) >= fewest and sum(times) * calls >= budget.seconds
    return enough or len(times) >= budget.most


def _seconds(step: Step, calls: int) -> float:
    synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        step()
    synchronize()
    return (time.perf_counter() - start) / calls


def synchronize() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def captured(step: Step) -> Callable[[], None]:
    """The replay of a CUDA graph of a step: what the GPU does, without what the host spends on asking for it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def kernel_times(step: Step, calls: int = 3) -> dict[str, float]:
    """Microseconds that a step spends in each kernel, by name, the longest first; those of one long name together."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(calls):
            step()
        synchronize()
    totals: dict[str, float] = defaultdict(float)
    for row in profiler.key_averages():
        totals[row.key[:100]] += row.self_device_time_total / calls
    return {name: _rounded(us) for name, us in sorted(totals.items(), key=lambda item: -item[1]) if us > 0}


def peak_memory(step: Step) -> tuple[list[Tensor], float]:
    """What a step returns, and the MiB of tensors that live at its peak, besides those that lived before it.

    On a GPU the allocator says so. On a CPU it is the greatest running sum of what the profiler reports of torch's
    allocator, temporaries inside operators included; what a library allocates for itself is not seen.
    """
    if ON_GPU:
        synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = step()
        synchronize()
        return result, (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = step()
    events: Any = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    live = peak = 0
    for _, change in changes:
        live += change
        peak = max(peak, live)
    return result, peak / 2**20


def error(results: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The greatest error of any result, relative to the greatest element of what is expected of it."""
    errors = []
    for result, oracle in zip(results, expected, strict=True):
        assert result.shape == oracle.shape, f"{tuple(result.shape)} is not {tuple(oracle.shape)}"
        scale = oracle.abs().max().item()
        errors.append((result.to(oracle.dtype) - oracle).abs().max().item() / (scale or 1.0))
    return max(errors)


def figures(times: Sequence[float], **facts: float) -> dict[str, float]:
    """What is kept of a contender: the median, the quartiles, the rounds, and other facts."""
    low, median, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else 3 * list(times)
    return {"ms": _rounded(median), "low": _rounded(low), "high": _rounded(high), "rounds": len(times)} | {
        name: _rounded(value) for name, value in facts.items()
    }


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.4g}")
