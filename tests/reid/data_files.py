"""Small data sets in the published forms, for tests."""

import json
from pathlib import Path

import numpy as np
from PIL import Image


def write_image(path: Path, shade: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((20, 10, 3), shade, np.uint8)
    pixels[:10] = 255 - shade
    Image.fromarray(pixels).save(path)


def entry(split: str, identity: int, number: int = 0, **changes: object) -> dict:
    """A record in the form of CUHK-PEDES."""
    return {
        "split": split,
        "captions": [f"A man {identity} with black hair.", f"A man in a red shirt {number}."],
        "file_path": f"cam/{identity:04d}_{number}.jpg",
        "processed_tokens": [[], []],
        "id": identity,
        **changes,
    }


def entries() -> list[dict]:
    """Four training persons with one to four images, two of each other split with two images."""
    train = [entry("train", 1 + i, n) for i in range(4) for n in range(i + 1)]
    people = ((split, 10 * k + i) for k, split in ((1, "val"), (2, "test")) for i in range(2))
    return train + [entry(split, person, n) for split, person in people for n in range(2)]


def write_set(root: Path, records: list, index: str = "reid_raw.json", path_key: str = "file_path") -> Path:
    for number, record in enumerate(records):
        if isinstance(record, dict) and isinstance(record.get(path_key), str):
            write_image(root / "imgs" / record[path_key], 40 + 7 * (number % 25))
    root.mkdir(exist_ok=True)
    (root / index).write_text(json.dumps(records))
    return root
