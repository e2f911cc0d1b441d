"""Words by their meaning: cosine similarity of what a published sentence encoder makes of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import BertModel

from bdam_reid.data.tokens import load_tokenizer
from bdam_reid.encoders.base import load
from bdam_reid.encoders.hub import hub_or_cache
from bdam_reid.encoders.text import masked_mean

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
SIMILAR = 0.5
"""Least cosine similarity of a word and what replaces it."""
BATCH = 64


class Meanings:
    """The known words by their meaning.

    Args: known: words, at least one.
    Raises: ValueError if the encoder cannot be had.
    """

    def __init__(self, known: Sequence[str]) -> None:
        self._model = load("meaning", ENCODER, {"bert": BertModel}, None).eval()
        with hub_or_cache(ENCODER) as source:
            self._tokenizer = load_tokenizer(source)
        self._known = list(known)
        self._vectors = self._embed(self._known)

    def nearest(self, word: str) -> str | None:
        """The known word that means the most similar; None if none is similar."""
        similarity, place = (self._vectors @ self._embed([word])[0]).max(0)
        return self._known[int(place)] if similarity >= SIMILAR else None

    @torch.inference_mode()
    def _embed(self, words: list[str]) -> Tensor:
        """Mean over tokens, (N, D), of unit length."""
        vectors = []
        for at in range(0, len(words), BATCH):
            tokens = self._tokenizer(words[at : at + BATCH], padding=True, return_tensors="pt")
            hidden = self._model(**tokens).last_hidden_state
            vectors.append(masked_mean(hidden, tokens["attention_mask"].bool()))
        return normalize(torch.cat(vectors), dim=-1)
