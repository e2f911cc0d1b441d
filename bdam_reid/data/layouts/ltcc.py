"""Reads LTCC (Qian et al. 2020), in which persons change clothes: names are PERSON_CLOTHES_cCAMERA_... .png.

Folders train, query and test, which is the gallery. Protocol "test" is the set's standard setting, in which the same
person by the same camera is junk; in "clothing_change" so is the same person in the same clothes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bdam_reid.data.image_sets import Search, by_each_camera, image_set, images_in
from bdam_reid.data.junk import same_camera_or_outfit
from bdam_reid.data.records import Dataset, Findings, Record, Split

FOLDERS = ("train", "query", "test")
SIGNS = f"the folders {', '.join(FOLDERS)} with images such as 094_1_c9_015833.png"
_NAME = re.compile(r"(\d{1,18})_(\d{1,18})_c(\d{1,18})_")


def is_here(root: Path) -> bool:
    """Whether a folder has LTCC's folders, with its names in them."""
    folders = [root / folder for folder in FOLDERS]
    return all(folder.is_dir() and any(map(_name, images_in(folder))) for folder in folders)


def load(root: Path, hold_out: bool, allow_missing: bool) -> Dataset:
    """Read the set. Raises: DatasetError if it cannot be used."""
    findings = Findings()
    splits: tuple[Split, ...] = ("train", "test", "test")
    train, query, gallery = (_read(root, *part, findings) for part in zip(FOLDERS, splits, strict=True))
    tests = [Search("test", query, gallery), _other_clothes("clothing_change", query, gallery)]
    return image_set(
        "ltcc", root, train, tests, findings, hold_out=hold_out, allow_missing=allow_missing, validation=_validation
    )


def _validation(records: Sequence[Record]) -> list[Search]:
    (standard,) = by_each_camera(records)
    return [standard, _other_clothes("clothing_change_val", standard.queries, records)]


def _other_clothes(name: str, queries: Sequence[Record], gallery: Sequence[Record]) -> Search:
    return Search(name, queries, gallery, same_camera_or_outfit, "other")


def _name(path: Path) -> re.Match[str] | None:
    return _NAME.match(path.name)


def _read(root: Path, folder: str, split: Split, findings: Findings) -> list[Record]:
    """The records of a folder in the order of their names."""
    records = []
    for path in images_in(root / folder):
        key, name = f"{folder}/{path.name}", _name(path)
        if name is None:
            wrong = split != "train"
            findings.add("images whose name has no person, clothes and camera skipped", [key], wrong=wrong)
        else:
            person, outfit, camera = map(int, name.groups())
            records.append(Record(path, key, person, split, camera=camera, outfit=outfit))
    return records
