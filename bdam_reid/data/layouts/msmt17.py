"""Reads MSMT17: lists of "PATH PERSON" beside the folders of the images, of which there are two versions.

list_train.txt and list_val.txt name images of train/ (mask_train_v2/ in the second version), list_query.txt and
list_gallery.txt images of test/ (mask_test_v2/). The validation list has other images of training persons: they are
trained on, as by most who publish figures, and validation persons are held out. Persons of training and test are each
counted from 0; here those of the test come after those of training. A name begins with PERSON_NUMBER_CAMERA.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bdam_reid.data.entries import within
from bdam_reid.data.image_sets import Search, image_set
from bdam_reid.data.printable import shortened
from bdam_reid.data.records import Dataset, DatasetError, Findings, Record, Split

LISTS = {"train": "list_train.txt", "val": "list_val.txt", "query": "list_query.txt", "gallery": "list_gallery.txt"}
VERSIONS = (("train", "test"), ("mask_train_v2", "mask_test_v2"))
"""Of the folders of training and test images."""
SIGNS = ", ".join(LISTS.values())


def is_here(root: Path) -> bool:
    """Whether a folder has MSMT17's lists; that of validation may be lacking."""
    return all((root / file).is_file() for part, file in LISTS.items() if part != "val")


def load(root: Path, hold_out: bool, allow_missing: bool) -> Dataset:
    """Read the set: each of its queries searches the gallery. Raises: DatasetError if it cannot be used."""
    version = next((v for v in VERSIONS if all((root / folder).is_dir() for folder in v)), None)
    if version is None:
        raise DatasetError(
            f"expected the folders {' or '.join(' and '.join(v) for v in VERSIONS)} beside the lists of {root}, found "
            "neither: unpack the set again"
        )
    train_folder, test_folder = version
    lists = ("train", *(["val"] if (root / LISTS["val"]).is_file() else []))
    train = [record for part in lists for record in _read(root, LISTS[part], train_folder, "train", 0)]
    first = 1 + max((record.identity for record in train), default=-1)
    query, gallery = (list(_read(root, LISTS[part], test_folder, "test", first)) for part in ("query", "gallery"))
    tests = [Search("test", query, gallery)]
    return image_set("msmt17", root, train, tests, Findings(), hold_out=hold_out, allow_missing=allow_missing)


def _read(root: Path, file: str, folder: str, split: Split, first: int) -> Iterator[Record]:
    """The records of a list; persons are counted from `first` on. Raises: DatasetError for a line that is none."""
    try:
        lines = (root / file).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot read {root / file}: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{root / file}, line {number}"
        path, _, person = line.strip().rpartition(" ")
        camera = Path(path).name.split("_")[2:3]
        if not person.isdecimal() or len(person) > 18 or not camera or not camera[0].isdecimal():
            raise DatasetError(
                f"{where} must be a path, a space and the number of a person, with the camera third in the image's "
                f"name, such as 0000/0000_000_01_0303morning_0015_0.jpg 0, got {shortened(line)}: unpack the set again"
            )
        key = f"{folder}/{within(path.strip(), where)}"
        yield Record(root / key, key, first + int(person), split, camera=int(camera[0]))
