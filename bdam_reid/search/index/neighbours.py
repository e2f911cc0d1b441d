"""The nearest of vectors by inner product, all of them compared; lists.py compares those alone that are promising."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from bdam_reid.search.index.generation import BLOCK, Vectors

Queries = NDArray[np.float32]
Mask = NDArray[np.bool_]


class Nearest(NamedTuple):
    """The k best rows of each of Q queries, the best first."""

    scores: NDArray[np.float32]
    """(Q, k) inner products."""
    rows: NDArray[np.int64]
    """(Q, k); -1 where there are no more."""


class Neighbours(Protocol):
    """What finds them; threads may share one."""

    def search(self, queries: Queries, k: int, allowed: Mask | None = None) -> Nearest:
        """queries (Q, E), allowed (N,) True for rows that may be found -> the nearest; k is at least 1."""


class Exact:
    """Compares all vectors (N, E), which it keeps in float32; of equals the first rows are found."""

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = torch.from_numpy(vectors.astype(np.float32))

    def search(self, queries: Queries, k: int, allowed: Mask | None = None) -> Nearest:
        """As `Neighbours` says."""
        if allowed is None:
            return nearest_of(self._vectors, queries, k)
        rows = np.flatnonzero(allowed)
        return renamed(nearest_of(self._vectors[torch.from_numpy(rows)], queries, k), rows)


def compare_all(vectors: Vectors, queries: Queries, k: int, rows: NDArray[np.int64] | None = None) -> Nearest:
    """Compares all of many vectors, or those in `rows`, which are read block by block."""
    count = len(vectors) if rows is None else len(rows)
    best = Nearest(np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64))
    for at in range(0, count, BLOCK):
        block = np.arange(at, min(count, at + BLOCK)) if rows is None else rows[at : at + BLOCK]
        here = renamed(nearest_of(torch.from_numpy(vectors[block].astype(np.float32)), queries, k), block)
        best = best_of(Nearest(np.hstack((best.scores, here.scores)), np.hstack((best.rows, here.rows))), k)
    return padded(best, k)


def nearest_of(vectors: torch.Tensor, queries: Queries, k: int) -> Nearest:
    """Compares queries (Q, E) with all vectors (N, E) float32, so many queries at a time as takes little memory."""
    at_once = max(1, 2**24 // max(1, len(vectors)))
    found = [Nearest(np.empty((0, k), np.float32), np.empty((0, k), np.int64))]
    for at in range(0, len(queries), at_once):
        scores = torch.from_numpy(np.ascontiguousarray(queries[at : at + at_once])) @ vectors.T
        best = scores.topk(min(k + 1, len(vectors)), dim=1)
        values, rows = best.values[:, :k], best.indices[:, :k]
        # Of equals torch takes any: where one more is as good as the last, they are sorted.
        for query in (best.values[:, k:] == values[:, -1:]).any(dim=1).nonzero().flatten():
            rows[query] = scores[query].argsort(descending=True, stable=True)[:k]
        found.append(padded(best_of(Nearest(values.numpy(), rows.numpy()), k), k))
    return Nearest(np.vstack([some.scores for some in found]), np.vstack([some.rows for some in found]))


def best_of(nearest: Nearest, k: int) -> Nearest:
    """The k best of more, the best first, of equals the first row; those that are none last."""
    order = np.lexsort((nearest.rows, -nearest.scores))[:, :k]
    return Nearest(np.take_along_axis(nearest.scores, order, axis=1), np.take_along_axis(nearest.rows, order, axis=1))


def renamed(nearest: Nearest, names: NDArray[np.int64]) -> Nearest:
    """With what stands in `names` at the places that rows are; -1 stays."""
    return nearest._replace(rows=np.append(names, -1)[nearest.rows])


def padded(nearest: Nearest, k: int) -> Nearest:
    """With -1, whose score is that of nothing, up to k columns."""
    more = ((0, 0), (0, k - nearest.rows.shape[1]))
    return Nearest(
        np.pad(nearest.scores, more, constant_values=-np.inf), np.pad(nearest.rows, more, constant_values=-1)
    )
