"""What dual encoders train on: images, each with one of its captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

import torch
from torch import Tensor

from bdam_reid.config import DataConfig
from bdam_reid.data.records import Record
from bdam_reid.data.samplers import IdentitySampler
from bdam_reid.data.tokens import Tokenize
from bdam_reid.data.training import Batches, Item, TrainingSet
from bdam_reid.methods.batches import Tensors
from bdam_reid.methods.preparation import PROMPT

PROMPTED = 0.25
"""Chance that a CLIP from scratch reads a prompt before a caption."""


@dataclass(frozen=True)
class Batch(Tensors):
    """Images (B, 3, H, W), class indices (B,), and of their captions ids (B, L) with a mask, True where there is a
    token."""

    images: Tensor
    identities: Tensor
    ids: Tensor
    mask: Tensor


def make_batches(
    records: Sequence[Record], data: DataConfig, tokenize: Tokenize, seed: int, prompted: bool = False
) -> Batches[str, Batch]:
    """The batches of training records, in which a prompt may stand before captions. Raises: DatasetError if these have
    too few identities."""
    describe = a_prompted_caption if prompted else a_caption
    return Batches(
        TrainingSet(records, data.image_size, data.augment, data.erase, seed, describe),
        IdentitySampler(records, data.identities_per_batch, data.images_per_identity, seed, data.across_outfits),
        partial(collate, tokenize),
    )


def a_caption(record: Record, rng: Random) -> str:
    """One of the record's captions, whole."""
    return rng.choice(record.captions)


def a_prompted_caption(record: Record, rng: Random) -> str:
    """One of the record's captions, sometimes behind a prompt, whose words no caption may have."""
    caption = a_caption(record, rng)
    return f"{PROMPT} {caption}" if rng.random() < PROMPTED else caption


def collate(tokenize: Tokenize, items: Sequence[Item[str]]) -> Batch:
    """A batch of items."""
    return Batch(
        torch.stack([item.image for item in items]),
        torch.tensor([item.identity for item in items]),
        *tokenize([item.description for item in items]),
    )
