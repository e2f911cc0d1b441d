"""Image files to tensors, and what training does to them."""

from __future__ import annotations

import os
import warnings
from contextlib import nullcontext
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from random import Random
from threading import Lock

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from bdam_reid.data.printable import printable

MEAN = STD = 0.5
"""Of all images in the house; an encoder that was trained with others changes to its own."""


# What photographs come in. Pillow would try 40 decoders on a file, some of which run other programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
HEIC = (".heic", ".heif")
"""Names of such files, which telephones write, end with one of these."""
NO_PHOTOGRAPH = "it is no JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file, or damaged"
"""What is wrong with a file that no decoder knows."""
_LARGE = 25_000_000
"""Pixels of an image whose decoding takes 350 MB at most; of 178 million with transparency it takes 2.3 GB."""
_large = Lock()
# What a whole file ends with, so that most of those that were cut are found without decoding.
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}


class ImageError(ValueError):
    """An image file that cannot be read; the message names it, on one printable line."""

    def __str__(self) -> str:
        return printable(super().__str__())


def reads_heic() -> bool:
    """Whether pillow-heif is installed, which HEIC needs."""
    return find_spec("pillow_heif") is not None


@cache
def _formats() -> tuple[str, ...]:
    if not reads_heic():
        return _FORMATS
    from pillow_heif import register_heif_opener

    register_heif_opener(thumbnails=False)
    return (*_FORMATS, "HEIF")


def open_image(source: Path | str | Image.Image, least: tuple[int, int]) -> Image.Image:
    """An image file, or a picture in memory, as RGB, upright, transparent parts over white.

    Args:
        source: path of the file, or the picture, which stays open.
        least: height and width that it has at least, unless the file has fewer: of a large JPEG file no more pixels
            are decoded than that takes.
    Raises: ImageError if the file is missing, damaged, of more than 178 million pixels, or no photograph (JPEG, PNG,
        WebP, BMP, GIF, TIFF or PPM; HEIC where pillow-heif is installed).
    """
    try:
        if isinstance(source, Image.Image):
            return _as_rgb(ImageOps.exif_transpose(source))
        return _decoded(source, least, None)
    except Exception as error:
        # Damaged files make decoders raise anything, from struct.error to IndexError.
        reason = NO_PHOTOGRAPH if isinstance(error, UnidentifiedImageError) else error
        raise ImageError(f"cannot read the image {source}: {reason}") from error


def read_image(data: bytes, least: tuple[int, int], most: int) -> Image.Image:
    """The image of a file's content, from someone who may mean harm, as `open_image` gives it.

    Args:
        data: the content.
        least: as in `open_image`.
        most: pixels that it may have.
    Raises: ImageError if it has more, is damaged, or no photograph.
    """
    try:
        return _decoded(BytesIO(data), least, most)
    except ImageError:
        raise
    except Exception as error:
        # As in `open_image`.
        raise ImageError("a picture must be a JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file, got another") from error


def _decoded(source: Path | str | BytesIO, least: tuple[int, int], most: int | None) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(source, formats=_formats()) as image:
            if most is not None and image.width * image.height > most:
                raise ImageError(f"a picture must be of {most:,} pixels at most, got {image.width} x {image.height}")
            # Twice the size on both axes, whichever way up the image is: sampling it down stays smooth.
            side = 2 * max(least)
            image.draft("RGB", (side, side))
            # Threads decode large ones in turn: a few small files could fill the memory otherwise.
            with _large if image.width * image.height > _LARGE else nullcontext():
                return _as_rgb(ImageOps.exif_transpose(image))


def image_problem(path: Path) -> str:
    """What is wrong with an image file: "missing", "unreadable" or "". Only its header is read, and its last bytes; a
    JPEG or PNG file that does not end as it must is decoded, to be sure.
    """
    try:
        if not path.is_file():
            return "missing"
    except (OSError, ValueError):
        # A name that the file system does not take.
        return "missing"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=_formats()) as image:
                end = _ENDS.get(image.format or "", b"")
                if end and not _ends_with(path, end):
                    image.load()
    except Exception:
        # As in `open_image`.
        return "unreadable"
    return ""


def _ends_with(path: Path, end: bytes) -> bool:
    with open(path, "rb") as file:
        file.seek(-len(end), os.SEEK_END)
        return file.read() == end


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16 bits of grey: Pillow would cut off all above 255.
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def decode_image(source: Path | str | Image.Image, size: tuple[int, int]) -> Tensor:
    """Read an image file, or take a picture in memory, and resize it.

    Args:
        source: path of the file, or the picture, which stays open.
        size: height and width.
    Returns: (3, H, W) uint8.
    Raises: ImageError as `open_image`.
    """
    height, width = size
    image = open_image(source, size).resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())


def normalise(image: Tensor) -> Tensor:
    """uint8 in any shape to float32 in [-1, 1]."""
    return image.to(torch.float32).div_(255 * STD).sub_(MEAN / STD)


def load_image(source: Path | str | Image.Image, size: tuple[int, int]) -> Tensor:
    """An image as (3, H, W) float32 in [-1, 1], as all methods take them; raises ImageError as `decode_image`."""
    return normalise(decode_image(source, size))


def augment(pixels: Tensor, rng: Random, erase: float) -> Tensor:
    """A variation of an image, (3, H, W) uint8, normalised: mirrored, shifted, relit, and, with the chance `erase`,
    partly erased.

    All choices come from `rng`, so that a resumed run repeats them. What is done in bytes costs a quarter.
    """
    if rng.random() < 0.5:
        pixels = pixels.flip(2)
    image = _relit(_shifted(pixels, rng), rng)
    if rng.random() < erase:
        _erase(image, rng)
    return image


def _shifted(pixels: Tensor, rng: Random, share: float = 1 / 16) -> Tensor:
    """A crop of the image's size out of the image with a grey border around it."""
    height, width = pixels.shape[1:]
    dy, dx = round(height * share), round(width * share)
    top, left = rng.randint(0, 2 * dy), rng.randint(0, 2 * dx)
    return F.pad(pixels, (dx, dx, dy, dy), value=128)[:, top : top + height, left : left + width]


def _relit(pixels: Tensor, rng: Random) -> Tensor:
    """The normalised image in other contrast, brightness and white balance, little enough to leave colours their
    names."""
    contrast, brightness = rng.uniform(0.85, 1.15), rng.uniform(-0.1, 0.1)
    balance = torch.tensor([[[brightness + rng.uniform(-0.04, 0.04)]] for _ in range(3)])
    return torch.add(balance - contrast * MEAN / STD, pixels, alpha=contrast / (255 * STD)).clamp_(-1, 1)


def _erase(image: Tensor, rng: Random) -> None:
    """Put a grey box over 2% to 15% of the image (random erasing, Zhong et al. 2020)."""
    height, width = image.shape[1:]
    area, ratio = rng.uniform(0.02, 0.15) * height * width, rng.uniform(0.5, 2.0)
    h, w = min(height, round((area * ratio) ** 0.5)), min(width, round((area / ratio) ** 0.5))
    top, left = rng.randint(0, height - h), rng.randint(0, width - w)
    image[:, top : top + h, left : left + w] = 0
