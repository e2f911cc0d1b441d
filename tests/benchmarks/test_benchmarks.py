"""What the benchmarks are made of, and that the README says what the results files say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import conftest, machine, report
from benchmarks.compare import changes
from benchmarks.efficiency import figures as drawings
from benchmarks.efficiency.figures import SUFFIXES, drawn_from, growth_numbers
from benchmarks.efficiency.study import QUANTITIES, Curve, claims, crossings, growth, scores
from benchmarks.machine import contradictions
from benchmarks.measure import Budget, error, figures, in_turns, peak_memory
from benchmarks.results import FOLDER, add_entry, devices, load, ratio, summary


def test_the_readme_has_the_tables_of_the_results() -> None:
    text = report.README.read_text(encoding="utf-8")
    assert text == report.with_sections(text), "run python -m benchmarks.report"
    assert report.DETAILS.read_text(encoding="utf-8") == report.details(), "run python -m benchmarks.report"


def test_the_pictures_are_of_the_results() -> None:
    curves = {quantity: growth(report.studied(), quantity) for quantity in QUANTITIES}
    drawn = {report.RADAR: report.radar_numbers(), report.GROWTH: growth_numbers(curves)}
    if costs := report.search_costs():
        drawn[report.SEARCHED] = json.loads(json.dumps(costs))
    for path, numbers in drawn.items():
        for suffix in SUFFIXES:
            assert drawn_from(path.with_suffix(suffix)) == numbers, "run python -m benchmarks.report"
        assert f"]({path.name})" in report.DETAILS.read_text(encoding="utf-8")


def test_costs_of_a_search_are_drawn_by_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def entry(images: int, recalls: dict[str, float]) -> dict[str, Any]:
        forward = {"queries_s": 1e7 / images, "resident_mib": images / 1e3, "ms": 1.0}
        rows = {
            name: {"recall": of, "p99_ms": images / 1e6, "build_s": 5.0, "forward": forward}
            for name, of in recalls.items()
        }
        return {"name": f"test_search[{images}]", "op": "search of a gallery", "images": images, "contenders": rows}

    sizes = [entry(1_000_000, {"ours": 0.99, "other": 0.98}), entry(10_000, {"ours": 1.0, "other": 0.99})]
    monkeypatch.setattr(report, "devices", lambda: {"a.json": {"results": sizes}, "b.json": {"results": sizes[:1]}})
    costs = report.search_costs()
    assert costs["queries a second, in batches"] == {
        "ours": [(10_000, 1e3), (1_000_000, 10.0)],
        "other": [(10_000, 1e3)],
    }
    assert costs["ms a query alone, 99th percentile"]["ours"] == [(10_000, 0.01), (1_000_000, 1.0)]
    drawings.draw_search(costs, tmp_path / "search.svg")
    assert drawn_from(tmp_path / "search.png")["seconds to build"]["ours"] == [[10_000, 5.0], [1_000_000, 5.0]]
    assert len(report.search_section()) == 3
    monkeypatch.setattr(report, "devices", lambda: {"b.json": {"results": sizes[:1]}})
    assert report.search_costs() == {} and report.search_section() == []


def test_results_name_no_host_and_no_home() -> None:
    for path in FOLDER.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert "/home" not in text and "hostname" not in text and '"node"' not in text


def test_every_benchmark_has_what_the_tables_want() -> None:
    assert devices()
    for results in devices().values():
        names = [entry["name"] for entry in results["results"]]
        assert len(names) == len(set(names))
        for entry in results["results"]:
            assert {"commit", "op", "size", "contenders"} <= entry.keys()


def test_steps_take_turns_until_their_budget_is_spent() -> None:
    calls: list[str] = []

    def step(name: str) -> list[Any]:
        calls.append(name)
        torch.ones(1000).sum()
        return []

    times = in_turns({"a": lambda: step("a"), "b": lambda: step("b")}, Budget(seconds=0.02, fewest=2, most=3))
    assert {name: 2 <= len(values) <= 3 for name, values in times.items()} == {"a": True, "b": True}
    # Each runs once to be known, then a round of each.
    assert calls[:2] == ["a", "b"]
    rounds = [name for index, name in enumerate(calls[2:]) if index == 0 or calls[index + 1] != name]
    assert rounds[:4] == ["a", "b", "a", "b"]


def test_figures_are_medians_and_quartiles() -> None:
    assert figures([5.0, 1.0, 2.0, 4.0, 3.0], peak_mib=2.0) == {
        "ms": 3.0, "low": 2.0, "high": 4.0, "rounds": 5, "peak_mib": 2.0
    }  # fmt: skip
    assert figures([7.0]) == {"ms": 7.0, "low": 7.0, "high": 7.0, "rounds": 1}


@pytest.mark.skipif(torch.cuda.is_available(), reason="the allocator of a GPU rounds up")
def test_peak_memory_counts_what_lives_at_once() -> None:
    mebi = 2**18

    def step() -> list[torch.Tensor]:
        first = torch.ones(3 * mebi)
        second = first + 1
        del first
        return [second[:mebi].clone()]

    result, peak = peak_memory(step)
    assert result[0].shape == (mebi,)
    assert 6 <= peak < 6.1


def test_peak_memory_sees_inside_of_operators_and_backward() -> None:
    x = torch.randn(512, 512, requires_grad=True)
    _, forward = peak_memory(lambda: [x.exp()])
    _, both = peak_memory(lambda: [*torch.autograd.grad(x.exp().sin().sum(), x)])
    assert 1 <= forward < 1.1
    assert 3 <= both < 6


def test_errors_are_relative_to_the_greatest_element() -> None:
    expected = [torch.tensor([4.0, 0.0]).double(), torch.zeros(1).double()]
    assert error([torch.tensor([4.0, 1.0]), torch.tensor([0.125])], expected) == 0.25
    with pytest.raises(AssertionError, match="is not"):
        error([torch.zeros(2)], [torch.zeros(3)])


def results(**times: float) -> dict[str, Any]:
    """A results file with contenders that take so long, steadily."""
    steady = {name: {"ms": ms, "low": 0.99 * ms, "high": 1.01 * ms, "rounds": 20} for name, ms in times.items()}
    rows = {name: {"train": row} for name, row in steady.items()}
    machine = {"device": "x", "instruction_set": "y", "threads": 2, "versions": {"torch": "1"}}
    return {**machine, "results": [{"name": "test_op", "contenders": rows}]}


def verdicts(old: dict[str, Any], new: dict[str, Any]) -> dict[str, str]:
    return {change.contender: change.verdict for change in changes(old, new)}


def test_a_change_beyond_the_noise_is_faster_or_slower() -> None:
    before = results(cpu=10.0, triton=10.0, reference=10.0, peer=30.0)
    after = results(cpu=9.0, triton=11.0, reference=10.02, peer=30.0)
    assert verdicts(before, after) == {
        "cpu": "faster", "triton": "slower", "reference": "no difference", "peer": "no difference"
    }  # fmt: skip


def test_what_the_peers_differ_by_is_noise() -> None:
    before = results(cpu=10.0, peer=30.0, other=20.0)
    after = results(cpu=9.0, peer=33.0, other=18.5)
    assert set(verdicts(before, after).values()) == {"no difference"}


def test_only_files_of_one_machine_compare() -> None:
    other = {**results(cpu=1.0), "threads": 4}
    with pytest.raises(ValueError, match="same threads, got 2 and 4"):
        changes(results(cpu=1.0), other)


def test_only_figures_of_one_machine_share_a_file() -> None:
    """A peer that was installed later makes no other machine of it."""
    here = {**results(cpu=1.0), "versions": {"torch": "1", "peer": "2"}}
    assert contradictions({}, here) == contradictions(results(cpu=2.0), here) == {}
    assert contradictions({**here, "threads": 4}, here) == {"threads": (4, 2)}
    assert contradictions(results(cpu=1.0), {**here, "versions": {"torch": "2"}}) == {"torch": ("1", "2")}


def test_files_of_machines_whose_processors_have_one_name_and_differ_in_more_have_names_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cpu = {"device": "AMD EPYC", "threads": 2}
    names = []
    for isa in ("avx2", "avx512_bf16"):
        monkeypatch.setattr(machine, "describe", lambda isa=isa: {**cpu, "instruction_set": isa})
        names.append(machine.file_name())
    assert names == ["amd-epyc-avx2-2-cores.json", "amd-epyc-avx512-bf16-2-cores.json"]


def test_a_claim_on_accuracies_that_so_few_seeds_cannot_tell_is_left_open() -> None:
    def verdicts(mamba: float) -> list[bool | None]:
        runs = [
            {"setting": kind, "seed": seed, "metrics": found(first + seed)}
            for kind, first in (("mamba", mamba), ("transformer", 30.0), ("simple", 30.0))
            for seed in range(3)
        ]
        return [claim.holds for claim in claims(report.studied(), runs) if "mAP" in claim.measured]

    def found(rate: float) -> dict[str, Any]:
        return {"protocols": {"test": {"results": {"same": {"map": rate, "r1": rate}}}}}

    assert [verdicts(mamba) for mamba in (31.0, 40.0, 20.0)] == [[None, None], [True, True], [False, False]]


def test_the_command_compares(tmp_path: Path) -> None:
    for name, ms in (("old", 10.0), ("new", 5.0)):
        (tmp_path / name).write_text(json.dumps(results(cpu=ms, peer=30.0)))
    command = [sys.executable, "-m", "benchmarks.compare", str(tmp_path / "old"), str(tmp_path / "new")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=report.ROOT).stdout
    assert "faster         test_op cpu, forward + backward: 10 ms, now 5 ms (-50.0 %" in printed
    assert printed.endswith("1 faster, 0 slower, 1 no difference\n")


def test_exponents_are_fitted_where_growth_shows() -> None:
    lengths = (64, 1024, 2048, 4096)
    assert Curve(lengths, (1e9, *(3e-6 * n**2 for n in lengths[1:]))).exponent == pytest.approx(2)


def test_curves_cross_between_lengths() -> None:
    lengths = (1, 10, 100, 1000)
    line, square = Curve(lengths, tuple(20 * n for n in lengths)), Curve(lengths, tuple(n * n for n in lengths))
    assert crossings(line, square) == pytest.approx([20])
    assert crossings(line, Curve(lengths, tuple(40 * n for n in lengths))) == []


def test_scores_are_100_for_the_best_of_an_axis() -> None:
    raw = {"a": {"mAP": 30.0, "Params": 2.0}, "b": {"mAP": 60.0, "Params": 8.0}}
    assert scores(raw) == {"a": {"mAP": 50, "Params": 100}, "b": {"mAP": 100, "Params": 25}}


def test_figures_of_one_run_are_added_to_those_of_another(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    options: dict[str, Any] = {"--results": path, "--small": False}
    config: Any = SimpleNamespace(getoption=options.get)

    def run(*names: str) -> list[tuple[str, str]]:
        """A run of these benchmarks; gives the names and sizes that the file then has."""
        conftest.pytest_configure(config)
        for name in names:
            add_entry(path, machine.describe(), {"name": name, "size": names[-1]})
        return [(entry["name"], entry["size"]) for entry in load(path)["results"]]

    assert run("a", "b") == [("a", "b"), ("b", "b")]
    assert run("b", "c") == [("a", "b"), ("b", "c"), ("c", "c")]
    assert load(path)["threads"] == torch.get_num_threads() and [*tmp_path.iterdir()] == [path]
    path.write_text(json.dumps({**load(path), "threads": 99}))
    with pytest.raises(pytest.UsageError, match="has figures of threads 99, got"):
        run("c")
    options["--small"] = True
    with pytest.raises(pytest.UsageError, match="takes no figures to keep"):
        run("c")
    options |= {"--small": False, "--results": tmp_path / "nowhere" / "results.json"}
    with pytest.raises(pytest.UsageError, match="must be in a folder that exists"):
        run("c")


def entry(**times: tuple[float, float]) -> dict[str, Any]:
    """A benchmark of contenders that take so long, eagerly and in a graph."""
    rows = {name: {"train": {"ms": ms, "graph_ms": graph}} for name, (ms, graph) in times.items()}
    return {"op": "op", "size": "1", "peer": "peer", "target": 3, "graph_target": 5, "contenders": rows}


def test_ours_is_held_against_the_best_peer() -> None:
    measured = entry(cuda=(4.0, 1.0), triton=(2.0, 2.0), peer=(10.0, 9.0), **{"peer, compiled": (8.0, 3.0)})
    assert ratio(measured, "train") == 4 and ratio(measured, "train", "graph_ms") == 3
    eager, in_a_graph = summary(measured)
    assert eager.endswith(": 4.00x peer, compiled, target 3x")
    assert in_a_graph.endswith(": 3.00x peer, compiled, target 5x")


def test_a_contender_that_fails_costs_its_own_figures_only(tmp_path: Path) -> None:
    """In a run of its own, as it is to fail."""
    test = tmp_path / "test_contest.py"
    test.write_text(
        "import torch\n"
        "from benchmarks.measure import Contender\n"
        "def fail():\n"
        "    raise RuntimeError('on purpose')\n"
        "def test_contest(contest):\n"
        "    x = torch.ones(3, requires_grad=True)\n"
        "    right, wrong = Contender(lambda: x * 2, [x]), Contender(lambda: x * 3, [x])\n"
        "    failing = Contender(fail, [x])\n"
        "    functions = {'cpu': failing, 'reference': wrong, 'peer': right, 'other': failing}\n"
        "    contest(functions, expected=right.train, op='op', size='1', peer='peer')\n"
    )
    results = tmp_path / "results.json"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "benchmarks.conftest", f"--rootdir={report.ROOT}"]
    run = subprocess.run([*command, str(test), f"--results={results}"], capture_output=True, text=True, cwd=report.ROOT)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "cpu, forward: RuntimeError: on purpose" in run.stdout and "reference, train: error 0.5" in run.stdout
    assert "other" not in run.stdout.split("AssertionError", 1)[1].splitlines()[0]
    (row,) = load(results)["results"]
    assert {"forward", "train"} <= row["contenders"]["peer"].keys()
    assert row["contenders"]["other"] == {
        "failed, forward": "RuntimeError: on purpose", "failed, train": "RuntimeError: on purpose"
    }  # fmt: skip
