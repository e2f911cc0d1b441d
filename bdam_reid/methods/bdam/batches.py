"""What BDAM trains on: images, each with an identity text and a clothing text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from random import Random

import torch
from torch import Tensor

from bdam_reid.captions.splitter import split_caption
from bdam_reid.captions.texts import Texts
from bdam_reid.config import DataConfig
from bdam_reid.data.records import Record
from bdam_reid.data.samplers import IdentitySampler
from bdam_reid.data.tokens import Tokenize
from bdam_reid.data.training import Batches, Item, TrainingSet


@dataclass(frozen=True)
class Batch:
    """Images (B, 3, H, W), class indices (B,), and for each text ids (B, L) with a mask, True where there
    is a token.
    """

    images: Tensor
    identities: Tensor
    identity_ids: Tensor
    identity_mask: Tensor
    clothing_ids: Tensor
    clothing_mask: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        return Batch(*(getattr(self, entry.name).to(device, non_blocking=True) for entry in fields(self)))


def make_batches(records: Sequence[Record], data: DataConfig, tokenize: Tokenize, seed: int) -> Batches[Texts, Batch]:
    """The batches of training records. Raises: DatasetError if these have too few identities."""
    describe = partial(draw_texts, probability=data.texts_probability)
    return Batches(
        TrainingSet(records, data.image_size, data.augment, seed, describe),
        IdentitySampler(records, data.identities_per_batch, data.images_per_identity, seed),
        partial(collate, tokenize),
    )


def draw_texts(record: Record, rng: Random, *, probability: float) -> Texts:
    """With `probability` the record's texts, where it has them, else the two parts of one of its captions."""
    caption = rng.choice(record.captions)
    if rng.random() < probability and record.texts:
        return record.texts
    return _split(caption)


def collate(tokenize: Tokenize, items: Sequence[Item[Texts]]) -> Batch:
    """A batch of items."""
    return Batch(
        torch.stack([item.image for item in items]),
        torch.tensor([item.identity for item in items]),
        *tokenize([item.description.identity for item in items]),
        *tokenize([item.description.clothing for item in items]),
    )


@lru_cache(maxsize=1 << 17)
def _split(caption: str) -> Texts:
    """Captions are few and drawn often; splitting one takes longer than the rest of its item's text."""
    return Texts(*split_caption(caption))
