"""The fixtures of the benchmarks, and what becomes of the figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import machine
from benchmarks.measure import ONCE, Budget, Contender, Step, error, figures, in_turns, peak_memory
from benchmarks.results import MODES, summary


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--small", action="store_true", help="every benchmark once, at small size, for correctness")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def small(request: pytest.FixtureRequest) -> bool:
    """Whether only correctness is wanted."""
    return request.config.getoption("--small")


@pytest.fixture
def shrink(small: bool) -> Callable[[Sequence[int]], tuple[int, ...]]:
    """A shape, or one of the same kind that computes in no time."""
    return lambda shape: tuple(min(extent, 7) for extent in shape) if small else tuple(shape)


@pytest.fixture
def compiled(small: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """torch.compile for these shapes; at small size the function as it is: compiling takes longer than all the rest."""
    return lambda function: function if small else torch.compile(function, dynamic=False)


@pytest.fixture
def contest(benchmark: Any, small: bool) -> Callable[..., None]:
    """contest(contenders, ...): checks every contender's result, measures them side by side, records the figures.

    contenders: by name, with a method for each mode; names of backends are ours. Those in `forward_only` do not train.
    expected: what a training step returns (forward returns the first of it); None where there is nothing to compare.
    facts: by contender, what else is kept of it.
    labels: "op" and "size"; "peer", the contender that a user would take instead, and the "target" of the ratio to it.
    """

    def run(
        contenders: Mapping[str, Contender],
        *,
        forward_only: Sequence[str] = (),
        expected: Sequence[Tensor] | None = None,
        facts: Mapping[str, Mapping[str, float]] | None = None,
        modes: Sequence[str] = tuple(MODES),
        **labels: Any,
    ) -> None:
        kept: dict[str, dict[str, Any]] = {name: dict((facts or {}).get(name, {})) for name in contenders}
        for mode in modes:
            here = {name: c for name, c in contenders.items() if mode == "forward" or name not in forward_only}
            steps = {name: _step(contender, mode) for name, contender in here.items()}
            weighed = {name: _weigh(step, expected, f"{name}, {mode}") for name, step in steps.items()}
            for name, times in in_turns(steps, ONCE if small else Budget()).items():
                kept[name][mode] = figures(times, **weighed[name])
        benchmark.extra_info.update(labels, contenders=kept)
        # Without a call of it, this fixture reports nothing.
        benchmark.pedantic(lambda: None, rounds=1)

    return run


def _step(contender: Contender, mode: str) -> Step:
    if contender.module is not None:
        contender.module.train(mode == "train")
    return getattr(contender, mode)


def _weigh(step: Step, expected: Sequence[Tensor] | None, name: str) -> dict[str, float]:
    """The peak memory of a step and the error of its results."""
    results, peak = peak_memory(step)
    if expected is None:
        return {"peak_mib": peak}
    worst = error(results, expected[: len(results)])
    # Half of the digits: it computes the same function. How well, the figure says.
    assert worst <= torch.finfo(results[0].dtype).eps ** 0.5, f"{name}: error {worst:.3g}"
    return {"peak_mib": peak, "error": worst}


def pytest_configure(config: pytest.Config) -> None:
    """Refuses to keep what is no figure, and to mix those of two machines, before any is taken."""
    if config.getoption("--small") and config.option.benchmark_json:
        raise pytest.UsageError("--small takes no figures to keep: leave out one of --small and --benchmark-json")
    for key, (there, here) in machine.contradictions(_existing(config), machine.describe()).items():
        file = config.option.benchmark_json
        raise pytest.UsageError(f"{file} has figures of {key} {there}, got {here}: give another file")


def _existing(config: pytest.Config) -> dict[str, Any]:
    path = config.option.benchmark_json
    return json.loads(path.read_text()) if isinstance(path, Path) and path.exists() else {}


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: object, output_json: dict[str, Any]) -> None:
    """Keeps what a reader needs to judge a figure, and the figures of the file that were not taken anew."""
    commit = machine.commit()
    entries = {b["name"]: {"name": b["name"], "commit": commit, **b["extra_info"]} for b in output_json["benchmarks"]}
    existing, here = _existing(config), machine.describe()
    before = {entry["name"]: entry for entry in existing.get("results", ())}
    versions = existing.get("versions", {}) | here["versions"]
    output_json.clear()
    output_json.update(**here | {"versions": versions}, results=list((before | entries).values()))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    benchmarks = config._benchmarksession.benchmarks  # type: ignore[attr-defined]
    if benchmarks and not config.getoption("--small"):
        terminalreporter.section("medians of rounds in turns")
        for benchmark in benchmarks:
            for line in summary({"name": benchmark.name, **benchmark.extra_info}):
                terminalreporter.write_line(line)


def pytest_benchmark_group_stats(config: pytest.Config, benchmarks: object, group_by: str) -> list[object]:
    """No table of pytest-benchmark's own: it knows nothing of contenders."""
    return []
