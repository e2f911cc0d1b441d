"""The nearest of many vectors by inner product: all of them compared, or, of a large gallery, the promising ones.

A large gallery lies in inverted lists, each around a centre, as codes of 4 bits for each few entries of a vector's
difference from the centre (product quantisation; Jegou, Douze and Schmid, 2011; its fast scan after Andre, Kermarrec
and Le Scouarnec, 2015), in FAISS. Of the lists whose centres are nearest to a query the codes are compared, and the
best candidates once more by their memory-mapped vectors, so that every score is exact. Lists and codes are those of
unweighted vectors; weights of parts are in the query, and the inner product is linear in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from bdam_reid.config import ConfigError
from bdam_reid.engine.checkpoint import sync
from bdam_reid.search.index.generation import BLOCK, Vectors, write_array

EXACT = 50_000
"""Vectors of which all are compared, at most; so many of a larger gallery too, if a filter leaves no more."""
TRAINED, CODES = "trained.faiss", "codes.npy"
ENTRIES = 4
"""Entries of a vector to a code of 4 bits."""
PROBES = 32
"""Lists that are looked into, of a gallery without a filter."""
CANDIDATES = 200
"""Vectors that are compared exactly, at least, and `CANDIDATES_EACH` for each that is asked for."""
CANDIDATES_EACH = 10
SAMPLE = 32
"""Vectors for each list that it is trained on."""
ROUNDS = 6
"""Of k-means."""

Queries = NDArray[np.float32]
Mask = NDArray[np.bool_]


class Nearest(NamedTuple):
    """The k best rows of each of Q queries, the best first, of equals the first."""

    scores: NDArray[np.float32]
    """(Q, k) inner products."""
    rows: NDArray[np.int64]
    """(Q, k); -1 where there are no more."""


class Neighbours(Protocol):
    """What finds them; threads may share one."""

    def search(self, queries: Queries, k: int, allowed: Mask | None = None) -> Nearest:
        """queries (Q, E), allowed (N,) True for rows that may be found -> the nearest; k is at least 1."""


class Exact:
    """Compares all vectors, which it keeps in float32. Args: vectors (N, E)."""

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = torch.from_numpy(vectors.astype(np.float32))

    def search(self, queries: Queries, k: int, allowed: Mask | None = None) -> Nearest:
        """As `Neighbours` says."""
        if allowed is None:
            return nearest_of(self._vectors, queries, k)
        rows = np.flatnonzero(allowed)
        found = nearest_of(self._vectors[torch.from_numpy(rows)], queries, k)
        return Nearest(found.scores, _renamed(found.rows, rows))


class Lists:
    """Inverted lists of a large gallery, which must be held in memory besides the memory-mapped vectors.

    Args:
        folder: of the generation, with what `write_lists` wrote.
        vectors: (N, E) of the generation.
    """

    def __init__(self, folder: Path, vectors: Vectors) -> None:
        faiss = _faiss()
        trained = faiss.read_index(str(folder / TRAINED))
        codes = np.load(folder / CODES, allow_pickle=False)
        trained.add_sa_codes(codes, np.arange(len(codes), dtype=np.int64))
        self._vectors, self._lists = vectors, faiss.IndexIVFPQFastScan(trained)
        self._mapped = _mapped(vectors)
        self._refined = faiss.IndexRefine(self._lists, self._mapped)

    def search(self, queries: Queries, k: int, allowed: Mask | None = None) -> Nearest:
        """As `Neighbours` says. Of a filter that leaves a share of the rows, as many more lists are looked into; where
        these have not k rows, all that are allowed are compared."""
        faiss, total = _faiss(), len(self._vectors)
        left = total if allowed is None else int(allowed.sum())
        if left <= EXACT:
            assert allowed is not None
            return self._exact(queries, k, np.flatnonzero(allowed))
        probes = min(self._lists.nlist, math.ceil(PROBES * total / left))
        bits = None if allowed is None else np.packbits(allowed, bitorder="little")
        parameters = faiss.IndexRefineSearchParameters(
            k_factor=CANDIDATES_EACH + CANDIDATES / k,
            base_index_params=faiss.SearchParametersIVF(
                nprobe=probes, sel=None if bits is None else faiss.IDSelectorBitmap(bits)
            ),
        )
        scores, rows = self._refined.search(np.ascontiguousarray(queries), min(k, left), params=parameters)
        short = np.flatnonzero((rows < 0).any(axis=1))
        if len(short):
            found = self._exact(queries[short], rows.shape[1], None if allowed is None else np.flatnonzero(allowed))
            scores[short], rows[short] = found
        return _padded(Nearest(scores, rows), k)

    def _exact(self, queries: Queries, k: int, rows: NDArray[np.int64] | None) -> Nearest:
        """Compares all rows, or those of `rows`, block by block."""
        count = len(self._vectors) if rows is None else len(rows)
        best = Nearest(np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64))
        for at in range(0, count, BLOCK):
            block = np.arange(at, min(count, at + BLOCK)) if rows is None else rows[at : at + BLOCK]
            found = nearest_of(torch.from_numpy(self._vectors[block].astype(np.float32)), queries, k)
            here = Nearest(found.scores, _renamed(found.rows, block))
            best = _sorted(Nearest(*(np.hstack(pair) for pair in zip(best, here, strict=True))), k)
        return _padded(best, k)


def neighbours(folder: Path, vectors: Vectors, *, lists: bool) -> Neighbours:
    """What searches a generation. Raises: ConfigError if it needs FAISS, which is not installed."""
    if not lists:
        return Exact(vectors)
    check_faiss(len(vectors))
    return Lists(folder, vectors)


def nearest_of(vectors: torch.Tensor, queries: Queries, k: int) -> Nearest:
    """Compares queries (Q, E) with all vectors (N, E) float32, so many queries at a time as takes little memory."""
    at_once = max(1, 2**24 // max(1, len(vectors)))
    found = []
    for at in range(0, len(queries), at_once):
        scores = torch.from_numpy(np.ascontiguousarray(queries[at : at + at_once])) @ vectors.T
        best = scores.topk(min(k, len(vectors)), dim=1)
        rows = best.indices
        # Of equals torch takes any.
        for query in ((scores >= best.values[:, -1:]).sum(dim=1) > k).nonzero().flatten():
            rows[query] = scores[query].argsort(descending=True, stable=True)[:k]
        found.append(_sorted(Nearest(best.values.numpy(), rows.numpy()), k))
    if not found:
        return _padded(Nearest(np.empty((0, 0), np.float32), np.empty((0, 0), np.int64)), k)
    return _padded(Nearest(*(np.vstack(parts) for parts in zip(*found, strict=True))), k)


def check_faiss(count: int) -> None:
    """Raise ConfigError if FAISS, which galleries of so many images need, is not installed."""
    if find_spec("faiss") is None:
        raise ConfigError(
            f"a gallery of more than {EXACT:,} images needs faiss-cpu: pip install -e '.[search]', got {count:,} images"
        )


def train_lists(vectors: Vectors) -> Any:
    """Centres and codebooks for vectors (N, E), from a sample of them: FAISS's index without entries.

    Lists are the power of two nearest to 4 sqrt(N)."""
    faiss, (count, width) = _faiss(), vectors.shape
    lists = 2 ** round(math.log2(4 * math.sqrt(count)))
    rows = np.sort(np.random.default_rng(0).choice(count, min(count, SAMPLE * lists), replace=False))
    quantiser = faiss.IndexFlatIP(width)
    codes = width // ENTRIES if width % ENTRIES == 0 else width
    trained = faiss.IndexIVFPQ(quantiser, width, lists, codes, 4, faiss.METRIC_INNER_PRODUCT)
    trained.cp.niter, trained.cp.min_points_per_centroid = ROUNDS, 1
    trained.train(vectors[rows].astype(np.float32))
    return trained


def read_trained(folder: Path) -> Any:
    """Centres and codebooks of a generation."""
    return _faiss().read_index(str(folder / TRAINED))


def write_lists(folder: Path, trained: Any, blocks: Iterator[NDArray[np.uint8]], count: int) -> None:
    """Write into a generation centres and codebooks, and the codes of all rows, in order."""
    _faiss().write_index(trained, str(folder / TRAINED))
    sync(folder / TRAINED)
    write_array(folder / CODES, blocks, (count, trained.sa_code_size()), np.dtype(np.uint8))


def encode(trained: Any, vectors: Vectors) -> NDArray[np.uint8]:
    """vectors (N, E) -> codes (N, bytes), the number of the list before them."""
    return trained.sa_encode(vectors.astype(np.float32))


def _faiss() -> Any:
    # A second to import, and not needed for most galleries.
    import faiss

    return faiss


def _mapped(vectors: Vectors) -> Any:
    """FAISS's index that compares float16 vectors (N, E) where they are, in the file's pages: it makes no copy."""
    faiss = _faiss()
    index = faiss.IndexScalarQuantizer(
        vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )  # fmt: skip
    # Nobody in FAISS owns them: `vectors` outlive the index, as both are kept in one object.
    nobody = index.codes.owner
    address = faiss.cast_integer_to_void_ptr(vectors.ctypes.data)
    index.codes = faiss.MaybeOwnedVectorUInt8.create_view(address, vectors.nbytes, nobody)
    index.ntotal = len(vectors)
    return index


def _sorted(nearest: Nearest, k: int) -> Nearest:
    """The k best, the best first, of equals the first row; those that are none last."""
    order = np.lexsort((nearest.rows, -nearest.scores))[:, :k]
    return Nearest(*(np.take_along_axis(values, order, axis=1) for values in nearest))


def _renamed(rows: NDArray[np.int64], names: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places in `names` -> what stands there; -1 stays."""
    return np.append(names, -1)[rows]


def _padded(nearest: Nearest, k: int) -> Nearest:
    """With -1, whose score is that of nothing, up to k columns."""
    more = ((0, 0), (0, k - nearest.rows.shape[1]))
    return Nearest(
        np.pad(nearest.scores, more, constant_values=-np.inf), np.pad(nearest.rows, more, constant_values=-1)
    )
