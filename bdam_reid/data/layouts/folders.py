"""Reads plain folders: one an identity, with its images in it.

Either ROOT/PERSON/..., where a tenth of the persons is held out for the test and another for validation; or such
folders within ROOT/train and, for the test, ROOT/query and ROOT/gallery, of which train may be lacking. A folder's name
is the person's, in train, query and gallery alike. Cameras are not known: a query finds whatever shows its person,
except itself.
"""

from __future__ import annotations

from pathlib import Path

from bdam_reid.data.image_sets import Search, hold_out_test, image_set, images_in, numbered
from bdam_reid.data.records import Dataset, DatasetError, Findings, Record

PARTS = ("train", "query", "gallery")
SIGNS = "one folder a person, or such folders in train, query and gallery"
_OTHERS = {*PARTS, "val", "test", "bounding_box_train", "bounding_box_test"}
"""Names of folders that are no person's."""


def is_here(root: Path) -> bool:
    """Whether a folder has folders of persons."""
    own = _persons(root)
    return any(_persons(root / part) for part in PARTS) or (len(own) > 1 and not {f.name for f in own} & _OTHERS)


def load(root: Path, hold_out: bool, allow_missing: bool) -> Dataset:
    """Read the set. Raises: DatasetError if it cannot be used."""
    findings = Findings()
    in_parts = any(_persons(root / part) for part in PARTS)
    folders = {part: _persons(root / part) for part in PARTS} if in_parts else {"train": _persons(root)}
    if in_parts and bool(folders["query"]) != bool(folders["gallery"]):
        lacking = "gallery" if folders["query"] else "query"
        raise DatasetError(
            f"expected folders of persons in both query and gallery of {root}, found none in {lacking}: add them, or "
            "remove the other to have a tenth of the persons of train held out for the test"
        )
    if in_parts:
        findings.add("folders beside train, query and gallery not read", _beside(root))
    places = [root / part for part in PARTS if (root / part).is_dir()] if in_parts else [root]
    loose = [path.relative_to(root).as_posix() for place in places for path in images_in(place)]
    findings.add("images that lie in no person's folder not read", loose)
    numbers = numbered(folder.name for found in folders.values() for folder in found)
    train, query, gallery = (
        [record for folder in folders.get(part, []) for record in _read(root, folder, part, numbers, findings)]
        for part in PARTS
    )
    tests = [Search("test", query, gallery)]
    if not query:
        train, tests = hold_out_test(train, findings)
    return image_set("folders", root, train, tests, findings, hold_out=hold_out, allow_missing=allow_missing)


def _persons(folder: Path) -> list[Path]:
    """The folders in a folder that have images in them; none if there is no such folder."""
    if not folder.is_dir():
        return []
    entries = (entry for entry in sorted(folder.iterdir()) if entry.is_dir() and not entry.name.startswith("."))
    return [entry for entry in entries if next(images_in(entry), None)]


def _beside(root: Path) -> list[str]:
    return [entry.name for entry in sorted(root.iterdir()) if entry.is_dir() and entry.name not in PARTS]


def _read(root: Path, folder: Path, part: str, numbers: dict[str, int], findings: Findings) -> list[Record]:
    """The records of a person."""
    deeper = [entry.relative_to(root).as_posix() for entry in sorted(folder.iterdir()) if entry.is_dir()]
    findings.add("folders within a person's folder not read", deeper)
    return [
        Record(path, path.relative_to(root).as_posix(), numbers[folder.name], "train" if part == "train" else "test")
        for path in images_in(folder)
    ]
