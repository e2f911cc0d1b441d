"""Batches of one domain each, in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from random import Random

from bdam_reid.data.records import Record
from bdam_reid.data.samplers import Draw, IdentitySampler


class DomainSampler:
    """Batches of P identities of one domain with K images each: those of every domain's `IdentitySampler`, in an order
    that depends on the seed and the epoch only.

    Args:
        records: the records of the training set.
        identities_per_batch: P, at least 2.
        images_per_identity: K.
        seed: of the order.
    Raises: DatasetError if a domain has fewer than P identities.
    """

    def __init__(
        self, records: Sequence[Record], identities_per_batch: int, images_per_identity: int, seed: int
    ) -> None:
        self._places = places_by_domain(records)
        self._samplers = [
            IdentitySampler([records[place] for place in own], identities_per_batch, images_per_identity, seed)
            for own in self._places
        ]
        self._seed = seed

    @property
    def size(self) -> int:
        """Images in a batch."""
        return self._samplers[0].size

    def __len__(self) -> int:
        """Batches in an epoch."""
        return sum(map(len, self._samplers))

    def batches(self, epoch: int, start: int = 0) -> Iterator[list[Draw]]:
        """The batches of an epoch, from batch number `start` on."""
        return islice(self._all_batches(epoch), start, None)

    def _all_batches(self, epoch: int) -> Iterator[list[Draw]]:
        running = [sampler.batches(epoch) for sampler in self._samplers]
        for domain in turns(list(map(len, self._samplers)), Random(f"{self._seed}/{epoch}/domains")):
            own = self._places[domain]
            yield [Draw(own[draw.index], draw.epoch, draw.repeat) for draw in next(running[domain])]


def places_by_domain(records: Sequence[Record]) -> list[list[int]]:
    """The places of each domain's records, in the order of their numbers."""
    return [
        [place for place, record in enumerate(records) if record.domain == domain]
        for domain in sorted({record.domain for record in records})
    ]


def turns(batches: Sequence[int], rng: Random) -> list[int]:
    """The domain of each batch of an epoch, drawn, where domain d has `batches[d]` of them."""
    order = [domain for domain, number in enumerate(batches) for _ in range(number)]
    rng.shuffle(order)
    return order
