"""What MTA-CLIP trains on: images with cameras for the image tower, numbers of kept image features for the prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from bdam_reid.config import DataConfig
from bdam_reid.data.records import Record
from bdam_reid.data.samplers import DomainSampler, Draw
from bdam_reid.data.training import Batches, Item, TrainingSet, nothing
from bdam_reid.methods.batches import Tensors
from bdam_reid.methods.mta_clip.tower import UNKNOWN
from bdam_reid.processes import WHOLE, Share


@dataclass(frozen=True)
class Images(Tensors):
    """Images (B, 3, H, W) of persons of one domain, their class indices (B,), and places of their cameras among those
    that are known (B,), UNKNOWN where they are not."""

    images: Tensor
    classes: Tensor
    cameras: Tensor


def image_batches(
    records: Sequence[Record], data: DataConfig, cameras: Sequence[int], seed: int
) -> Batches[int | None, Images]:
    """The batches of training records, each of one domain. Raises: DatasetError if a domain has too few identities."""
    return Batches(
        TrainingSet(records, data.image_size, data.augment, data.erase, seed, camera_of),
        DomainSampler(records, data.identities_per_batch, data.images_per_identity, seed, data.across_outfits),
        partial(collate, {camera: place for place, camera in enumerate(cameras)}),
    )


def camera_of(record: Record, rng: Random) -> int | None:
    """The number of a record's camera."""
    return record.camera


def collate(places: Mapping[int, int], items: Sequence[Item[int | None]]) -> Images:
    """A batch of items."""
    return Images(
        torch.stack([item.image for item in items]),
        torch.tensor([item.identity for item in items]),
        places_of([item.description for item in items], places),
    )


def places_of(cameras: Sequence[int | None], places: Mapping[int, int]) -> Tensor:
    """The places of cameras among those that are known, (B,)."""
    return torch.tensor([UNKNOWN if camera is None else places.get(camera, UNKNOWN) for camera in cameras])


@dataclass(frozen=True)
class Rows(Tensors):
    """Numbers of training images of one domain, (B,)."""

    numbers: Tensor


class RowBatches:
    """Every training image once an epoch, in batches of one domain; what does not fill one is left out, other images in
    each epoch.

    Args:
        records: training records.
        batch: images in a batch; as many as the smallest domain has if these are fewer.
        seed: of the order.
    """

    def __init__(self, records: Sequence[Record], batch: int, seed: int) -> None:
        self.records = tuple(records)
        self._seed = seed
        self._domains = [
            [place for place, record in enumerate(records) if record.domain == domain]
            for domain in sorted({record.domain for record in records})
        ]
        self.size = min(batch, *map(len, self._domains))

    def __len__(self) -> int:
        """Batches in an epoch."""
        return sum(len(own) // self.size for own in self._domains)

    def batches(self, epoch: int, start: int = 0, workers: int = 0, share: Share = WHOLE) -> Iterator[Rows]:
        """A share of the batches of an epoch from number `start` on. There is nothing to do for worker processes."""
        for numbers in self._numbers(epoch)[start:]:
            yield Rows(torch.tensor(share.of(numbers)))

    def images(self, epoch: int, number: int) -> list[Path]:
        """The files that a batch is of."""
        return [self.records[place].path for place in self._numbers(epoch)[number]]

    def _numbers(self, epoch: int) -> list[list[int]]:
        rng = Random(f"{self._seed}/{epoch}/rows")
        drawn = [rng.sample(own, len(own)) for own in self._domains]
        batches = [own[at : at + self.size] for own in drawn for at in range(0, len(own) - self.size + 1, self.size)]
        rng.shuffle(batches)
        return batches


class Kept(NamedTuple):
    """Of N training images, what frozen encoders say."""

    features: Tensor
    """Projected, (N, E)."""
    classes: Tensor
    """Of the person that each shows, (N,)."""


def unvaried(records: Sequence[Record], image_size: tuple[int, int], at_once: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Training images as they are, (B, 3, H, W), with their class indices, (B,), in order. One that cannot be read is
    another of the person, as in training. Raises: DatasetError as `TrainingSet`."""
    items = TrainingSet(records, image_size, False, 0.0, 0, nothing)
    for first in range(0, len(items), at_once):
        some = [items[Draw(index, 0)] for index in range(first, min(first + at_once, len(items)))]
        yield torch.stack([item.image for item in some]), torch.tensor([item.identity for item in some])
