"""MoSAIC-ReID: a run that is trained, stopped, resumed, evaluated, exported, and asked which attributes it uses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import transformers
from attribute_files import market_parts, write_images, write_market
from documented import told
from published import write_clip
from tiny_run import threads
from torch import Tensor

import bdam_reid
from bdam_reid.config import Config, ConfigError, check_config, parse_config
from bdam_reid.data.attributes import MARKET, labels_of
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.images import load_image
from bdam_reid.data.records import DatasetError, Query, QueryError, without_attributes
from bdam_reid.engine.checkpoint import load_weights
from bdam_reid.engine.run import open_best
from bdam_reid.evaluation.evaluator import evaluate
from bdam_reid.evaluation.ranking import Embedder
from bdam_reid.evaluation.tables import describe
from bdam_reid.methods import PRESETS
from bdam_reid.methods.mosaic.config import ExpertsConfig, MosaicConfig
from bdam_reid.methods.mosaic.method import Mosaic
from bdam_reid.methods.mosaic.router import UNKNOWN
from bdam_reid.methods.mosaic.tower import ExpertTower
from bdam_reid.search.exporter import export_run
from bdam_reid.studies import attributes, importance
from bdam_reid.studies.__main__ import main as studies
from bdam_reid.studies.attribute_controls import CONTROLS, agreement, predicted, right
from bdam_reid.studies.switched import Switched
from bdam_reid.train import train

TINY = """
    mosaic-demo --method.experts.layers 1 --method.experts.rank 2 --method.experts.alpha 2 --method.optim.epochs 4
    --method.optim.warmup-steps 1 --method.optim.lr 0.01 --data.image-height 32 --data.image-width 16
    --data.identities-per-batch 3 --data.images-per-identity 2 --engine.save-every 1 --engine.validate-every 2
"""


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("towers")
    write_clip(root / "clip")
    return root


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Persons in Market-1501's layout with its labels: three to train on, one for validation, two of three for a test
    are labelled."""
    root = write_images(tmp_path_factory.mktemp("people"))
    write_market(root / "attribute" / "market_attribute.mat", *market_parts())
    return root


def tiny(people: Path, towers: Path, output: Path, *more: str) -> Config:
    paths = ["--data.root", str(people), "--output", str(output), "--method.image.pretrained", str(towers / "clip")]
    return parse_config(PRESETS, [*TINY.split(), *paths, *more])


@pytest.fixture(scope="module")
def run(people: Path, towers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with threads(2):
        return train(tiny(people, towers, tmp_path_factory.mktemp("runs") / "run"))


def opened(run: Path) -> Mosaic:
    method = open_best(run, PRESETS, "cpu").method
    assert isinstance(method, Mosaic)
    return method.eval()


def test_a_run_that_stopped_ends_with_the_same_bits(
    people: Path, towers: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, losses = tiny(people, towers, tmp_path / "stopped"), Mosaic.losses

    def stop(self: Mosaic, batch: Any, step: int) -> Any:
        if step == 2:
            raise RuntimeError("stop")
        return losses(self, batch, step)

    monkeypatch.setattr(Mosaic, "losses", stop)
    with threads(2):  # as many as the other run has
        with pytest.raises(RuntimeError, match="stop"):
            train(config)
        monkeypatch.undo()
        train(config)
    expected, got = (load_weights(folder / "last") for folder in (run, tmp_path / "stopped"))
    assert expected.keys() == got.keys()
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []
    # The experts have learnt, and the tower is the published one.
    assert expected["tower.layers.0.layer.mlp.fc1.up"].any()
    published = transformers.CLIPModel.from_pretrained(towers / "clip").vision_model.state_dict()
    for ours, theirs in (
        ("tower.layers.0.layer.mlp.fc1.linear.weight", "encoder.layers.1.mlp.fc1.weight"),
        ("tower.encoder.model.encoder.layers.0.mlp.fc1.weight", "encoder.layers.0.mlp.fc1.weight"),
        ("tower.norm.bias", "post_layernorm.bias"),
    ):
        assert torch.equal(expected[ours], published[theirs])
    assert not expected["neck.bias"].any()


def test_evaluation_reports_results_of_an_oracle_as_such_and_those_without(
    run: Path, people: Path, tmp_path: Path
) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["protocols"]["test"]["attributes"] == "oracle"
    assert "protocols.PROTOCOL.attributes" in told(metrics)
    results = metrics["protocols"]["test"]["results"]
    assert results.keys() == {"same", "other", "person", "without_attributes"}
    text = describe(metrics)
    assert "images with their true attributes (oracle)" in text
    assert "for same clothes, without attributes" in text
    embedder, test = Embedder(opened(run), torch.device("cpu")), load_dataset(people).protocols["test"]
    bare = embedder.rank(without_attributes(test)).metrics({"person": 1.0})
    assert results["without_attributes"]["map"] == bare.map
    # Nor does a mean over sets hide that some were.
    bare_mean = {"without_attributes": results["without_attributes"] | {"map": 12.5}}
    mean = {"protocols": ["test", "test"], "clothes": "same", "results": results | bare_mean}
    *_, title, with_labels, without = describe({**metrics, "means": {"test": mean}}).splitlines()
    assert title == "test, mean of 2 sets: the same clothes, images with their true attributes (oracle)"
    assert "12.50" not in with_labels and "for same clothes, without attributes" in without and "12.50" in without
    # On a set without labels there is no oracle.
    weights = opened(run).default_weights()
    other = evaluate(embedder, load_dataset(write_images(tmp_path / "bare")), weights, tmp_path / "out").metrics
    unlabelled = other["protocols"]["test"]
    assert "attributes" not in unlabelled and unlabelled["results"]["same"] == results["without_attributes"]
    assert "oracle" not in describe(other) and "without_attributes" not in unlabelled["results"]
    said = [line for line in (run / "log.txt").read_text().splitlines() if "validation  the same clothes" in line]
    assert said and all("(oracle)" in line for line in said)


def test_labels_change_what_is_embedded(run: Path, people: Path) -> None:
    method, test = opened(run), load_dataset(people).protocols["test"]
    images = torch.stack([load_image(record.path, method.image_size) for record in test.gallery])
    with torch.no_grad():
        plain, told = method.embed_images(images), method.embed_records(images, test.gallery)
        known = torch.tensor([bool(labels_of(record)) for record in test.gallery])
        assert known.tolist() == [False, True, False, True]
        assert torch.equal(told[~known], plain[~known]) and not torch.isclose(told, plain).all(dim=1)[known].any()
        # A query is its image with the labels of its person.
        asked = method.embed_queries([Query(image=r.path, attributes=r.attributes) for r in test.gallery])
        torch.testing.assert_close(asked, told)
        method.router.switch([])
        assert torch.equal(method.embed_records(images, test.gallery), plain)
    with pytest.raises(QueryError, match="searches by an image alone"):
        method.embed_queries([Query(text="a man")])


def test_it_is_exported_and_opened_without_labels(run: Path, people: Path, tmp_path: Path) -> None:
    said = export_run(run, tmp_path / "export", onnx=False, presets=PRESETS)
    assert "open it with" in said
    moved = shutil.move(tmp_path / "export", tmp_path / "moved")
    paths = sorted((people / "query").iterdir())
    expected = bdam_reid.load(run).embed_images(paths)
    assert torch.equal(bdam_reid.load(moved).embed_images(paths), expected)
    assert (Path(moved) / "README.md").read_text().count("(oracle)") == 2  # of validation, and of the test


def without_labels(people: Path, towers: Path, folder: Path) -> Config:
    return tiny(write_images(folder / "bare"), towers, folder / "run")


def too_deep(people: Path, towers: Path, folder: Path) -> Config:
    return tiny(people, towers, folder / "run", "--method.experts.layers", "3")


def of_duke(people: Path, towers: Path, folder: Path) -> Config:
    """The labels are Market's, some of the same names."""
    config = tiny(people, towers, folder / "run")
    assert isinstance(config.method, MosaicConfig)
    return replace(config, method=replace(config.method, experts=ExpertsConfig(attributes="duke")))


@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [
        (without_labels, DatasetError, "none of 6 training images .* put market_attribute.mat into that folder"),
        (of_duke, DatasetError, "put duke_attribute.mat into that folder"),
        (too_deep, ConfigError, "--method.experts.layers must be at most 2"),
    ],
)
def test_what_cannot_be_trained_is_said_at_once(
    people: Path, towers: Path, tmp_path: Path, make: Callable[..., Config], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        train(make(people, towers, tmp_path))


@pytest.mark.parametrize(
    "arguments",
    ["--method.image.pretrained efficientnet-lite0", "--method.image.kind convolutions --method.image.pretrained ''"],
)
def test_convolutions_have_no_experts(arguments: str) -> None:
    options = [option.strip("'") for option in arguments.split()]
    with pytest.raises(ConfigError, match=r"--method\.image"):
        check_config(parse_config(PRESETS, ["mosaic-demo", *options]))


def study(run: Path, output: Path, **options: Any) -> attributes.Options:
    return attributes.Options(run, output=output, **{"subsets": 26, "device": "cpu", **options})


@pytest.fixture(scope="module", autouse=True)
def _small_forests() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importance, "TREES", 5)
        patch.setattr(importance, "REPEATS", 1)
        yield


@pytest.fixture(scope="module")
def studied(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("study")
    attributes.run_study(study(run, output))
    return output


def test_the_study_ranks_what_an_evaluation_ranks(run: Path, studied: Path) -> None:
    found = json.loads((studied / "attributes.json").read_text())
    results = json.loads((run / "metrics.json").read_text())["protocols"]["test"]["results"]
    assert found["configurations"][attributes.ALL]["metrics"] == results["same"]
    assert found["configurations"][attributes.NONE]["metrics"] == results["without_attributes"]
    trials = found["trials"]
    assert trials["names"] == list(MARKET.states)
    assert len(trials["scores"]) == len(trials["switches"]) == len(trials["configurations"]) == 2 + 2 * 12 + 26
    rows = dict(zip(trials["configurations"], trials["switches"], strict=True))
    assert all(rows[attributes.ALL]) and not any(rows[attributes.NONE])
    at = trials["names"].index("hat")
    assert [not on for on in rows["without hat"]] == rows["hat alone"] == [place == at for place in range(12)]
    assert found["persons"]["gender"] == {"male": 1, "female": 1, "unknown": 0}
    assert found["persons"]["upcolour"]["unknown"] == 2
    lines = (studied / "attributes.csv").read_text().splitlines()
    assert len(lines) == 1 + len(rows) and lines[1].startswith("all attributes,1,1,") and lines[1].endswith(",0.0")
    page = (studied / "attributes.md").read_text()
    assert all(f"| {name} | " in page for name in (*MARKET.states, *CONTROLS, attributes.ALL))
    statistics = (studied / "importance.md").read_text()
    assert "| gender | 50% | " in statistics and all(f"| {name} | " in statistics for name in MARKET.states)
    assert (studied / "importance.png").exists() and (studied / "importance.csv").exists()


def test_images_that_the_same_experts_read_are_embedded_as_each_by_itself(run: Path, people: Path) -> None:
    test = load_dataset(people).protocols["test"]
    switched = Switched(open_best(run, PRESETS, "cpu"), test, 4)
    method, rows = switched.method, [switched.paths.index(record.path) for record in test.gallery]
    images = torch.stack([load_image(record.path, method.image_size) for record in test.gallery])
    for on in (method.router.names, ("gender", "upcolour"), ()):
        method.router.switch(on)
        together = switched.embed(switched.states)[rows]
        with torch.no_grad():
            torch.testing.assert_close(together, method.embed_records(images, test.gallery))


def test_the_study_goes_on_where_it_stopped(
    run: Path, studied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(studied / "attributes.json", tmp_path)
    kept = json.loads((tmp_path / "attributes.json").read_text())
    for name in ("without age", "random 1"):
        del kept["configurations"][name]
    del kept["controls"]["labels alone"], kept["trials"]
    (tmp_path / "attributes.json").write_text(json.dumps(kept))
    embed, below, done = Switched.embed, ExpertTower.below, []

    def counted(self: Switched, states: Tensor) -> Tensor:
        done.append("embed")
        return embed(self, states)

    def counted_below(self: ExpertTower, images: Tensor) -> Tensor:
        done.append("below")
        return below(self, images)

    monkeypatch.setattr(Switched, "embed", counted)
    monkeypatch.setattr(ExpertTower, "below", counted_below)
    found = attributes.run_study(study(run, tmp_path, subsets=27))
    # What was there is not done again, and tokens below the experts are computed once.
    assert sorted(done) == ["below", *3 * ["embed"]]
    whole = json.loads((studied / "attributes.json").read_text())
    for part in ("configurations", "controls"):
        assert {**whole[part], **found[part]} == found[part]
        assert {name: found[part][name] for name in whole[part]} == whole[part]
    assert found["configurations"].keys() - whole["configurations"].keys() == {"random 26"}
    for options, said in (
        ({"seed": 1}, "a study of another seed"),
        ({"protocol": "val"}, "a study of another data, protocol"),
        ({"protocol": "tests"}, "--protocol must be of val, test, got tests"),
        ({"subsets": -1}, "--subsets must be at least 0"),
        ({"subsets": 25}, "--subsets must be 26 or more for 12 attributes, or 0, got 25"),
    ):
        with pytest.raises(ConfigError, match=said):
            attributes.run_study(study(run, tmp_path, **options))


def test_random_subsets_are_independent_and_stay() -> None:
    names = ("a", "b", "c")
    few, many = (attributes.configurations(names, number, 0) for number in (10, 400))
    assert few.items() <= many.items()
    drawn = [many[f"random {number}"] for number in range(400)]
    for some in ({"a"}, {"b", "c"}, {"a", "b", "c"}):
        share = sum(some <= set(on) for on in drawn) / len(drawn)
        assert share == pytest.approx(0.5 ** len(some), abs=0.07)


def test_labels_alone_rank_by_how_many_are_the_same() -> None:
    states = torch.tensor([[0, 1, 2], [0, 1, 2], [0, 0, 2], [UNKNOWN, UNKNOWN, 2], [3, UNKNOWN, UNKNOWN]])
    vectors = agreement(states)
    alike = [[sum(int(a == b != UNKNOWN) for a, b in zip(x, y, strict=True)) for y in states] for x in states]
    assert (vectors @ vectors.T).int().tolist() == alike


def test_predicted_labels_are_read_from_images(run: Path, people: Path) -> None:
    """Persons of the validation split are those of training, of whom the heads know all."""
    dataset = load_dataset(people)
    train = replace(dataset.protocols["val"], queries=(), gallery=dataset.train)
    found, embedder = open_best(run, PRESETS, "cpu"), Embedder(opened(run), torch.device("cpu"))
    switched = Switched(found, train, 4)
    said = predicted(switched, embedder, dataset.train, Random(0))
    rates = right(switched.labels, said)
    assert rates.keys() == MARKET.states.keys() - {"downcolour"}  # nobody is labelled with that
    # Of one state there is nothing to tell.
    assert rates["gender"] == rates["backpack"] == 100
    # The images are flat and of another shade for each person.
    assert rates["age"] > 60


def test_a_run_of_several_sets_is_studied_on_one_of_them(run: Path, people: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    config = json.loads((copy / "config.json").read_text())
    config["data"]["domains"] = ["another set"]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=f"--root must be one of the sets of .*, {people}, another set"):
        attributes.run_study(attributes.Options(copy))


def test_the_command_says_what_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        studies(["attributes", str(tmp_path)])
    assert stop.value.code == 1 and "is no run" in capsys.readouterr().err
