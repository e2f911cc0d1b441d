"""An image tower whose last layers have experts."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection, ViTModel

from bdam_reid.encoders.config import ImageEncoderConfig
from bdam_reid.encoders.image import CLIP, ImageEncoder
from bdam_reid.methods.mosaic.experts import ExpertLayer, ExpertLinear


class ExpertTower(nn.Module):
    """A CLIP or ViT. Its feature is the class token after the last norm, and after CLIP's projection if it is
    `projected`: without experts that of `ImageEncoder`, to rounding.

    The tower is divided: what lies below the first layer with experts gives tokens that no expert changes, so that they
    can be kept.

    Args:
        config: of the tower; a frozen one trains its experts alone.
        image_size: height and width, in pixels.
        layers: how many have experts, the last ones.
        experts: E.
        rank: of each expert.
        architecture: folder of `save_architecture`, if there is one and the weights will come from a checkpoint.
    Raises: ValueError if the tower cannot be loaded, is of another kind, or has fewer layers.
    """

    def __init__(
        self,
        config: ImageEncoderConfig,
        image_size: tuple[int, int],
        layers: int,
        experts: int,
        rank: int,
        architecture: Path | None = None,
    ) -> None:
        super().__init__()
        self.encoder = ImageEncoder(config, image_size, architecture)
        self.width = self.encoder.features
        model = self.encoder.model
        if not isinstance(model, (*CLIP, ViTModel)):
            raise ValueError(
                f"--method.image.pretrained must be a CLIP or ViT to have experts, got a {type(model).__name__}"
            )
        found = next(part for part in model.modules() if isinstance(part, nn.ModuleList))
        if layers > len(found):
            raise ValueError(f"--method.experts.layers must be at most {len(found)}, those of the tower, got {layers}")
        first = len(found) - layers
        self.layers = nn.ModuleList(ExpertLayer(found.pop(first), experts, rank) for _ in range(layers))
        if layers:
            _end_in_class_token(self.layers[-1])
        # What follows the layers is moved too: what is left of the model ends in tokens.
        self.projection: nn.Module = nn.Identity()
        if isinstance(model, CLIPVisionModelWithProjection):
            self.norm = _moved(model.vision_model, "post_layernorm")
            self.projection = _moved(model, "visual_projection")
        else:
            self.norm = _moved(model, "layernorm" if isinstance(model, ViTModel) else "post_layernorm")
        self.train()

    def train(self, mode: bool = True) -> ExpertTower:
        """Switch dropout on or off; a frozen tower has none."""
        super().train(mode)
        if self.encoder.frozen:
            for part in self.modules():
                # Layers that keep nothing but their inputs in training must know that it is training.
                part.training = mode and isinstance(part, ExpertLayer)
        return self

    def forward(self, images: Tensor, weights: Tensor | None = None) -> Tensor:
        """images (B, 3, H, W) in [-1, 1], weights of the experts as `above` has them -> features (B, width)."""
        return self.above(self.below(images), weights)

    def below(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) in [-1, 1] -> tokens before the first layer with experts, (B, L, D)."""
        encoder = self.encoder
        pixels = images if encoder.as_they_are else images * encoder.scale + encoder.shift
        return encoder.model(pixel_values=pixels, interpolate_pos_encoding=encoder.interpolate).last_hidden_state

    def above(self, tokens: Tensor, weights: Tensor | None) -> Tensor:
        """Tokens of `below` (B, L, D), weights of the experts (B, E), or (1, E) for all images alike, or None ->
        features (B, width)."""
        for layer in self.layers:
            tokens = layer(tokens, weights)
        return self.projection(self.norm(tokens[:, 0]))

    def new(self) -> list[nn.Parameter]:
        """The parameters of the experts, which no published tower has."""
        parts = (part for part in self.modules() if isinstance(part, ExpertLinear))
        return [weight for part in parts for weight in (part.down, part.up)]


def _end_in_class_token(layer: nn.Module) -> None:
    """Let the MLP of a layer read the class token alone, as nothing else is read of the last layer: the MLP is most of
    its work. What the layer gives of other tokens then means nothing."""
    norm = next(part for name, part in layer.named_modules() if name.endswith(("layer_norm2", "layernorm_after")))
    norm.register_forward_pre_hook(lambda _, inputs: (inputs[0][:, :1],))


def _moved(parent: nn.Module, name: str) -> nn.Module:
    """A child that is taken out of its parent, which passes on what it would have changed."""
    child = parent.get_submodule(name)
    setattr(parent, name, nn.Identity())
    return child
