"""Side-by-side timing: contenders take turns in one process, medians are compared, and the table comes last."""

from __future__ import annotations

import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import torch

from bdam_kernels import backend

MIN_ROUNDS, MAX_ROUNDS, SECONDS = 3, 40, 6.0


@pytest.fixture
def compare(benchmark: Any) -> Callable[..., float]:
    """compare(ours, peer, name, target) times both in turns and records medians and their ratio."""

    def run(ours: Callable[[], object], peer: Callable[[], object], name: str, target: float) -> float:
        times: dict[str, list[float]] = {"ours": [], "peer": []}
        end = time.perf_counter() + SECONDS
        while len(times["peer"]) < MIN_ROUNDS or (time.perf_counter() < end and len(times["peer"]) < MAX_ROUNDS):
            for key, function in (("ours", ours), ("peer", peer)):
                start = time.perf_counter()
                function()
                times[key].append(time.perf_counter() - start)
        medians = {key: statistics.median(values) for key, values in times.items()}
        ratio = medians["peer"] / medians["ours"]
        benchmark.extra_info.update(
            peer=name, target=target, ratio=round(ratio, 2), peer_ms=round(1e3 * medians["peer"], 3),
            ours_ms=round(1e3 * medians["ours"], 3), rounds=len(times["peer"]),
        )  # fmt: skip
        benchmark.pedantic(ours, rounds=3)
        return ratio

    return run


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip()


def _device() -> dict[str, Any]:
    """What a figure was taken on: the GPU as it was found, if there is one, else the processor."""
    runs = not backend.backends()["cpu"]
    cpu = {
        "instruction_set": backend.cpu_isa() if runs else None,
        "threads": torch.get_num_threads(),
    }
    if not torch.cuda.is_available():
        return {"device": _processor(), **cpu}
    fields = "clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,driver_version"
    query = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True).stdout.strip().split("\n")[0].split(", ")
    clocks = dict(zip(fields.split(","), found, strict=False))
    return {
        "device": torch.cuda.get_device_name(),
        "cuda": torch.version.cuda,
        **clocks,
        "processor": _processor(),
        **cpu,
    }


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: object, output_json: dict[str, Any]) -> None:
    """Keeps what a reader needs to judge a figure; no host or user name."""
    entries = [{"name": b["name"], **b["extra_info"]} for b in output_json["benchmarks"]]
    packages = ("torch", "triton", "mamba-ssm", "causal-conv1d", "mambapy", "transformers")
    output_json.clear()
    output_json.update(
        **_device(),
        python=platform.python_version(),
        versions={package: _version(package) for package in packages if _version(package)},
        commit=_commit(),
        results=entries,
    )


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = [(b.name, b.extra_info) for b in config._benchmarksession.benchmarks]
    if on_cpu := [row for row in rows if "ours_ms" in row[1]]:
        terminalreporter.section("ours against the peer, medians of rounds in turns")
        for name, info in on_cpu:
            met = "" if info["ratio"] >= info["target"] else "  (below the target)"
            terminalreporter.write_line(
                f"{name:62} {info['ours_ms']:10.2f} {info.get('unit', 'ms')} against "
                f"{info['peer_ms']:10.2f} of {info['peer']}: {info['ratio']:.1f}x, target {info['target']}x{met}"
            )
    if on_gpu := [row for row in rows if "ms" in row[1]]:
        terminalreporter.section("medians in ms, the least possible, and peak memory in MiB")
        for name, info in on_gpu:
            times = ", ".join(f"{key} {ms:.3f} ms {info['peak_mib'][key]:.0f} MiB" for key, ms in info["ms"].items())
            floor = f", floor {info['floor_ms']:.3f}" if "floor_ms" in info else ""
            ratio = f"{info['ratio']:.2f}x" if info["ratio"] else "no peer installed"
            terminalreporter.write_line(f"{name:40} {times}{floor}: {ratio}, target {info['target']}x")
