"""Run folders: copied, moved, locked, damaged; starts that fail."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_run import one_thread, restore_globals, tiny, train_alone, write_people

from bdam_reid.engine.checkpoint import load_weights
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
