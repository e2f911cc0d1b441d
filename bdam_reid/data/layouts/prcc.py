"""Reads PRCC (Yang et al. 2019), in which persons change clothes: A and B see a person in the same, camera C in others.

rgb/train/PERSON/CAMERA_*.jpg, and rgb/test/CAMERA/PERSON/*.jpg. Images of camera A are the gallery; those of B search
it in the same clothes (protocol "test"), those of C in others ("clothing_change"). The gallery has all of A's images,
which is called multi-shot; figures of one image a person drawn at random (single-shot) are others. rgb/val has more
images of training persons, which published figures leave out; so do we.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bdam_reid.data.image_sets import Search, image_set, images_in
from bdam_reid.data.records import Dataset, Findings, Record, Split

_CAMERAS = {"A": 1, "B": 2, "C": 3}
_OUTFITS = {1: 0, 2: 0, 3: 1}
"""By camera."""
SIGNS = "rgb/train and rgb/test/A, B and C"


def is_here(root: Path) -> bool:
    """Whether a folder has PRCC's folders."""
    return all((root / "rgb" / folder).is_dir() for folder in ("train", *(f"test/{camera}" for camera in _CAMERAS)))


def load(root: Path, hold_out: bool, allow_missing: bool) -> Dataset:
    """Read the set. Raises: DatasetError if it cannot be used."""
    findings = Findings()
    if (root / "rgb" / "val").is_dir():
        findings.add("folders of more images of training persons not read", ["rgb/val"])
    train = []
    for path in _images(root / "rgb" / "train"):
        train += _record(root, path, path.name.split("_")[0], "train", findings)
    test = []
    for camera in _CAMERAS:
        for path in _images(root / "rgb" / "test" / camera):
            test += _record(root, path, camera, "test", findings)
    return image_set(
        "prcc",
        root,
        train,
        _searches(test, "test", "clothing_change"),
        findings,
        hold_out=hold_out,
        allow_missing=allow_missing,
        validation=lambda val: _searches(val, "val", "clothing_change_val"),
    )


def _images(folder: Path) -> list[Path]:
    return [path for person in sorted(folder.iterdir()) if person.is_dir() for path in images_in(person)]


def _record(root: Path, path: Path, camera: str, split: Split, findings: Findings) -> list[Record]:
    """The record of an image in the folder of its person; none and a finding if that is not known."""
    key, person, number = path.relative_to(root).as_posix(), path.parent.name, _CAMERAS.get(camera)
    if not person.isdecimal() or len(person) > 18 or number is None:
        wrong = split != "train"
        findings.add("images without a person's number and a camera skipped", [key], wrong=wrong)
        return []
    return [Record(path, key, int(person), split, camera=number, outfit=_OUTFITS[number])]


def _searches(records: Sequence[Record], same: str, other: str) -> list[Search]:
    """The two questions, by the names of their protocols."""
    seen = {camera: [record for record in records if record.camera == number] for camera, number in _CAMERAS.items()}
    return [Search(same, seen["B"], seen["A"]), Search(other, seen["C"], seen["A"], clothes="other")]
