"""What makes one feature of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEAD_QUERIES = 4
Grids: TypeAlias = Sequence[tuple[int, int]]
"""Rows and columns of an image's tokens, one grid after the other; where there are two, the second is the head's."""


class AttentionPooling(nn.Module):
    """Weighted means of tokens, with weights softmax(W x) for each query.

    Args:
        width: of the tokens.
        queries: how many means.
    """

    def __init__(self, width: int, queries: int = 1) -> None:
        super().__init__()
        self.scores = nn.Linear(width, queries)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """tokens (B, L, D), mask (B, L) bool, True = real token, at least one a row -> (B, queries * D)."""
        scores = self.scores(tokens)
        if mask is not None:
            scores = scores.masked_fill(~mask[..., None], float("-inf"))
        return (scores.softmax(dim=1).transpose(1, 2) @ tokens).flatten(1)


class PlacePooling(nn.Module):
    """Few channels of every token, side by side, through a linear layer: unlike a mean it knows where a token lies.

    Attention over the tokens of the head, where these are known, finds what is small.

    Args:
        width: of the tokens.
        places: how many tokens there are.
        slots: channels that are kept of a token.
        features: width of the feature.
        head: of the tokens, those that attention reads; None for no attention.
        mixed: width of other tokens that have a say in the channels, through a layer `mixed`; 0 for none.
    """

    def __init__(self, width: int, places: int, slots: int, features: int, head: slice | None, mixed: int = 0) -> None:
        super().__init__()
        self.own = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, slots))
        self.mixed = nn.Linear(mixed, slots) if mixed else None
        self.head, self.attention = head, AttentionPooling(width, HEAD_QUERIES) if head else None
        flat = places * slots + (HEAD_QUERIES * width if head else 0)
        self.out = nn.Sequential(nn.LayerNorm(flat), nn.Linear(flat, features), nn.GELU())

    def forward(self, tokens: Tensor, added: Tensor | None = None) -> Tensor:
        """tokens (B, L, D), what is added to their channels (B, L, slots) -> (B, features)."""
        slots = self.own(tokens)
        flat = F.gelu(slots if added is None else slots + added).flatten(1)
        if self.attention is not None:
            flat = torch.cat((flat, self.attention(tokens[:, self.head])), dim=1)
        return self.out(flat)


def head_of(grids: Grids) -> slice | None:
    """Of an image's tokens those of the head; None where there is one grid."""
    return slice(grids[0][0] * grids[0][1], None) if len(grids) > 1 else None
