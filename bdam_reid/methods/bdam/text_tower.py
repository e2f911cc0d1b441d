"""BDAM's embedding of sentences from their tokens on, for export."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from bdam_reid.captions import splitter
from bdam_reid.encoders.text import TextEncoder
from bdam_reid.methods.bdam.network import Network
from bdam_reid.methods.text_tower import TextTower

SPLIT = (
    "phrases of the identity and of the clothing, by the rules of bdam_reid/captions/splitter.py; a sentence without "
    "either stands for both as a whole"
)


class SplitTextTower(TextTower):
    """The identity text and the clothing text of a sentence -> (B, 2 E), each part a unit vector, or zero where the
    sentence has no words for it.

    Args:
        network: in evaluation mode.
        vocab_size, max_tokens: of the tokenizer.
        left_out: words that are removed from a text, unless it has no others.
    """

    texts = ("identity", "clothing")
    splitter = Path(splitter.__file__)

    def __init__(self, network: Network, vocab_size: int, max_tokens: int, left_out: Collection[str]) -> None:
        super().__init__()
        self.network, self.vocab_size, self.max_tokens = network, vocab_size, max_tokens
        self.reading = {"split": SPLIT, "left_out": sorted(left_out)}

    def forward(self, *tokens: Tensor) -> Tensor:
        """identity_ids, identity_mask (B, L), clothing_ids, clothing_mask (B, M) -> (B, 2 E)."""
        identity_ids, identity_mask, clothing_ids, clothing_mask = tokens
        has_identity, has_clothing = (mask.any(dim=1, keepdim=True) for mask in (identity_mask, clothing_mask))
        with _read_together(self.network.text_encoder):
            # Attention to no token at all would be NaN, which stays so if it is multiplied by zero.
            features = self.network.encode_text(
                identity_ids, identity_mask | ~has_identity, clothing_ids, clothing_mask | ~has_clothing
            )
        return torch.cat(
            (has_identity * features.identity_embedding, has_clothing * features.clothing_embedding), dim=1
        )


@contextmanager
def _read_together(encoder: TextEncoder) -> Iterator[None]:
    """Lets an encoder read all texts of a batch at once: a CPU's groups by length cannot stand in a graph."""
    encoder.forward = encoder._read  # type: ignore[method-assign]
    try:
        yield
    finally:
        del encoder.forward
