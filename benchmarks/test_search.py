"""The index of a gallery beside others: of ten thousand to a million embeddings on two cores, or a few thousand with
--small.

`pytest benchmarks/test_search.py`, with `-k 1000000` at a million alone. Each contender answers the same queries in
batches and one at a time, set so that it finds at least `RECALL` of the ten nearest, if it can. It gets a process of
its own, whose memory is measured, and into which no other contender brings a runtime of OpenMP.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from numpy.typing import NDArray

from bdam_reid.search.index import lists, neighbours
from bdam_reid.search.index.generation import write_array
from benchmarks.gallery import BLOCK, WIDTH, Gallery
from benchmarks.measure import figures
from benchmarks.results import SEARCH

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
SMALL = 4_000
"""Embeddings with --small."""
K, RECALL = 10, 0.99
BATCH, SINGLE = 1000, 300
"""Queries of a batch, and that are asked one at a time."""
CORES = 2
PARTS = [slice(0, WIDTH), slice(WIDTH, 2 * WIDTH)]
CONTENDERS = {
    "ours": "numpy",
    "FAISS, exact": "faiss",
    "hnswlib": "hnswlib",
    "usearch": "usearch",
}
"""And the package that each needs: `pip install hnswlib usearch`. Servers' embedded forms are not among them:
milvus-lite took 1.6 s to be asked for one of 4,000 vectors."""

Array = NDArray[np.float32]
Rows = NDArray[np.int64]


class Contender(Protocol):
    """An index of vectors (N, E) float16."""

    settings: Sequence[Any]
    """From fast to thorough."""

    def __init__(self, vectors: NDArray[np.float16], folder: Path) -> None: ...

    def search(self, queries: Array, setting: Any) -> Rows:
        """(Q, K)."""


class Ours:
    settings = (4, 8, 16, 32, 64, 128)

    def __init__(self, vectors: NDArray[np.float16], folder: Path) -> None:
        if len(vectors) == SMALL:
            # Lists are what is to be tested.
            lists.EXACT = SMALL // 10
        self._found_by = neighbours.Exact(vectors) if len(vectors) <= lists.EXACT else self._lists(vectors, folder)

    def _lists(self, vectors: NDArray[np.float16], folder: Path) -> lists.Lists:
        trained = lists.train_lists(vectors, PARTS)
        shape = (len(vectors), len(PARTS) * lists.code_size(trained))
        starts = range(0, len(vectors), BLOCK)
        blocks = (lists.encode(trained, PARTS, vectors[at : at + BLOCK]) for at in starts)
        lists.write_lists(folder, trained, blocks, shape)
        return lists.Lists(folder, vectors)

    def search(self, queries: Array, setting: int) -> Rows:
        lists.PROBES = setting
        return self._found_by.search(queries, K).rows


class Exact:
    settings = (None,)

    def __init__(self, vectors: NDArray[np.float16], folder: Path) -> None:
        import faiss

        self._index = faiss.IndexFlatIP(vectors.shape[1])
        for at in range(0, len(vectors), BLOCK):
            self._index.add(vectors[at : at + BLOCK].astype(np.float32))

    def search(self, queries: Array, setting: None) -> Rows:
        return self._index.search(queries, K)[1]


class HNSW:
    settings = (16, 32, 64, 128, 256, 512)

    def __init__(self, vectors: NDArray[np.float16], folder: Path) -> None:
        import hnswlib

        self._index = hnswlib.Index(space="ip", dim=vectors.shape[1])
        self._index.init_index(max_elements=len(vectors), M=16, ef_construction=100)
        for at in range(0, len(vectors), BLOCK):
            rows = np.arange(at, min(len(vectors), at + BLOCK))
            self._index.add_items(vectors[rows].astype(np.float32), rows, num_threads=CORES)

    def search(self, queries: Array, setting: int) -> Rows:
        self._index.set_ef(setting)
        return self._index.knn_query(queries, K, num_threads=CORES)[0].astype(np.int64)


class USearch:
    settings = (16, 32, 64, 128, 256, 512)

    def __init__(self, vectors: NDArray[np.float16], folder: Path) -> None:
        from usearch.index import Index

        self._index = Index(ndim=vectors.shape[1], metric="ip", dtype="f16", connectivity=16, expansion_add=100)
        for at in range(0, len(vectors), BLOCK):
            rows = np.arange(at, min(len(vectors), at + BLOCK))
            self._index.add(rows, vectors[rows], threads=CORES)

    def search(self, queries: Array, setting: int) -> Rows:
        self._index.expansion_search = setting
        keys = self._index.search(queries.astype(np.float16), K, threads=CORES).keys
        return np.asarray(keys).reshape(len(queries), -1).astype(np.int64)


CLASSES: dict[str, type[Contender]] = dict(zip(CONTENDERS, (Ours, Exact, HNSW, USearch), strict=True))


def measure(name: str, path: Path, folder: Path, queries: Array, truth: Rows, pipe: Any) -> None:
    """Builds a contender in this process and sends what it took; of its settings the first with `RECALL`, or the
    last."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    vectors = np.load(path, mmap_mode="r")
    before, began = resident(), time.perf_counter()
    contender = CLASSES[name](vectors, folder)
    # Whose pages count for those only who still read them.
    del vectors
    built = time.perf_counter() - began
    for setting in contender.settings:
        recall = recall_of(contender.search(queries, setting), truth)
        if recall >= RECALL:
            break
    batches = [milliseconds(lambda: contender.search(queries, setting)) for _ in range(3)]
    singles = [milliseconds(lambda q=query: contender.search(q[None], setting)) for query in queries[:SINGLE]]
    facts = {"recall": recall, "p99_ms": float(np.quantile(singles, 0.99)), "build_s": built, "setting": setting}
    speed = {"queries_s": 1e3 * len(queries) / min(batches), "resident_mib": resident() - before}
    pipe.send({**facts, "forward": figures(batches, **speed)})


def milliseconds(step: Callable[[], object]) -> float:
    began = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - began)


def recall_of(found: Rows, truth: Rows) -> float:
    return float(np.mean([len({*a} & {*b}) / K for a, b in zip(found.tolist(), truth.tolist(), strict=True)]))


def resident() -> float:
    """MiB of this process that are in memory, pages of mapped files among them."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def write(gallery: Gallery, path: Path, queries: Array) -> Rows:
    """Writes a gallery in float16, and gives the truth in float32: the rows (Q, K) nearest to queries (Q, E)."""
    scores, rows = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)

    def blocks() -> Iterator[NDArray[np.float16]]:
        nonlocal scores, rows
        for number, block in enumerate(gallery.blocks()):
            found = queries @ block.T
            here = np.argpartition(-found, K, axis=1)[:, :K]
            scores = np.hstack([scores, np.take_along_axis(found, here, axis=1)])
            rows = np.hstack([rows, here + number * BLOCK])
            best = np.argsort(-scores, axis=1)[:, :K]
            scores, rows = np.take_along_axis(scores, best, axis=1), np.take_along_axis(rows, best, axis=1)
            yield block.astype(np.float16)

    write_array(path, blocks(), (gallery.count, 2 * WIDTH), np.dtype(np.float16))
    return rows


def measured(name: str, *arguments: Any) -> dict[str, Any]:
    """What a contender took, in a process of its own; nothing if that failed."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(name, *arguments, there))
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        return {}
    finally:
        process.join()


@pytest.mark.parametrize("count", SIZES)
def test_search(
    count: int,
    small: bool,
    tmp_path: Path,
    keep: Callable[[dict[str, Any]], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setenv("OMP_NUM_THREADS", str(CORES))
    if small and count > SIZES[0]:
        pytest.skip("one size tells whether it works")
    count, asked = (SMALL, 50) if small else (count, BATCH)
    gallery, path = Gallery(count), tmp_path / "vectors.npy"
    queries = gallery.queries(asked)
    truth = write(gallery, path, queries)
    rows: dict[str, dict[str, Any]] = {}
    for name, package in CONTENDERS.items():
        if importlib.util.find_spec(package) is None:
            with capsys.disabled():
                print(f"{name}: {package} is not installed")
            continue
        folder = tmp_path / name
        folder.mkdir()
        rows[name] = measured(name, path, folder, queries, truth)
        with capsys.disabled():
            print(f"{name}: {rows[name] or 'failed'}")
    keep({"op": SEARCH, "size": f"{count:,} x 2 x {WIDTH}, k = {K}", "images": count, "contenders": rows})
    assert rows["ours"]["recall"] >= RECALL
