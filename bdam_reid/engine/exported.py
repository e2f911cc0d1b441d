"""An exported run: a folder of all that embeds images and sentences, which works wherever it is copied.

It has the config, the weights and what the config's `prepare` wrote, as a run has them, and `export.json`. Digests of
all files that may not change stand in SHA256SUMS, as `sha256sum --check` reads them. It is written whole or not at all.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from bdam_reid.config import Config
from bdam_reid.engine.checkpoint import SUMS, WEIGHTS, CheckpointError, digest, read_json, sync

FILE = "export.json"
FORMAT = 1
"""Of export.json; greater in a version whose exports this one cannot open."""
CARD = "README.md"
GRAPHS = ".onnx"
"""Suffix of graphs, which are not read where the folder is opened as a run is."""


class ExportError(CheckpointError):
    """An export that cannot be written or opened."""


def is_export(folder: Path) -> bool:
    """Whether a folder is an export, or what is left of one: a run has its weights in its checkpoints, and these have
    no config."""
    return (folder / FILE).exists() or all((folder / name).exists() for name in (WEIGHTS, "config.json"))


def check_files(folder: Path, *, graphs: bool = False) -> None:
    """Raise ExportError, which names the file, if an export is not as it was written; README.md may be.

    Args:
        folder: the export.
        graphs: whether those are looked at too.
    """
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise _damaged(folder, f"{SUMS} cannot be read, {error.strerror}") from error
    if not lines:
        raise _damaged(folder, f"{SUMS} is empty")
    for line in lines:
        written, _, name = line.partition("  ")
        if name.endswith(GRAPHS) and not graphs:
            continue
        try:
            intact = digest(folder / name) == written
        except OSError as error:
            raise _damaged(folder, f"{name} cannot be read, {error.strerror}") from error
        if not intact:
            raise _damaged(folder, f"{name} is not what was written")


def read_description(folder: Path) -> dict[str, Any]:
    """The content of export.json. Raises: ExportError if this version does not know its format."""
    description = read_json(folder / FILE)
    known = isinstance(description, Mapping) and description.get("format")
    if known != FORMAT:
        raise ExportError(
            f"{folder / FILE} must be of format {FORMAT}, got {known!r}: install the version of this package that "
            "wrote it, or export the run again"
        )
    return dict(description)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place at the end, and is removed if anything fails.

    Raises: ExportError if it cannot be written.
    """
    out = out.resolve()
    folder = out.with_name(f".{out.name}-{secrets.token_hex(4)}")
    try:
        folder.mkdir(parents=True)
        yield folder
        folder.replace(out)
        sync(out.parent)
    except (OSError, SafetensorError) as error:
        raise ExportError(
            f"cannot write the export to {out}: {error}. Nothing was kept: make room, or choose another folder"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_weights(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write a module's state dict."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)


def seal(folder: Path) -> None:
    """Write the digests of all files but the README, which its readers may change, and flush all to the disk."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        sync(path)
    lasting = (path for path in files if path not in (folder / CARD, folder / SUMS))
    sums = [f"{digest(path)}  {path.relative_to(folder).as_posix()}\n" for path in lasting]
    (folder / SUMS).write_text("".join(sums), encoding="utf-8")
    sync(folder / SUMS)


def portable(config: Config) -> dict[str, Any]:
    """A config as config.json has it, with the names of folders in place of their paths: nothing of the machine that
    trained is in it, and nothing is looked for there."""
    values = _named(asdict(config))
    values["output"], values["data"]["root"] = Path(config.output).name, Path(config.data.root).name
    values["data"]["domains"] = [Path(root).name for root in config.data.domains]
    return values


def _named(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _named(entry) for key, entry in value.items()}
    # "bert-base-uncased" and "google/vit-base-patch16-224" are names on a hub.
    if isinstance(value, str) and value and (value[0] in "./~" or value.count("/") > 1 or Path(value).is_dir()):
        return Path(value).resolve().name or value
    return value


def _damaged(folder: Path, what: str) -> ExportError:
    return ExportError(f"{folder} is a damaged export: {what}. Copy it again, or delete it and export the run again")
