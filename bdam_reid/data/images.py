"""Image files to tensors, and what training does to them."""

from __future__ import annotations

import struct
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

MEAN = STD = 0.5
"""Of all images in the house; an encoder that was trained with others changes to its own."""


class ImageError(ValueError):
    """An image file that cannot be read; the message names it."""


def decode_image(source: Path | str | Image.Image, size: tuple[int, int]) -> Tensor:
    """Read an image file as RGB, or take a picture in memory, and resize it.

    Args:
        source: path of the file, or the picture, which stays open.
        size: height and width.
    Returns: (3, H, W) uint8.
    Raises: ImageError if the file is missing, truncated, or no image.
    """
    try:
        if isinstance(source, Image.Image):
            pixels = _pixels(source, size)
        else:
            with Image.open(source) as image:
                pixels = _pixels(image, size)
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise ImageError(f"cannot read the image {source}: {error}") from error
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def _pixels(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    return np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))


def normalise(image: Tensor) -> Tensor:
    """uint8 in any shape to float32 in [-1, 1]."""
    return image.to(torch.float32).div_(255 * STD).sub_(MEAN / STD)


def load_image(source: Path | str | Image.Image, size: tuple[int, int]) -> Tensor:
    """An image as (3, H, W) float32 in [-1, 1], as all methods take them; raises ImageError as `decode_image`."""
    return normalise(decode_image(source, size))


def augment(image: Tensor, rng: Random) -> Tensor:
    """A variation of a normalised image, (3, H, W): mirrored, shifted, relit, partly erased.

    All choices come from `rng`, so that a resumed run repeats them.
    """
    if rng.random() < 0.5:
        image = image.flip(2)
    image = _shift(image, rng)
    image = _relight(image, rng)
    if rng.random() < 0.3:
        image = _erase(image, rng)
    return image


def _shift(image: Tensor, rng: Random, share: float = 1 / 16) -> Tensor:
    """A crop of the image's size out of the image with a grey border around it."""
    height, width = image.shape[1:]
    dy, dx = round(height * share), round(width * share)
    top, left = rng.randint(0, 2 * dy), rng.randint(0, 2 * dx)
    return F.pad(image, (dx, dx, dy, dy))[:, top : top + height, left : left + width]


def _relight(image: Tensor, rng: Random) -> Tensor:
    """Other contrast, brightness and white balance, little enough to leave colours their names."""
    contrast, brightness = rng.uniform(0.85, 1.15), rng.uniform(-0.1, 0.1)
    balance = torch.tensor([brightness + rng.uniform(-0.04, 0.04) for _ in range(3)])
    return (image * contrast + balance[:, None, None]).clamp_(-1, 1)


def _erase(image: Tensor, rng: Random) -> Tensor:
    """A grey box over 2% to 15% of the image (random erasing, Zhong et al. 2020)."""
    height, width = image.shape[1:]
    area, ratio = rng.uniform(0.02, 0.15) * height * width, rng.uniform(0.5, 2.0)
    h, w = min(height, round((area * ratio) ** 0.5)), min(width, round((area / ratio) ** 0.5))
    top, left = rng.randint(0, height - h), rng.randint(0, width - w)
    image = image.clone()
    image[:, top : top + h, left : left + w] = 0
    return image
