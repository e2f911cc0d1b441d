"""Run folders: copied, moved, locked, damaged; starts that fail."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import resource
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import tiny, train_alone
from torch.utils.tensorboard import SummaryWriter

from bdam_reid.config import ConfigError
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.records import Dataset, DatasetError, Findings, Protocol, Query, Record, Report
from bdam_reid.data.tokens import train_wordpiece
from bdam_reid.engine.checkpoint import CheckpointError, load_weights
from bdam_reid.engine.fingerprint import changes, fingerprint
from bdam_reid.engine.lock import locked
from bdam_reid.engine.run import load_config, open_run, read_curves
from bdam_reid.engine.trainer import Trainer
from bdam_reid.evaluate import Options, evaluate_run
from bdam_reid.methods import PRESETS, preparation

EMPTY = Report.of({"train": (), "val": (), "test": ()}, Findings())


def link_checkpoints(run: Path) -> Path:
    """Give a run the form that checkpoints had in older versions."""
    for name in ("last", "best"):
        (run / name).rename(run / f"{name}-0123abcd")
        (run / name).symlink_to(f"{name}-0123abcd", target_is_directory=True)
    return run


@pytest.mark.parametrize("links", ["kept", "lost", "folders"])
def test_an_older_run_and_copies_of_it_go_on_from_their_checkpoint(
    people: Path, finished: Path, tmp_path: Path, links: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a copy by `scp -r` makes of a link, or one on a disk without links."""
    run = tmp_path / "run"
    shutil.copytree(link_checkpoints(shutil.copytree(finished, tmp_path / "old")), run, symlinks=links == "kept")
    for name in ("last", "best") if links == "lost" else ():
        shutil.rmtree(run / name)
    assert evaluate_run(Options(run)).metrics == json.loads((finished / "metrics.json").read_text())
    monkeypatch.setattr(Trainer, "step", None)
    train_alone(tiny(people, run))
    for name in ("last", "best"):
        expected, got = load_weights(finished / name), load_weights(run / name)
        assert all(torch.equal(expected[key], got[key]) for key in expected)


def changed_state(run: Path, name: str, **values: Any) -> None:
    """Change the state of a checkpoint as a version that saved no digests may have left it."""
    (run / name / "SHA256SUMS").unlink()
    path = run / name / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    "values",
    [{"progress": {"stage": 0, "epochs": 1}}, {"optimizer": {}}, {"random": {"python": 3}}],
)
def test_a_state_that_lacks_something_is_one_message(
    people: Path, finished: Path, tmp_path: Path, values: dict[str, Any]
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    changed_state(run, "last", **values)
    with pytest.raises(CheckpointError, match=r"last/state.json is not the state of a checkpoint .*train again"):
        train_alone(tiny(people, run))


def test_a_best_state_without_weights_of_parts_is_one_message(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    changed_state(run, "best")
    (run / "best" / "state.json").write_text('{"epoch": 1}')
    with pytest.raises(CheckpointError, match=r"best/state.json is not the state of a checkpoint .*'weights'"):
        evaluate_run(Options(run))


def test_a_run_without_curves_is_evaluated(finished: Path, tmp_path: Path, charts: None) -> None:
    run = shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("tensorboard"))
    evaluate_run(Options(run))
    assert (run / "pictures" / "index.html").exists() and not (run / "pictures" / "curves.png").exists()


def holding(folder: Path, ready: Any) -> None:
    with locked(folder):
        ready.set()
        time.sleep(60)


def test_a_folder_in_which_a_process_trains_is_refused_until_it_is_dead(
    people: Path, finished: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=holding, args=(run, ready))
    process.start()
    assert ready.wait(30)
    before = sorted(run.rglob("*"))
    with pytest.raises(ConfigError, match=rf"another process, pid {process.pid}, trains in {run}"):
        train_alone(tiny(people, run))
    assert sorted(run.rglob("*")) == before
    process.kill()
    process.join()
    assert train_alone(tiny(people, run)) == run


def test_a_worker_that_outlives_its_parent_holds_no_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    with locked(tmp_path):
        worker = context.Process(target=time.sleep, args=(60,))
        worker.start()
        time.sleep(0.5)
    with locked(tmp_path) as reason:
        assert reason == ""
    worker.kill()
    worker.join()


def test_without_locks_of_the_file_system_training_goes_on_and_says_so(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    with open_run(tiny(people, tmp_path / "run"), PRESETS, load_dataset(people)) as run:
        assert "cannot be locked (No locks available)" in (run / "log.txt").read_text()


def test_data_may_move_but_not_change(people: Path, finished: Path, tmp_path: Path) -> None:
    run, moved = shutil.copytree(finished, tmp_path / "run"), shutil.copytree(people, tmp_path / "moved")
    train_alone(tiny(moved, run))
    assert load_config(run, PRESETS).data.root == str(moved)
    records = json.loads((moved / "reid_raw.json").read_text())
    kept = next(record for record in records if record["split"] == "train")
    kept["captions"][0] += " and a hat"
    (moved / "reid_raw.json").write_text(json.dumps(records))
    with pytest.raises(ConfigError, match=r"(?s)is not what .*/run began with:\n  train: 40 images.*of other content"):
        train_alone(tiny(moved, run))
    records.remove(kept)
    (moved / "reid_raw.json").write_text(json.dumps(records))
    with pytest.raises(ConfigError, match=r"train: 40 images, .* then, 39 images, 8 persons, 78 captions now\n"):
        train_alone(tiny(moved, run))


def test_a_run_of_before_there_were_fingerprints_goes_on(people: Path, finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "data.json").unlink()
    train_alone(tiny(people, run))
    assert (run / "data.json").read_text() == (finished / "data.json").read_text()


def test_images_in_folders_have_a_fingerprint_that_moves_with_them(tmp_path: Path) -> None:
    records = tuple(Record(tmp_path / f"{i}.jpg", f"{i}.jpg", i, "test", camera=i) for i in range(3))
    queries = tuple(Query(image=record.path, identity=record.identity) for record in records)
    here = Dataset("market-1501", tmp_path, records, {"test": Protocol("test", queries, records)}, EMPTY)
    elsewhere = Path("/elsewhere")
    moved = tuple(replace(q, image=elsewhere / q.image.name) for q in queries if q.image)
    there = replace(here, root=elsewhere, protocols={"test": Protocol("test", moved, records)})
    assert changes(fingerprint(here), fingerprint(there)) == []
    fewer = replace(here, protocols={"test": Protocol("test", queries[1:], records)})
    assert changes(fingerprint(here), fingerprint(fewer)) == ["test: 3 queries, 3 images then, 2 queries, 3 images now"]


def test_a_start_that_fails_leaves_a_folder_of_its_user_empty(people: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(DatasetError, match="larger than the training set"):
        train_alone(tiny(people, tmp_path / "run", "--data.identities-per-batch", "9"))
    assert list((tmp_path / "run").iterdir()) == []


def test_a_failed_start_of_a_run_that_has_begun_removes_nothing(
    people: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    monkeypatch.setattr(Trainer, "fit", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train_alone(tiny(people, run))
    assert {path.name for path in run.iterdir()} == {path.name for path in finished.iterdir()}


def test_curves_are_whole_when_the_clock_was_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run killed after step 8, whose last checkpoint was that of step 6, goes on a year earlier."""
    for now, steps, value in ((2e9, range(1, 9), 1.0), (1.9e9, range(7, 13), 2.0)):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        with SummaryWriter(str(tmp_path / "tensorboard"), purge_step=steps[0]) as board:
            for step in steps:
                board.add_scalar("loss", value, step)
    assert read_curves(tmp_path) == {"loss": ([float(s) for s in range(1, 13)], [1.0] * 6 + [2.0] * 6)}


def test_a_full_disk_while_the_tokenizer_is_saved_is_one_message(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(OSError, match=r"cannot save the tokenizer to .*File too large.* Make room on the disk"):
            train_wordpiece(["a man in a red shirt"] * 5, 200, tmp_path / "tokenizer")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_what_a_kill_left_of_a_tokenizer_is_removed(people: Path, finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    for name in ("tokenizer.tmp", ".tokenizer-0123abcd"):
        shutil.copytree(run / "tokenizer", run / name)
    train_alone(tiny(people, run))
    assert {path.name for path in run.iterdir()} == {path.name for path in finished.iterdir()}


def test_a_run_whose_config_allows_no_word_is_one_message(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["data"]["max_tokens"] = 2
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="max_tokens must be at least 3"):
        evaluate_run(Options(run))


def test_an_older_run_that_cannot_go_on_is_left_as_it_is(people: Path, finished: Path, tmp_path: Path) -> None:
    run = link_checkpoints(shutil.copytree(finished, tmp_path / "run"))
    changed_state(run, "last", progress={"epoch": 1, "batch": 0, "step": 4})
    before = {path: path.lstat().st_mtime_ns for path in run.rglob("*")}
    with pytest.raises(CheckpointError, match="trained by an older version"):
        train_alone(tiny(people, run))
    after = {path: path.lstat().st_mtime_ns for path in run.rglob("*") if path.name != "lock"}
    assert after == {path: time for path, time in before.items() if path.name != "lock"}


def test_a_run_without_its_tokenizer_asks_no_network(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "load_tokenizer", None)
    run = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(run / "tokenizer")
    with pytest.raises(ConfigError, match="has no folder tokenizer"):
        evaluate_run(Options(run))
