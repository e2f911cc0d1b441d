"""Embeddings of a gallery that does not exist, clustered like those of photographs of persons.

Each embedding has two unit vectors, of who is shown and of what is worn. Persons, and outfits, are normal vectors with
a power law for a spectrum, in directions that are no axes, as the features of trained networks are. A person has
`VIEWS` pictures in `OUTFITS` outfits out of a stock, which others wear too. A picture adds noise of the same spectrum
to both. A query is one more picture of somebody in the gallery, with more noise, as that of a sentence.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

WIDTH = 256
"""Of each of the two parts."""
VIEWS, OUTFITS = 20, 4
"""Pictures of a person, and outfits in them."""
WEARERS = 40
"""Persons who wear an outfit, on average."""
DECAY = 0.25
"""The standard deviation along the i-th direction is i to the power of minus this; cosines of different persons have
one of .08."""
SEEN, DESCRIBED = 0.5, 0.8
"""Noise of pictures and of queries, as a share of the spread of persons: cosines of two pictures of a person in one
outfit are about 1 / (1 + SEEN ** 2) = .8, of one and a query .7."""
BLOCK = 50_000

Array = NDArray[np.float32]


class Gallery:
    """Embeddings (count, 2 WIDTH) in blocks, and queries, the same for the same seed."""

    def __init__(self, count: int, seed: int = 0) -> None:
        self.count, self.seed = count, seed
        rng = np.random.default_rng(seed)
        spread = np.arange(1, WIDTH + 1, dtype=np.float32) ** -DECAY
        rotation = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0].astype(np.float32)
        self._mixing = spread[:, None] * rotation
        persons = max(1, count // VIEWS)
        self._persons = self._normal(rng, persons)
        self._stock = self._normal(rng, max(OUTFITS, persons * OUTFITS // WEARERS))
        self._worn = rng.integers(len(self._stock), size=(persons, OUTFITS))

    def blocks(self) -> Iterator[Array]:
        """The embeddings, `BLOCK` at a time; pictures of a person are anywhere among them."""
        rng = np.random.default_rng((self.seed, 1))
        order = rng.permutation(self.count)
        for at in range(0, self.count, BLOCK):
            yield self._pictures(rng, order[at : at + BLOCK], SEEN)

    def queries(self, count: int) -> Array:
        """(count, 2 WIDTH)."""
        rng = np.random.default_rng((self.seed, 2))
        return self._pictures(rng, rng.integers(self.count, size=count), DESCRIBED)

    def _pictures(self, rng: np.random.Generator, numbers: NDArray[np.int64], noise: float) -> Array:
        persons = numbers // VIEWS % len(self._persons)
        outfits = self._worn[persons, numbers % OUTFITS]
        parts = (
            centres[which] + noise * self._normal(rng, len(numbers))
            for centres, which in ((self._persons, persons), (self._stock, outfits))
        )
        return np.hstack([part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts])

    def _normal(self, rng: np.random.Generator, count: int) -> Array:
        return rng.standard_normal((count, WIDTH), dtype=np.float32) @ self._mixing
