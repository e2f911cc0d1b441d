"""An index, opened to search in: which images are nearest to queries, and what is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bdam_reid.search.columns import UNKNOWN, Column, Where, column_named
from bdam_reid.search.files import ImageFile, Refused
from bdam_reid.search.index.generation import (
    GalleryError,
    Generation,
    Manifest,
    damaged,
    folder_of,
    read_generation,
    read_manifest,
)
from bdam_reid.search.index.lists import Lists, check_faiss
from bdam_reid.search.index.neighbours import Exact, Nearest, Neighbours, Queries

EVERYTHING = Where()


class Hit(NamedTuple):
    """An image that was found, by its number in an index."""

    row: int
    score: float
    """Inner product with the query; greater is more alike."""


class Entry(NamedTuple):
    """An image that was found, and what a gallery has of it."""

    path: str
    """Within the folder."""
    score: float
    """Inner product with the query; greater is more alike."""
    vector: Queries
    """Its embedding (E,)."""
    about: Mapping[str, str]
    """What else is known of it, by column."""


class Gallery(Protocol):
    """What is searched: an `Index`, or, of more images than a machine holds, `milvus.MilvusGallery`."""

    manifest: Manifest

    def entries(self, query: Queries, k: int = 10, *, where: Where = EVERYTHING, one_per: str = "") -> list[Entry]:
        """The k images nearest to a query (E,), as `Index.search` says."""


class Index:
    """A generation of an index. Threads may share one; an update that comes later does not change it.

    Args:
        manifest: what it is of.
        generation: its images.
        found_by: what finds the nearest.
    """

    def __init__(self, manifest: Manifest, generation: Generation, found_by: Neighbours) -> None:
        self.manifest, self._images, self._neighbours = manifest, generation, found_by

    def __len__(self) -> int:
        return len(self._images.paths)

    @property
    def folder(self) -> Path:
        """Of the images."""
        return Path(self.manifest.folder)

    @property
    def columns(self) -> Mapping[str, Column]:
        """What is known of the images, by name."""
        return self._images.columns

    @property
    def refused(self) -> list[Refused]:
        """Files of the folder that are not in it, and why."""
        return self._images.refused

    def path(self, row: int) -> str:
        """The path of an image within the folder."""
        return self._images.paths[row]

    def image(self, row: int) -> ImageFile:
        """The file of an image as it was when it was embedded."""
        return ImageFile(self.path(row), int(self._images.sizes[row]), int(self._images.changed[row]))

    def about(self, row: int) -> dict[str, str]:
        """What is known of an image, by column."""
        known = {name: column[row] for name, column in self.columns.items()}
        return {name: text for name, text in known.items() if text is not None}

    def entries(self, query: Queries, k: int = 10, *, where: Where = EVERYTHING, one_per: str = "") -> list[Entry]:
        """As `Gallery` says."""
        (hits,) = self.search(query[None], k, where=where, one_per=one_per)
        vectors = self.vectors(np.array([hit.row for hit in hits], dtype=np.int64))
        return [
            Entry(self.path(hit.row), hit.score, vector, self.about(hit.row))
            for hit, vector in zip(hits, vectors, strict=True)
        ]

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The embeddings (R, E) of images."""
        return self._images.vectors[rows].astype(np.float32)

    def search(self, queries: Queries, k: int = 10, *, where: Where = EVERYTHING, one_per: str = "") -> list[list[Hit]]:
        """The k images nearest to each of queries (Q, E), the best first; fewer if there are no
        more.

        Args:
            queries: float32, with the weights of the parts in them.
            k: at least 1.
            where: which images may be found.
            one_per: a column, such as person or track, of each text of which the best image alone is given; images of
                which it is unknown are all given. Empty gives all images.
        Raises: ValueError for queries of another shape, or that are not finite, or k below 1; QueryError for a column
            that there is not.
        """
        width = self._images.vectors.shape[1]
        if queries.ndim != 2 or queries.shape[1] != width:
            raise ValueError(f"queries must be (queries, {width}), got {queries.shape}")
        if not np.isfinite(queries).all():
            raise ValueError("queries must be finite, got others")
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        allowed = where.mask(self.columns) if where else None
        groups = column_named(one_per, self.columns).codes if one_per else None
        left = len(self) if allowed is None else int(allowed.sum())
        if left == 0:
            return [[] for _ in queries]
        if groups is None:
            return _hits(self._neighbours.search(queries, min(k, left), allowed))
        return [self._one_per_group(query[None], k, allowed, left, groups) for query in queries]

    def _one_per_group(
        self, query: Queries, k: int, allowed: NDArray[np.bool_] | None, left: int, groups: NDArray[np.int32]
    ) -> list[Hit]:
        """Asks for more and more images until k groups are among them, or there are no more."""
        wanted = k
        while True:
            wanted = min(left, 4 * wanted)
            (hits,) = _hits(self._neighbours.search(query, wanted, allowed))
            best: dict[int, Hit] = {}
            for hit in hits:
                group = int(groups[hit.row])
                # What is unknown is a group of its own.
                best.setdefault(-1 - hit.row if group == UNKNOWN else group, hit)
            if len(best) >= k or wanted == left:
                return list(best.values())[:k]


def open_index(index: Path) -> Index:
    """The current generation of an index.

    Raises: GalleryError if there is none, or it is damaged; ConfigError if it needs FAISS, which is not installed.
    """
    while True:
        manifest = read_manifest(index)
        folder = folder_of(index, manifest.generation)
        try:
            generation = read_generation(folder)
            found_by = _neighbours(folder, generation, manifest)
        except GalleryError:
            # An update has removed it meanwhile.
            if read_manifest(index).generation != manifest.generation:
                continue
            raise
        return Index(manifest, generation, found_by)


def _neighbours(folder: Path, generation: Generation, manifest: Manifest) -> Neighbours:
    if not manifest.trained_on:
        return Exact(generation.vectors)
    check_faiss(len(generation.vectors))
    try:
        return Lists(folder, generation.vectors)
    except (OSError, ValueError, RuntimeError) as error:
        raise damaged(folder.parent, error) from error


def _hits(nearest: Nearest) -> list[list[Hit]]:
    return [
        [Hit(row, score) for row, score in zip(rows, scores, strict=True) if row >= 0]
        for rows, scores in zip(nearest.rows.tolist(), nearest.scores.tolist(), strict=True)
    ]
