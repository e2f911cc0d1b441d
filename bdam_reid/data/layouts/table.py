"""Reads a table, images.csv: columns path, identity and split, and camera if that is known.

A path is below the table's folder; identity and camera are any text, a camera may be empty. Splits are train, val,
query and gallery. Without val a tenth of the training persons is held out for it, without query and gallery another
for the test.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bdam_reid.data.entries import within
from bdam_reid.data.image_sets import Search, hold_out_test, image_set, numbered
from bdam_reid.data.printable import shortened
from bdam_reid.data.records import Dataset, DatasetError, Findings, Record, Split

FILE = "images.csv"
SIGNS = FILE
COLUMNS = ("path", "identity", "split")
SPLITS: dict[str, Split] = {"train": "train", "val": "val", "query": "test", "gallery": "test"}


class _Row(NamedTuple):
    line: int
    path: str
    identity: str
    split: str
    camera: str


def is_here(root: Path) -> bool:
    """Whether a folder has such a table."""
    return (root / FILE).is_file()


def load(root: Path, hold_out: bool, allow_missing: bool) -> Dataset:
    """Read the set. Raises: DatasetError, with the number of the line, if it cannot be used."""
    findings = Findings()
    rows = _distinct(root / FILE, list(_rows(root / FILE, findings)), findings)
    people, cameras = numbered(row.identity for row in rows), numbered(row.camera for row in rows if row.camera)
    found: dict[str, list[Record]] = {split: [] for split in SPLITS}
    for row in rows:
        identity, split, camera = people[row.identity], SPLITS[row.split], cameras.get(row.camera)
        found[row.split].append(Record(root / row.path, row.path, identity, split, camera=camera))
    if bool(found["query"]) != bool(found["gallery"]):
        raise DatasetError(
            f"{root / FILE} must have rows of both splits query and gallery, or of neither, to have a tenth of the "
            f"training persons held out for the test, got {len(found['query'])} and {len(found['gallery'])}"
        )
    train, tests = found["train"], [Search("test", found["query"], found["gallery"])]
    if not found["query"]:
        train, tests = hold_out_test(train, findings)
    return image_set(
        "csv", root, train, tests, findings, hold_out=hold_out, allow_missing=allow_missing, val=found["val"]
    )


def _rows(file: Path, findings: Findings) -> Iterator[_Row]:
    """The rows of a table. Raises: DatasetError."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read {file} ({error}): write it as text in UTF-8, separated by commas") from error
    reader = csv.DictReader(text.splitlines(keepends=True), strict=True)
    try:
        names = reader.fieldnames or []
        if lacking := [name for name in COLUMNS if name not in names]:
            raise DatasetError(
                f"{file}, line 1 must name the columns {', '.join(COLUMNS)}, and camera if it is known, separated by "
                f"commas, got {shortened(', '.join(names)) or 'nothing'}: {', '.join(lacking)} is lacking"
            )
        findings.add(f"columns of {FILE} not read", [name for name in names if name not in (*COLUMNS, "camera")])
        for values in reader:
            yield _row(f"{file}, line {reader.line_num}", reader.line_num, values)
    except csv.Error as error:
        where = f"{file}, line {reader.reader.line_num}"
        raise DatasetError(f"{where}: {error}: write it as text separated by commas") from error


def _row(where: str, line: int, values: dict[str | None, Any]) -> _Row:
    """One row, checked on its own."""
    if None in values or None in values.values():
        raise DatasetError(f"{where} must have a field for each column, got {'more' if None in values else 'fewer'}")
    path, identity, split = (values[name].strip() for name in COLUMNS)
    if not path or not identity:
        raise DatasetError(f"{where} must have a path and an identity, got {shortened(','.join(values.values()))}")
    if split not in SPLITS:
        raise DatasetError(f"{where}: split must be one of {', '.join(SPLITS)}, got {shortened(split) or 'nothing'}")
    return _Row(line, within(path, where), identity, split, values.get("camera", "").strip())


def _distinct(file: Path, rows: Sequence[_Row], findings: Findings) -> list[_Row]:
    """The rows without those that say again what an earlier one said. Raises: DatasetError for an image of two persons
    or cameras, or that is in two splits other than query and gallery."""
    first: dict[str, _Row] = {}
    kept: dict[tuple[str, str], _Row] = {}
    for row in rows:
        earlier = first.setdefault(row.path, row)
        both = {earlier.split, row.split}
        same_part = len(both) == 1 or both == {"query", "gallery"}
        if (earlier.identity, earlier.camera) != (row.identity, row.camera) or not same_part:
            raise DatasetError(
                f"{file}, line {row.line}: image {shortened(row.path)} has another identity, camera or split in line "
                f"{earlier.line}: remove the wrong row"
            )
        if kept.setdefault((row.path, row.split), row) is not row:
            findings.add(f"rows of {FILE} that repeat another skipped", [f"line {row.line}"])
    return list(kept.values())
