"""Pooling by attention: learnt queries that look for what they want among tokens."""

from __future__ import annotations

from torch import Tensor, nn


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
