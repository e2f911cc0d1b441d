"""Which images make a batch: P persons with K images each, the same at every run from the same seed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from random import Random
from typing import Protocol

from bdam_reid.data.records import DatasetError, Record


@dataclass(frozen=True)
class Draw:
    """What an item is made from: a record's index, the epoch, and how often the epoch's batch has that
    record already.
    """

    index: int
    epoch: int
    repeat: int = 0


class Sampler(Protocol):
    """Says which images make the batches of an epoch."""

    @property
    def size(self) -> int:
        """Images in a batch."""

    def __len__(self) -> int:
        """Batches in an epoch."""

    def batches(self, epoch: int, start: int = 0) -> Iterator[list[Draw]]:
        """The batches of an epoch, from batch number `start` on."""


def indices_by_identity(records: Sequence[Record]) -> dict[int, list[int]]:
    """The places of each person's records, in order."""
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
        seed: of the order.
        across_outfits: whether the K images show as many outfits as the person has, where these are known.
    Raises: DatasetError if there are fewer than P identities.
    """

    def __init__(
        self,
        records: Sequence[Record],
        identities_per_batch: int,
        images_per_identity: int,
        seed: int | str,
        across_outfits: bool = False,
    ):
        self._people = list(indices_by_identity(records).values())
        self._outfits = [record.outfit for record in records] if across_outfits else None
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

    @property
    def size(self) -> int:
        """Images in a batch."""
        return self._p * self._k

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
                yield [Draw(index, epoch, repeat) for group in present[at : at + self._p] for index, repeat in group]

    def _groups(self, images: list[int], rng: Random) -> list[list[tuple[int, int]]]:
        """The images of one person in groups of K, each with the number of its repetition."""
        shuffled, k = rng.sample(images, len(images)), self._k
        if self._outfits:
            shuffled = _alternating(shuffled, self._outfits)
        if len(shuffled) < k:
            return [[(shuffled[i % len(shuffled)], i // len(shuffled)) for i in range(k)]]
        return [[(index, 0) for index in shuffled[at : at + k]] for at in range(0, len(shuffled) - k + 1, k)]


class DomainSampler:
    """Batches of P identities with K images each, all of one domain; those of all domains come in an epoch, mixed, each
    as `IdentitySampler` would have them. Of one domain they are the same as that sampler's.

    Args:
        records: the records of the training set.
        identities_per_batch, images_per_identity, seed, across_outfits: as `IdentitySampler` has them.
    Raises: DatasetError if a domain has fewer than P identities.
    """

    def __init__(
        self,
        records: Sequence[Record],
        identities_per_batch: int,
        images_per_identity: int,
        seed: int,
        across_outfits: bool = False,
    ):
        self._seed = seed
        self._domains: list[tuple[list[int], IdentitySampler]] = []
        for domain in sorted({record.domain for record in records}):
            places = [place for place, record in enumerate(records) if record.domain == domain]
            own, of_its_own = [records[place] for place in places], f"{seed}/{domain}" if domain else seed
            try:
                sampler = IdentitySampler(own, identities_per_batch, images_per_identity, of_its_own, across_outfits)
            except DatasetError as error:
                raise DatasetError(f"of domain {domain}, with images such as {own[0].key}: {error}") from error
            self._domains.append((places, sampler))

    @property
    def size(self) -> int:
        """Images in a batch."""
        return self._domains[0][1].size

    def __len__(self) -> int:
        """Batches in an epoch."""
        return sum(len(sampler) for _, sampler in self._domains)

    def batches(self, epoch: int, start: int = 0) -> Iterator[list[Draw]]:
        """The batches of an epoch, from batch number `start` on."""
        return islice(self._all_batches(epoch), start, None)

    def _all_batches(self, epoch: int) -> Iterator[list[Draw]]:
        turns = [number for number, (_, sampler) in enumerate(self._domains) for _ in range(len(sampler))]
        Random(f"{self._seed}/{epoch}/domains").shuffle(turns)
        running = [sampler.batches(epoch) for _, sampler in self._domains]
        for number in turns:
            places, _ = self._domains[number]
            yield [replace(draw, index=places[draw.index]) for draw in next(running[number])]


def _alternating(images: Sequence[int], outfits: Sequence[int | None]) -> list[int]:
    """One image of each outfit, then a second one of each, and so on, otherwise in the order given."""
    worn: Counter[int | None] = Counter()
    turns = []
    for image in images:
        turns.append((worn[outfits[image]], image))
        worn[outfits[image]] += 1
    return [image for _, image in sorted(turns, key=lambda turn: turn[0])]
