"""Training batches: P persons with K images each, with texts, the same at every run from the same seed.

An item is a pure function of the seed and its `Draw`; an epoch's batches are a function of the seed and the
epoch. A run can therefore go on at any batch of any epoch without replaying what came before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import islice
from random import Random

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from bdam_reid.captions.splitter import split_caption
from bdam_reid.data.images import ImageError, augment, decode_image, normalise
from bdam_reid.data.records import DatasetError, Record
from bdam_reid.data.text import Tokenize

CACHE_BYTES = 512 * 2**20
"""Decoded images are kept in memory if those of the whole training set fit into this."""


@dataclass(frozen=True)
class Draw:
    """What an item is made from: a record's index, the epoch, and how often the epoch's batch has that
    record already.
    """

    index: int
    epoch: int
    repeat: int = 0


@dataclass(frozen=True)
class Sample:
    """One training item. `skipped` has the keys of images that could not be read and that this item stands
    in for.
    """

    image: Tensor
    identity: int
    identity_text: str
    clothing_text: str
    caption: str
    skipped: tuple[str, ...] = ()


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


class TrainingSet(TorchDataset[Sample]):
    """Training items of records.

    The texts of an item are, with probability `sidecar_probability`, the sidecar's, where the record has
    them, and else the two parts of one of its captions. An image that cannot be read is replaced by another
    one of the same person, or of another person if there is none, and counted in `skipped`.

    Args:
        records: training records; their identities become class indices in the order of their numbers.
        image_size: height and width.
    Raises: DatasetError if more than half of the images cannot be read.
    """

    def __init__(
        self,
        records: Sequence[Record],
        tokenize: Tokenize,
        image_size: tuple[int, int],
        augment: bool,
        seed: int,
        *,
        sidecar_probability: float = 0.5,
    ):
        self.records = tuple(records)
        self.classes = {person: i for i, person in enumerate(sorted({r.identity for r in self.records}))}
        self.skipped: set[str] = set()
        self._tokenize, self._image_size, self._augment, self._seed = tokenize, image_size, augment, seed
        self._sidecar_probability = sidecar_probability
        self._by_identity = _indices_by_identity(self.records)
        height, width = image_size
        self._keeps_images = 3 * height * width * len(self.records) <= CACHE_BYTES
        self._images: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, draw: Draw) -> Sample:
        rng = Random(f"{self._seed}/{draw.epoch}/{draw.index}/{draw.repeat}")
        index, pixels, skipped = self._readable(draw.index)
        record = self.records[index]
        image = normalise(pixels)
        caption = rng.choice(record.captions)
        identity_text, clothing_text = self._texts(record, caption, rng)
        return Sample(
            image=augment(image, rng) if self._augment else image,
            identity=self.classes[record.identity],
            identity_text=identity_text,
            clothing_text=clothing_text,
            caption=caption,
            skipped=skipped,
        )

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Put samples together."""
        return Batch(
            torch.stack([sample.image for sample in samples]),
            torch.tensor([sample.identity for sample in samples]),
            *self._tokenize([sample.identity_text for sample in samples]),
            *self._tokenize([sample.clothing_text for sample in samples]),
        )

    def skip(self, keys: Iterable[str]) -> None:
        """Count images that cannot be read."""
        self.skipped.update(keys)
        if 2 * len(self.skipped) > len(self.records):
            raise DatasetError(
                f"{len(self.skipped)} of {len(self.records)} training images cannot be read, such as "
                f"{min(self.skipped)}: the set is damaged, unpack it again"
            )

    def _texts(self, record: Record, caption: str, rng: Random) -> tuple[str, str]:
        if rng.random() < self._sidecar_probability and record.identity_text and record.clothing_text:
            return record.identity_text, record.clothing_text
        return _split(caption)

    def _readable(self, index: int) -> tuple[int, Tensor, tuple[str, ...]]:
        """The index and pixels of the wanted image or of what stands in for it, and the keys that were
        skipped on the way.
        """
        skipped: list[str] = []
        for candidate in self._candidates(index):
            if self.records[candidate].key in self.skipped:
                skipped.append(self.records[candidate].key)
                continue
            try:
                return candidate, self._pixels(candidate), tuple(skipped)
            except ImageError:
                skipped.append(self.records[candidate].key)
                self.skip(skipped)
        raise DatasetError(f"none of {len(self.records)} training images can be read: unpack the set again")

    def _candidates(self, index: int) -> Iterator[int]:
        same = self._by_identity[self.records[index].identity]
        at = same.index(index)
        yield from same[at:] + same[:at]
        yield from ((index + step) % len(self.records) for step in range(1, len(self.records)))

    def _pixels(self, index: int) -> Tensor:
        if index in self._images:
            return self._images[index]
        pixels = decode_image(self.records[index].path, self._image_size)
        if self._keeps_images:
            self._images[index] = pixels
        return pixels


# Captions are few and drawn often; splitting one takes longer than the rest of its item's text.
_split = lru_cache(maxsize=1 << 17)(split_caption)


def _indices_by_identity(records: Sequence[Record]) -> dict[int, list[int]]:
    indices: dict[int, list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        indices[record.identity].append(index)
    return dict(indices)


class IdentitySampler:
    """Batches of P identities with K images each, in an order that depends on the seed and the epoch only.

    In an epoch, an identity with n images comes n // K times with K of them each, or once with some twice
    if n < K. No identity comes twice in a batch, and what does not fill a batch is left out: other images
    in each epoch.

    Args:
        records: the records of the training set.
        identities_per_batch: P, at least 2.
        images_per_identity: K.
    Raises: DatasetError if there are fewer than P identities.
    """

    def __init__(
        self, records: Sequence[Record], identities_per_batch: int, images_per_identity: int, seed: int
    ):
        self._people = list(_indices_by_identity(records).values())
        if identities_per_batch < 2 or images_per_identity < 1:
            raise DatasetError(
                "a batch needs two identities or more with one image or more each, got "
                f"{identities_per_batch} and {images_per_identity}"
            )
        if identities_per_batch > len(self._people):
            raise DatasetError(
                f"a batch of {identities_per_batch} identities is larger than the training set, which has "
                f"{len(self._people)}: set --data.identities-per-batch to {len(self._people)} or less"
            )
        self._p, self._k, self._seed = identities_per_batch, images_per_identity, seed
        # Identities that still have images in the first, second, ... round of an epoch.
        rounds = [max(1, len(images) // self._k) for images in self._people]
        self._length = sum(sum(n > r for n in rounds) // self._p for r in range(max(rounds)))

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._length

    def batches(self, epoch: int, start: int = 0) -> Iterator[list[Draw]]:
        """The batches of an epoch, from batch number `start` on."""
        return islice(self._all_batches(epoch), start, None)

    def _all_batches(self, epoch: int) -> Iterator[list[Draw]]:
        rng = Random(f"{self._seed}/{epoch}/batches")
        groups = [self._groups(images, rng) for images in self._people]
        for number in range(max(len(own) for own in groups)):
            present = [own[number] for own in groups if len(own) > number]
            rng.shuffle(present)
            for at in range(0, len(present) - self._p + 1, self._p):
                yield [
                    Draw(index, epoch, repeat)
                    for group in present[at : at + self._p]
                    for index, repeat in group
                ]

    def _groups(self, images: list[int], rng: Random) -> list[list[tuple[int, int]]]:
        """The images of one person in groups of K, each with the number of its repetition."""
        shuffled, k = rng.sample(images, len(images)), self._k
        if len(shuffled) < k:
            return [[(shuffled[i % len(shuffled)], i // len(shuffled)) for i in range(k)]]
        return [[(index, 0) for index in shuffled[at : at + k]] for at in range(0, len(shuffled) - k + 1, k)]


def training_batches(
    dataset: TrainingSet, sampler: IdentitySampler, *, epoch: int, start: int = 0, num_workers: int = 0
) -> Iterator[Batch]:
    """The batches of an epoch from number `start` on; the random state of the caller is left alone.

    Worker processes are worth it only where the images do not fit into memory decoded (see CACHE_BYTES):
    each keeps its own.
    """
    draws = sampler.batches(epoch, start)
    if num_workers == 0:
        yield from (dataset.collate([dataset[draw] for draw in batch]) for batch in draws)
        return
    # A loader draws a seed for its workers from torch's global generator unless it has its own.
    loader = DataLoader(
        dataset,
        batch_sampler=list(draws),
        collate_fn=list,
        num_workers=num_workers,
        generator=torch.Generator(),
    )
    try:
        for samples in loader:
            dataset.skip(key for sample in samples for key in sample.skipped)
            yield dataset.collate(samples)
    except DatasetError as error:
        # A worker's error comes with its traceback in the message, which ends in the message that was meant.
        raise DatasetError(str(error).rsplit("DatasetError: ", 1)[-1].strip()) from error
