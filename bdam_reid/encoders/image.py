"""Image encoders from transformers: pre-trained ones by name or folder, or small ones from sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    Dinov2Model,
    Dinov2WithRegistersModel,
    PreTrainedModel,
    ViTConfig,
    ViTModel,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from bdam_reid.data.images import MEAN, STD
from bdam_reid.encoders.base import (
    IMAGE_MODELS,
    PROJECTED_IMAGE_MODELS,
    Encoded,
    Encoder,
    load,
    preprocessor,
    sizes,
)
from bdam_reid.encoders.config import EFFICIENTNET, ImageEncoderConfig
from bdam_reid.encoders.convolutions import Convolutions
from bdam_reid.encoders.efficientnet import EfficientNetLite
from bdam_reid.encoders.stem_clip import StemCLIPVisionModel, StemCLIPVisionModelWithProjection


def image_encoder(
    config: ImageEncoderConfig, image_size: tuple[int, int], architecture: Path | None = None
) -> ImageEncoder | EfficientNetLite | Convolutions:
    """What the config asks for; all kinds have a `width`, and `grids` of their tokens. Arguments and errors are those
    of `ImageEncoder`."""
    if config.kind == "convolutions":
        return Convolutions(config, image_size)
    if config.pretrained == EFFICIENTNET:
        return EfficientNetLite(config, image_size, architecture)
    return ImageEncoder(config, image_size, architecture)


CLIP = (CLIPVisionModel, CLIPVisionModelWithProjection)
DINO = (Dinov2Model, Dinov2WithRegistersModel)


class ImageEncoder(Encoder):
    """Vision transformer that gives the patch tokens, without [CLS] and registers.

    A pre-trained encoder sees images of another size than its own through interpolated position embeddings, and in
    the mean and standard deviation that it was trained with. Its global feature is the [CLS] token after the last
    norm, and of SigLIP, which has none, what its head pools. Projected, CLIP's tokens and global feature are both
    after the last norm and the projection; SigLIP's head is its projection, and the tokens stay as they are.

    Args:
        config: what to load or build.
        image_size: (height, width) of the images in pixels.
        architecture: folder of `save_architecture`, if there is one and the weights will come from a checkpoint.
    Raises: ValueError if the encoder cannot be loaded, or the images do not fit it.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self, config: ImageEncoderConfig, image_size: tuple[int, int], architecture: Path | None = None
    ) -> None:
        name = config.pretrained
        models = PROJECTED_IMAGE_MODELS if config.projected else IMAGE_MODELS
        model = load("image", name, models, architecture) if name else _from_scratch(config, image_size)
        projects = isinstance(model, CLIPVisionModelWithProjection)
        super().__init__(model, model.config.projection_dim if projects else model.config.hidden_size, config.frozen)
        patch, native = _pair(model.config.patch_size), _pair(model.config.image_size)
        rows, columns = image_size[0] // patch[0], image_size[1] // patch[1]
        if rows == 0 or columns == 0:
            raise ValueError(f"images (height, width) must hold a patch of {patch}, got {image_size}")
        self.patches = rows * columns
        self.grids = ((rows, columns),)
        self.interpolate = image_size != native
        if self.interpolate and (native[0] != native[1] or patch[0] != patch[1]):
            raise ValueError(
                f"image encoder {name!r} is made for images of {native} in patches of {patch}, and only "
                f"square ones can be used at another size: set the image size to that, got {image_size}"
            )
        mean, std = _mean_and_std(preprocessor(str(architecture or name)) if name else {}, model)
        self.mean, self.std = mean, std
        self.as_they_are = (mean, std) == ([MEAN] * 3, [STD] * 3)
        # Not persistent: they belong to the encoder's name, and checkpoints have the names of its weights only.
        self.register_buffer("scale", STD / torch.tensor(std).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", (MEAN - torch.tensor(mean).view(3, 1, 1)) / STD * self.scale, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) in [-1, 1] -> patch tokens (B, L, width), row by row."""
        return self.encode(images).tokens

    def encode(self, images: Tensor) -> Encoded:
        """images (B, 3, H, W) in [-1, 1] -> patch tokens (B, L, width), row by row, and global features (B, width)."""
        if not self.as_they_are:
            images = images * self.scale + self.shift
        # DINOv2 interpolates by itself.
        options = {} if isinstance(self.model, DINO) else {"interpolate_pos_encoding": self.interpolate}
        output = self.model(pixel_values=images, **options)
        patches = output.last_hidden_state[:, -self.patches :]
        if isinstance(self.model, CLIPVisionModelWithProjection):
            normed = self.model.vision_model.post_layernorm(patches)
            return Encoded(self.model.visual_projection(normed), output.image_embeds)
        if isinstance(self.model, ViTModel):
            return Encoded(patches, output.last_hidden_state[:, 0])
        return Encoded(patches, output.pooler_output)


def _from_scratch(config: ImageEncoderConfig, image_size: tuple[int, int]) -> PreTrainedModel:
    if config.kind == "clip":
        kind = StemCLIPVisionModelWithProjection if config.projected else StemCLIPVisionModel
        # CLIP's positions are those of a square, from which it interpolates those of other images.
        return kind(
            CLIPVisionConfig(
                **sizes("image", config),
                image_size=max(image_size),
                patch_size=config.patch_height,
                projection_dim=config.width,
                hidden_act="gelu",
            )
        )
    return ViTModel(
        ViTConfig(
            **sizes("image", config),
            image_size=image_size,
            patch_size=(config.patch_height, config.patch_width),
        ),
        add_pooling_layer=False,
    )


def _mean_and_std(processor: Mapping[str, Any], model: PreTrainedModel) -> tuple[list[float], list[float]]:
    """Of the three channels in [0, 1]; an encoder that comes without them has those of its kind."""
    mean: Sequence[float]
    std: Sequence[float]
    mean, std = [MEAN] * 3, [STD] * 3
    if isinstance(model, CLIP):
        mean, std = OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
    elif isinstance(model, DINO):
        mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    return list(processor.get("image_mean", mean)), list(processor.get("image_std", std))


def _pair(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
