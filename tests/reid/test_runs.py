"""Run folders: copied, moved, locked, damaged; starts that fail."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import one_thread, restore_globals, tiny, train_alone, write_people

from bdam_reid.engine.checkpoint import CheckpointError, load_weights
from bdam_reid.engine.trainer import Trainer
from bdam_reid.evaluate import Options, evaluate_run


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("data") / "people")


@pytest.fixture(scope="module")
def finished(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_alone(tiny(people, tmp_path_factory.mktemp("runs") / "finished", "--engine.save-every", "0"))


@pytest.fixture(autouse=True)
def _untouched_globals() -> Iterator[None]:
    with one_thread():
        yield
    restore_globals()


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


def test_a_run_without_curves_is_evaluated(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("tensorboard"))
    evaluate_run(Options(run))
    assert (run / "pictures" / "index.html").exists() and not (run / "pictures" / "curves.png").exists()
