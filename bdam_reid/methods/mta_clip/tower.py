"""CLIP's image tower with what MTA-CLIP adds to it: the adapter, the cameras, overlapping patches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionModelWithProjection

from bdam_reid.encoders.config import ImageEncoderConfig
from bdam_reid.encoders.image import ImageEncoder
from bdam_reid.methods.mta_clip.adapter import SemanticGrouping
from bdam_reid.methods.mta_clip.config import WHOLE, TowerConfig

UNKNOWN = -1
"""Number of a camera that is not known, or was not trained on."""


class Features(NamedTuple):
    """What the tower gives of B images."""

    own: Tensor
    """After the last norm, (B, D)."""
    projected: Tensor
    """In the space of texts, (B, E)."""


class ImageTower(nn.Module):
    """CLIP's image tower. Its feature is the class token, to which the mean of the patches is added if there is an
    adapter, through the last norm, and that through the projection.

    Args:
        clip: hub name or folder of a CLIP.
        config: what is added.
        image_size: height and width, in pixels.
        cameras: how many are told apart; 0 for none.
        architecture: folder of `save_architecture`, if there is one and the weights will come from a checkpoint.
    Raises: ValueError if `clip` is no CLIP, or sizes do not fit it.

    Attributes:
        grid: rows and columns of patches.
        width, features: D and E of `Features`.
        blocks: how many it has.
    """

    def __init__(
        self,
        clip: str,
        config: TowerConfig,
        image_size: tuple[int, int],
        cameras: int,
        architecture: Path | None = None,
    ) -> None:
        super().__init__()
        self.encoder = ImageEncoder(
            ImageEncoderConfig(pretrained=clip, projected=True), image_size, architecture
        )  # fmt: skip
        self.width, self.features = self.model.config.hidden_size, self.model.config.projection_dim
        self.blocks: int = self.model.config.num_hidden_layers
        self.stride, (self.grid,) = config.stride, self.encoder.grids
        if config.stride:
            self.grid = overlap(self.model.vision_model.embeddings.patch_embedding, config.stride, image_size)
        self.pools_patches = config.adapter != "none"
        self.adapter = SemanticGrouping(self.width, config.groups) if config.adapter == "sga" else None
        self.cameras: nn.Parameter | None = None
        if cameras:
            self.cameras = nn.Parameter(nn.init.trunc_normal_(torch.empty(cameras, self.width), std=0.02))

    @property
    def model(self) -> CLIPVisionModelWithProjection:
        """The CLIP's."""
        model = self.encoder.model
        if not isinstance(model, CLIPVisionModelWithProjection):
            raise ValueError(f"--method.clip must be a CLIP, got a {type(model).__name__}")
        return model

    def forward(self, images: Tensor, cameras: Tensor | None = None) -> Features:
        """images (B, 3, H, W) in [-1, 1], numbers of their cameras (B,), UNKNOWN or None where they are not known."""
        tokens = self.tokens(images, cameras)
        if not self.pools_patches:
            return self.finish(tokens[:, 0])
        patches = tokens[:, 1:]
        adapted = patches if self.adapter is None else self.adapter(patches)
        return self.finish(tokens[:, 0] + adapted.mean(dim=1))

    def published(self, images: Tensor) -> Features:
        """The features of the CLIP itself, without what is added to it, of images (B, 3, H, W) in [-1, 1]."""
        return self.finish(self._encoded(self._embedded(images))[:, 0])

    def tokens(self, images: Tensor, cameras: Tensor | None = None) -> Tensor:
        """As `forward` reads them -> class token and patch tokens before the last norm, (B, 1 + N, D)."""
        tokens = self._embedded(images)
        if self.cameras is not None:
            tokens = torch.cat((tokens[:, :1] + self._seen_by(cameras, len(images)), tokens[:, 1:]), dim=1)
        return self._encoded(tokens)

    def alike(self, tokens: Tensor) -> Tensor:
        """How alike each patch is to the whole image: their cosine in the space of texts, of class token and patch
        tokens before the last norm, (B, 1 + N, D) -> (B, N)."""
        whole = tokens[:, 0] + tokens[:, 1:].mean(dim=1) if self.pools_patches else tokens[:, 0]
        patches = self.finish(tokens[:, 1:]).projected
        return F.cosine_similarity(patches, self.finish(whole).projected[:, None], dim=2)

    def finish(self, feature: Tensor) -> Features:
        """Features before the last norm, (..., D)."""
        own = self.model.vision_model.post_layernorm(feature)
        return Features(own, self.model.visual_projection(own))

    def _embedded(self, images: Tensor) -> Tensor:
        """Class and patch tokens with their positions, (B, 1 + N, D)."""
        embeddings, encoder = self.model.vision_model.embeddings, self.encoder
        pixels = images if encoder.as_they_are else images * encoder.scale + encoder.shift
        if not self.stride:
            return embeddings(pixels, interpolate_pos_encoding=encoder.interpolate)
        patches = embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat((embeddings.class_embedding.expand(len(images), 1, -1), patches), dim=1)
        # It divides a size by that of a patch: there are as many patches as if they lay side by side.
        height, width = (number * embeddings.patch_size for number in self.grid)
        return tokens + embeddings.interpolate_pos_encoding(tokens, height, width)

    def _encoded(self, tokens: Tensor) -> Tensor:
        """Through all blocks."""
        vision = self.model.vision_model
        return vision.encoder(inputs_embeds=vision.pre_layrnorm(tokens)).last_hidden_state

    def _seen_by(self, cameras: Tensor | None, images: int) -> Tensor:
        """What the class tokens are told of the cameras, (B, 1, D) or (1, 1, D): of unknown ones, the mean of all."""
        assert self.cameras is not None
        mean = self.cameras.mean(dim=0)
        if cameras is None:
            return mean.expand(images, 1, -1)
        return torch.where((cameras == UNKNOWN)[:, None], mean, self.cameras[cameras.clamp(min=0)])[:, None]

    def new(self) -> Iterator[nn.Parameter]:
        """What no CLIP has."""
        if self.adapter is not None:
            yield from self.adapter.parameters()
        if self.cameras is not None:
            yield self.cameras

    def last(self, blocks: int) -> Iterator[nn.Parameter]:
        """Of the CLIP, the last so many blocks, the last norm and the projection; all of it for WHOLE."""
        if blocks == WHOLE:
            yield from self.model.parameters()
            return
        vision = self.model.vision_model
        for part in (
            *vision.encoder.layers[self.blocks - blocks :],
            vision.post_layernorm,
            self.model.visual_projection,
        ):
            yield from part.parameters()


def overlap(patch_embedding: nn.Module, stride: int, image_size: tuple[int, int]) -> tuple[int, int]:
    """Let the patches of a CLIP overlap; gives their rows and columns.

    Source: TransReID (He et al., ICCV 2021).

    Args:
        patch_embedding: the convolution that makes tokens of patches.
        stride: pixels from one patch to the next.
        image_size: height and width, in pixels.
    Raises: ValueError if tokens are not made by one convolution, or the patches would not overlap.
    """
    if not isinstance(patch_embedding, nn.Conv2d):
        raise ValueError(
            f"--method.tower.stride needs a CLIP whose patch tokens are made by one convolution, got a "
            f"{type(patch_embedding).__name__}: leave it 0"
        )
    size = patch_embedding.kernel_size[0]
    if stride >= size:
        raise ValueError(f"--method.tower.stride must be below {size}, the size of a patch, got {stride}")
    patch_embedding.stride = (stride, stride)
    height, width = image_size
    return (height - size) // stride + 1, (width - size) // stride + 1
