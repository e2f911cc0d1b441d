"""Trains, kills, resumes, evaluates and searches with a method that the house does not know."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from baseline.config import PRESETS
from PIL import Image
from tiny_run import forkserver, one_thread, write_people

import bdam_reid
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.records import QueryError, Record
from bdam_reid.engine.checkpoint import CheckpointError, load_state, load_weights
from bdam_reid.engine.run import load_config, read_curves
from bdam_reid.engine.trainer import make_method
from bdam_reid.evaluate import main as evaluate
from bdam_reid.evaluation.tables import describe
from bdam_reid.methods import PRESETS as BDAM
from bdam_reid.train import main as train


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn persons in Market-1501's layout: every test image is a query, and is in the gallery too."""
    root = tmp_path_factory.mktemp("market")
    people = load_dataset(write_people(root / "people"))
    val, test = (people.protocols[name].gallery for name in ("val", "test"))
    copy((*people.train, *val), root / "market" / "bounding_box_train")
    for folder in ("query", "bounding_box_test"):
        copy(test, root / "market" / folder)
    return root / "market"


def copy(records: tuple[Record, ...], folder: Path) -> None:
    folder.mkdir(parents=True)
    for number, record in enumerate(records):
        shutil.copy(record.path, folder / f"{record.identity:04d}_c{record.camera}s1_{number:06d}.jpg")


def train_alone(arguments: list[str]) -> None:
    with one_thread():
        train(arguments, PRESETS)


def start(market: Path, output: Path) -> Any:
    """Train in a process of its own."""
    arguments = ["baseline", "--data.root", str(market), "--output", str(output)]
    process = forkserver().Process(target=train_alone, args=(arguments,))
    process.start()
    return process


@pytest.fixture(scope="module")
def run(market: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that nobody interrupted."""
    output = tmp_path_factory.mktemp("runs") / "run"
    process = start(market, output)
    process.join()
    assert process.exitcode == 0
    return output


def place(run: Path) -> tuple[int, int, int]:
    """Stage, epoch and batch of a run that another process trains; zeros if it replaces its checkpoint just now."""
    try:
        progress = load_state(run / "last")["progress"]
    except CheckpointError:
        return 0, 0, 0
    return progress["stage"], progress["epoch"], progress["batch"]


def test_stages_follow_each_other(run: Path) -> None:
    curves = read_curves(run)
    steps, both = curves["loss/id"][0], curves["loss/triplet"][0]
    head = len(steps) - len(both)
    assert steps == list(range(1, len(steps) + 1)) and both == steps[head:] and 0 < head < len(both)
    # Each stage begins at the full rate and anneals it.
    rates = curves["lr"][1]
    assert rates[0] == rates[head] == max(rates) and rates[head - 1] < rates[0]
    assert len(curves["val/r1"][0]) == 2 and curves["val/r1"][0][0] > head
    assert load_state(run / "best")["stage"] == "all"


def kill_at(where: tuple[int, int, int], market: Path, output: Path) -> None:
    process = start(market, output)
    while place(output) < where:
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_killed_in_both_stages_it_ends_with_the_same_bits(market: Path, run: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    kill_at((0, 0, 2), market, killed)
    check_that_the_head_was_trained_alone(market, killed)
    kill_at((1, 1, 1), market, killed)
    process = start(market, killed)
    process.join()
    assert process.exitcode == 0
    for name in ("best", "last"):
        expected, got = load_weights(run / name), load_weights(killed / name)
        assert expected.keys() == got.keys()
        assert [key for key in expected if not torch.equal(expected[key], got[key])] == []
    assert (killed / "metrics.json").read_text() == (run / "metrics.json").read_text()
    mine = read_curves(killed)
    assert {name: mine[name] for name in read_curves(run)} == read_curves(run)


def check_that_the_head_was_trained_alone(market: Path, killed: Path) -> None:
    now = load_weights(killed / "last")
    killed.with_name("fresh").mkdir()
    before = make_method(load_config(killed, PRESETS), killed.with_name("fresh"), load_dataset(market)).state_dict()
    changed = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, now[name])}
    assert changed == {"neck", "classifier"}


def test_evaluation_ranks_images_without_those_of_the_same_camera(run: Path, tmp_path: Path, charts: None) -> None:
    trained = json.loads((run / "metrics.json").read_text())
    evaluate([str(run), "--output", str(tmp_path)], PRESETS)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics == trained
    assert metrics.keys() == {"weights", "protocols"}
    assert metrics["weights"] == {"same": {"person": 1}, "other": {"person": 1}}
    assert metrics["protocols"].keys() == {"test"}
    test = metrics["protocols"]["test"]
    assert test["results"].keys() == {"same", "other", "person"}
    assert all((row["queries"], row["gallery"]) == (8, 8) for row in test["results"].values())
    assert "for same, other clothes, person alone" in describe(metrics)
    # Every query is in the gallery, so that R-1 would be 100; by chance 3 of the 7 that are no junk.
    assert test["chance_r1"] == pytest.approx(100 * 3 / 7)
    assert {path.stem for path in (tmp_path / "pictures").glob("*.png")} == {"test", "curves"}


def test_k_reciprocal_re_ranking_stands_beside_the_results(run: Path, tmp_path: Path) -> None:
    trained = json.loads((run / "metrics.json").read_text())["protocols"]["test"]
    evaluate([str(run), "--output", str(tmp_path), "--k-reciprocal"], PRESETS)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    test = metrics["protocols"]["test"]
    assert test.pop("k_reciprocal") == {"k1": 20, "k2": 6, "lambda": 0.3}
    assert test["results"].pop("k_reciprocal").keys() == test["results"]["same"].keys()
    assert test == trained
    page = (tmp_path / "pictures" / "index.html").read_text()
    assert "for same clothes, k-reciprocal" in page and "k1 20, k2 6, lambda 0.3" in page


def test_a_method_says_which_sets_and_queries_it_cannot_read(
    market: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people = market.with_name("people")
    for command, arguments, presets, said in (
        (train, f"demo --data.root {market} --output {tmp_path / 'run'}", BDAM, "images of .* have none, such as"),
        (evaluate, f"{run} --root {people} --output {tmp_path / 'out'}", PRESETS, "searches by an image alone"),
    ):
        with pytest.raises(SystemExit) as stop:
            command(arguments.split(), presets)
        message = capsys.readouterr().err
        assert stop.value.code == 1 and message.startswith("error: ") and re.search(said, message)


def test_it_is_opened_to_search_with(market: Path, run: Path) -> None:
    retriever = bdam_reid.load(run, presets=PRESETS)
    paths = sorted((market / "query").iterdir())
    gallery = retriever.embed_images(paths)
    with Image.open(paths[2]) as picture:
        assert torch.equal(retriever.embed_images([picture])[0], retriever.embed_images([paths[2]])[0])
    assert retriever.parts == {"person": slice(0, gallery.shape[1])}
    with pytest.raises(QueryError, match="searches by an image alone"):
        retriever.search(gallery, "a man")
