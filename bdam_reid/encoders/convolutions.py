"""An image encoder of few convolutions, which learns from thousands of images where a transformer needs millions."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from bdam_reid.encoders.config import ImageEncoderConfig


class Convolutions(nn.Module):
    """Convolutions of stride 2 over the image, and over the region of the head.

    The head is what tells persons apart whatever they wear, and small: glasses vanish at half the size.

    Args:
        config: width, layers, and whether the head has layers of its own.
        image_size: (height, width) of the images in pixels.
    Raises: ValueError if the images are too small.

    Attributes:
        grids: rows and columns of the tokens, of the image and then of the head.
        width: of the tokens.
    """

    def __init__(self, config: ImageEncoderConfig, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.width, self.head_crop = config.width, config.head_crop
        height, width = image_size
        self.head_rows, self.head_columns = round(height * 5 / 12), slice(width // 4, width - width // 4)
        sizes = [(height, width)]
        if config.head_crop:
            sizes = [(height // 2, width // 2), (self.head_rows, width - 2 * (width // 4))]
        self.grids = tuple(_grid(size, config.layers) for size in sizes)
        self.towers = nn.ModuleList(_tower(config) for _ in sizes)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) in [-1, 1] -> tokens (B, L, width), row by row, those of the image first."""
        views = [images]
        if self.head_crop:
            views = [_halved(images), images[:, :, : self.head_rows, self.head_columns]]
        maps = [
            tower(view.contiguous(memory_format=torch.channels_last))
            for tower, view in zip(self.towers, views, strict=True)
        ]
        return torch.cat([features.flatten(2).transpose(1, 2) for features in maps], dim=1)


def _halved(images: Tensor) -> Tensor:
    """The means of squares of four pixels. On a CPU twice as fast as torch's pooling, which does not vectorise this."""
    rows = images[:, :, : images.shape[2] // 2 * 2 : 2] + images[:, :, 1::2]
    return (rows[..., : rows.shape[3] // 2 * 2 : 2] + rows[..., 1::2]) / 4


def _tower(config: ImageEncoderConfig) -> nn.Sequential:
    widths = [3, *(config.width >> step for step in reversed(range(config.layers)))]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers)


def _grid(size: tuple[int, int], layers: int) -> tuple[int, int]:
    rows, columns = (-(-side // 2**layers) for side in size)
    if min(size) < 2**layers:
        raise ValueError(f"{layers} layers of stride 2 need at least {2**layers} pixels a side, got {size}")
    return rows, columns
