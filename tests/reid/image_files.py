"""The same drawn-out persons as small image sets in every layout, for tests."""

from __future__ import annotations

import csv
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
from PIL import Image


class Shot(NamedTuple):
    """A picture of a test person, or of a training person."""

    part: str
    """train, query or gallery."""
    person: int
    camera: int
    number: int


def shots() -> list[Shot]:
    """Six training persons, four test persons, each by two or three cameras; and one person in the gallery only."""
    rng = Random(5)
    seen = {person: rng.sample((1, 2, 3), rng.randint(2, 3)) for person in range(1, 12)}
    train = [Shot("train", person, camera, n) for person in range(1, 7) for camera in seen[person] for n in (0, 1)]
    query = [Shot("query", person, camera, 0) for person in range(7, 11) for camera in seen[person]]
    gallery = [Shot("gallery", person, camera, n) for person in range(7, 12) for camera in seen[person] for n in (1, 2)]
    return train + query + gallery


def photo(path: Path) -> None:
    """A picture that no other path has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.frombuffer(Random(str(path)).randbytes(600), np.uint8).reshape(20, 10, 3)
    Image.fromarray(pixels).save(path)


def write_market(root: Path, frames: bool = False) -> Path:
    """Market-1501, or DukeMTMC-reID with frames; with a distractor and a detection of nobody."""
    folders = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
    for part, person, camera, number in shots():
        rest = f"_f{number:07d}" if frames else f"s1_{number:06d}_00"
        photo(root / folders[part] / f"{person:04d}_c{camera}{rest}.jpg")
    if not frames:
        photo(root / "bounding_box_test" / "0000_c1s1_000009_00.jpg")
        photo(root / "bounding_box_test" / "-1_c1s1_000009_00.jpg")
    return root


def write_msmt17(root: Path, second: bool = False) -> Path:
    """Either version; one image of each training person by a camera is in the list of validation."""
    folders = ("mask_train_v2", "mask_test_v2") if second else ("train", "test")
    lists: dict[str, list[str]] = {"train": [], "val": [], "query": [], "gallery": []}
    for part, person, camera, number in shots():
        label = person - 1 if part == "train" else person - 7
        name = f"{label:04d}/{label:04d}_{number:03d}_{camera:02d}_0303morning_0015_{number}.jpg"
        photo(root / folders[part != "train"] / name)
        lists["val" if part == "train" and number else part].append(f"{name} {label}")
    for part, lines in lists.items():
        (root / f"list_{part}.txt").write_text("\n".join(lines) + "\n")
    return root


def write_folders(root: Path, parts: tuple[str, ...] = ("train", "query", "gallery")) -> Path:
    """One folder a person in each part."""
    for part, person, camera, number in shots():
        if part in parts:
            photo(root / part / f"person {person}" / f"{camera}_{number}.jpg")
    return root


def write_prcc(root: Path) -> Path:
    """Cameras 1, 2, 3 are A, B, C."""
    for part, person, camera, number in shots():
        letter = "ABC"[camera - 1]
        folder = f"train/{person:03d}/{letter}_" if part == "train" else f"test/{letter}/{person:03d}/"
        photo(root / "rgb" / f"{folder}cropped_rgb{10 * number + len(part):03d}.jpg")
    return root


def write_ltcc(root: Path) -> Path:
    """A person wears one outfit on even pictures, another on odd ones."""
    for part, person, camera, number in shots():
        folder = "test" if part == "gallery" else part
        photo(root / folder / f"{person:03d}_{number % 2}_c{camera}_{number:06d}.png")
    return root


def rows(cameras: bool = True) -> list[dict[str, str]]:
    """Of a table."""
    return [
        {"path": f"{part}/{person}_{camera}_{number}.jpg", "identity": f"p{person}", "split": part}
        | ({"camera": f"gate {camera}"} if cameras else {})
        for part, person, camera, number in shots()
    ]


def write_table(root: Path, entries: list[dict[str, str]]) -> Path:
    """images.csv and its images."""
    for row in entries:
        photo(root / row["path"])
    with (root / "images.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(entries[0]))
        table.writeheader()
        table.writerows(entries)
    return root
