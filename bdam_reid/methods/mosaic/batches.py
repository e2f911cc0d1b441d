"""What MoSAIC-ReID trains on: images with the states of their persons' attributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

import torch
from torch import Tensor

from bdam_reid.config import DataConfig
from bdam_reid.data.attributes import Labels, labels_of
from bdam_reid.data.records import Record
from bdam_reid.data.samplers import IdentitySampler
from bdam_reid.data.training import Batches, Item, TrainingSet
from bdam_reid.methods.batches import Tensors
from bdam_reid.methods.mosaic.router import Router


@dataclass(frozen=True)
class Batch(Tensors):
    """Images (B, 3, H, W), class indices (B,), and states of attributes (B, A), UNKNOWN where they are not labelled."""

    images: Tensor
    identities: Tensor
    states: Tensor


def make_batches(records: Sequence[Record], data: DataConfig, router: Router, seed: int) -> Batches[Labels, Batch]:
    """The batches of training records. Raises: DatasetError if these have too few identities."""
    return Batches(
        TrainingSet(records, data.image_size, data.augment, data.erase, seed, labels_at),
        IdentitySampler(records, data.identities_per_batch, data.images_per_identity, seed, data.across_outfits),
        partial(collate, router),
    )


def labels_at(record: Record, rng: Random) -> Labels:
    """The labels of a record."""
    return labels_of(record)


def collate(router: Router, items: Sequence[Item[Labels]]) -> Batch:
    """A batch of items."""
    return Batch(
        torch.stack([item.image for item in items]),
        torch.tensor([item.identity for item in items]),
        router.read([item.description for item in items]),
    )
