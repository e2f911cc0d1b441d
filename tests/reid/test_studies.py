"""Studies: what they train, keep and repeat."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import arguments

from bdam_reid.captions.splitter import split_caption
from bdam_reid.config import ConfigError, parse_config
from bdam_reid.data.datasets import load_dataset
from bdam_reid.engine.checkpoint import load_weights
from bdam_reid.methods import PRESETS
from bdam_reid.methods.bdam.config import BDAMConfig
from bdam_reid.studies import clustering, efficiency, grid, rerank
from bdam_reid.studies.grid import table


def test_the_rows_of_the_three_fusions_are_those_at_the_drafts_sizes() -> None:
    base = PRESETS["demo-icme"]().method
    assert isinstance(base, BDAMConfig)
    for setting in efficiency.SETTINGS:
        method = parse_config(PRESETS, setting.arguments.split()).method
        assert method == replace(base, fusion=efficiency.FUSIONS[setting.name])


def test_the_committed_results_of_the_three_fusions_are_whole(tmp_path: Path, capsys: Any) -> None:
    """Whatever fields configs got since: nothing is left to train."""
    kept = Path(__file__).parents[2] / "benchmarks" / "results" / "fusion-accuracy.json"
    shutil.copy(kept, tmp_path / "results.json")
    options = ["--output", str(tmp_path / "runs"), "--results", str(tmp_path / "results.json")]
    efficiency.main(options)
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(kept.read_text())
    assert not (tmp_path / "runs").exists()
    assert "| mamba | 34.3 ± 2.5 | 34.9 ± 0.6 | 3 | - |" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        efficiency.main([*options, "--epochs", "9"])
    assert "holds results of another study or budget" in capsys.readouterr().err


def test_matchers_are_trained_alone_on_the_weights_of_a_run(finished: Path, tmp_path: Path) -> None:
    study = rerank.Study(finished, None, tmp_path / "runs", tmp_path / "results.json", ("frozen-simple",), seeds=(3,))
    results = rerank.run_study(study)
    (run,) = results["runs"]
    assert (run["setting"], run["seed"]) == ("frozen-simple", 3)
    folder = tmp_path / "runs" / "frozen-simple-3"
    before, after = load_weights(finished / "best"), load_weights(folder / "best")
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert {name.split(".")[0] for name in after.keys() - before.keys()} == {"matcher"}
    assert after["matcher.out.weight"].any()
    plain = json.loads((finished / "metrics.json").read_text())["protocols"]
    for protocol, found in run["metrics"]["protocols"].items():
        assert found["results"].items() >= plain[protocol]["results"].items()
    assert json.loads((tmp_path / "results.json").read_text()) == results
    changed = (folder / "log.txt").stat().st_mtime_ns
    assert rerank.run_study(study) == results and (folder / "log.txt").stat().st_mtime_ns == changed
    text = table(results, rerank.FIGURES)
    assert "| other clothes mAP, re-ranked |" in text and "| frozen-simple | " in text
    shutil.copytree(finished, tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    config["method"]["optim"]["lr"] = 0.5
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="holds results of another study"):
        rerank.run_study(replace(study, run=tmp_path / "other"))


def test_settings_are_trained_with_the_budget_once_each(people: Path, tmp_path: Path) -> None:
    line = " ".join(arguments(people, tmp_path / "unused"))
    settings = [grid.Setting("all", line), grid.Setting("no gate", f"{line} --method.decoupling.gate False")]
    budget = ("--method.optim.epochs", "1", "--engine.save-every", "0")
    given = (settings, ["no gate"], (0, 1), budget, tmp_path / "runs", tmp_path / "results.json")
    results = grid.run_grid(*given)
    assert [(run["setting"], run["seed"]) for run in results["runs"]] == [("no gate", 0), ("no gate", 1)]
    config = json.loads((tmp_path / "runs" / "no-gate-1" / "config.json").read_text())
    assert (config["seed"], config["method"]["optim"]["epochs"]) == (1, 1)
    assert not config["method"]["decoupling"]["gate"]
    changed = (tmp_path / "runs" / "no-gate-0" / "log.txt").stat().st_mtime_ns
    assert grid.run_grid(*given) == results == json.loads((tmp_path / "results.json").read_text())
    assert (tmp_path / "runs" / "no-gate-0" / "log.txt").stat().st_mtime_ns == changed
    rates = [run["metrics"]["protocols"]["test"]["results"]["same"]["map"] for run in results["runs"]]
    written = table(results, {"mAP": lambda metrics: metrics["protocols"]["test"]["results"]["same"]["map"]})
    assert f"| no gate | {sum(rates) / 2:.1f} ± " in written and "| all |" not in written
    with pytest.raises(ConfigError, match="--rows must be of all, no gate, got none"):
        grid.run_grid(settings, ["none"], *given[2:])
    with pytest.raises(ConfigError, match="another study or budget"):
        grid.run_grid(*given[:3], (), *given[4:])


def test_clusterings_choose_texts_where_no_model_wrote_any(people: Path, tmp_path: Path) -> None:
    line = ["--budget", "smoke", "--root", str(people), "--output", str(tmp_path), "--rows", "kmeans", "--seeds", "0"]
    clustering.main(line)
    chosen = json.loads((tmp_path / "set-kmeans" / "texts.json").read_text())
    captions = {record.key: record.captions for record in load_dataset(people).train}
    assert captions.keys() <= chosen.keys()
    for key, own in captions.items():
        assert (chosen[key]["identity"], chosen[key]["clothing"]) in map(split_caption, own)
        assert chosen[key]["style"].startswith("kmeans-")
    came = json.loads((people / "texts.json").read_text())
    assert all(entry != came.get(key) for key, entry in chosen.items())
    text = (tmp_path / "clustering-chosen.md").read_text()
    assert text.startswith("# Captions chosen") and "written by no model" in text.splitlines()[0]
    assert "No multimodal model wrote these texts" in text and "Published rows are of another thing" in text
    trained = (tmp_path / "kmeans-0" / "log.txt").stat().st_mtime_ns
    clustering.main(line)
    assert (tmp_path / "kmeans-0" / "log.txt").stat().st_mtime_ns == trained


def test_a_real_set_needs_texts_of_a_model(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "CUHK-PEDES").mkdir()
    with pytest.raises(SystemExit):
        clustering.main(["--root", str(tmp_path / "CUHK-PEDES"), "--output", str(tmp_path / "runs")])
    assert "needs texts that a multimodal model wrote: give --texts FOLDER" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        clustering.main(["--root", str(tmp_path / "nowhere")])
    assert "found no such folder: give --root, or draw it" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
