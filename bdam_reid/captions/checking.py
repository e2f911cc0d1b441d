"""Looks for faults in a texts.json, whoever wrote it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bdam_reid.captions.prompts import PARTS
from bdam_reid.captions.texts import FILE, count_styles
from bdam_reid.captions.validation import faults
from bdam_reid.config import ConfigError
from bdam_reid.data.printable import shortened


class Checked(NamedTuple):
    """What was found in a texts.json."""

    entries: int
    styles: Counter[str]
    """Images with texts, by style."""
    faults: dict[str, list[str]]
    """By kind, what is wrong with which."""


def check_file(path: Path) -> Checked:
    """Look through a texts.json.

    Args:
        path: the file, or the folder of a data set; then training images without texts, and texts of images that are
            not in the set, are faults too.
    Raises: ConfigError if there is no such file; DatasetError if it or the set cannot be read.
    """
    from bdam_reid.data.entries import read_object
    from bdam_reid.data.records import Findings

    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(f"expected {FILE}, or the folder of a data set that has one, got {path}")
    entries = read_object(file, Findings())
    found: dict[str, list[str]] = {}
    for kind, what in (*_of_texts(entries), *(_of_keys(path, entries) if path.is_dir() else ())):
        found.setdefault(kind, []).append(what)
    return Checked(len(entries), count_styles(entries), found)


def _of_texts(entries: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key, entry in entries.items():
        for part in PARTS:
            text = entry.get(part) if isinstance(entry, dict) else None
            if not isinstance(text, str) or not text.strip():
                yield f"{part}: absent", shortened(key)
                continue
            for fault in faults(text, part):
                yield f"{part}: {fault.kind}", f"{shortened(key)}: {fault} ({shortened(text, 200)})"


def _of_keys(root: Path, entries: dict[str, Any]) -> Iterator[tuple[str, str]]:
    from bdam_reid.data.datasets import load_dataset

    dataset = load_dataset(root, hold_out=False, allow_missing=True)
    train = {record.key for record in dataset.train}
    known = train | {record.key for protocol in dataset.protocols.values() for record in protocol.gallery}
    yield from (("training image without texts", shortened(key)) for key in sorted(train - entries.keys()))
    yield from (("texts of an image that is not in the set", shortened(key)) for key in sorted(entries.keys() - known))
