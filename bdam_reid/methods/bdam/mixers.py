"""What mixes tokens of images and of texts, and what brings both to one width: parts of fusion and of re-ranking."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bdam_kernels import Mamba
from bdam_reid.methods.bdam.config import FusionConfig, MixerConfig, RerankConfig


class MambaStack(nn.Module):
    """x + dropout(Mamba(x)) a layer. What comes later in a sequence has no part in what comes before."""

    def __init__(self, config: MixerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Mamba(config.width, d_state=config.d_state, d_conv=config.d_conv) for _ in range(config.layers)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """tokens (B, L, D), mask (B, L) bool, which must be True before it is False -> (B, L, D)."""
        for layer in self.layers:
            tokens = tokens + self.dropout(layer(tokens))
        return tokens


class TransformerStack(nn.Module):
    """Layers of a transformer's encoder. Raises: ValueError if the heads do not divide the width."""

    def __init__(self, config: MixerConfig) -> None:
        super().__init__()
        if config.width % config.heads:
            raise ValueError(f"the heads of a mixer must divide the width {config.width}, got {config.heads} heads")
        layer = nn.TransformerEncoderLayer(
            config.width, config.heads, 4 * config.width, config.dropout, "gelu", batch_first=True
        )
        self.layers = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """tokens (B, L, D), mask (B, L) bool, True = real token; None if all are real -> (B, L, D)."""
        return self.layers(tokens, src_key_padding_mask=None if mask is None else ~mask)


def make_mixer(config: FusionConfig | RerankConfig) -> MambaStack | TransformerStack:
    """The layers of the kind "mamba" or "transformer"."""
    return MambaStack(config) if config.kind == "mamba" else TransformerStack(config)


def make_aligner(width: int, config: MixerConfig) -> nn.Sequential:
    """(..., width) -> (..., config.width)."""
    if not config.alignment:
        return nn.Sequential(nn.Linear(width, config.width))
    return nn.Sequential(
        nn.Linear(width, config.width),
        nn.GELU(),
        nn.Dropout(config.dropout),
        nn.Linear(config.width, config.width),
    )


def modality_weights(gate: nn.Linear | None, image: Tensor, text: Tensor) -> Tensor:
    """w = softmax(W [f_img; f_txt]) of image (B, D) and text (B, D), (B, 2); the same for both without a gate."""
    if gate is None:
        return image.new_full((len(image), 2), 0.5)
    return gate(torch.cat((image, text), dim=-1)).softmax(dim=-1)
