"""The papers' tables: their rows, what is kept and written of them, and what is said of the claims."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import write_people

from bdam_reid.config import ConfigError, check_config, parse_config
from bdam_reid.engine.checkpoint import load_weights
from bdam_reid.evaluation.pictures import GREY, colours_of
from bdam_reid.methods import PRESETS
from bdam_reid.methods.bdam.config import BDAMConfig
from bdam_reid.studies import __main__ as studies
from bdam_reid.studies import bdam, clothes, clustering, comparison, figures, fusion, losses, papers
from bdam_reid.studies.budgets import BUDGETS
from bdam_reid.studies.definition import Study
from bdam_reid.studies.grid import Setting
from bdam_reid.studies.report import comma_separated, markdown, values_of
from bdam_reid.studies.study import Options, config_of, run_study, set_name, whole_line
from bdam_reid.studies.verdicts import Claim, judge

ALL = (bdam, fusion, losses, clustering, comparison, clothes)
ELSEWHERE = {"clip-itc", "itc-demo", "irra", "irra-demo", "rde", "rde-demo"}
"""Presets of methods that a table names and this version need not have."""


@pytest.mark.parametrize("budget", ["smoke", "full"])
@pytest.mark.parametrize("module", ALL, ids=lambda module: module.STUDY.name)
def test_every_row_is_a_config_of_its_own(module: Any, budget: Any) -> None:
    """Those of the budget "cpu" are those of "smoke" at their full size."""
    common = module.STUDY.budgets[budget]
    rows = module.STUDY.rows(common)
    configs = []
    for row in rows:
        line = whole_line(row, common)
        if line.split()[0] in ELSEWHERE - PRESETS.keys():
            with pytest.raises(ConfigError, match="leave the row out by --rows"):
                config_of(row.name, line)
            continue
        configs.append(config_of(row.name, line))
        check_config(configs[-1])
    if module is not clustering:
        assert len(set(map(repr, configs))) == len(configs)
    names = {row.name for row in rows}
    assert all({claim.better, claim.worse} <= names for claim in module.STUDY.claims)


def test_rows_of_published_figures_are_named_as_ours() -> None:
    for module, published in (
        (bdam, papers.BDAM),
        (fusion, papers.FUSION),
        (losses, papers.LOSSES),
        (clustering, papers.CLUSTERING),
    ):
        found = {row.name: row.published for row in module.STUDY.rows(BUDGETS["cpu"]) if row.published}
        assert found == published
    for method, (_, printed) in papers.COMPARISON.items():
        for row in printed:
            assert row.r1 < row.r5 < row.r10 and (row.map is None or row.map < row.r1), method


def method_of(module: Any, name: str, budget: Any = "cpu") -> BDAMConfig:
    row = next(row for row in module.STUDY.rows(BUDGETS[budget]) if row.name == name)
    made = parse_config(PRESETS, row.arguments.split()).method
    assert isinstance(made, BDAMConfig)
    return made


def test_rows_leave_out_what_they_are_named_after() -> None:
    assert method_of(bdam, "baseline").decoupling.kind == "none"
    assert method_of(bdam, "without cross-attention").decoupling.cross_layers == 0
    assert not method_of(bdam, "without gate").decoupling.gate
    for budget, depths in (("cpu", (2, 1)), ("full", (6, 3))):
        deep, shallow = (method_of(bdam, name, budget) for name in ("BDAM", "shallow"))
        assert (deep.decoupling.self_layers, shallow.decoupling.self_layers) == depths
        assert deep.fusion.kind == "none"
    whole = method_of(losses, "all losses").loss
    assert all((whole.info_weight, whole.triplet_weight, whole.decouple_weight, whole.gate_weight))
    assert whole.gradnorm_every and whole.clothing == "alignment" and not whole.contrast_weight
    assert method_of(losses, "without InfoNCE").loss.info_weight == 0
    assert method_of(losses, "adversarial").loss.clothing == "adversarial"
    assert method_of(fusion, "fusion").rerank.gate
    assert method_of(fusion, "without Mamba").rerank.kind == "sum"
    assert not method_of(fusion, "without fusion gate").rerank.gate
    assert not method_of(fusion, "without alignment").rerank.alignment


# Verdicts


def test_verdicts_are_by_students_interval() -> None:
    """t(0.975) of 4 degrees of freedom is 2.776."""
    better, worse = [52.0, 54.0, 56.0], [48.0, 50.0, 52.0]
    verdict = judge(better, worse)
    assert verdict.difference == 4 and verdict.word == "cannot be told"
    assert verdict.margin == pytest.approx(2.776445 * 2 * (2 / 3) ** 0.5, rel=1e-5)
    assert judge([x + 1 for x in better], worse).word == "holds"
    assert judge(worse, [x + 1 for x in better]).word == "does not hold"
    assert judge([1.0, 1.0], [1.0, 1.0]).word == "cannot be told"
    assert judge([2.0, 2.0], [1.0, 1.0]).word == "holds"


def test_rows_that_share_a_model_are_compared_seed_by_seed() -> None:
    """t(0.975) of 2 degrees of freedom is 4.303."""
    one, other = [50.0, 60.0, 73.0], [49.0, 59.0, 71.0]
    assert judge(one, other).word == "cannot be told"
    verdict = judge(one, other, paired=True)
    assert verdict.margin == pytest.approx(4.302653 * (1 / 3) ** 0.5 / 3**0.5, rel=1e-5)
    assert verdict.difference == pytest.approx(4 / 3) and verdict.word == "cannot be told"
    assert judge([50.0, 60.0, 72.1], other, paired=True).word == "holds"


def test_only_seeds_of_both_rows_are_paired() -> None:
    results = results_of("synthetic")
    results["runs"] = [run for run in results["runs"] if (run["setting"], run["seed"]) != ("whole", 1)]
    text = markdown(STUDY._replace(paired=True), ROWS, results, values_of(results))
    assert "| it helps | icme I | +1.50 | +10.0 ± 0.0 | **holds** |" in text and "seed by seed" in text


def test_one_seed_tells_nothing() -> None:
    assert judge([90.0], [1.0, 2.0, 3.0]) == (88.0, None, "cannot be told")


# Reports


def run_of(setting: str, seed: int, map_: float) -> dict[str, Any]:
    rates = {"map": map_, "r1": map_ + 5, "r5": 90.0, "r10": 95.0}
    protocols = {"test": {"clothes": "same", "results": {"same": rates, "other": {}, "identity": {}}}}
    environment = {"commit": "abc", "data": {"identities": {"train": 1000}}}
    kept = {"metrics": {"protocols": protocols}, "environment": environment}
    return {"setting": setting, "seed": seed, "seconds": 10.0, **kept}


ROWS = [
    Setting("whole", "demo", papers.Published(60.0, 70.0, 80.0, 90.0)),
    Setting("without it", "demo --method.decoupling.gate False", papers.Published(58.5, 69.0, 79.0, 89.0)),
    Setting("not run", "demo-icme"),
]
STUDY = Study(
    "it", "It and its parts", "A note.", lambda budget: ROWS, [Claim("it helps", "icme I", "whole", "without it")]
)


def results_of(name: str) -> dict[str, Any]:
    runs = [run_of("whole", seed, 50.0 + seed) for seed in range(3)]
    runs += [run_of("without it", seed, 40.0 + seed) for seed in range(3)]
    return {"budget": "cpu", "set": name, "settings": {row.name: row.arguments for row in ROWS}, "runs": runs}


def test_a_report_has_ours_and_the_published_figures_and_verdicts() -> None:
    results = results_of("synthetic")
    text = markdown(STUDY, ROWS, results, values_of(results))
    assert "Measured on the synthetic set, drawn persons (1,000 to train on), budget cpu, seeds 0, 1, 2" in text
    assert "| whole | 51.0 ± 1.0 | 56.0 ± 1.0 | 90.0 ± 0.0 | 95.0 ± 0.0 | 3 | 60.00 | 70.00 | 80.00 | 90.00 |" in text
    assert "| not run | - | - | - | - | 0 | - | - | - | - |" in text
    # Nothing of other clothes was measured, so there is no column of it.
    assert "other clothes" not in text
    assert "| it helps | icme I | +1.50 | +10.0 ± 2.3 | **holds** |" in text
    results = results_of("CUHK-PEDES")
    assert "Measured on CUHK-PEDES (1,000" in markdown(STUDY, ROWS, results, values_of(results))


def test_a_claim_of_a_row_that_was_not_run_is_not_measured() -> None:
    study = STUDY._replace(claims=[Claim("it helps", "icme I", "whole", "not run")])
    results = results_of("synthetic")
    assert "| it helps | icme I | - | - | not measured |" in markdown(study, ROWS, results, values_of(results))


def test_comma_separated_values() -> None:
    whole, *_, idle = csv.DictReader(comma_separated(ROWS, values_of(results_of("synthetic"))).splitlines())
    assert (whole["row"], float(whole["mAP mean"]), float(whole["mAP std"]), whole["mAP seeds"]) == (
        "whole",
        51,
        1,
        "3",
    )
    assert float(whole["published R-1, CUHK-PEDES"]) == 70
    assert (idle["mAP mean"], idle["mAP seeds"], idle["published mAP, CUHK-PEDES"]) == ("", "0", "")


# Runs


def smoke(people: Path, output: Path, rows: Sequence[str], seeds: Sequence[int] = (0,)) -> dict[str, Any]:
    return {"budget": "smoke", "root": str(people), "output": output, "rows": tuple(rows), "seeds": tuple(seeds)}


def test_a_grid_is_trained_once_and_written(people: Path, tmp_path: Path) -> None:
    options = Options(**smoke(people, tmp_path, ["baseline", "BDAM"]))
    results = run_study(bdam.STUDY, options)
    assert [(run["setting"], run["seed"]) for run in results["runs"]] == [("baseline", 0), ("BDAM", 0)]
    assert json.loads((tmp_path / "bdam.json").read_text()) == results and results["set"] == "synthetic"
    config = json.loads((tmp_path / "baseline-0" / "config.json").read_text())
    assert config["method"]["decoupling"]["kind"] == "none" and config["method"]["optim"]["epochs"] == 1
    text = (tmp_path / "bdam.md").read_text()
    rate = results["runs"][0]["metrics"]["protocols"]["test"]["results"]["same"]["map"]
    assert f"| baseline | {rate:.1f} |" in text and "no figure says anything" in text
    assert "mAP, other clothes" in text and "**cannot be told**" in text
    probes = results["runs"][0]["metrics"]["probes"]["persons"]["test"]["outfit"]["top colour"]["linear"]
    assert list(probes) == ["identity", "clothing", "entangled"]
    assert (tmp_path / "bdam.csv").exists()
    with Image.open(tmp_path / "bdam.png") as picture:
        assert picture.width > 400
    trained = (tmp_path / "BDAM-0" / "log.txt").stat().st_mtime_ns
    assert run_study(bdam.STUDY, options) == results
    assert (tmp_path / "BDAM-0" / "log.txt").stat().st_mtime_ns == trained
    with pytest.raises(ConfigError, match=r"\(budget, settings are not the same\): give another --output"):
        run_study(bdam.STUDY, Options(**{**smoke(people, tmp_path, ["BDAM"]), "budget": "cpu"}))
    # Of one name, and with other persons.
    other = write_people(tmp_path / "other", seed=1)
    with pytest.raises(ConfigError, match=r"\(data is not the same\)"):
        run_study(bdam.STUDY, Options(**smoke(other, tmp_path, ["BDAM"], seeds=(1,))))
    # Files of older versions do not say what the data was.
    older = {name: value for name, value in results.items() if name != "data"}
    (tmp_path / "bdam.json").write_text(json.dumps(older))
    assert run_study(bdam.STUDY, options) == results


def test_figures_of_finished_runs(finished: Path, tmp_path: Path, capsys: Any) -> None:
    figures.main([str(finished), "--baseline", str(finished), "--output", str(tmp_path)])
    found = json.loads((tmp_path / "figures.json").read_text())
    measured = json.loads((finished / "metrics.json").read_text())["gates"]["gate"]["identity"]["mean"]
    # The images of other clothes too are looked at.
    assert abs(found["gates"]["gate"]["identity"]["mean"] - measured) < 0.1
    assert found["gates"].keys() == {"gate", "fusion"}
    assert found["silhouettes"].keys() == {"entangled", "disentangled"}
    of = found["silhouettes"]["disentangled"]
    assert (
        of == found["silhouettes"]["entangled"]
        and of.keys() == {"identity", "clothing"}
        and all(-1 <= row["person"] <= 1 for row in of.values())
    )
    assert "identity feature: silhouette" in capsys.readouterr().out
    for name in ("gates.png", "tsne.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 400
    with pytest.raises(SystemExit):
        figures.main([str(tmp_path)])


def test_silhouettes_tell_clusters_from_their_labels() -> None:
    features = {"one": np.array([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0], [0.01, 1.0]])}
    labels = {
        "person": ["a", "a", "b", "b"],
        "colour": ["x", "y", "x", "y"],
        "same": ["z"] * 4,
        "some": ["a", "b", None],
    }
    found = figures._silhouettes(features, labels)["one"]
    assert found["person"] > 0.99 and found["colour"] < -0.4 and found.keys() == {"person", "colour"}


def test_colours_are_those_that_labels_name() -> None:
    colours = colours_of(["burgundy", None, "nobody", "burgundy"], None)
    assert colours[0] == colours[3] == "xkcd:burgundy" and colours[1] == GREY and colours[2].startswith("#")
    assert colours_of(["7", "8", "9", "8"], 2)[2] == GREY


def test_matchers_are_trained_on_the_model_of_their_seed(people: Path, tmp_path: Path) -> None:
    options = Options(**smoke(people, tmp_path, ["without Mamba"]))
    (run,) = run_study(fusion.STUDY, options, fusion.train_row)["runs"]
    before, after = (load_weights(tmp_path / name / "best") for name in ("without-fusion-0", "without-Mamba-0"))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "matcher.gate.weight" in after and not any("mixer" in name for name in after)
    found = run["metrics"]["protocols"]["test"]["results"]
    assert f"| without Mamba | {found['reranked']['map']:.1f} |" in (tmp_path / "fusion.md").read_text()


def test_a_row_of_clusterings_is_trained_on_its_texts(people: Path, tmp_path: Path) -> None:
    texts: Mapping[str, Any] = json.loads((people / "texts.json").read_text())
    written = {key: {**entry, "identity": "A person."} for key, entry in texts.items()}
    (tmp_path / "texts" / "gmm").mkdir(parents=True)
    (tmp_path / "texts" / "gmm" / "texts.json").write_text(json.dumps(written))
    given = {**smoke(people, tmp_path / "runs", ["gmm"]), "texts": tmp_path / "texts"}
    clustering.run_clustering(clustering.ClusteringOptions(**given))
    digests = json.loads((tmp_path / "runs" / "gmm-0" / "data.json").read_text())
    assert set_name(str(tmp_path / "runs" / "set-gmm")) == "synthetic"
    assert json.loads((tmp_path / "runs" / "set-gmm" / "texts.json").read_text()) == written
    assert json.loads((people / "texts.json").read_text()) == texts
    assert digests["train"]["images"] > 0
    with pytest.raises(ConfigError, match=r"got none in .*texts for dbscan, kmeans: write them"):
        clustering.run_clustering(clustering.ClusteringOptions(**{**given, "rows": ("gmm", "dbscan", "kmeans")}))


def test_mistakes_are_named_before_anything_is_trained(people: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--rows must be of baseline, BDAM, .*, got gate"):
        run_study(bdam.STUDY, Options(**smoke(people, tmp_path, ["BDAM", "gate"])))
    with pytest.raises(ConfigError, match=r"found no such folder: give --root, or draw it with .* --identities 12`"):
        run_study(bdam.STUDY, Options(**smoke(tmp_path / "nowhere", tmp_path, ["BDAM"])))
    assert not list(tmp_path.iterdir())


def test_the_papers_page_quotes_what_was_measured() -> None:
    here = Path(__file__).parents[2]
    page = " ".join((here / "docs" / "papers.md").read_text().split())
    kept = json.loads((here / "benchmarks" / "results" / "demo-seeds.json").read_text())
    runs = [run for run in kept["runs"] if run["setting"] == "demo"]

    def said(*keys: str, digits: int = 1) -> str:
        values = []
        for run in runs:
            value = run["metrics"]
            for key in keys:
                value = value[key]
            values.append(value)
        return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"

    outfit = ("probes", "persons", "test", "outfit")
    for feature in ("identity", "clothing"):
        for column in ("top colour", "lower colour"):
            assert said(*outfit, column, "linear", feature) in page
        assert said("probes", "above_chance", "test", "identity", "linear", feature) in page
    assert f"R-1 {said('protocols', 'clothing_change', 'results', 'other', 'r1')} in other clothes" in page
    assert f"{said('protocols', 'test', 'results', 'same', 'r1')} in the same clothes" in page
    assert f"identity {said('gates', 'gate', 'identity', 'mean', digits=2)}" in page


def test_the_papers_page_quotes_the_differences_and_silhouettes_that_were_measured() -> None:
    here = Path(__file__).parents[2]
    page = " ".join((here / "docs" / "papers.md").read_text().split())
    results = here / "benchmarks" / "results"
    fusion = read_maps(results / "fusion-accuracy.json", "test")
    for other in ("transformer", "simple"):
        found = judge(fusion["mamba"], fusion[other])
        assert found.word == "cannot be told" and f"{found.difference:+.1f} ± {found.margin:.1f}" in page
    table = (
        read_maps(results / "studies" / "bdam.json", "test"),
        read_maps(results / "studies" / "bdam.json", "clothing_change"),
    )
    for worse in ("baseline", "without cross-attention", "without gate", "shallow"):
        for maps in table:
            found = judge(maps["BDAM"], maps[worse])
            assert found.word == "cannot be told" and f"{found.difference:+.1f} ± {found.margin:.1f}" in page
    seeds = json.loads((results / "studies" / "figures.json").read_text())["seeds"].values()
    for run, feature in (("entangled", "entangled"), ("disentangled", "identity")):
        silhouettes = (f"{seed['silhouettes'][run][feature]['person']:.2f}" for seed in seeds)
        assert f"{feature} {', '.join(silhouettes)}" in page


def read_maps(path: Path, protocol: str) -> dict[str, list[float]]:
    """mAP at the weights for a protocol's own question, by row."""
    found: dict[str, list[float]] = {}
    for run in json.loads(path.read_text())["runs"]:
        of = run["metrics"]["protocols"][protocol]
        found.setdefault(run["setting"], []).append(of["results"][of["clothes"]]["map"])
    return found


def test_a_set_is_called_what_it_is(people: Path, tmp_path: Path) -> None:
    assert set_name(str(people)) == "synthetic"
    assert set_name(str(tmp_path)) == tmp_path.name


def test_the_command_hands_on_to_the_study(monkeypatch: Any, capsys: Any) -> None:
    asked: list[Sequence[str]] = []
    monkeypatch.setattr(losses, "main", asked.append)
    studies.main(["losses", "--budget", "smoke"])
    assert asked == [["--budget", "smoke"]]
    studies.main(["--help"])
    listed = capsys.readouterr().out
    assert all(f"\n  {name} " in listed for name in studies.STUDIES)
    for mistake in (["nonsense"], []):
        with pytest.raises(SystemExit) as stop:
            studies.main(mistake)
        assert stop.value.code == 2
    assert "the study must be one of bdam, fusion, losses" in capsys.readouterr().err
