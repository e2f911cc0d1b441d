"""Evaluation: probes, pictures and the report of a trained run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import restore_globals, tiny, train_alone, write_people

from bdam_reid import pictures
from bdam_reid.data import Query, Record
from bdam_reid.evaluate import main
from bdam_reid.evaluator import evaluate
from bdam_reid.probes import Features, ProbeScore, above_chance, attribute_columns, probe_attributes
from bdam_reid.ranking import Gallery, Ranking, choose_beta
from bdam_reid.report import describe, retrievals


@pytest.fixture(autouse=True)
def _untouched_globals() -> Iterator[None]:
    yield
    restore_globals()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    root = tmp_path_factory.mktemp("evaluate")
    return train_alone(tiny(write_people(root / "people"), root / "run", "--save-every", "0"))


def make_ranking(identity: torch.Tensor, clothing: torch.Tensor) -> Ranking:
    """Query i and gallery image i show person i."""
    people = range(len(identity))
    records = tuple(Record(Path(f"{i}.jpg"), f"{i}.jpg", i, ("a",), "test") for i in people)
    return Ranking(tuple(Query(f"caption {i}", i) for i in people), Gallery(records, {}), identity, clothing)


def test_evaluation_measures_the_best_checkpoint(run: Path) -> None:
    trained = json.loads((run / "metrics.json").read_text())
    metrics = evaluate(run)
    assert json.loads((run / "metrics.json").read_text()) == metrics
    assert {key: metrics[key] for key in trained} == trained
    gates = metrics["gates"]
    assert gates["identity"]["mean"] + gates["clothing"]["mean"] == pytest.approx(1)
    assert gates["image"]["mean"] + gates["text"]["mean"] == pytest.approx(1)
    assert gates["image"]["std"] == pytest.approx(gates["text"]["std"], rel=1e-3)
    assert gates["identity"]["std"] > 0
    assert metrics["probes"]["identity"]["sex"]["images"] == 2 * 4 + 2 * 4 + 2 * 2
    drawn = {"test", "clothing_change", "curves", "gates", "probes", "overview"}
    assert {path.stem for path in (run / "pictures").glob("*.png")} == drawn
    assert (run / "pictures" / "index.html").exists()
    for name in ("chance_r1", "queries_without_positive", "nan"):
        assert name not in describe(metrics)


def test_evaluation_works_without_what_only_the_synthetic_set_has(run: Path, tmp_path: Path) -> None:
    copy, people = tmp_path / "run", tmp_path / "people"
    shutil.copytree(run, copy, symlinks=True)
    config = json.loads((copy / "config.json").read_text())
    shutil.copytree(config["data"]["root"], people)
    for name in ("attributes.json", "clothing_change.json", "texts.json"):
        (people / name).unlink()
    config["data"]["root"] = str(people)
    (copy / "config.json").write_text(json.dumps(config))
    metrics = evaluate(copy)
    assert "clothing_change" not in metrics and "probes" not in metrics
    assert metrics["test"] == json.loads((run / "metrics.json").read_text())["test"]


def failure(run: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What evaluation says of a folder that it must refuse."""
    with pytest.raises(SystemExit) as stop:
        main([str(run)])
    message = capsys.readouterr().err
    assert stop.value.code == 1
    assert message.startswith("error: ") and "Traceback" not in message
    return message


def test_a_folder_that_is_no_run_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is no run: it has no config.json" in failure(tmp_path / "nowhere", capsys)
    assert "is no run: it has no config.json" in failure(tmp_path, capsys)
    shutil.copytree(run, tmp_path / "new", ignore=shutil.ignore_patterns("best*", "last*"))
    assert "has no best checkpoint yet" in failure(tmp_path / "new", capsys)


def test_a_run_of_another_version_or_model_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy, symlinks=True)
    config = json.loads((copy / "config.json").read_text())
    config["fusion"]["width"] = 8
    (copy / "config.json").write_text(json.dumps(config))
    assert "holds other weights than the model of its config.json: size mismatch" in failure(copy, capsys)
    config["fusion"]["wide"] = config["fusion"].pop("width")
    (copy / "config.json").write_text(json.dumps(config))
    assert "unknown config field: fusion.wide" in failure(copy, capsys)
    (copy / "config.json").write_text("{")
    assert f"cannot read {copy}/config.json" in failure(copy, capsys)


def test_beta_is_the_smallest_of_the_best() -> None:
    identity, clothing = torch.eye(4), torch.eye(4)
    assert choose_beta(make_ranking(identity, clothing))[0] == 0
    # Identity alone takes the first two persons for each other; clothing corrects that from 0.5 on.
    identity[:2, :2] = torch.tensor([[0.55, 1.0], [1.0, 0.55]])
    beta, metrics = choose_beta(make_ranking(identity, clothing))
    assert (beta, metrics.r1) == (0.5, 100)


def test_chance_is_the_mean_share_of_positives() -> None:
    assert make_ranking(torch.zeros(4, 4), torch.zeros(4, 4)).chance() == 25


def test_retrievals_are_in_the_order_of_the_ranking() -> None:
    identity = torch.tensor([[0.1, 0.9, 0.5], [0.0, 1.0, 0.2], [0.3, 0.2, 0.1]])
    shown = retrievals(make_ranking(identity, torch.zeros(3, 3)), 1.0, 3)
    assert [retrieval.caption for retrieval in shown] == ["caption 0", "caption 1", "caption 2"]
    assert [path.name for path in shown[0].images] == ["1.jpg", "2.jpg", "0.jpg"]
    assert shown[0].right == (False, False, True)
    assert [retrieval.first_rank for retrieval in shown] == [3, 1, 3]


def test_attributes_become_columns() -> None:
    shirt, coat = {"kind": "shirt", "colour": "red"}, {"kind": "coat", "colour": "blue"}
    images = [
        {
            "identity": {"sex": "male", "glasses": True},
            "outfit": {"upper": shirt, "outer": coat, "bag": shirt},
        },
        {"identity": {"sex": "female", "glasses": False}, "outfit": {"upper": shirt}},
    ]
    columns = attribute_columns(images)
    assert columns["identity"] == {"sex": ["male", "female"], "glasses": ["True", "False"]}
    assert columns["outfit"]["top kind"] == ["coat", "shirt"]
    assert columns["outfit"]["top colour"] == ["blue", "red"]
    assert columns["outfit"]["bag kind"] == ["shirt", "none"]
    assert columns["outfit"]["bag colour"] == ["red", None]


def made_up(images: int, seed: int, *, constant: str = "same") -> Features:
    """Sex can be read from the first feature only, colour from the second only."""
    rng = np.random.default_rng(seed)
    sex, colour = rng.integers(2, size=images), rng.integers(3, size=images)
    return Features(
        identity=rng.normal(size=(images, 8)) + 6 * np.eye(8)[sex],
        clothing=rng.normal(size=(images, 8)) + 6 * np.eye(8)[colour],
        columns={
            "sex": [("male", "female")[value] for value in sex],
            "colour": [str(value) if index % 3 else None for index, value in enumerate(colour)],
            "constant": [constant] * images,
            "rare": [str(value) if index % 3 == 0 else None for index, value in enumerate(colour)],
        },
    )


def test_probes_find_what_is_in_the_features_and_only_that() -> None:
    scores = probe_attributes(made_up(600, 0), made_up(300, 1, constant="other"))
    assert list(scores) == ["sex", "colour"]
    assert scores["colour"].images == 200
    assert scores["sex"].identity > 95 > 75 > scores["sex"].clothing
    assert scores["colour"].clothing > 95 > 60 > scores["colour"].identity


def test_chance_of_a_probe_is_the_majority_it_learnt() -> None:
    train, test = (Features(np.zeros((n, 2)), np.zeros((n, 2)), {}) for n in (10, 5))
    train.columns["a"] = ["x"] * 6 + ["y"] * 4
    test.columns["a"] = ["x"] * 2 + ["y"] * 3
    score = probe_attributes(train, test)["a"]
    assert (score.chance, score.identity, score.clothing) == (40, 40, 40)


def test_above_chance_is_0_at_chance_and_100_at_best() -> None:
    scores = {"a": ProbeScore(chance=50, identity=100, clothing=50, images=1)}
    assert above_chance(scores, "identity") == 100
    assert above_chance(scores, "clothing") == 0
    assert above_chance({}, "identity") is None


def test_pictures_are_drawn(tmp_path: Path) -> None:
    images = []
    for index in range(5):
        images.append(tmp_path / f"{index}.jpg")
        Image.new("RGB", (24, 48), (50 * index, 90, 120)).save(images[-1])
    long = "A woman with $5 in a <red> coat and a very long description of it. " * 12
    rows = [
        pictures.Retrieval(long, tuple(images), (True, False, False, True, False), 1),
        pictures.Retrieval("short", tuple(images[:3]), (False, False, False), None),
    ]
    rng = np.random.default_rng(0)
    steps = list(range(300))
    pictures.draw_retrievals(rows, "Queries", tmp_path / "retrievals.png")
    weights = {name: rng.random(90) for name in ("identity", "clothing", "image", "text")}
    pictures.draw_gates(weights, tmp_path / "gates.png")
    curves = {
        "loss/info": (steps, [3 * 0.99**s for s in steps]),
        "weight/info": (steps, [1.0] * 300),
        "val/r1": ([100, 200], [10.0, 20.0]),
    }
    pictures.draw_curves({name: (list(map(float, x)), y) for name, (x, y) in curves.items()}, tmp_path / "curves.png")
    pictures.draw_curves({}, tmp_path / "none.png")
    row = {"chance": 50.0, "identity": 90.0, "clothing": 60.0}
    scores = {"identity": {"sex": row, "skin": row}, "outfit": {"top colour": row}}
    pictures.draw_probes(scores, tmp_path / "probes.png")
    names = ["retrievals.png", "gates.png", "curves.png", "none.png", "probes.png"]
    pictures.stack([tmp_path / name for name in names], tmp_path / "overview.png")
    for name in [*names, "overview.png"]:
        with Image.open(tmp_path / name) as image:
            assert image.width > 400
            assert np.asarray(image.convert("L")).std() > 5, f"{name} is empty"
    pictures.write_page("Run <x>", "r1 & map", {"Curves": "curves.png"}, tmp_path / "index.html")
    text = (tmp_path / "index.html").read_text()
    assert "Run &lt;x&gt;" in text and "r1 &amp; map" in text and 'src="curves.png"' in text
