"""Entries of the JSON files of text sets, each checked on its own: records, and what stands beside them."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from bdam_reid.data.printable import shortened
from bdam_reid.data.records import SPLITS, DatasetError, Findings, Record


def read_json(path: Path) -> Any:
    """The JSON value in a file. Raises: DatasetError if there is none."""
    try:
        text = path.read_text(encoding="utf-8")
        if not text.strip():
            raise DatasetError(f"{path} is empty: download or write it again")
        return json.loads(text)
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path} is not valid JSON ({error}): download or write it again") from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises: DatasetError if there is none."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise DatasetError(f"{path} must hold one JSON object, got {kind(value)}")
    return value


def read_beside(path: Path) -> dict[str, Any] | None:
    """What a file says of images, by their keys; None if there is no such file."""
    if not path.exists():
        return None
    return {posixpath.normpath(key): value for key, value in read_object(path).items()}


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    return {"dict": "an object", "list": "a list", "str": "a text"}.get(type(value).__name__, repr(value))


def read_records(path: Path, entries: Sequence[Any], images: Path, path_key: str, findings: Findings) -> list[Record]:
    """The records in a list of entries, one an image, in order of first appearance; what lacks something that every
    record needs is skipped.

    Args:
        path: of the file that has the entries.
        entries: in the form of CUHK-PEDES.
        images: the folder of the images.
        path_key: of an image's path in an entry.
        findings: are added to.
    Raises: DatasetError for an image of two persons or splits, or outside of the folder.
    """
    records: dict[str, Record] = {}
    for number, entry in enumerate(entries):
        record = _read_record(path, number, entry, images, path_key, findings)
        if record is None:
            continue
        earlier = records.get(record.key)
        if earlier is None:
            records[record.key] = record
        elif (earlier.identity, earlier.split) != (record.identity, record.split):
            raise DatasetError(
                f"{path}: image {shortened(record.key)} is in split {earlier.split} as person {earlier.identity} and "
                f"in split {record.split} as person {record.identity}: remove the wrong record"
            )
        else:
            findings.add("records of an image that has one already (their captions are added to its)", [record.key])
            new = tuple(caption for caption in record.captions if caption not in earlier.captions)
            records[record.key] = replace(earlier, captions=earlier.captions + new)
    return list(records.values())


def _read_record(path: Path, number: int, entry: Any, images: Path, path_key: str, findings: Findings) -> Record | None:
    """One record, or None and a finding if it lacks what every record needs."""
    if not isinstance(entry, dict):
        findings.add("entries that are no records skipped", [f"number {number}"])
        return None
    key, identity, split = entry.get(path_key), entry.get("id"), entry.get("split")
    if not isinstance(key, str) or not key:
        findings.add(f"records without {path_key} skipped", [f"number {number}"])
        return None
    key = _within(key, f"{path}: record number {number}")
    if not isinstance(identity, int) or isinstance(identity, bool):
        findings.add("records without a whole number as id skipped", [key])
        return None
    if split not in SPLITS:
        findings.add("records of an unknown split skipped", [key])
        return None
    captions = entry.get("captions")
    captions = captions if isinstance(captions, list) else [captions]
    kept = tuple(caption for caption in captions if isinstance(caption, str) and caption.strip())
    findings.add("empty captions dropped", [key] * (len(captions) - len(kept)))
    return Record(images / key, key, identity, split, kept)


def _within(key: str, where: str) -> str:
    """A path below the folder of images in the one form that names its file. Raises: DatasetError if it leads out."""
    normal = posixpath.normpath(key)
    if PurePath(normal).anchor or ".." in PurePath(normal).parts:
        raise DatasetError(
            f"{where} must name a file below the folder of images, got {shortened(key)}: correct its path"
        )
    return normal
