"""Reads ITCPR (composed person retrieval, Liu et al. 2023): queries of an image and a sentence, for evaluation only.

query.json and gallery.json are lists of {file_path, datasets, person_id, instance_id}, a query with a caption, and
paths are below the root. An instance is a person in one outfit: a query shows the person in another, and its caption
tells which is looked for. Right are the images of a query's instance, as in published figures; -1 is a distractor.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bdam_reid.data.checks import check_images
from bdam_reid.data.entries import is_number, kind, read_json, within
from bdam_reid.data.printable import shortened
from bdam_reid.data.records import Dataset, DatasetError, Findings, Protocol, Query, Record, Report

INDEX_FILES = ("query.json", "gallery.json")
SIGNS = " and ".join(INDEX_FILES)
_DISTRACTOR = -1


class _Entry(NamedTuple):
    """Of either file."""

    record: Record
    """Whose identity is the instance."""
    person: int
    caption: str


def is_here(root: Path) -> bool:
    """Whether a folder has ITCPR's files."""
    return all((root / file).is_file() for file in INDEX_FILES)


def load(root: Path, hold_out: bool, allow_missing: bool) -> Dataset:
    """Read ITCPR, in which nobody is trained on or held out; what lacks something that every entry needs is skipped,
    and counted. Raises: DatasetError if the set cannot be used."""
    findings = Findings()
    asked, found = (list(_read(root, file, findings)) for file in INDEX_FILES)
    silent = [entry.record.key for entry in asked if not entry.caption]
    findings.add("queries without a caption skipped", silent, wrong=True)
    findings.add(
        "queries whose instance is a distractor skipped",
        [entry.record.key for entry in asked if entry.record.identity == _DISTRACTOR],
    )
    asked = [entry for entry in asked if entry.caption and entry.record.identity != _DISTRACTOR]
    gallery = _merged(root, found, findings)
    if not asked or not gallery:
        raise DatasetError(
            f"expected queries with captions and gallery images in {' and '.join(INDEX_FILES)} of {root}, got "
            f"{len(asked)} and {len(gallery)}: download or write them again"
        )
    _check_instances(root, [*asked, *gallery])
    records: dict[str, list[Record]] = {
        "train": [],
        "query": [e.record for e in asked],
        "test": [e.record for e in gallery],
    }
    check_images(records, allow_missing, findings)
    queries = tuple(Query(text=e.caption, image=e.record.path, identity=e.record.identity) for e in asked)
    protocol = Protocol("test", queries, tuple(entry.record for entry in gallery))
    files = {entry.record.path for entry in (*asked, *gallery)}
    persons = {entry.person for entry in (*asked, *gallery)} - {_DISTRACTOR}
    images, identities, captions = ({"train": 0, "val": 0, "test": n} for n in (len(files), len(persons), len(asked)))
    report = Report(images, identities, captions, findings.listed())
    return Dataset("itcpr", root, (), {"test": protocol}, report)


def _read(root: Path, file: str, findings: Findings) -> Iterator[_Entry]:
    entries = read_json(root / file, findings)
    if not isinstance(entries, list):
        raise DatasetError(f"{root / file} must hold a list of entries, got {kind(entries)}")
    for number, entry in enumerate(entries):
        entry = entry if isinstance(entry, dict) else {}
        key, person, instance = entry.get("file_path"), _number(entry, "person_id"), _number(entry, "instance_id")
        if not isinstance(key, str) or not key or person is None or instance is None:
            what = f"entries of {file} without file_path, person_id or instance_id skipped"
            findings.add(what, [f"number {number}"], wrong=True)
            continue
        key = within(key, f"{root / file}: entry number {number}")
        caption = entry.get("caption")
        text = caption if isinstance(caption, str) and caption.strip() else ""
        yield _Entry(Record(root / key, key, instance, "test"), person, text)


def _number(entry: dict[str, Any], name: str) -> int | None:
    """A whole number, which may be written as a text."""
    value = entry.get(name)
    if isinstance(value, str) and value.lstrip("-").isdecimal():
        value = int(value)
    return value if is_number(value) else None


def _merged(root: Path, entries: list[_Entry], findings: Findings) -> list[_Entry]:
    """An entry for each image."""
    images: dict[Path, _Entry] = {}
    for entry in entries:
        earlier = images.setdefault(entry.record.path, entry)
        if earlier.record.identity != entry.record.identity:
            raise DatasetError(
                f"{root / INDEX_FILES[1]}: image {shortened(entry.record.key)} is of the instances "
                f"{earlier.record.identity} and {entry.record.identity}: remove the wrong entry"
            )
        if earlier is not entry:
            findings.add("gallery entries of an image that has one already skipped", [entry.record.key])
    return list(images.values())


def _check_instances(root: Path, entries: list[_Entry]) -> None:
    """Raise DatasetError for an instance of two persons."""
    persons: dict[int, int] = {}
    for entry in entries:
        instance, person = entry.record.identity, entry.person
        if instance != _DISTRACTOR and persons.setdefault(instance, person) != person:
            raise DatasetError(
                f"an instance is one person in one outfit, but instance {instance} of {root} is of the persons "
                f"{persons[instance]} and {person}: a result would be wrong, correct the files"
            )
