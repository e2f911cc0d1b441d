"""The embedding of sentences that are read as a whole, from their tokens on, for export."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from torch import Tensor

from bdam_reid.captions import whole
from bdam_reid.methods.text_tower import TextTower
from bdam_reid.methods.unit import unit


class Reader(Protocol):
    """A module that reads sentences."""

    def encode_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Word pieces (B, L), mask (B, L) bool, True = real token -> features (B, E)."""


class WholeTextTower(TextTower):
    """A sentence -> (B, E), a unit vector, or zero for a sentence without tokens.

    Args:
        network: in evaluation mode.
        vocab_size, max_tokens: of the tokenizer.
        left_out: words that are removed from a sentence, unless it has no others.
    """

    texts = ("sentence",)
    splitter = Path(whole.__file__)

    def __init__(self, network: Reader, vocab_size: int, max_tokens: int, left_out: Collection[str]) -> None:
        super().__init__()
        self.network, self.vocab_size, self.max_tokens = network, vocab_size, max_tokens
        self.reading = {"split": "not at all", "left_out": sorted(left_out)}

    def forward(self, *tokens: Tensor) -> Tensor:
        """ids, mask (B, L) -> (B, E)."""
        ids, mask = tokens
        has_any = mask.any(dim=1, keepdim=True)
        # Attention to no token at all would be NaN, which stays so if it is multiplied by zero.
        return has_any * unit(self.network.encode_text(ids, mask | ~has_any))
