"""CLIP behind convolutions: a small ViT alone learns little from thousands of images.

A pair of this kind is a CLIP in all but its patch embedding, and is saved and loaded as one; its config.json states the
type "stem_clip". Sources: Radford et al. 2021 (CLIP); Xiao et al., NeurIPS 2021 (convolutions before a ViT).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    PreTrainedModel,
)
from transformers.models.clip.modeling_clip import CLIPVisionEmbeddings

from bdam_reid.encoders.config import STEM_GROUPS


class Stem(nn.Sequential):
    """Convolutions of stride 2 and a linear layer, which make a token of a square of pixels as a patch embedding does.

    Each convolution is twice as wide as the one before, the last as wide as the tokens. Groups of channels are
    normalised instead of batches: what is frozen then gives the same in training, whatever else is in a batch.

    Args:
        config: its `patch_size` is 2 to the number of convolutions; its `hidden_size` is the width of the tokens.
    """

    def __init__(self, config: CLIPVisionConfig) -> None:
        assert isinstance(config.patch_size, int)
        steps = range(config.patch_size.bit_length() - 1)
        widths = [config.num_channels, *(config.hidden_size >> step for step in reversed(steps))]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            convolution = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
            layers += [convolution, nn.GroupNorm(STEM_GROUPS, after), nn.ReLU()]
        super().__init__(*layers, nn.Conv2d(config.hidden_size, config.hidden_size, 1, bias=False))
        self.patch = config.patch_size

    @property
    def weight(self) -> Tensor:
        """Of the last layer: CLIP looks at its patch embedding's for the precision of images."""
        last = self[-1]
        assert isinstance(last, nn.Conv2d)
        return last.weight

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) -> (B, width, H // patch, W // patch): what does not fill a patch is not seen."""
        height, width = (side - side % self.patch for side in images.shape[-2:])
        return super().forward(images[..., :height, :width].contiguous(memory_format=torch.channels_last))


def _put_stem(model: PreTrainedModel, config: CLIPVisionConfig) -> None:
    for part in model.modules():
        if isinstance(part, CLIPVisionEmbeddings):
            part.patch_embedding = Stem(config)  # type: ignore[assignment]


class StemCLIPConfig(CLIPConfig):
    """Of a pair; the config of its images is CLIP's own."""

    model_type = "stem_clip"


class StemCLIPVisionModel(CLIPVisionModel):
    """CLIP's image encoder behind convolutions."""

    base_model_prefix = "vision_model"
    """Of its weights in the file of a pair."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__(config)
        _put_stem(self, config)


class StemCLIPVisionModelWithProjection(CLIPVisionModelWithProjection):
    """CLIP's image encoder behind convolutions, with its projection into the space of the pair."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__(config)
        _put_stem(self, config)


class StemCLIPModel(CLIPModel):
    """The pair."""

    config_class = StemCLIPConfig

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__(config)
        assert isinstance(config.vision_config, CLIPVisionConfig)
        _put_stem(self, config.vision_config)


AutoConfig.register(StemCLIPConfig.model_type, StemCLIPConfig)
