"""Folders of small photographs, and an embedder of them that needs no training, for tests of the index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from image_files import photo
from PIL import Image
from torch import Tensor

from bdam_reid.data.images import decode_image
from bdam_reid.data.records import Clothes
from bdam_reid.search.files import Refused
from bdam_reid.search.index.update import Report, update_index
from bdam_reid.search.query import unit_parts
from bdam_reid.search.table import Table

NO_TABLE = Table()
PARTS = {"identity": slice(0, 6), "clothing": slice(6, 12)}


class Colours:
    """Embeds an image as its first twelve values: as fast as it is read, and no two photographs alike."""

    parts = PARTS
    image_size = (4, 4)
    fingerprint = "colours"
    weights: dict[Clothes, Mapping[str, float]] = {  # noqa: RUF012
        "same": {"identity": 1.0, "clothing": 0.5},
        "other": {"identity": 1.0, "clothing": 0.0},
    }

    def __init__(self) -> None:
        self.seen = 0

    def embed_pixels(self, pixels: Tensor) -> Tensor:
        self.seen += len(pixels)
        return pixels.flatten(1)[:, :12].float() / 255


def vector_of(image: Path | Image.Image) -> Tensor:
    """The embedding of an image, by itself, each part at unit length."""
    return unit_parts(Colours().embed_pixels(decode_image(image, Colours.image_size)[None])[0], PARTS)


def reasons_of(refused: Iterable[Refused]) -> dict[str, str]:
    return {entry.path: entry.reason for entry in refused}


def write_photos(folder: Path, *names: str) -> Path:
    for name in names:
        photo(folder / name)
    return folder


def update(
    index: Path,
    folder: Path,
    table: Table = NO_TABLE,
    embedder: Colours | None = None,
    frames_per_second: float = 1.0,
    detect: bool = False,
) -> Report:
    return update_index(index, folder, embedder or Colours(), "nowhere", table, frames_per_second, detect)
