"""The study of the fusions: what it trains, keeps and repeats."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_run import tiny, write_people

from bdam_reid.config import ConfigError
from bdam_reid.methods.bdam.config import demo_icme
from bdam_reid.studies.fusion import FUSIONS, Study, run_study


def test_every_fusion_is_trained_alike_and_once(tmp_path: Path) -> None:
    people = write_people(tmp_path / "people")
    base = replace(tiny(people, tmp_path / "unused"), output="")
    study = Study(str(people), tmp_path / "runs", tmp_path / "results.json", epochs=1, seeds=(0,))
    some = run_study(replace(study, kinds=("simple",)), base)
    assert [run["kind"] for run in some["runs"]] == ["simple"]
    changed = (tmp_path / "runs" / "simple-0" / "log.txt").stat().st_mtime_ns
    results = run_study(study, base)
    assert (tmp_path / "runs" / "simple-0" / "log.txt").stat().st_mtime_ns == changed
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert sorted(run["kind"] for run in results["runs"]) == sorted(FUSIONS)
    configs = [json.loads((tmp_path / "runs" / f"{kind}-0" / "config.json").read_text()) for kind in FUSIONS]
    for config in configs:
        assert config["method"].pop("fusion")["width"] == 256
        assert config.pop("output")
    assert configs[0] == configs[1] == configs[2]
    for run in results["runs"]:
        assert run["metrics"] == json.loads((tmp_path / "runs" / f"{run['kind']}-0" / "metrics.json").read_text())
    with pytest.raises(ConfigError, match="holds runs of another budget"):
        run_study(replace(study, epochs=2), base)


def test_the_committed_results_are_those_of_this_study(tmp_path: Path) -> None:
    """Whatever fields configs got since, and wherever the data lies: nothing is left to train."""
    kept = Path(__file__).parents[2] / "benchmarks" / "results" / "fusion-accuracy.json"
    shutil.copy(kept, tmp_path / "results.json")
    study = Study(str(tmp_path / "elsewhere"), tmp_path / "runs", tmp_path / "results.json")
    assert run_study(study, demo_icme()) == json.loads(kept.read_text())
    assert not (tmp_path / "runs").exists()
    (tmp_path / "results.json").write_text('{"budget": {"data": {"what": 1}}, "runs": []}')
    with pytest.raises(ConfigError, match="holds no results of this study"):
        run_study(study, demo_icme())
