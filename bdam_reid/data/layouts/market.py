"""Reads Market-1501 and DukeMTMC-reID, and sets in their layout, such as Occluded-Duke.

Folders and names: bounding_box_train, query, bounding_box_test, in each of them PERSON_cCAMERA... .jpg. Person -1 marks
detections of nobody, which are left out; person 0 marks distractors, which stay in the gallery and are nobody's. Duke
differs in what follows the camera, a frame: PERSON_cCAMERA_fFRAME.jpg.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bdam_reid.data.attributes import with_attributes
from bdam_reid.data.image_sets import Search, image_set, images_in
from bdam_reid.data.records import Dataset, Findings, Record, Split

FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
SIGNS = f"the folders {', '.join(FOLDERS)}"
_NAME = re.compile(r"(-?\d{1,18})_c(\d{1,18})(?!\d)(_f\d)?")
_NOBODY, _DISTRACTOR = -1, 0


def is_here(root: Path) -> bool:
    """Whether a folder has this layout."""
    return all((root / folder).is_dir() for folder in FOLDERS)


def load(root: Path, hold_out: bool, allow_missing: bool) -> Dataset:
    """Read the set: each of its queries searches bounding_box_test. Raises: DatasetError if it cannot be used."""
    findings = Findings()
    found = _read(root, FOLDERS[0], "train", findings)
    queries, gallery = (_read(root, folder, "test", findings) for folder in FOLDERS[1:])
    known, asked = (_of_persons(records, findings) for records in (found, queries))
    name = "dukemtmc-reid" if _has_frames([*known, *asked]) else "market-1501"
    tests = [Search("test", asked, gallery)]
    read = image_set(name, root, known, tests, findings, hold_out=hold_out, allow_missing=allow_missing)
    return with_attributes(read)


def _has_frames(records: Sequence[Record]) -> bool:
    """Whether names are those of Duke."""
    return any((name := _NAME.match(record.path.name)) and name[3] for record in records[:1])


def _of_persons(records: Sequence[Record], findings: Findings) -> list[Record]:
    """The records without distractors, who are nobody to learn or to find."""
    strays = [record.key for record in records if record.identity == _DISTRACTOR]
    findings.add("images of nobody (person 0) in training or query skipped", strays)
    return [record for record in records if record.identity != _DISTRACTOR]


def _read(root: Path, folder: str, split: Split, findings: Findings) -> list[Record]:
    """The records of a folder in the order of their names, without those of nobody."""
    records, unnamed = [], []
    for path in images_in(root / folder):
        name = _NAME.match(path.name)
        if name is None:
            unnamed.append(f"{folder}/{path.name}")
        elif int(name[1]) != _NOBODY:
            records.append(Record(path, f"{folder}/{path.name}", int(name[1]), split, camera=int(name[2])))
    findings.add("images whose name has no person and camera skipped", unnamed, wrong=split != "train")
    return records
