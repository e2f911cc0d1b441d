"""The pictures of a gallery by their names."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from bdam_reid.data.images import ImageError, open_image
from bdam_reid.data.printable import shortened
from bdam_reid.search.videos import frame_at, parse_name


def open_picture(folder: Path, name: str, least: tuple[int, int]) -> Image.Image:
    """A picture of a gallery as `open_image` gives it.

    Args:
        folder: of the gallery.
        name: of the picture, as the index has it: the path of a photograph, or a frame of a video.
        least: height and width that it has at least, unless its file has fewer.
    Raises: ImageError, which does not say where the folder is: that is nobody's business who searches it from
        elsewhere.
    """
    file, seconds = parse_name(name)
    try:
        return open_image(folder / file, least) if seconds is None else frame_at(folder / file, seconds)
    except ImageError as error:
        raise ImageError(f"a photograph of the index cannot be read any more: {shortened(name)!r}") from error
