"""Checkpoints: what goes in comes out, and what fails leaves the previous one as it was."""

from __future__ import annotations

import random
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from bdam_reid.engine import checkpoint
from bdam_reid.engine.checkpoint import (
    CheckpointError,
    find_checkpoint,
    load_into,
    load_state,
    load_weights,
    random_state,
    remove_leftovers,
    save_checkpoint,
    set_random_state,
    write_json,
)


def trained_model() -> tuple[torch.nn.Linear, torch.optim.Adam]:
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model(torch.randn(2, 5)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def test_state_with_tensors_comes_back_exactly(tmp_path: Path) -> None:
    model, optimizer = trained_model()
    state = {
        "step": 7,
        "best": {"r1": 1 / 3, "beta": None},
        "optimizer": optimizer.state_dict(),
        "bfloat16": torch.tensor([1.0, 2.0], dtype=torch.bfloat16),
        "strided": torch.arange(12.0).view(3, 4).t(),
    }
    save_checkpoint(tmp_path, "last", model.state_dict(), state)
    loaded = load_state(tmp_path / "last")
    assert (loaded["step"], loaded["best"]) == (7, {"r1": 1 / 3, "beta": None})
    assert loaded["bfloat16"].dtype == torch.bfloat16
    assert torch.equal(loaded["strided"], state["strided"])
    fresh = torch.nn.Linear(5, 3)
    load_into(fresh, load_weights(tmp_path / "last"), tmp_path / "last")
    other = torch.optim.Adam(fresh.parameters(), lr=0.5)
    other.load_state_dict(loaded["optimizer"])
    assert other.param_groups[0]["lr"] == 0.1
    for mine, theirs in zip(model.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        for key, value in optimizer.state[mine].items():
            assert torch.equal(other.state[theirs][key], value)


def test_no_pickle_is_written(tmp_path: Path) -> None:
    model, optimizer = trained_model()
    save_checkpoint(tmp_path, "last", model.state_dict(), {"optimizer": optimizer.state_dict(), "rng": random_state()})
    files = {path.name for path in (tmp_path / "last").iterdir()}
    assert files == {"model.safetensors", "state.safetensors", "state.json", "SHA256SUMS"}


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors", "state.json", "SHA256SUMS"])
def test_a_flipped_bit_is_found(tmp_path: Path, name: str) -> None:
    save_checkpoint(tmp_path, "last", {"w": torch.ones(100)}, {"step": 1.5, "t": torch.ones(100)})
    path = tmp_path / "last" / name
    content = bytearray(path.read_bytes())
    content[content.index(b"1.5") if name == "state.json" else -20] ^= 4
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is not what was saved.*train again"):
        load_weights(tmp_path / "last")
        load_state(tmp_path / "last")


def test_a_checkpoint_of_before_there_were_digests_is_read(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "last", {"w": torch.ones(2)}, {"step": 1})
    (tmp_path / "last" / "SHA256SUMS").unlink()
    assert load_state(tmp_path / "last") == {"step": 1}
    assert torch.equal(load_weights(tmp_path / "last")["w"], torch.ones(2))


@pytest.mark.parametrize("content", ["[]", "3", "{}", '{"progress": {"tensor": "/progress"}}'])
def test_a_state_of_another_form_is_named(tmp_path: Path, content: str) -> None:
    save_checkpoint(tmp_path, "last", {}, {})
    (tmp_path / "last" / "SHA256SUMS").unlink()
    (tmp_path / "last" / "state.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"last/state.json is not the state of a checkpoint .*train again"):
        load_state(tmp_path / "last", ("progress",))


def test_random_state_repeats_every_generator(tmp_path: Path) -> None:
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    np.random.normal()  # leaves a cached second Gaussian, which is part of the state
    save_checkpoint(tmp_path, "last", {}, {"random": random_state()})
    drawn = [
        random.random(),
        np.random.normal(),
        np.random.rand(),
        torch.rand(3).tolist(),
        torch.randn(20).tolist(),
    ]
    random.seed(9), np.random.seed(9), torch.manual_seed(9)
    set_random_state(load_state(tmp_path / "last")["random"])
    again = [
        random.random(),
        np.random.normal(),
        np.random.rand(),
        torch.rand(3).tolist(),
        torch.randn(20).tolist(),
    ]
    assert again == drawn


def test_a_new_checkpoint_replaces_the_old_and_other_names_stay(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "best", {"w": torch.zeros(1)}, {"step": 1})
    for step in (1, 2):
        save_checkpoint(tmp_path, "last", {"w": torch.full((1,), float(step))}, {"step": step})
    assert load_weights(tmp_path / "last")["w"] == 2
    assert load_state(tmp_path / "best")["step"] == 1
    assert {path.name for path in tmp_path.iterdir()} == {"best", "last"}


def make_checkpoint(folder: Path, step: int) -> None:
    made = folder.parent / "made"
    save_checkpoint(made, "last", {"w": torch.ones(1)}, {"step": step})
    (made / "last").rename(folder)
    made.rmdir()


def steps_there(run: Path) -> dict[str, int]:
    """The step of every checkpoint folder in a run."""
    return {path.parent.name: load_state(path.parent)["step"] for path in sorted(run.glob("*/state.json"))}


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "last.old", 1)
    save_checkpoint(tmp_path, "best", {"w": torch.ones(1)}, {"step": 2})
    make_checkpoint(tmp_path / "best.old", 1)
    (tmp_path / "last.tmp").mkdir()
    (tmp_path / "last.tmp" / "model.safetensors").write_bytes(b"half")
    (tmp_path / "metrics.json.tmp").write_text("{")
    (tmp_path / ".tokenizer-1234abcd").mkdir()
    (tmp_path / "log.txt").write_text("kept")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "last", "log.txt"]
    assert steps_there(tmp_path) == {"best": 2, "last": 1}


def test_a_run_with_links_becomes_one_with_folders(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "last-00000001", 1)
    make_checkpoint(tmp_path / "last-00000002", 2)
    make_checkpoint(tmp_path / "last-words", 3)
    (tmp_path / "last").symlink_to("last-00000001", target_is_directory=True)
    found = find_checkpoint(tmp_path, "last")
    assert found is not None and load_state(found)["step"] == 1
    remove_leftovers(tmp_path)
    assert not (tmp_path / "last").is_symlink()
    assert steps_there(tmp_path) == {"last": 1, "last-words": 3}


def test_nothing_is_removed_from_a_copy_whose_links_became_folders(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "last-00000001", 1)
    make_checkpoint(tmp_path / "last-00000002", 2)
    make_checkpoint(tmp_path / "last", 2)
    remove_leftovers(tmp_path)
    save_checkpoint(tmp_path, "last", {}, {"step": 3})
    assert steps_there(tmp_path) == {"last": 3, "last-00000001": 1, "last-00000002": 2}


def test_a_copy_that_lost_its_links_is_understood_or_left_alone(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "last-00000001", 1)
    (tmp_path / "last-00000002").mkdir()  # a save that was killed
    (tmp_path / "last").symlink_to("last-0000dead", target_is_directory=True)
    assert find_checkpoint(tmp_path, "last") == tmp_path / "last-00000001"
    assert find_checkpoint(tmp_path, "best") is None
    make_checkpoint(tmp_path / "last-00000003", 3)
    with pytest.raises(CheckpointError, match=r"several last checkpoints.*last-00000001, last-00000003 to last"):
        remove_leftovers(tmp_path)
    assert steps_there(tmp_path) == {"last-00000001": 1, "last-00000003": 3}
    shutil.rmtree(tmp_path / "last-00000003")
    remove_leftovers(tmp_path)
    assert steps_there(tmp_path) == {"last": 1}


def test_a_kill_between_the_renames_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, "last", {"w": torch.zeros(1)}, {"step": 1})

    def killed(path: Path, target: Path) -> Path:
        if path.suffix == ".tmp" and path.is_dir():
            raise KeyboardInterrupt
        return rename(path, target)

    rename = Path.rename
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "rename", killed)
        save_checkpoint(tmp_path, "last", {"w": torch.ones(1)}, {"step": 2})
    found = find_checkpoint(tmp_path, "last")
    assert found == tmp_path / "last.old" and load_state(found)["step"] == 1
    save_checkpoint(tmp_path, "last", {"w": torch.ones(1)}, {"step": 3})
    assert steps_there(tmp_path) == {"last": 3}


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow over 64 KiB: writing more fails as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_is_one_error_and_keeps_the_previous_checkpoint(tmp_path: Path, small_files: None) -> None:
    save_checkpoint(tmp_path, "last", {"w": torch.ones(10)}, {"step": 1})
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=r"cannot save the last checkpoint .* make room on the disk"):
        save_checkpoint(tmp_path, "last", {"w": torch.ones(100_000)}, {"step": 2})
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert load_state(tmp_path / "last")["step"] == 1
    assert torch.equal(load_weights(tmp_path / "last")["w"], torch.ones(10))


@pytest.mark.parametrize("fails", ["_write_tensors", "write_json", "_replace"])
def test_a_failure_at_any_stage_keeps_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    save_checkpoint(tmp_path, "last", {"w": torch.ones(10)}, {"step": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, fails, full)
    with pytest.raises(CheckpointError, match=r"No space left on device"):
        save_checkpoint(tmp_path, "last", {"w": torch.zeros(10)}, {"step": 2})
    assert load_state(tmp_path / "last")["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"r1": 1.0})
    with pytest.raises(TypeError):
        write_json(path, {"r1": object()})
    assert path.read_text() == '{\n  "r1": 1.0\n}\n'


def test_unreadable_checkpoints_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read .*model.safetensors"):
        load_weights(tmp_path / "last")
    save_checkpoint(tmp_path, "last", {"w": torch.ones(1000)}, {"t": torch.ones(3)})
    file = tmp_path / "last" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"model.safetensors is not what was saved.*train again"):
        load_weights(tmp_path / "last")
    (tmp_path / "last" / "SHA256SUMS").unlink()
    with pytest.raises(CheckpointError, match=r"cannot read .*model.safetensors.*train again"):
        load_weights(tmp_path / "last")
    (tmp_path / "last" / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"cannot read .*state.json"):
        load_state(tmp_path / "last")


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    model, _ = trained_model()
    save_checkpoint(tmp_path, "best", model.state_dict(), {})
    with pytest.raises(CheckpointError, match=r"other weights.*size mismatch for weight"):
        load_into(torch.nn.Linear(6, 3), load_weights(tmp_path / "best"), tmp_path / "best")
