"""The matcher: what the words of a query and the patches of an image, read together, add to their score (ours)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from bdam_reid.encoders.text import masked_mean
from bdam_reid.methods.bdam.config import RerankConfig
from bdam_reid.methods.bdam.mixers import make_aligner, make_mixer, modality_weights


class Words(NamedTuple):
    """Tokens of Q queries; E is the text width."""

    tokens: Tensor
    """(Q, L, E)."""
    mask: Tensor
    """(Q, L) bool, True = real token, none of them behind the padding."""


def join_words(*texts: Words) -> Words:
    """The tokens of several texts of the same queries, one text after the other, the padding of all at the end."""
    tokens = torch.cat([text.tokens for text in texts], dim=1)
    mask = torch.cat([text.mask for text in texts], dim=1)
    order = (~mask).byte().argsort(dim=1, stable=True)
    return Words(tokens.gather(1, order[..., None].expand_as(tokens)), mask.gather(1, order))


class Matcher(nn.Module):
    """A number for each pair of a query and a candidate image, 0 before it is trained.

    A learnt vector is added to the patches of each place; patches and words are brought to one width, and weighed by a
    gate on their means if `config.gate`. By `config.kind`
    - "mamba", "transformer": the patches, then the words, as one sequence through the layers, and the mean of the
      words, which have seen the patches (a causal scan reads them last);
    - "simple": the means of the patches and of the words side by side, a linear layer, LayerNorm, GELU;
    - "sum": the sum of these means (the drafts' fusion without Mamba).
    LayerNorm and a linear layer make a number of it. Nothing of one candidate reaches the number of another.

    Args:
        config: kind and sizes.
        image_width: of the patches.
        places: L, patches of an image.
        text_width: of the words.
    Raises: ValueError if a transformer's heads do not divide the width.
    """

    def __init__(self, config: RerankConfig, image_width: int, places: int, text_width: int) -> None:
        super().__init__()
        self.align_image = make_aligner(image_width, config)
        self.align_text = make_aligner(text_width, config)
        self.places = nn.Parameter(0.02 * torch.randn(places, image_width))
        self.gate = nn.Linear(2 * config.width, 2) if config.gate else None
        self.mixer = None if config.kind in ("simple", "sum") else make_mixer(config)
        self.pair = None
        if config.kind == "simple":
            self.pair = nn.Sequential(
                nn.Linear(2 * config.width, config.width), nn.LayerNorm(config.width), nn.GELU()
            )  # fmt: skip
        self.norm = nn.LayerNorm(config.width)
        self.out = nn.Linear(config.width, 1, bias=False)  # A bias would be the same for all candidates.
        nn.init.zeros_(self.out.weight)

    def forward(self, patches: Tensor, words: Words) -> Tensor:
        """patches (Q, K, L, D) of the K candidates of each query, words of the Q queries -> (Q, K)."""
        queries, candidates = patches.shape[:2]
        # Each image and each query once, not once a pair.
        image = self.align_image(patches + self.places).flatten(0, 1)
        text = self.align_text(words.tokens).repeat_interleave(candidates, dim=0)
        mask = words.mask.repeat_interleave(candidates, dim=0)
        corrections = self.out(self.norm(self._mixed(image, text, mask))).view(queries, candidates)
        return corrections * words.mask.any(dim=1, keepdim=True)  # without any words the order stays

    def _mixed(self, image: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """image (P, L, W), text (P, M, W) and its mask (P, M) of P pairs -> (P, W)."""
        if self.gate is not None:
            weights = modality_weights(self.gate, image.mean(dim=1), masked_mean(text, mask))
            image, text = weights[:, :1, None] * image, weights[:, 1:, None] * text
        if self.mixer is None:
            image, text = image.mean(dim=1), masked_mean(text, mask)
            return image + text if self.pair is None else self.pair(torch.cat((image, text), dim=-1))
        whole = torch.cat((mask.new_ones(image.shape[:2]), mask), dim=1)
        mixed = self.mixer(torch.cat((image, text), dim=1), whole)
        return masked_mean(mixed[:, image.shape[1] :], mask)
