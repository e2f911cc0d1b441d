"""The fixtures of the benchmarks, and what becomes of the figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import machine
from benchmarks.measure import (
    ON_GPU,
    ONCE,
    Budget,
    Contender,
    Step,
    captured,
    error,
    figures,
    in_turns,
    kernel_times,
    peak_memory,
)
from benchmarks.results import MODES, OURS, add_entry, load, summary
from tests.cuda_host import build

KERNELS_KEPT = 12
"""Of a step, those that take longest."""
BUDGET = Budget(seconds=0.1, fewest=5) if ON_GPU else Budget()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--small", action="store_true", help="every benchmark once, at small size, for correctness")
    parser.addoption("--results", type=Path, help="file that takes the figures of each benchmark as soon as it has run")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Training makes the whole process deterministic."""
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def small(request: pytest.FixtureRequest) -> bool:
    """Whether only correctness is wanted."""
    return request.config.getoption("--small")


@pytest.fixture
def shrink(small: bool) -> Callable[[Sequence[int]], tuple[int, ...]]:
    """A shape, or one of the same kind that computes in no time."""
    most = 3 if build.stands_in_for_a_gpu() else 7
    return lambda shape: tuple(min(extent, most) for extent in shape) if small else tuple(shape)


@pytest.fixture
def compiled(small: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """torch.compile for these shapes; at small size the function as it is: compiling takes longer than all the rest."""
    torch._dynamo.reset()  # type: ignore[no-untyped-call]
    return lambda function: function if small else torch.compile(function, dynamic=False)


@pytest.fixture
def contest(benchmark: Any, request: pytest.FixtureRequest, small: bool) -> Callable[..., None]:
    """contest(contenders, ...): checks every contender's result, measures them side by side, records the figures.

    A contender that cannot run costs its own figures only; if it is ours, or wrong, the benchmark fails in the end.

    contenders: by name, with a method for each mode; names of backends are ours. Those in `forward_only` do not train.
    expected: gives what a training step returns (forward returns the first of it); None where there is nothing to
        compare.
    facts: by contender, what else is kept of it.
    graphs: whether steps can be captured in CUDA graphs, which must not wait for the GPU.
    labels: "op" and "size"; "peer", the contender that a user would take instead, and the "target" of the ratio to it.
    """

    def run(
        contenders: Mapping[str, Contender],
        *,
        forward_only: Sequence[str] = (),
        expected: Callable[[], Sequence[Tensor]] | None = None,
        facts: Mapping[str, Mapping[str, float]] | None = None,
        modes: Sequence[str] = tuple(MODES),
        graphs: bool = True,
        **labels: Any,
    ) -> None:
        kept: dict[str, dict[str, Any]] = {name: dict((facts or {}).get(name, {})) for name in contenders}
        faults: dict[str, str] = {}

        def attempt(name: str, what: str, function: Callable[[], Any]) -> Any:
            """What it returns; None if it fails, which is noted."""
            try:
                return function()
            except Exception as exception:
                kept.get(name, {})[f"failed, {what}"] = _in_short(exception)
                if name in OURS or name not in contenders:
                    faults[f"{name}, {what}"] = _in_short(exception)
                return None

        truth = attempt("oracle", "train", expected) if expected else None
        for mode in modes:
            here = {name: c for name, c in contenders.items() if mode == "forward" or name not in forward_only}
            steps = {name: _step(contender, mode) for name, contender in here.items()}
            weighed = {name: attempt(name, mode, lambda s=step: _weigh(s, truth)) for name, step in steps.items()}
            steps = {name: step for name, step in steps.items() if weighed[name] is not None}
            for name, times in in_turns(steps, ONCE if small else BUDGET).items():
                kept[name][mode] = figures(times, **weighed[name])
            for name in steps:
                worst, bound = weighed[name].get("error", 0.0), weighed[name].pop("bound")
                if not worst <= bound:
                    faults[f"{name}, {mode}"] = f"error {worst:.3g}, expected at most {bound:.3g}"
            if ON_GPU:
                _on_the_device(steps, kept, mode, attempt, graphs)
        entry = {"op": labels.pop("op"), "size": labels.pop("size"), **labels, "contenders": kept}
        benchmark.extra_info.update(entry)
        _keep(request.config, {"name": request.node.name, **entry})
        # Without a call of it, this fixture reports nothing.
        benchmark.pedantic(lambda: None, rounds=1)
        assert not faults, "; ".join(f"{name}: {fault}" for name, fault in faults.items())

    return run


@pytest.fixture
def keep(request: pytest.FixtureRequest) -> Callable[[dict[str, Any]], None]:
    """keep(entry): records the figures of a benchmark that measures by itself."""
    return lambda entry: _keep(request.config, {"name": request.node.name, **entry})


def _in_short(exception: Exception) -> str:
    return f"{type(exception).__name__}: {str(exception).strip() or '-'}".splitlines()[0][:200]


def _step(contender: Contender, mode: str) -> Step:
    if contender.module is not None:
        contender.module.train(mode == "train")
    return getattr(contender, mode)


def _weigh(step: Step, expected: Sequence[Tensor] | None) -> dict[str, float]:
    """The peak memory of a step, the error of its results, and the bound that it should keep to."""
    results, peak = peak_memory(step)
    if expected is None:
        return {"peak_mib": peak, "bound": float("inf")}
    # Half of the digits: it computes the same function. How well, the figure says.
    bound = torch.finfo(results[0].dtype).eps ** 0.5
    return {"peak_mib": peak, "error": error(results, expected[: len(results)]), "bound": bound}


def _on_the_device(
    steps: Mapping[str, Step],
    kept: Mapping[str, dict[str, Any]],
    mode: str,
    attempt: Callable[..., Any],
    graphs: bool,
) -> None:
    """What steps take without what the host spends on them: replays of their graphs, and each of their kernels."""
    captures = steps if graphs else {}
    replays = {name: attempt(name, f"{mode} in a graph", lambda s=step: captured(s)) for name, step in captures.items()}
    for name, times in in_turns({n: r for n, r in replays.items() if r is not None}, BUDGET).items():
        kept[name][mode]["graph_ms"] = figures(times)["ms"]
    for name, step in steps.items():
        if kernels := attempt(name, f"{mode} under the profiler", lambda s=step: kernel_times(s)):
            kept[name][mode]["device_ms"] = figures([sum(kernels.values()) / 1e3])["ms"]
            kept[name][mode]["kernels_us"] = dict(islice(kernels.items(), KERNELS_KEPT))


def _keep(config: pytest.Config, entry: dict[str, Any]) -> None:
    if path := config.getoption("--results"):
        add_entry(path, machine.describe(), {"commit": machine.commit(), **entry})


def pytest_configure(config: pytest.Config) -> None:
    """Refuses to keep what is no figure, and to mix those of two machines, before any is taken."""
    path = config.getoption("--results")
    if not path:
        return
    if config.getoption("--small") and not build.stands_in_for_a_gpu():
        raise pytest.UsageError("--small takes no figures to keep: leave out one of --small and --results")
    if not path.parent.is_dir():
        raise pytest.UsageError(f"--results must be in a folder that exists, got {path}")
    existing = load(path) if path.exists() else {}
    for key, (there, here) in machine.contradictions(existing, machine.describe()).items():
        raise pytest.UsageError(f"{path} has figures of {key} {there}, got {here}: give another file")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without a GPU, whose stand-in is slow, one case of each: at small size they hardly differ."""
    if config.getoption("--small") and build.stands_in_for_a_gpu():
        first = {item.originalname: item for item in reversed(items) if isinstance(item, pytest.Function)}
        items[:] = [item for item in items if item in first.values()]


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
