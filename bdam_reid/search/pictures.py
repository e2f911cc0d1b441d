"""The pictures of a gallery: which of them a file holds, and each by its name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from bdam_reid.data.images import ImageError, open_image
from bdam_reid.data.printable import shortened
from bdam_reid.search.detection import persons
from bdam_reid.search.names import box_name, frame_name, parse_name
from bdam_reid.search.videos import frame_at, frames, is_video

WHOLE = (1 << 20, 1 << 20)
"""More pixels than any image has: it is decoded at its full size."""


def pictures_of(folder: Path, file: str, per_second: float, detect: bool) -> Iterator[tuple[str, Image.Image]]:
    """Names and pictures, RGB and upright, of an image or a video.

    Args:
        folder: of the gallery.
        file: within it.
        per_second: how many frames are taken of a video.
        detect: whether persons are looked for, and are the pictures; else images and frames are.
    Raises: ImageError, before or between pictures, if the file cannot be read, or no person is found in it.
    """
    found = False
    for name, picture in _whole_pictures(folder, file, per_second):
        if not detect:
            yield name, picture
            continue
        for box in persons(picture):
            found = True
            yield box_name(name, box), picture.crop(box)
    if detect and not found:
        raise ImageError("no person was found in it")


def _whole_pictures(folder: Path, file: str, per_second: float) -> Iterator[tuple[str, Image.Image]]:
    if not is_video(file):
        yield file, open_image(folder / file, WHOLE)
        return
    for frame in frames(folder / file, per_second):
        yield frame_name(file, frame.seconds), frame.image


def open_picture(folder: Path, name: str, least: tuple[int, int]) -> Image.Image:
    """A picture of a gallery as `open_image` gives it.

    Args:
        folder: of the gallery.
        name: of the picture, as the index has it: the path of a photograph, a frame of a video, or a part of either.
        least: height and width that it has at least, unless its file has fewer.
    Raises: ImageError, also for a part of a picture that is smaller now, which does not say where the folder is: that
        is nobody's business who searches it from elsewhere.
    """
    file, seconds, box = parse_name(name)
    try:
        if seconds is not None:
            picture = frame_at(folder / file, seconds)
        else:
            picture = open_image(folder / file, WHOLE if box else least)
        if box and not (box.right <= picture.width and box.bottom <= picture.height):
            raise ImageError(f"a picture of {picture.width} x {picture.height} has no part {box}")
    except ImageError as error:
        raise ImageError(f"a photograph of the index cannot be read any more: {shortened(name)!r}") from error
    return picture.crop(box) if box else picture
