"""Small files of attributes in the published forms, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from data_files import write_image
from scipy.io import savemat

Part = dict[str, Any]

# As the published files have them.
COLOURS = {
    "market": ("black blue brown gray green pink purple white yellow", "black blue green gray purple red white yellow"),
    "duke": ("black white red gray blue green brown", "black white red purple gray blue green brown"),
}


def fields(others: str, of: str) -> list[str]:
    """Names of fields, of which those of colours come last."""
    spread = zip(("down", "up"), COLOURS[of], strict=True)
    return [*others.split(), *(prefix + colour for prefix, colours in spread for colour in colours.split())]


MARKET_FIELDS = fields("age backpack bag handbag clothes down up hair hat gender", "market")
DUKE_FIELDS = fields("backpack bag handbag boots gender hat shoes top", "duke")


def part(fields: Sequence[str], persons: Sequence[str], values: Mapping[str, Sequence[float]]) -> Part:
    """A part of a struct: every field is 1 for every person, but for those given; the persons come last."""
    columns: Part = {name: np.array(values.get(name, [1] * len(persons)), dtype=float) for name in fields}
    return {**columns, "image_index": np.array(persons, dtype=object)}


def write_market(path: Path, train: Part, test: Part) -> Path:
    """The fields of the test part are in another order, as in the published file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"market_attribute": {"test": dict(reversed(test.items())), "train": train}})
    return path


def market_parts() -> tuple[Part, Part]:
    """Persons 2, 7, 11, 12 for training, 3 and 1501 for a test."""
    train = part(
        MARKET_FIELDS,
        ["0002 ", "0007", "0011", "0012"],
        {"age": [1, 2, 3, 4], "up": [1, 2, 2, 2], "hat": [1, 2, 1, 1], "upblack": [2, 1, 1, 1], "upred": [1, 1, 2, 2]},
    )
    train["upblue"][3] = 2  # the last is labelled with two colours
    test = part(MARKET_FIELDS, ["0003", " 1501"], {"gender": [2, 1], "clothes": [1, 2], "downbrown": [1, 2]})
    return train, test


def shade(person: int) -> int:
    """Another one for each person."""
    return 37 * person % 256


def write_images(root: Path, training: tuple[int, ...] = (2, 7, 11, 12)) -> Path:
    """A set in Market's layout, with a person 9 of the test who has no labels."""
    for person in training:
        for camera in (1, 2):
            write_image(root / "bounding_box_train" / f"{person:04d}_c{camera}s1_000001_01.jpg", shade(person))
    for folder, camera in (("query", 1), ("bounding_box_test", 2)):
        for person in (3, 9, 1501):
            write_image(root / folder / f"{person:04d}_c{camera}s1_000001_01.jpg", shade(person))
    write_image(root / "bounding_box_test" / "0000_c1s1_000001_01.jpg")
    return root
