"""Evaluation: probes, pictures and the report of a trained run."""

from __future__ import annotations

import html
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rankings import ranking_of

from bdam_reid.config import ConfigError
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.junk import same_camera
from bdam_reid.data.records import DatasetError, Query, Record
from bdam_reid.engine.checkpoint import load_state, load_weights, save_checkpoint
from bdam_reid.engine.run import load_best, load_config, log
from bdam_reid.evaluate import Options, _check_unseen, evaluate_run, main
from bdam_reid.evaluation import pictures
from bdam_reid.evaluation.attributes import attribute_columns, views, visible_columns
from bdam_reid.evaluation.probes import PROBES, Probed, above_chance, probe_attributes
from bdam_reid.evaluation.ranking import Embedder, Ranking, choose_weights
from bdam_reid.evaluation.retrievals import Retrieval, Shown, retrievals
from bdam_reid.evaluation.tables import describe
from bdam_reid.methods import PRESETS
from bdam_reid.methods.bdam.method import BETAS


@pytest.fixture(scope="module")
def run(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, in which pictures may be drawn."""
    return Path(shutil.copytree(finished, tmp_path_factory.mktemp("evaluate") / "run"))


def make_ranking(identity: torch.Tensor, clothing: torch.Tensor) -> Ranking:
    """Query i and gallery image i show person i."""
    people = range(len(identity))
    records = tuple(Record(Path(f"{i}.jpg"), f"{i}.jpg", i, "test") for i in people)
    queries = tuple(Query(text=f"caption {i}", identity=i) for i in people)
    return ranking_of(queries, records, {"identity": identity, "clothing": clothing})


def evaluate(run: Path, **options: Any) -> dict[str, Any]:
    return evaluate_run(Options(run, **options)).metrics


def test_evaluation_repeats_what_training_found_and_draws_it(run: Path, charts: None) -> None:
    trained = json.loads((run / "metrics.json").read_text())
    metrics = evaluate(run)
    assert json.loads((run / "metrics.json").read_text()) == metrics == trained
    gates = metrics["gates"]
    assert gates["gate"]["identity"]["mean"] + gates["gate"]["clothing"]["mean"] == pytest.approx(1)
    assert gates["fusion"]["image"]["mean"] + gates["fusion"]["text"]["mean"] == pytest.approx(1)
    assert gates["fusion"]["image"]["std"] == pytest.approx(gates["fusion"]["text"]["std"], rel=1e-3)
    assert gates["gate"]["identity"]["std"] > 0
    for persons in metrics["probes"]["persons"].values():
        assert persons["identity"]["sex"]["images"] == 2 * (4 + 2)
    sex = metrics["probes"]["views"]["sex"]
    assert sum(row["images"] for row in sex.values()) == 2 * (4 + 2) and "front" in sex
    drawn = {"test", "clothing_change", "curves", "gates", "probes", "views"}
    assert {path.stem for path in (run / "pictures").glob("*.png")} == drawn
    page = (run / "pictures" / "index.html").read_text()
    dataset = load_dataset(load_config(run, PRESETS).data.root)
    assert html.escape(dataset.protocols["test"].queries[0].text or "") in page
    assert page.count("<figcaption>described") == 2 * 3
    for name, found in metrics["protocols"].items():
        ceiling = dataset.protocols[name].ceiling
        assert ceiling and found["ceiling"] == ceiling
        assert f"{'  by a perfect reader of the captions':<42}{ceiling['r1']:7.2f}" in page
    assert 'class="right"' in page and 'class="wrong"' in page and 'name="viewport"' in page
    photos = re.findall(r'src="(photos/\d+\.jpg)"', page)
    assert photos and all((run / "pictures" / name).is_file() for name in photos)
    for name in ("chance_r1", "queries_without_positive", "nan"):
        assert name not in describe(metrics)


def test_evaluation_works_without_what_only_the_synthetic_set_has(run: Path, tmp_path: Path) -> None:
    people = tmp_path / "people"
    shutil.copytree(load_config(run, PRESETS).data.root, people)
    for name in ("attributes.json", "clothing_change.json", "clothing_change_val.json", "texts.json"):
        (people / name).unlink()
    metrics = evaluate(run, root=people, output=tmp_path / "out")
    assert list(metrics["protocols"]) == ["test"] and "probes" not in metrics
    assert metrics["protocols"]["test"] == json.loads((run / "metrics.json").read_text())["protocols"]["test"]


def test_another_set_with_images_that_were_trained_on_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = load_dataset(load_config(run, PRESETS).data.root)
    people = Path(shutil.copytree(own.root, tmp_path / "people"))
    for name in ("attributes.json", "clothing_change.json", "clothing_change_val.json", "texts.json"):
        (people / name).unlink()
    learnt, asked = own.train[0], own.protocols["test"].gallery[0]
    shutil.copyfile(learnt.path, people / asked.path.relative_to(own.root))
    with pytest.raises(DatasetError, match=rf"1 train images of the run that are test images of .*{learnt.key}: a"):
        evaluate(run, root=people, output=tmp_path / "out")
    assert list(evaluate(run, root=people, output=tmp_path / "out", split=("val",))["protocols"]) == ["val"]
    # Of a run whose data is elsewhere nobody can know.
    config, said = load_config(run, PRESETS), list[str]()
    monkeypatch.setattr(log, "info", said.append)
    for root, why in ((tmp_path / "gone", "the run's data is not at hand"), (people, "has changed since")):
        _check_unseen(run, replace(config, data=replace(config.data, root=str(root))), load_dataset(people), ())
        assert "is not known, since" in said[-1] and why in said[-1]


def test_a_test_set_that_has_changed_is_another_one(run: Path, tmp_path: Path) -> None:
    own = load_dataset(load_config(run, PRESETS).data.root)
    people = Path(shutil.copytree(own.root, tmp_path / "people"))
    moved = Path(shutil.copytree(run, tmp_path / "run"))
    config = json.loads((moved / "config.json").read_text())
    config["data"]["root"] = str(people)
    (moved / "config.json").write_text(json.dumps(config))
    assert "protocols" in evaluate(moved)
    index = people / "reid_raw.json"
    entries = json.loads(index.read_text())
    train = next(entry for entry in entries if entry["split"] == "train")
    for entry in entries:
        if entry["id"] == train["id"]:
            entry["split"] = "test"
    index.write_text(json.dumps(entries))
    with pytest.raises(ConfigError, match=r"(?s)is not what .*/run began with:\n  test: .*Give its folder as --root"):
        evaluate(moved)
    assert "protocols" in evaluate(moved, root=people)


def test_options_choose_the_protocol_and_the_weights_and_leave_the_runs_own_figures(run: Path) -> None:
    before = (run / "metrics.json").read_text()
    main(f"{run} --split val --weights clothing 1 --batch-size 3 --device cpu".split())
    metrics = json.loads((run / "asked" / "metrics.json").read_text())
    clothing = {"identity": 0, "clothing": 1}
    assert metrics["weights"] == {"same": clothing, "other": clothing}
    assert list(metrics["protocols"]) == ["val"]
    results = metrics["protocols"]["val"]["results"]
    assert results["same"]["queries"] == 16 and results["same"] == results["other"] != results["identity"]
    assert (run / "asked" / "pictures" / "val.png").exists()
    assert (run / "metrics.json").read_text() == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--split tset", "--split must be of val, test, clothing_change, clothing_change_val, got tset"),
        ("--weights hat 1", "--weights must be of identity, clothing, got hat"),
        ("--weights identity nan", "--weights must be finite, got identity nan"),
        ("--device gpu9", "--device must be a device of this machine"),
        ("--k-reciprocal", "--k-reciprocal needs queries that are images and nothing else"),
        ("--batch-size 0", "--batch-size must be at least 1, got 0"),
    ],
)
def test_bad_options_are_one_message(run: Path, capsys: pytest.CaptureFixture[str], more: str, said: str) -> None:
    assert said in failure(run, capsys, *more.split())


def as_written_before(run: Path, copy: Path) -> None:
    """Copy a run in the form that it had before there were several methods."""
    shutil.copytree(run, copy, symlinks=True)
    config = json.loads((copy / "config.json").read_text())
    method, engine = config.pop("method"), config.pop("engine")
    del method["rerank"], method["mirror"]
    method["bdam"] = method.pop("decoupling")
    method["optim"]["mixed_precision"] = engine["mixed_precision"]
    engine = {name: engine[name] for name in ("validate_every", "save_every")}
    config["data"]["sidecar_probability"] = config["data"].pop("texts_probability")
    (copy / "config.json").write_text(json.dumps({**config, **method, **engine}))
    best, weights = load_state(copy / "best"), load_weights(copy / "best")
    same = best["weights"]["same"]
    old = {**best["metrics"], "beta": same["clothing"], "epoch": best["epoch"], "step": best["step"]}
    kept = {name: value for name, value in weights.items() if not name.startswith("gradnorm.")}
    save_checkpoint(copy, "best", kept, old)


def check_an_old_run(old: Path, run: Path) -> None:
    """It has the weights for the same clothes; in other clothes the identity part stands alone."""
    metrics, trained = evaluate(old), json.loads((run / "metrics.json").read_text())
    assert metrics["weights"] == {"same": trained["weights"]["same"], "other": {"identity": 1, "clothing": 0}}
    for name, found in metrics["protocols"].items():
        expected = trained["protocols"][name]["results"]
        alone = expected["identity"]
        assert found["results"] == {"same": expected["same"], "other": alone, "identity": alone}


def test_a_run_of_before_there_were_several_methods_is_evaluated(run: Path, tmp_path: Path) -> None:
    as_written_before(run, tmp_path / "old")
    check_an_old_run(tmp_path / "old", run)


def test_a_run_of_before_there_were_two_questions_is_evaluated(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "old")
    best = load_state(run / "best")
    save_checkpoint(tmp_path / "old", "best", load_weights(run / "best"), {**best, "weights": best["weights"]["same"]})
    check_an_old_run(tmp_path / "old", run)


def embedder(run: Path, batch_size: int) -> Embedder:
    method, _ = load_best(run, load_config(run, PRESETS))
    return Embedder(method, torch.device("cpu"), batch_size=batch_size)


def test_a_query_of_ten_thousand_words_goes_through(run: Path) -> None:
    queries = [Query(text="black hair and a red shirt " * 1700), Query(text="a man")]
    assert embedder(run, 2).queries(queries).isfinite().all()


def failure(run: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """What evaluation says of a folder that it must refuse."""
    with pytest.raises(SystemExit) as stop:
        main([str(run), *options])
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
    config["method"]["fusion"]["width"] = 8
    (copy / "config.json").write_text(json.dumps(config))
    assert "holds other weights than the model of its config.json: size mismatch" in failure(copy, capsys)
    config["method"]["fusion"]["wide"] = config["method"]["fusion"].pop("width")
    (copy / "config.json").write_text(json.dumps(config))
    assert "unknown config field: method.fusion.wide" in failure(copy, capsys)
    (copy / "config.json").write_text("{")
    assert f"cannot read {copy}/config.json" in failure(copy, capsys)


def test_the_first_of_the_best_weights_is_chosen() -> None:
    choices = [{"identity": 1.0, "clothing": beta} for beta in BETAS]
    identity, clothing = torch.eye(4), torch.eye(4)
    assert choose_weights([make_ranking(identity, clothing)], choices)[0] == choices[0]
    # Identity alone takes the first two persons for each other; clothing corrects that from 0.5 on.
    identity[:2, :2] = torch.tensor([[0.55, 1.0], [1.0, 0.55]])
    weights, (metrics,) = choose_weights([make_ranking(identity, clothing)], choices)
    assert (weights["clothing"], metrics.r1) == (0.5, 100)


def test_what_few_persons_cannot_tell_from_the_best_and_is_simpler_is_chosen() -> None:
    choices = [{"identity": 1.0, "clothing": beta} for beta in BETAS]
    identity, clothing = torch.eye(20), torch.eye(20)
    # Clothing tells the first two persons from each other.
    identity[:2, :2] = torch.tensor([[1.0, 1.05], [1.05, 1.0]])
    weights, (metrics,) = choose_weights([make_ranking(identity, clothing)], choices)
    assert (weights["clothing"], metrics.r1) == (0.1, 100)
    # It takes the third for another one as well: one of twenty more found may be chance.
    identity[2, 3], clothing[2, 3] = 0.95, 2.0
    ranking = make_ranking(identity, clothing)
    assert [found.r1 for found in ranking.metrics_at(choices[:2])] == [90, 95]
    weights, (metrics,) = choose_weights([ranking], choices)
    assert (weights["clothing"], metrics.r1) == (0.0, 90)


def test_a_part_without_a_weight_has_none() -> None:
    ranking = make_ranking(torch.eye(3), torch.rand(3, 3))
    assert torch.equal(ranking.scores({"clothing": 2.0}), 2 * ranking.similarity()["clothing"])


def test_junk_counts_neither_in_the_metrics_nor_in_what_is_shown() -> None:
    records = tuple(Record(Path(f"{i}.jpg"), f"{i}", i // 2, "test", camera=i % 2) for i in range(4))
    queries = tuple(Query(image=r.path, identity=r.identity, camera=r.camera) for r in records)
    similarity = torch.tensor([[1.0, 0.5, 0.6, 0.1]] * 4)
    ranking = ranking_of(queries, records, {"all": similarity}, same_camera)
    assert ranking.metrics({"all": 1.0}).r1 == 25
    assert ranking.chance() == pytest.approx(100 / 3)
    first = retrievals(ranking, {"all": 1.0}, 1)[0]
    assert [hit.path.name for hit in first.hits] == ["2.jpg", "1.jpg", "3.jpg"]
    assert (first.image, first.first_right) == (Path("0.jpg"), first.hits[1])


def test_chance_is_the_mean_share_of_positives() -> None:
    assert make_ranking(torch.zeros(4, 4), torch.zeros(4, 4)).chance() == 25


def test_retrievals_are_in_the_order_of_the_ranking() -> None:
    identity = torch.tensor([[0.1, 0.9, 0.5], [0.0, 1.0, 0.2], [0.3, 0.2, 0.1]])
    shown = retrievals(make_ranking(identity, torch.zeros(3, 3)), {"identity": 1.0, "clothing": 1.0}, 3)
    assert [retrieval.text for retrieval in shown] == ["caption 0", "caption 1", "caption 2"]
    assert [hit.path.name for hit in shown[0].hits] == ["1.jpg", "2.jpg", "0.jpg"]
    assert [hit.right for hit in shown[0].hits] == [False, False, True]
    assert [hit.rank for hit in shown[0].hits] == [1, 2, 3]
    assert [retrieval.first_right.rank for retrieval in shown if retrieval.first_right] == [3, 1, 3]


def test_the_right_image_of_a_query_that_failed_is_shown() -> None:
    scores = torch.arange(9.0, 0, -1).expand(9, 9)
    last = retrievals(make_ranking(scores, torch.zeros(9, 9)), {"identity": 1.0}, 2)[-1]
    assert [hit.rank for hit in last.hits] == [1, 2, 3, 4, 5]
    assert last.first_right == Shown(Path("8.jpg"), 9, 1.0, True)


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


def test_what_can_be_seen_of_a_person_is_known_where_it_is_said() -> None:
    person = {"sex": "male", "beard": True}
    images = [{"identity": person, "visible": ["sex"], "viewpoint": "back"}, {"identity": person}]
    seen = visible_columns(images)
    assert {name: mask.tolist() for name, mask in seen.items()} == {"sex": [True, False], "beard": [False, False]}
    assert views(images).tolist() == ["back", ""]
    assert visible_columns(images[1:]) == {}


def made_up(images: int, seed: int, *, constant: str = "same") -> Probed:
    """Sex can be read from the first feature only, colour from the second only, and which of both is great by no
    line."""
    rng = np.random.default_rng(seed)
    sex, colour = rng.integers(2, size=images), rng.integers(3, size=images)
    identity = rng.normal(size=(images, 8)) + 6 * np.eye(8)[sex]
    return Probed(
        features={"identity": identity, "clothing": rng.normal(size=(images, 8)) + 6 * np.eye(8)[colour]},
        columns={
            "sex": [("male", "female")[value] for value in sex],
            "colour": [str(value) if index % 3 else None for index, value in enumerate(colour)],
            "bent": [str(x * y > 0) for x, y in identity[:, 6:]],
            "constant": [constant] * images,
            "rare": [str(value) if index % 3 == 0 else None for index, value in enumerate(colour)],
        },
    )


def test_probes_find_what_is_in_the_features_and_only_that() -> None:
    others = {"val": made_up(90, 2), "test": made_up(300, 1, constant="other")}
    found = probe_attributes(made_up(600, 0), others)
    assert list(found) == ["val", "test"] and list(found["test"]) == ["sex", "colour", "bent"]
    sex, colour, bent = (answers.row() for answers in found["test"].values())
    assert (sex["images"], colour["images"], found["val"]["sex"].row()["images"]) == (300, 200, 90)
    for probe in PROBES:
        assert sex[probe]["identity"] > 95 > 75 > sex[probe]["clothing"]
        assert colour[probe]["clothing"] > 95 > 60 > colour[probe]["identity"]
    assert bent["mlp"]["identity"] > 75 > 65 > bent["linear"]["identity"]
    assert probe_attributes(made_up(600, 0), others)["test"]["bent"].row() == bent


def test_a_probe_that_always_says_the_most_frequent_value_reads_nothing() -> None:
    train, test = (Probed({"all": np.zeros((n, 2))}, {}) for n in (10, 5))
    train.columns["a"] = ["x"] * 9 + ["y"]
    test.columns["a"] = ["x"] * 4 + ["y"]
    answers = probe_attributes(train, {"test": test})["test"]["a"]
    assert answers.row() == {"chance": 50, "linear": {"all": 50}, "mlp": {"all": 50}, "images": 5}
    assert answers.row(np.array([True, False, False, False, False]))["chance"] == 100
    assert answers.row(np.zeros(5, bool)) == {"images": 0}


def test_probes_find_what_is_rare() -> None:
    rng = np.random.default_rng(0)
    has = rng.random(600) < 0.1
    images = Probed({"all": rng.normal(size=(600, 4)) + has[:, None]}, {"beard": [str(value) for value in has]})
    row = probe_attributes(images, {"test": images})["test"]["beard"].row()
    assert row["chance"] == 50
    assert min(row["linear"]["all"], row["mlp"]["all"]) > 75


def test_above_chance_is_0_at_chance_and_100_at_best() -> None:
    rows = {"a": {"chance": 50, "linear": {"identity": 100, "clothing": 50}, "images": 1}}
    assert above_chance(rows, "linear", "identity") == 100
    assert above_chance(rows, "linear", "clothing") == 0
    assert above_chance({}, "linear", "identity") is None


def test_pictures_are_drawn(tmp_path: Path) -> None:
    images = []
    for index in range(5):
        images.append(tmp_path / f"{index}.jpg")
        Image.new("RGB", (24, 48), (50 * index, 90, 120)).save(images[-1])
    long = "A woman with $5 in a <red> coat and a very long description of it. " * 12
    hits = [Shown(path, rank, 0.5, rank in (1, 4)) for rank, path in enumerate([*images[:4], tmp_path / "gone.jpg"], 1)]
    rows = [
        Retrieval(long, None, images[0], tuple(hits), hits[0]),
        Retrieval("", images[0], None, tuple(hits[1:3]), None),
    ]
    rng = np.random.default_rng(0)
    steps = list(range(300))
    pictures.draw_retrievals(rows, "Queries", tmp_path / "retrievals.png")
    weights = {"gate": {"identity": rng.random(90), "clothing": rng.random(90)}, "fusion": {"image": rng.random(9)}}
    pictures.draw_gates(weights, tmp_path / "gates.png")
    curves = {
        "loss/info": (steps, [3 * 0.99**s for s in steps]),
        "weight/info": (steps, [1.0] * 300),
        "val/r1": ([100, 200], [10.0, 20.0]),
        "val/other_r1": ([100, 200], [5.0, 9.0]),
        "val/cka_rbf": ([100, 200], [0.8, 0.2]),
    }
    pictures.draw_curves({name: (list(map(float, x)), y) for name, (x, y) in curves.items()}, tmp_path / "curves.png")
    pictures.draw_curves({}, tmp_path / "none.png")
    read = {"identity": 90.0, "clothing": 60.0}
    row = {"chance": 50.0, "linear": read, "mlp": read, "images": 9}
    scores = {"identity": {"sex": row, "skin": row}, "outfit": {"top colour": row}}
    pictures.draw_probes(scores, tmp_path / "probes.png")
    pictures.draw_views(
        {"sex": {"back": -9.0, "front": 40.0}, "skin": {"back": None, "front": 3.0}}, tmp_path / "views.png"
    )
    names = ["retrievals.png", "gates.png", "curves.png", "none.png", "probes.png", "views.png"]
    for name in names:
        with Image.open(tmp_path / name) as image:
            assert image.width > 400
            assert np.asarray(image.convert("L")).std() > 5, f"{name} is empty"


def test_a_thumbnail_keeps_the_shape_and_stays_small(tmp_path: Path) -> None:
    for size, expected in (((600, 1200), (144, 288)), ((3000, 300), (288, 29)), ((20, 40), (20, 40))):
        Image.new("RGB", size).save(tmp_path / "a.jpg")
        assert pictures.thumbnail(tmp_path / "a.jpg").size == expected
