"""What BDAM trains on: images, each with an identity text and a clothing text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from bdam_reid.captions.splitter import split_caption
from bdam_reid.captions.texts import Texts
from bdam_reid.config import DataConfig
from bdam_reid.data.records import Record
from bdam_reid.data.samplers import IdentitySampler
from bdam_reid.data.tokens import Tokenize
from bdam_reid.data.training import Batches, Item, TrainingSet
from bdam_reid.methods.batches import Tensors
from bdam_reid.processes import gather

UNKNOWN = -1
"""Number of an outfit that nobody has told from others."""


class Description(NamedTuple):
    """What BDAM reads of a record."""

    texts: Texts
    outfit: int
    """Number among those of the person, or UNKNOWN."""


def outfit_of(record: Record) -> int:
    """The number of a record's outfit among those of the person, or UNKNOWN."""
    return UNKNOWN if record.outfit is None else record.outfit


@dataclass(frozen=True)
class Batch(Tensors):
    """Images (B, 3, H, W), class indices (B,), outfits (B,) by their number among those of the person or UNKNOWN, and
    for each text ids (B, L) with a mask, True where there is a token.
    """

    images: Tensor
    identities: Tensor
    outfits: Tensor
    identity_ids: Tensor
    identity_mask: Tensor
    clothing_ids: Tensor
    clothing_mask: Tensor


class Shown(NamedTuple):
    """Whom the images of a batch show, those of all processes, and in which clothes."""

    identities: Tensor
    """Class indices, (B,)."""
    outfits: Tensor
    """(B,), by their number among those of the person or UNKNOWN."""


def shown(batch: Batch) -> Shown:
    """What is known of a batch of which each process has a share."""
    return Shown(gather(batch.identities), gather(batch.outfits))


def make_batches(
    records: Sequence[Record], data: DataConfig, tokenize: Tokenize, seed: int
) -> Batches[Description, Batch]:
    """The batches of training records. Raises: DatasetError if these have too few identities."""
    describe_record = partial(describe, probability=data.texts_probability)
    return Batches(
        TrainingSet(records, data.image_size, data.augment, data.erase, seed, describe_record),
        IdentitySampler(records, data.identities_per_batch, data.images_per_identity, seed, data.across_outfits),
        partial(collate, tokenize),
    )


def describe(record: Record, rng: Random, *, probability: float) -> Description:
    """The record's outfit, and with `probability` its texts, where it has them, else the two parts of one of its
    captions."""
    caption = rng.choice(record.captions)
    texts = record.texts if rng.random() < probability and record.texts else _split(caption)
    return Description(texts, outfit_of(record))


def collate(tokenize: Tokenize, items: Sequence[Item[Description]]) -> Batch:
    """A batch of items."""
    return Batch(
        torch.stack([item.image for item in items]),
        torch.tensor([item.identity for item in items]),
        torch.tensor([item.description.outfit for item in items]),
        *tokenize([item.description.texts.identity for item in items]),
        *tokenize([item.description.texts.clothing for item in items]),
    )


@lru_cache(maxsize=1 << 17)
def _split(caption: str) -> Texts:
    """Captions are few and drawn often; splitting one takes longer than the rest of its item's text."""
    return Texts(*split_caption(caption))
