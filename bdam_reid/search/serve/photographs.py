"""Photographs of an index as they are shown: small, as JPEG, and none but those that the index lists."""

from __future__ import annotations

import os
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from threading import BoundedSemaphore

from PIL import Image

from bdam_reid.data.images import read_image
from bdam_reid.data.printable import shortened
from bdam_reid.data.records import QueryError
from bdam_reid.search.files import ImageFile
from bdam_reid.search.names import parse_name
from bdam_reid.search.pictures import open_picture
from bdam_reid.search.serve.live import Served

KEPT = 2048
"""Photographs that are kept as they were shown last, of some 10 KB each."""
QUALITY = 85
LONGEST = 1024
"""Pixels of the longer side of a picture that is searched by: more than any model sees, and 4 MB."""
decoding = BoundedSemaphore(4)
"""Pictures that are decoded at a time: each takes up to 350 MB, and large ones more, which take turns."""


class NotThere(QueryError):
    """A photograph that the index does not list, or that is not in its folder any more."""


def jpeg_of(served: Served, path: str, side: int) -> bytes:
    """A photograph as JPEG, no longer or wider than `side` pixels, without what its file says of place and time.

    Raises: NotThere; ImageError if it is damaged now.
    """
    return _jpeg(served.index.folder, photograph(served, path), side)


def picture_of(served: Served, path: str, least: tuple[int, int]) -> Image.Image:
    """A photograph as `open_picture` gives it, but no larger than `LONGEST`. Raises: as `jpeg_of`."""
    image = _opened(served.index.folder, photograph(served, path), least)
    image.thumbnail((LONGEST, LONGEST))
    return image


def sent_picture(data: bytes, least: tuple[int, int], most: int) -> Image.Image:
    """A picture that someone sent as `read_image` gives it, but no larger than `LONGEST`. Raises: ImageError."""
    with decoding:
        image = read_image(data, least, most)
    image.thumbnail((LONGEST, LONGEST))
    return image


def photograph(served: Served, path: str) -> ImageFile:
    """The file of a path. Raises: NotThere if the index does not list it."""
    row = served.row(path)
    if row is None:
        raise NotThere(f"a photograph must be one of the index, got {shortened(path)!r}")
    return served.index.image(row)


@lru_cache(KEPT)
def _jpeg(folder: Path, file: ImageFile, side: int) -> bytes:
    image, written = _opened(folder, file, (side, side)), BytesIO()
    image.thumbnail((side, side))
    image.save(written, "JPEG", quality=QUALITY)
    return written.getvalue()


def _opened(folder: Path, file: ImageFile, least: tuple[int, int]) -> Image.Image:
    root = folder.resolve()
    place = root / parse_name(file.path).file
    # The index has no links, but one may have been put where a photograph was.
    if os.path.realpath(place) != str(place) or not place.is_file():
        raise NotThere(f"the photograph {shortened(file.path)!r} is not in its folder any more")
    with decoding:
        return open_picture(root, file.path, least)
