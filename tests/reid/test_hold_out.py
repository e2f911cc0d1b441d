"""Sets without a validation split: some persons are held out of training for it, or all are trained on."""

from __future__ import annotations

import json
from pathlib import Path

from data_files import entry, write_image, write_set
from tiny_run import tiny, train_alone, write_people

from bdam_reid.data.datasets import load_dataset
from bdam_reid.engine.checkpoint import load_state
from bdam_reid.evaluate import Options, evaluate_run


def test_all_persons_of_a_text_set_are_trained_on(tmp_path: Path) -> None:
    records = [entry("train", i, n) for i in range(20) for n in range(2)]
    root = write_set(tmp_path / "icfg", [*records, entry("test", 100)], "ICFG-PEDES.json")
    dataset = load_dataset(root, hold_out=False)
    assert {record.identity for record in dataset.train} == set(range(20))
    assert list(dataset.protocols) == ["test"] and dataset.report.images == {"train": 40, "val": 0, "test": 1}
    assert not [finding for finding in dataset.report.findings if "held out" in finding.what]


def test_an_official_validation_split_stays(tmp_path: Path) -> None:
    records = [entry(split, i) for i, split in enumerate(["train"] * 3 + ["val", "test"])]
    root = write_set(tmp_path / "cuhk", records)
    assert load_dataset(root, hold_out=False) == load_dataset(root)


def test_all_persons_of_an_image_set_are_trained_on(tmp_path: Path) -> None:
    for person in (3, 5, 7):
        write_image(tmp_path / "bounding_box_train" / f"{person:04d}_c1.jpg")
    write_image(tmp_path / "query" / "0002_c1.jpg")
    write_image(tmp_path / "bounding_box_test" / "0002_c2.jpg")
    dataset = load_dataset(tmp_path, hold_out=False)
    assert [record.identity for record in dataset.train] == [3, 5, 7] and list(dataset.protocols) == ["test"]


def test_without_validation_the_last_checkpoint_is_the_result(tmp_path: Path) -> None:
    people = write_people(tmp_path / "people")
    records = json.loads((people / "reid_raw.json").read_text())
    split = {"train": "train", "val": "train", "test": "test"}
    index = [{**record, "split": split[record["split"]]} for record in records]
    (people / "ICFG-PEDES.json").write_text(json.dumps(index))
    for name in ("reid_raw.json", "clothing_change_val.json"):
        (people / name).unlink()
    run = train_alone(tiny(people, tmp_path / "run", "--data.hold-out", "False", "--method.optim.epochs", "2"))
    best, last = load_state(run / "best"), load_state(run / "last")["progress"]
    assert best["step"] == last["step"] == 8 and best["epoch"] == 2
    metrics = json.loads((run / "metrics.json").read_text())
    defaults = {"same": {"identity": 1.0, "clothing": 0.5}, "other": {"identity": 1.0, "clothing": 0.0}}
    assert metrics["weights"] == best["weights"] == defaults
    assert list(metrics["probes"]["persons"]) == ["test"]
    log = (run / "log.txt").read_text()
    assert "no validation, the latest is kept\n" in log
    assert "train: 48 images of 10 persons" in log
    assert "last checkpoint, epoch 2, not chosen by validation" in log and "best" not in log
    assert evaluate_run(Options(run)).metrics == metrics
