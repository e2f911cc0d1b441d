"""Reads CUHK-PEDES, ICFG-PEDES and RSTPReid as they are published, checks them and says what it found.

Official splits only. What a training run can do without is skipped, counted and reported (missing files, records
without a path, empty captions); what would make a result wrong is a DatasetError (identities or images shared between
splits).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from bdam_reid.captions.texts import FILE, read_texts
from bdam_reid.data.records import (
    SPLITS,
    Dataset,
    DatasetError,
    Findings,
    Protocol,
    Query,
    Record,
    Report,
    Split,
    held_out,
)


@dataclass(frozen=True)
class _Layout:
    """The index files by which a published set is known, and the key of an image's path in them."""

    files: tuple[str, ...]
    path_key: str


_LAYOUTS = {
    "cuhk-pedes": _Layout(("reid_raw.json",), "file_path"),
    "icfg-pedes": _Layout(("ICFG-PEDES.json", "ICFG_PEDES.json"), "file_path"),
    "rstpreid": _Layout(("data_captions.json",), "img_path"),
}
INDEX_FILES = tuple(file for layout in _LAYOUTS.values() for file in layout.files)


def find_index(root: Path) -> tuple[str, Path] | None:
    """The name of the layout of the set in a folder, and its index file; None if it has none of them."""
    for name, layout in _LAYOUTS.items():
        for file in layout.files:
            if (root / file).is_file():
                return name, root / file
    return None


def load_text_set(root: Path, name: str, index: Path) -> Dataset:
    """Read a set of images with captions: its index and, where they exist, `texts.json`, `attributes.json` and the
    protocol `clothing_change.json`.

    Sets without a validation split (ICFG-PEDES) get every tenth identity of the training split for it, in the order of
    identity numbers, and these are not trained on. Images whose captions are all empty stay in a gallery, but are not
    trained on. Every caption of a split is a query, all of its images are the gallery.

    Args:
        root: the folder with the index file and `imgs/`.
        name, index: as `find_index` gives them.
    Raises: DatasetError if the set cannot be used.
    """
    findings = Findings()
    records = _read_records(root, index, _LAYOUTS[name].path_key, findings)
    records = _without_missing_files(records, root, index, findings)
    attributes, texts = (_read_beside(root, file) for file in ("attributes.json", FILE))
    records = _described(records, texts, attributes)
    if texts is not None:
        without = [r.key for r in records if r.split == "train" and r.texts is None]
        findings.add(f"training images without texts in {FILE} (their captions are used)", without)
    _check_splits(records)
    if not any(record.split == "val" for record in records):
        records = _hold_out(records, findings)
    splits = {split: tuple(r for r in records if r.split == split) for split in SPLITS}
    unnamed = [r.key for r in splits["train"] if not r.captions]
    findings.add("training images without a caption skipped", unnamed)
    splits["train"] = tuple(r for r in splits["train"] if r.captions)
    _check_sizes(splits, index)
    repeated = Counter(caption for record in records for caption in record.captions)
    findings.add("captions that occur more than once (kept)", [c for c, n in repeated.items() if n > 1])
    protocols = {split: _standard(split, splits[split]) for split in ("val", "test")}
    if change := _read_clothing_change(root, splits, findings):
        gallery = tuple(_described(change.gallery, texts, attributes))
        protocols[change.name] = replace(change, gallery=gallery)
    return Dataset(name, root, splits["train"], protocols, Report.of(splits, findings))


def _standard(name: str, records: Sequence[Record]) -> Protocol:
    """All captions of a split against all of its images."""
    queries = [
        Query(text=caption, identity=r.identity, camera=r.camera, outfit=r.outfit, described=r.path)
        for r in records
        for caption in r.captions
    ]
    return Protocol(name, tuple(queries), tuple(records))


def _read_json(path: Path) -> Any:
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


def _read_object(path: Path) -> dict[str, Any]:
    value = _read_json(path)
    if not isinstance(value, dict):
        raise DatasetError(f"{path} must hold one JSON object, got {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    return {"dict": "an object", "list": "a list", "str": "a text"}.get(type(value).__name__, repr(value))


def _read_records(root: Path, index: Path, path_key: str, findings: Findings) -> list[Record]:
    entries = _read_json(index)
    if not isinstance(entries, list):
        raise DatasetError(f"{index} must hold a list of records, got {_kind(entries)}")
    if not entries:
        raise DatasetError(f"{index} holds no records: download or write it again")
    records: dict[str, Record] = {}
    for number, entry in enumerate(entries):
        record = _read_record(root, number, entry, path_key, findings)
        if record is None:
            continue
        earlier = records.get(record.key)
        if earlier is None:
            records[record.key] = record
        elif (earlier.identity, earlier.split) != (record.identity, record.split):
            raise DatasetError(
                f"{index}: image {record.key} is in split {earlier.split} as person {earlier.identity} and "
                f"in split {record.split} as person {record.identity}: remove the wrong record"
            )
        else:
            findings.add("records of an image that has one already skipped", [record.key])
    if not records:
        raise DatasetError(
            f"{index}: none of its {len(entries)} records is complete: {'; '.join(map(str, findings.listed()))}"
        )
    return list(records.values())


def _read_record(root: Path, number: int, entry: Any, path_key: str, findings: Findings) -> Record | None:
    """One record, or None and a finding if it lacks what every record needs."""
    if not isinstance(entry, dict):
        findings.add("entries that are no records skipped", [f"number {number}"])
        return None
    key, identity, split = entry.get(path_key), entry.get("id"), entry.get("split")
    if not isinstance(key, str) or not key:
        findings.add(f"records without {path_key} skipped", [f"number {number}"])
        return None
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
    return Record(root / "imgs" / key, key, identity, split, kept)


def _without_missing_files(records: list[Record], root: Path, index: Path, findings: Findings) -> list[Record]:
    there = [record for record in records if record.path.is_file()]
    if not there:
        raise DatasetError(
            f"expected the images of {index} under {root / 'imgs'}, found none of {len(records)}, such as "
            f"{records[0].key}: unpack them there"
        )
    missing = [record.key for record in records if not record.path.is_file()] if len(there) < len(records) else []
    findings.add("records whose file is missing skipped", missing)
    return there


def _read_beside(root: Path, file: str) -> dict[str, Any] | None:
    """What a file beside the index says, by image key; None if there is no such file."""
    return _read_object(root / file) if (root / file).exists() else None


def _described(
    records: Sequence[Record], texts: Mapping[str, Any] | None, attributes: Mapping[str, Any] | None
) -> list[Record]:
    """The records with their texts, attributes, camera and outfit, where these are known."""
    known, truth = read_texts(texts or {}), attributes or {}
    return [
        replace(
            record,
            texts=known.get(record.key),
            attributes=truth.get(record.key),
            camera=truth.get(record.key, {}).get("camera"),
            outfit=truth.get(record.key, {}).get("outfit_index"),
        )
        for record in records
    ]


def _check_splits(records: Sequence[Record]) -> None:
    people: dict[str, set[int]] = {split: set() for split in SPLITS}
    for record in records:
        people[record.split].add(record.identity)
    for one, other in combinations(SPLITS, 2):
        shared = sorted(people[one] & people[other])
        if shared:
            listed = ", ".join(map(str, shared[:5])) + (", ..." if len(shared) > 5 else "")
            raise DatasetError(
                f"splits must have different people, but {len(shared)} ids are in both {one} and {other} "
                f"({listed}): a result would be wrong, use the official splits"
            )


def _hold_out(records: list[Record], findings: Findings) -> list[Record]:
    people = held_out(record.identity for record in records if record.split == "train")
    findings.add("training identities held out for validation, as there is no such split", sorted(people))
    return [replace(r, split="val") if r.split == "train" and r.identity in people else r for r in records]


def _check_sizes(splits: dict[Split, tuple[Record, ...]], index: Path) -> None:
    people = {split: {record.identity for record in records} for split, records in splits.items()}
    if len(people["train"]) < 2:
        raise DatasetError(
            f"training needs images of two people or more with captions, {index} has {len(people['train'])} "
            "in its train split: nobody can be told apart"
        )
    for split in ("val", "test"):
        if not any(record.captions for record in splits[split]):
            raise DatasetError(f"expected images with captions in the {split} split of {index}, found none")


def _read_clothing_change(root: Path, splits: dict[Split, tuple[Record, ...]], findings: Findings) -> Protocol | None:
    """Captions of persons in one outfit, images of the same persons in another; None if the set has no such file."""
    path = root / "clothing_change.json"
    if not path.exists():
        return None
    value = _read_object(path)
    entries, captions = value.get("gallery"), value.get("queries")
    if not isinstance(entries, list) or not isinstance(captions, list):
        raise DatasetError(f"{path} must hold the lists queries and gallery, got {', '.join(value) or 'neither'}")
    read = (_read_record(root, n, _as_test(e), "file_path", findings) for n, e in enumerate(entries))
    gallery = [record for record in read if record is not None]
    present = _without_missing_files(gallery, root, path, findings) if gallery else []
    images = {record.key: record.path for record in splits["test"]}
    queries = [_read_query(entry, images) for entry in captions]
    incomplete = [f"number {n}" for n, query in enumerate(queries) if query is None]
    findings.add("clothing-change queries without caption or id skipped", incomplete)
    kept = tuple(query for query in queries if query is not None)
    if not present or not kept:
        raise DatasetError(f"{path} must have queries and gallery images, got {len(kept)} and {len(present)}")
    known = {record.identity for split in ("train", "val") for record in splits[split]}
    shared = sorted({record.identity for record in present} & known)
    if shared:
        raise DatasetError(
            f"{path} must have people of the test split only, but person {shared[0]} is in train or val: "
            "a result would be wrong"
        )
    return Protocol("clothing_change", kept, tuple(present))


def _as_test(entry: Any) -> Any:
    return {**entry, "split": "test"} if isinstance(entry, dict) else entry


def _read_query(entry: Any, images: Mapping[str, Path]) -> Query | None:
    caption, identity = (entry.get("caption"), entry.get("id")) if isinstance(entry, dict) else (None, None)
    if not isinstance(caption, str) or not caption.strip() or not isinstance(identity, int):
        return None
    described = images.get(str(entry.get("file_path")))
    return Query(text=caption, identity=identity, outfit=entry.get("outfit"), described=described)
