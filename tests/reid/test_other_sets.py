"""Training on one set, testing on another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from data_files import entries, write_set

from bdam_reid.data.datasets import load_dataset
from bdam_reid.engine.run import load_config
from bdam_reid.evaluate import Options, _trained_on, evaluate_run
from bdam_reid.evaluation.tables import describe
from bdam_reid.methods import PRESETS


def evaluate(run: Path, root: Path, output: Path) -> dict[str, Any]:
    metrics = evaluate_run(Options(run, root=root, output=output)).metrics
    assert json.loads((output / "metrics.json").read_text()) == metrics
    return metrics


def test_another_set_of_another_layout(people: Path, finished: Path, tmp_path: Path) -> None:
    name, other = "icfg-pedes", write_set(tmp_path / "other", entries(), "ICFG-PEDES.json")
    metrics = evaluate(finished, other, tmp_path / "out")
    assert (
        metrics["trained_on"] == f"synthetic cuhk-pedes at {people}" and metrics["evaluated_on"] == f"{name} at {other}"
    )
    results = metrics["protocols"]["test"]["results"]
    assert all((row["queries"], row["gallery"]) == (8, 4) for row in results.values())
    # The other set has no ground truth, and that of the first is not read.
    assert "probes" not in metrics
    named = f"trained on synthetic cuhk-pedes at {people}, evaluated on {name} at {other}"
    assert describe(metrics).startswith(named)
    assert named in (tmp_path / "out" / "pictures" / "index.html").read_text()
    assert "clothing change" not in describe(metrics)


def test_the_same_set_elsewhere_is_no_other(people: Path, finished: Path, tmp_path: Path) -> None:
    moved, config = load_dataset(shutil.copytree(people, tmp_path / "moved")), load_config(finished, PRESETS)
    assert _trained_on(finished, config, moved) == ""
    old = Path(shutil.copytree(finished, tmp_path / "old"))
    for name in ("data.json", "environment.json"):
        (old / name).unlink()
    assert _trained_on(old, config, moved) == f"a set at {people}"
