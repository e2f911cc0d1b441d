"""The part of a method that embeds sentences from their tokens on, which can be exported as a graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn


class TextTower(nn.Module, ABC):
    """Token ids and masks of sentences -> embeddings, in operations that do not depend on the values of their inputs.

    A sentence is read as one text or as several, each with a length of its own.
    """

    texts: Sequence[str]
    """Names of the texts that a sentence is split into."""
    vocab_size: int
    """Token ids are below."""
    max_tokens: int
    """The most tokens that a text has."""
    splitter: Path
    """Program that imports the standard library alone; its function `phrases` gives the texts of a sentence, "" where
    it has no words for one. If it has words for none, each text is the whole sentence."""
    reading: Mapping[str, Any]
    """How a sentence becomes tokens, for those who do it without this package; JSON values."""

    @abstractmethod
    def forward(self, *tokens: Tensor) -> Tensor:
        """For each of `texts` ids (B, L) int64 and a mask (B, L) bool, True where there is a token, padded on the
        right -> embeddings (B, E) as `Method.embed_queries` gives them. A sentence that has nothing of a text has an
        empty mask there."""
