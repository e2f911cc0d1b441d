"""Entries of the JSON files of text sets, each checked on its own: records, and what stands beside them."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any, TypeGuard

from bdam_reid.data.printable import shortened
from bdam_reid.data.records import SPLITS, DatasetError, Findings, Record

_HALF = re.compile("[\ud800-\udfff]")


def read_json(path: Path, findings: Findings) -> Any:
    """The JSON value in a file, without halves of characters, which JSON can spell, but neither tokenizers nor file
    systems take.

    Raises: DatasetError if there is none.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if not text.strip():
            raise DatasetError(f"{path} is empty: download or write it again")
        value = json.loads(text)
        return _whole_characters(value, path, findings) if "\\ud" in text.lower() else value
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path} is not valid JSON ({error}): download or write it again") from error


def _whole_characters(value: Any, path: Path, findings: Findings) -> Any:
    text = json.dumps(value, ensure_ascii=False)
    found = [text[max(0, at.start() - 20) : at.end()] for at in _HALF.finditer(text)]
    findings.add(f"halves of characters in {path.name} replaced by ?", found)
    return json.loads(_HALF.sub("?", text)) if found else value


def read_object(path: Path, findings: Findings) -> dict[str, Any]:
    """The JSON object in a file. Raises: DatasetError if there is none."""
    value = read_json(path, findings)
    if not isinstance(value, dict):
        raise DatasetError(f"{path} must hold one JSON object, got {kind(value)}")
    return value


def read_beside(path: Path, findings: Findings) -> dict[str, Any] | None:
    """What a file says of images, by their keys; None if there is no such file."""
    if not path.exists():
        return None
    return {posixpath.normpath(key): value for key, value in read_object(path, findings).items()}


def read_attributes(path: Path, findings: Findings) -> dict[str, Any]:
    """The ground truth in attributes.json, by image key: objects whose "identity" and "outfit", if they have them, are
    objects, and those in the latter objects; whose "camera" and "outfit_index" are whole numbers. Other entries are no
    ground truth; empty if there is no such file."""
    entries = read_beside(path, findings) or {}
    wrong = [key for key, entry in entries.items() if not _is_truth(entry)]
    findings.add(f"entries of {path.name} that are no ground truth ignored", wrong)
    return {key: entry for key, entry in entries.items() if key not in set(wrong)}


def _is_truth(entry: Any) -> bool:
    if not isinstance(entry, dict):
        return False
    person, outfit = entry.get("identity", {}), entry.get("outfit", {})
    numbers = [entry[name] for name in ("camera", "outfit_index") if entry.get(name) is not None]
    return (
        isinstance(person, dict)
        and isinstance(outfit, dict)
        and all(isinstance(item, dict) for item in outfit.values())
        and all(map(is_number, numbers))
    )


def is_number(value: Any) -> TypeGuard[int]:
    """Whether a JSON value is a whole number that a tensor can hold."""
    return type(value) is int and -(2**63) <= value < 2**63


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
        findings.add("entries that are no records skipped", [f"number {number}"], wrong=True)
        return None
    key, identity, split = entry.get(path_key), entry.get("id"), entry.get("split")
    # Training can do without; a gallery is another without it.
    wrong = split != "train"
    if not isinstance(key, str) or not key:
        findings.add(f"records without {path_key} skipped", [f"number {number}"], wrong=wrong)
        return None
    key = within(key, f"{path}: record number {number}")
    if not is_number(identity):
        findings.add("records without a whole number as id skipped", [key], wrong=wrong)
        return None
    if split not in SPLITS:
        findings.add("records of an unknown split skipped", [key], wrong=True)
        return None
    captions = entry.get("captions")
    captions = captions if isinstance(captions, list) else [captions]
    kept = tuple(caption for caption in captions if isinstance(caption, str) and caption.strip())
    findings.add("empty captions dropped", [key] * (len(captions) - len(kept)))
    return Record(images / key, key, identity, split, kept)


def within(key: str, where: str) -> str:
    """A path below the folder of images in the one form that names its file. Raises: DatasetError if it leads out."""
    normal = posixpath.normpath(key)
    if PurePath(normal).anchor or ".." in PurePath(normal).parts:
        raise DatasetError(
            f"{where} must name a file below the folder of images, got {shortened(key)}: correct its path"
        )
    return normal
