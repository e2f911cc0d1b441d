"""Fusion of image and text identity features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bdam_reid.encoders.text import masked_mean
from bdam_reid.methods.bdam.config import FusionConfig
from bdam_reid.methods.bdam.mixers import make_aligner, make_mixer, modality_weights


class Fusion(nn.Module):
    """Aligns image and text to one width, weighs them by a gate, mixes them, and projects the result.

    w = softmax(W [f_img; f_txt]), w_1 + w_2 = 1, then by `config.tokens`
    - "pooled": one token, w_1 f_img + w_2 f_txt (the drafts' formula);
    - "pair": two tokens, w_1 f_img and w_2 f_txt;
    - "sequence": all patches times w_1, then all words times w_2; the words' padding comes last, so that no
      causal scan carries it into a real token.
    They pass through `config.kind`: "mamba", x + Mamba(x) a layer; "transformer", encoder layers; "simple", the two
    weighted features concatenated, a linear layer and LayerNorm; or "sum", through nothing. What is not padding is
    averaged. Without a gate w_1 = w_2 = 1/2.
    Source: icme section III-D, long sections 3.4 and 4.3.

    Args:
        config: kind, tokens, width, depth.
        image_width, text_width: widths of the two inputs.
        out_width: width of the fused feature.
    Raises: ValueError if the kinds without a mixer are asked to read more than the pooled features.
    """

    def __init__(self, config: FusionConfig, image_width: int, text_width: int, out_width: int) -> None:
        super().__init__()
        if config.kind in ("simple", "sum") and config.tokens != "pooled":
            raise ValueError(f"fusion of kind {config.kind!r} reads 'pooled' tokens only, got {config.tokens!r}")
        self.config = config
        self.align_image = make_aligner(image_width, config)
        self.align_text = make_aligner(text_width, config)
        self.gate = nn.Linear(2 * config.width, 2) if config.gate else None
        if config.kind == "simple":
            self.out: nn.Module = nn.Sequential(nn.Linear(2 * config.width, out_width), nn.LayerNorm(out_width))
        else:
            self.mixer = None if config.kind == "sum" else make_mixer(config)
            self.out = nn.Linear(config.width, out_width)

    def forward(self, image: Tensor, text: Tensor, text_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Fuses a batch of pairs.

        Args:
            image: identity features (B, Di), or identity tokens (B, Li, Di) if the tokens are "sequence".
            text: identity features (B, Dt), or identity tokens (B, Lt, Dt) if the tokens are "sequence".
            text_mask: (B, Lt) bool, True = real token, padded on the right; None if all are real.
        Returns: fused (B, out_width), weights (B, 2) of image and text, None without a gate.
        Raises: ValueError if the number of dimensions is not that of `config.tokens`.
        """
        expected = 3 if self.config.tokens == "sequence" else 2
        if image.ndim != expected or text.ndim != expected:
            raise ValueError(
                f"fusion of {self.config.tokens!r} reads {expected}-dimensional image and text, "
                f"got {tuple(image.shape)} and {tuple(text.shape)}"
            )
        image, text = self.align_image(image), self.align_text(text)
        if self.config.tokens != "sequence":
            fused, weights = self._fuse_features(image, text)
        else:
            if text_mask is None:
                text_mask = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
            fused, weights = self._fuse_tokens(image, text, text_mask)
        return fused, None if self.gate is None else weights

    def _fuse_features(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        weights = modality_weights(self.gate, image, text)
        image, text = weights[:, :1] * image, weights[:, 1:] * text
        if self.config.kind == "simple":
            return self.out(torch.cat((image, text), dim=-1)), weights
        if self.mixer is None:
            return self.out(image + text), weights
        pooled = self.config.tokens == "pooled"
        tokens = (image + text)[:, None] if pooled else torch.stack((image, text), dim=1)
        return self.out(self.mixer(tokens, None).mean(dim=1)), weights

    def _fuse_tokens(self, image: Tensor, text: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        assert self.mixer is not None
        weights = modality_weights(self.gate, image.mean(dim=1), masked_mean(text, text_mask))
        tokens = torch.cat((weights[:, :1, None] * image, weights[:, 1:, None] * text), dim=1)
        mask = torch.cat((text_mask.new_ones(image.shape[:2]), text_mask), dim=1)
        return self.out(masked_mean(self.mixer(tokens, mask), mask)), weights
