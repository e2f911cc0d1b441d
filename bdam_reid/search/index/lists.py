"""The nearest of many vectors, without a look at most of them: inverted lists of quantised vectors, in FAISS.

For each part of an embedding there are lists, each around a centre of that part alone, and every vector is in one of
each part's. Whatever the weights of the parts in a query are, the inner product with a centre says what its list
promises: of a query for identity alone, the lists of clothing promise nothing. In a list is a vector's difference from
the centre, quantised to 4 bits for each few entries (product quantisation; Jegou, Douze and Schmid, 2011), and compared
in registers (fast scan; Andre, Kermarrec and Le Scouarnec, 2015). The best candidates are compared once more by their
memory-mapped vectors: every score is exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bdam_reid.config import ConfigError
from bdam_reid.engine.checkpoint import sync
from bdam_reid.search.index.generation import Vectors, write_array
from bdam_reid.search.index.neighbours import Mask, Nearest, Queries, best_of, compare_all, padded

EXACT = 50_000
"""Vectors of a gallery, or that a filter leaves of one, that are all compared, at most."""
TRAINED, CODES = "trained.faiss", "codes.npy"
ENTRIES = 4
"""Entries of a vector to a code of 4 bits."""
PROBES = 32
"""Lists that are looked into, of a gallery without a filter, for each part."""
CANDIDATES, CANDIDATES_EACH = 128, 16
"""Entries that are compared exactly, at least, and for each vector that is asked for."""
SAMPLE = 40
"""Vectors for each list that it is trained on."""
ROUNDS = 5
"""Of k-means."""


class Lists:
    """Inverted lists of a large gallery, which are held in memory; the vectors stay where they are.

    Args:
        folder: of the generation, with what `write_lists` wrote.
        vectors: (N, E) of the generation.
    """

    def __init__(self, folder: Path, vectors: Vectors) -> None:
        faiss = _faiss()
        trained = read_trained(folder)
        codes: NDArray[np.uint8] = np.load(folder / CODES, mmap_mode="r", allow_pickle=False)
        self._parts = codes.shape[1] // code_size(trained)
        numbers = np.repeat(np.arange(len(codes), dtype=np.int64), self._parts)
        trained.add_sa_codes(codes.reshape(len(numbers), -1), numbers)
        self._vectors, self._lists = vectors, faiss.IndexIVFPQFastScan(trained)
        # The centres stay its own; the entries are copied.
        trained.reset()
        self._centres = trained
        exact = _in_place(vectors)
        # FAISS wants as many vectors as entries; it looks at those alone whose numbers stand in the lists.
        exact.ntotal = self._lists.ntotal
        self._refined = faiss.IndexRefine(self._lists, exact)

    def search(self, queries: Queries, k: int, allowed: Mask | None = None) -> Nearest:
        """As `Neighbours` says. Of a filter that leaves a share of the rows, as many more lists are looked into; where
        these have not k of them, all that are allowed are compared."""
        total = len(self._vectors)
        left = total if allowed is None else int(allowed.sum())
        rows = None if allowed is None else np.flatnonzero(allowed)
        if left <= EXACT:
            return compare_all(self._vectors, queries, k, rows)
        most = min(k, left)
        found = _once_each(self._candidates(queries, self._parts * most, allowed, total / left), most)
        short = np.flatnonzero((found.rows < 0).any(axis=1))
        if len(short):
            found.scores[short], found.rows[short] = compare_all(self._vectors, queries[short], most, rows)
        return padded(found, k)

    def _candidates(self, queries: Queries, k: int, allowed: Mask | None, more: float) -> Nearest:
        """k entries of lists, among which a row may be once for each part."""
        faiss = _faiss()
        # Kept alive while FAISS reads it.
        selector = None if allowed is None else faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        probes = min(self._lists.nlist, math.ceil(PROBES * self._parts * more))
        parameters = faiss.IndexRefineSearchParameters(
            k_factor=max(1.0, min(max(CANDIDATES_EACH, CANDIDATES / k), self._lists.ntotal / k)),
            base_index_params=faiss.SearchParametersIVF(nprobe=probes, sel=selector),
        )
        return Nearest(*self._refined.search(np.ascontiguousarray(queries), k, params=parameters))


def check_faiss(count: int) -> None:
    """Raise ConfigError if FAISS, which galleries of so many images need, is not installed."""
    if count > EXACT and find_spec("faiss") is None:
        raise ConfigError(
            f"a gallery of more than {EXACT:,} images needs faiss-cpu: pip install -e '.[search]', got {count:,} images"
        )


def train_lists(vectors: Vectors, parts: Sequence[slice]) -> Any:
    """Centres and codebooks for vectors (N, E), from a sample of them: FAISS's index without entries.

    All parts together have 4 sqrt(N) lists, to the next power of two for each.
    """
    faiss, (count, width) = _faiss(), vectors.shape
    lists = 2 ** round(math.log2(4 * math.sqrt(count) / len(parts)))
    rows = np.sort(np.random.default_rng(0).choice(count, min(count, SAMPLE * lists), replace=False))
    sample = vectors[rows].astype(np.float32)
    centres = np.zeros((len(parts), lists, width), np.float32)
    for number, part in enumerate(parts):
        clusters = faiss.Kmeans(
            part.stop - part.start, lists, niter=ROUNDS, spherical=True, min_points_per_centroid=1
        )  # fmt: skip
        clusters.train(np.ascontiguousarray(sample[:, part]))
        centres[number, :, part] = clusters.centroids
    quantiser = faiss.IndexFlatIP(width)
    quantiser.add(centres.reshape(-1, width))
    codes = width // ENTRIES if width % ENTRIES == 0 else width
    trained = faiss.IndexIVFPQ(quantiser, width, quantiser.ntotal, codes, 4, faiss.METRIC_INNER_PRODUCT)
    trained.train(sample)
    return trained


def read_trained(folder: Path) -> Any:
    """Centres and codebooks of a generation."""
    return _faiss().read_index(str(folder / TRAINED))


def write_lists(folder: Path, trained: Any, blocks: Iterable[NDArray[np.uint8]], shape: tuple[int, int]) -> None:
    """Write into a generation centres and codebooks, and the codes of all rows, in order, of this shape."""
    _faiss().write_index(trained, str(folder / TRAINED))
    sync(folder / TRAINED)
    write_array(folder / CODES, blocks, shape, np.dtype(np.uint8))


def code_size(trained: Any) -> int:
    """Bytes of a vector in one list: the number of the list, and the code."""
    return int(trained.sa_code_size())


def encode(trained: Any, parts: Sequence[slice], vectors: Vectors) -> NDArray[np.uint8]:
    """vectors (N, E) -> (N, parts * `code_size`): of each part the list, and the code there."""
    faiss, wide = _faiss(), vectors.astype(np.float32)
    centres = trained.quantizer.reconstruct_n(0, trained.nlist).reshape(len(parts), -1, wide.shape[1])
    codes = np.empty((len(parts), len(wide), code_size(trained)), np.uint8)
    for number, part in enumerate(parts):
        nearest = (wide[:, part] @ centres[number, :, part].T).argmax(axis=1) + number * centres.shape[1]
        trained.encode_vectors(
            len(wide), faiss.swig_ptr(wide), faiss.swig_ptr(nearest), faiss.swig_ptr(codes[number]), True
        )  # fmt: skip
    return np.concatenate(codes, axis=1)


def _once_each(nearest: Nearest, k: int) -> Nearest:
    """The k best different rows."""
    order = np.argsort(nearest.rows, axis=1, kind="stable")
    rows = np.take_along_axis(nearest.rows, order, axis=1)
    scores = np.take_along_axis(nearest.scores, order, axis=1)
    again = np.pad(rows[:, 1:] == rows[:, :-1], ((0, 0), (1, 0))) | (rows < 0)
    rows[again], scores[again] = -1, -np.inf
    return best_of(Nearest(scores, rows), k)


def _faiss() -> Any:
    # Most of a second to import, and most galleries need none.
    import faiss

    return faiss


def _in_place(vectors: Vectors) -> Any:
    """FAISS's index that compares float16 vectors (N, E) where they are, in the pages of their file, without a copy.
    They must outlive it."""
    faiss = _faiss()
    index = faiss.IndexScalarQuantizer(
        vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )  # fmt: skip
    nobody = index.codes.owner
    address = faiss.cast_integer_to_void_ptr(vectors.ctypes.data)
    index.codes = faiss.MaybeOwnedVectorUInt8.create_view(address, vectors.nbytes, nobody)
    index.ntotal = len(vectors)
    return index
