"""Training items and batches, the same at every run from the same seed.

An item is a pure function of the seed and its `Draw`; an epoch's batches are a function of the seed and the epoch. A
run can therefore go on at any batch of any epoch without replaying what came before. What is said of an image, and
what a batch is, the method decides: it brings `describe` and `collate`.
"""

from __future__ import annotations

import logging
import mmap
import os
import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import Dataset as TorchDataset

from bdam_reid.data.checks import named
from bdam_reid.data.images import ImageError, augment, decode_image, normalise
from bdam_reid.data.records import DatasetError, Record
from bdam_reid.data.samplers import Draw, Sampler, indices_by_identity
from bdam_reid.processes import WHOLE, Share

log = logging.getLogger("bdam_reid")
CACHE_BYTES = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
"""Decoded images are kept in memory if those of the whole training set fit into this, a quarter of what there is."""

D = TypeVar("D")
"""What a method says of an image besides who it shows."""
B = TypeVar("B")
"""A method's batch."""


class LoaderError(RuntimeError):
    """A process that reads images has ended."""


@dataclass(frozen=True)
class Item(Generic[D]):
    """One training item: an image (3, H, W) in [-1, 1], the class index of who it shows, and what `describe` says.

    `skipped` has the keys of images that could not be read and that this item stands in for.
    """

    image: Tensor
    identity: int
    description: D
    skipped: tuple[str, ...] = ()


def nothing(record: Record, rng: Random) -> None:
    """The `describe` of methods that read nothing but images."""


class TrainingSet(TorchDataset[Item[D]]):
    """Training items of records.

    An image that cannot be read is replaced by another one of the same person, or of another person of its domain if
    there is none, and counted in `skipped`.

    Args:
        records: training records; their identities become class indices in the order of their numbers.
        image_size: height and width.
        augment: whether images are varied.
        erase: chance that a varied image loses a part.
        seed: of all that is drawn for an item.
        describe: (record, random numbers of the item) -> description; a module-level function or a partial of one,
            so that worker processes can have it. It draws before the image is varied.
    Raises: DatasetError if more than half of the images cannot be read.
    """

    def __init__(
        self,
        records: Sequence[Record],
        image_size: tuple[int, int],
        augment: bool,
        erase: float,
        seed: int,
        describe: Callable[[Record, Random], D],
    ):
        self.records = tuple(records)
        self.classes = {person: i for i, person in enumerate(sorted({r.identity for r in self.records}))}
        self.skipped: set[str] = set()
        self._image_size, self._augment, self._erase = image_size, augment, erase
        self._seed, self._describe = seed, describe
        self._by_identity = indices_by_identity(self.records)
        size = 3 * image_size[0] * image_size[1] * len(self.records)
        # Processes that train on one machine keep images each for itself.
        fits = 0 < size * int(os.environ.get("LOCAL_WORLD_SIZE", "1")) <= CACHE_BYTES
        self._kept = Kept(len(self.records), image_size) if fits else None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, draw: Draw) -> Item[D]:
        rng = Random(f"{self._seed}/{draw.epoch}/{draw.index}/{draw.repeat}")
        index, pixels, skipped = self._readable(draw.index)
        record = self.records[index]
        description = self._describe(record, rng)
        return Item(
            image=augment(pixels, rng, self._erase) if self._augment else normalise(pixels),
            identity=self.classes[record.identity],
            description=description,
            skipped=skipped,
        )

    def skip(self, keys: Iterable[str]) -> None:
        """Count images that cannot be read; the process that trains logs the names of new ones."""
        new = sorted(set(keys) - self.skipped)
        self.skipped.update(new)
        if new and get_worker_info() is None:
            log.warning(f"{len(self.skipped)} of {len(self.records)} training images cannot be read, now {named(new)}")
        if 2 * len(self.skipped) > len(self.records):
            raise DatasetError(
                f"{len(self.skipped)} of {len(self.records)} training images cannot be read, such as "
                f"{min(self.skipped)}: the set is damaged, unpack it again"
            )

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
        raise DatasetError(
            f"none of the training images can be read among which {self.records[index].key} is: unpack the set again"
        )

    def _candidates(self, index: int) -> Iterator[int]:
        same = self._by_identity[self.records[index].identity]
        at = same.index(index)
        yield from same[at:] + same[:at]
        others = ((index + step) % len(self.records) for step in range(1, len(self.records)))
        yield from (other for other in others if self.records[other].domain == self.records[index].domain)

    def _pixels(self, index: int) -> Tensor:
        if self._kept and self._kept.has[index]:
            return self._kept.images[index]
        pixels = decode_image(self.records[index].path, self._image_size)
        if self._kept:
            self._kept.images[index] = pixels
            self._kept.has[index] = True
        return pixels


class Kept:
    """Decoded images in memory that this process and the workers forked from it share: none decodes what one has.

    Args:
        number: of images.
        size: height and width.
    """

    def __init__(self, number: int, size: tuple[int, int]) -> None:
        height, width = size
        # Anonymous memory, which the system gives as it is written to; /dev/shm is small in containers.
        self.images = torch.frombuffer(mmap.mmap(-1, number * 3 * height * width), dtype=torch.uint8)
        self.images = self.images.view(number, 3, height, width)
        self.has = torch.frombuffer(mmap.mmap(-1, number), dtype=torch.bool)


class Source(Protocol):
    """Where a stage has its batches from: a function of the epoch and a batch's number in it, so that a run goes on
    anywhere with what it would have had."""

    @property
    def size(self) -> int:
        """Items in a batch, of all processes together."""

    def __len__(self) -> int:
        """Batches in an epoch."""

    def batches(self, epoch: int, start: int = 0, workers: int = 0, share: Share = WHOLE) -> Iterator[Any]:
        """A process's share of the batches of an epoch from number `start` on, with so many worker processes if it has
        a use for them; the random state of the caller is left alone. Each has `to(device)`."""

    def images(self, epoch: int, number: int) -> Sequence[Path]:
        """The files that a batch is made of, all processes' shares: what a user looks at when it goes wrong."""


@dataclass(frozen=True)
class Batches(Generic[D, B]):
    """What a stage trains on: items, which of them make a batch, and what a batch is made of them."""

    items: TrainingSet[D]
    sampler: Sampler
    collate: Callable[[Sequence[Item[D]]], B]

    @property
    def size(self) -> int:
        """Items in a batch, of all processes together."""
        return self.sampler.size

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.sampler)

    def images(self, epoch: int, number: int) -> list[Path]:
        """The files that a batch is made of; that one stands in for another which cannot be read is not seen here."""
        return [self.items.records[draw.index].path for draw in next(self.sampler.batches(epoch, number))]

    def batches(self, epoch: int, start: int = 0, workers: int = 0, share: Share = WHOLE) -> Generator[B, None, None]:
        """A share of the batches of an epoch from number `start` on; the random state of the caller is left alone.

        Raises: DatasetError if too many images cannot be read; LoaderError if a worker process has ended.
        """
        draws = (share.of(batch) for batch in self.sampler.batches(epoch, start))
        if workers == 0:
            yield from (self.collate([self.items[draw] for draw in batch]) for batch in draws)
            return
        # A loader draws a seed for its workers from torch's global generator unless it has its own.
        loader: DataLoader[Any] = DataLoader(
            self.items,
            batch_sampler=list(map(list, draws)),
            collate_fn=_packed,
            num_workers=workers,
            generator=torch.Generator(),
            worker_init_fn=_leave_group,
            multiprocessing_context="fork",  # Workers share the decoded images of this process.
        )
        before = set(active_children())
        loaded = iter(loader)
        readers = sorted(set(active_children()) - before, key=lambda reader: reader.pid or 0)
        try:
            for packed in loaded:
                items: list[Item[D]] = _unpacked(*packed)
                self.items.skip(key for item in items for key in item.skipped)
                yield self.collate(items)
        except DatasetError as error:
            # A worker's error comes with its traceback in the message, which ends in the message that was meant.
            raise DatasetError(str(error.args[0]).rsplit("DatasetError: ", 1)[-1].strip()) from error
        except (RuntimeError, OSError, EOFError) as error:
            for reader in readers:
                reader.join(1)  # One that is ending has closed its end of the connection before it has a status.
            ended = [_how_it_ended(number, reader) for number, reader in enumerate(readers, 1) if reader.exitcode]
            if not ended:
                raise
            raise LoaderError(
                f"of {workers} processes that read images {'; '.join(ended)}. Give the same command again to go on; if "
                "memory is short, with a lower --engine.workers"
            ) from error


def _packed(items: Sequence[Item[D]]) -> tuple[Tensor, list[tuple[Any, ...]]]:
    """Items as a worker sends them, with one tensor: to send one takes longer than to decode an image."""
    return torch.stack([item.image for item in items]), [(i.identity, i.description, i.skipped) for i in items]


def _unpacked(images: Tensor, others: Sequence[tuple[Any, ...]]) -> list[Item[Any]]:
    return [Item(image, *other) for image, other in zip(images, others, strict=True)]


def _leave_group(worker: int) -> None:
    """Terminals and launchers send signals to a whole group of processes; that which trains ends its workers itself,
    when it has saved."""
    os.setpgid(0, 0)


def _how_it_ended(number: int, reader: BaseProcess) -> str:
    code = reader.exitcode or 0
    how = f"exited with code {code}" if code > 0 else f"was ended by {signal.Signals(-code).name}"
    reasons = {
        -signal.SIGKILL: ", as a system does that runs out of memory",
        -signal.SIGBUS: ", as it happens where /dev/shm has too little room",
    }
    return f"number {number} (pid {reader.pid}) {how}{reasons.get(code, '')}"
