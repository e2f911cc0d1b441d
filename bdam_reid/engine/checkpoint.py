"""Checkpoints that survive a kill at any moment: safetensors and JSON, no pickle.

`RUN/last` and `RUN/best` are folders. A new checkpoint is written to `last.tmp` and flushed to the disk; then the one
before is renamed to `last.old`, the new one to `last`, and the old one is removed. At every moment `last`, or where it
is missing `last.old`, is a whole checkpoint: `find_checkpoint` gives it. When its files are read they are checked by
their digests in SHA256SUMS, as `sha256sum --check` does.

In runs of older versions `last` is a symbolic link to a folder such as `last-1f0c9a37`.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

NAMES = ("last", "best")
WEIGHTS, TENSORS, STATE = "model.safetensors", "state.safetensors", "state.json"
SUMS = "SHA256SUMS"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or read."""


def save_checkpoint(run: Path, name: str, weights: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Make `run/name` a checkpoint of `weights` and `state`, and remove the one that it was before.

    Args:
        run: the run folder.
        name: "last" or "best".
        weights: a module's state dict.
        state: nested dicts, lists and tuples of tensors and JSON values; its tensors go to their own file.
    Raises: CheckpointError if it cannot be written; the previous checkpoint is then as it was.
    """
    folder = run / f"{name}.tmp"
    tensors: dict[str, Tensor] = {}
    tree = _take_tensors(state, "", tensors)
    try:
        _remove(folder)
        folder.mkdir(parents=True)
        _write_tensors(folder / WEIGHTS, dict(weights))
        _write_tensors(folder / TENSORS, tensors)
        write_json(folder / STATE, tree)
        _write_sums(folder)
        sync(folder)
        _replace(run / name, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise CheckpointError(
            f"cannot save the {name} checkpoint in {run}: {error}. The previous one is intact: "
            "make room on the disk, then run the same command again to go on from it"
        ) from error


def find_checkpoint(run: Path, name: str) -> Path | None:
    """The folder of a run's checkpoint "last" or "best", of this version or an older one; None if there is none.

    Raises: CheckpointError if there are several, and nothing tells which of them is meant.
    """
    for path in (run / name, _old(run / name)):
        if path.is_dir():
            return path
    # The link of an older version, where a copy of the run has lost it.
    whole = [path for path in _linked_folders(run, name) if (path / STATE).is_file()]
    if len(whole) > 1:
        raise CheckpointError(
            f"{run} has several {name} checkpoints, and no {name} that tells which of them is meant: "
            f"rename the right one of {', '.join(sorted(path.name for path in whole))} to {name}"
        )
    return whole[0] if whole else None


def load_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint folder. Raises: CheckpointError if they cannot be read."""
    return _read_tensors(checkpoint / WEIGHTS)


def load_state(checkpoint: Path, needs: Sequence[str] = ()) -> dict[str, Any]:
    """The state in a checkpoint folder; tuples come back as lists.

    Args:
        checkpoint: the folder.
        needs: what the state must have.
    Raises: CheckpointError if it cannot be read, or lacks something.
    """
    path = checkpoint / STATE
    _check_sum(path)
    tree, tensors = read_json(path), _read_tensors(checkpoint / TENSORS)
    with readable_state(checkpoint):
        state = _put_tensors(tree, tensors)
        for name in needs:
            state[name]
    return state


@contextmanager
def readable_state(checkpoint: Path) -> Iterator[None]:
    """Raise CheckpointError where a state turns out to be of another form than that which is written."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{checkpoint / STATE} is not the state of a checkpoint ({type(error).__name__}: {error}). {_ADVICE}"
        ) from error


def load_into(module: torch.nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Load `weights` into `module`. Raises: CheckpointError if names or shapes differ."""
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{source} holds other weights than the model of its config.json: {_first_line(error)}. {_ADVICE}"
        ) from error


def remove_leftovers(run: Path) -> None:
    """Remove what killed processes left, and give the checkpoints of older versions their place; nobody else may write
    to the run. What is not known to be garbage stays.

    Raises: CheckpointError as `find_checkpoint`.
    """
    for name in NAMES:
        place, found = run / name, find_checkpoint(run, name)
        if found is None:
            continue
        if found.is_symlink() and (folder := found.resolve()).parent == run.resolve():
            for path in _linked_folders(run, name):
                if path.name != folder.name:
                    _remove(path)
            found.unlink()
            found = run / folder.name
        if found != place:
            place.unlink(missing_ok=True)  # a link to nothing
            found.rename(place)
        _remove(_old(place))
    for path in [*run.glob("*.tmp"), *run.glob(".tokenizer-*")]:
        _remove(path)


def random_state() -> dict[str, Any]:
    """The states of all random number generators: Python, NumPy, torch on the CPU and on every GPU."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys)), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put back what `random_state` gave. GPU states are left out where the number of GPUs is another."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy(), *rest))
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_json(path: Path) -> Any:
    """The JSON value in a file. Raises: CheckpointError if there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}. {_ADVICE}") from error


_ADVICE = "If the folder is damaged, delete it and train again"


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    path.chmod(0o644)
    sync(path)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    _check_sum(path)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {path}: {error}. {_ADVICE}") from error


def _write_sums(folder: Path) -> None:
    lines = [f"{digest(path)}  {path.name}\n" for path in sorted(folder.iterdir())]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")
    sync(folder / SUMS)


def _check_sum(path: Path) -> None:
    """Raise CheckpointError if a file is not what it was when it was saved; older versions saved no digests."""
    sums = path.parent / SUMS
    if not sums.exists():
        return
    try:
        lines = sums.read_text(encoding="utf-8", errors="replace").splitlines()
        intact = f"{digest(path)}  {path.name}" in lines
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error}. {_ADVICE}") from error
    if not intact:
        raise CheckpointError(f"{path} is not what was saved: its digest is another than in {SUMS}. {_ADVICE}")


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _old(place: Path) -> Path:
    return place.with_name(f"{place.name}.old")


def _linked_folders(run: Path, name: str) -> list[Path]:
    """The folders to one of which the link `name` of an older version points."""
    return [path for path in run.glob(f"{name}-*") if re.fullmatch(r"[0-9a-f]{8}", path.name[len(name) + 1 :])]


def _replace(place: Path, folder: Path) -> None:
    old = _old(place)
    if place.exists():
        _remove(old)
        place.rename(old)
    folder.rename(place)
    sync(place.parent)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _take_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """`value` with each tensor moved to `tensors` and its name there left in its place."""
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"tensor": path}
    if isinstance(value, Mapping):
        return {str(key): _take_tensors(entry, f"{path}/{key}", tensors) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_take_tensors(entry, f"{path}/{index}", tensors) for index, entry in enumerate(value)]
    return value


def _put_tensors(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(tree, dict):
        if tree.keys() == {"tensor"}:
            return tensors[tree["tensor"]]
        # JSON has no integer keys, and an optimizer's state dict has no others.
        return {int(key) if key.isdigit() else key: _put_tensors(entry, tensors) for key, entry in tree.items()}
    if isinstance(tree, list):
        return [_put_tensors(entry, tensors) for entry in tree]
    return tree


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[1] if len(lines) > 1 else lines[0]
