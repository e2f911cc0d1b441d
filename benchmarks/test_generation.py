"""Language models on the CPU, in processes of their own: transformers' families with `compat.install()` and without,
and how fast a Mamba of 130 million parameters, with random weights, generates.

`pytest benchmarks -k compat`, `pytest benchmarks -k generation_of_mamba`. All are given the same weights, and must
generate the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from benchmarks.language_models import FULL, OF_130M, SMALL, measure
from benchmarks.measure import figures
from tests.helpers import without_the_real_packages
from tests.kernels.compat_models import FAMILIES

Record = Callable[[dict[str, Any]], None]
pytestmark = without_the_real_packages


@pytest.fixture
def record(benchmark: Any, keep: Callable[[dict[str, Any]], None]) -> Record:
    """record(entry): keeps the figures, and shows them in the end."""

    def run(entry: dict[str, Any]) -> None:
        keep(entry)
        benchmark.extra_info.update(entry)
        benchmark.pedantic(lambda: None, rounds=1)

    return run


def contenders(found: Mapping[str, dict[str, Any]], steps: Mapping[str, str]) -> dict[str, Any]:
    """Figures by name. steps: by mode of the results, what it is here."""
    return {
        name: {
            mode: figures([1e3 * s for s in times[step]], **_speed(step, times)) for mode, step in steps.items()
        }
        for name, times in found.items()
    }  # fmt: skip


def _speed(step: str, times: Mapping[str, Any]) -> dict[str, float]:
    return {"tokens_per_second": len(times["tokens"]) / min(times[step])} if step == "generation" else {}


def same_tokens(found: Mapping[str, dict[str, Any]]) -> None:
    tokens = {name: times["tokens"] for name, times in found.items()}
    assert len({tuple(t) for t in tokens.values()}) == 1, tokens


def of_builds(family: str, small: bool, builds: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """By name of the contender. builds: by that name."""
    found = measure(family, tuple(builds.values()), not small)
    return {name: found[build] for name, build in builds.items()}


def of_family(family: str, small: bool) -> dict[str, dict[str, Any]]:
    return of_builds(family, small, {"ours": "compat", "transformers": "transformers"})


@pytest.mark.parametrize("family", FAMILIES)
def test_compat_steps(small: bool, record: Record, family: str) -> None:
    work = SMALL if small else FULL
    found = of_family(family, small)
    record({
        "op": f"{family} of transformers, with compat", "size": f"(B, L) = ({work.batch}, {work.length})",
        "peer": "transformers", "contenders": contenders(found, {"forward": "forward", "train": "train"}),
    })  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_compat_generation(small: bool, record: Record, family: str) -> None:
    work = SMALL if small else FULL
    found = of_family(family, small)
    record({
        "op": f"{family} of transformers, with compat", "size": f"{work.tokens} tokens generated",
        "peer": "transformers", "contenders": contenders(found, {"forward": "generation"}),
    })  # fmt: skip
    same_tokens(found)


def test_generation_of_mamba(small: bool, record: Record) -> None:
    pytest.importorskip("mambapy")
    work = SMALL if small else FULL
    builds = {
        "ours": "mamba_ssm", "transformers, with compat": "compat", "transformers": "transformers",
        "mambapy": "mambapy",
    }  # fmt: skip
    found = of_builds(OF_130M, small, builds)
    record({
        "op": "Mamba, 130M parameters" if not small else "Mamba", "size": f"{work.tokens} tokens generated",
        "peer": "mambapy", "contenders": contenders(found, {"forward": "generation"}),
    })  # fmt: skip
    same_tokens(found)
