"""Inverted lists of a large gallery, made large by a smaller limit: what they find, compared with all of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_gallery import Colours, update, write_photos

from bdam_reid.config import ConfigError
from bdam_reid.search.columns import Where
from bdam_reid.search.index import lists
from bdam_reid.search.index.generation import GalleryError
from bdam_reid.search.index.lists import Lists, encode, train_lists, write_lists
from bdam_reid.search.index.neighbours import Exact, Nearest, compare_all
from bdam_reid.search.index.reader import open_index
from benchmarks.gallery import Gallery

pytest.importorskip("faiss")
COUNT = 4000
PARTS = [slice(0, 256), slice(256, 512)]
WEIGHTS = [(1.0, 0.0), (1.0, 0.3), (1.0, 1.0), (0.0, 1.0), (-1.0, 0.5)]


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    return Gallery(COUNT)


@pytest.fixture(scope="module")
def vectors(gallery: Gallery, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    path = tmp_path_factory.mktemp("lists") / "vectors.npy"
    np.save(path, np.vstack(list(gallery.blocks())).astype(np.float16))
    return np.load(path, mmap_mode="r")


@pytest.fixture(scope="module")
def made(vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generation")
    trained = train_lists(vectors, PARTS)
    codes = encode(trained, PARTS, vectors)
    write_lists(folder, trained, [codes[:1000], codes[1000:]], codes.shape)
    return folder


@pytest.fixture
def found_by(made: Path, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Lists:
    monkeypatch.setattr(lists, "EXACT", 50)
    return Lists(made, vectors)


def weighted(queries: np.ndarray, weights: tuple[float, float]) -> np.ndarray:
    return queries * np.repeat(np.float32(weights), 256)


def recall(found: Nearest, truth: Nearest) -> float:
    return float(np.mean([len({*a} & {*b}) / len(b) for a, b in zip(found.rows, truth.rows, strict=True)]))


def test_of_equals_the_first_are_found() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 60):
        vectors, queries = (rng.integers(-1, 2, (rows, 3)).astype(np.float32) for rows in (count, 20))
        for k in (1, 5, count, count + 3):
            order = np.argsort(-queries @ vectors.T, axis=1, kind="stable")[:, :k]
            rows = Exact(vectors.astype(np.float16)).search(queries, k).rows
            assert np.array_equal(rows[:, : order.shape[1]], order) and (rows[:, order.shape[1] :] == -1).all()


@pytest.mark.parametrize("weights", WEIGHTS)
def test_whatever_the_parts_weigh_the_nearest_are_found(
    found_by: Lists, vectors: np.ndarray, gallery: Gallery, weights: tuple[float, float]
) -> None:
    queries = weighted(gallery.queries(50), weights)
    for k in (1, 10, 60):
        truth = Exact(vectors).search(queries, k)
        found = found_by.search(queries, k)
        assert recall(found, truth) >= 0.97
        expected = np.einsum("qe,qke->qk", queries, vectors[found.rows].astype(np.float32))
        np.testing.assert_allclose(found.scores, expected, atol=1e-4)
        assert all(len({*rows}) == k for rows in found.rows) and (np.diff(found.scores) <= 0).all()


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1, 0.01])
def test_under_a_filter_the_nearest_are_found(
    found_by: Lists, vectors: np.ndarray, gallery: Gallery, share: float
) -> None:
    allowed = np.random.default_rng(0).random(COUNT) < share
    queries = gallery.queries(50)
    truth = Exact(vectors).search(queries, 10, allowed)
    found = found_by.search(queries, 10, allowed)
    assert allowed[found.rows].all() and recall(found, truth) >= 0.97


def test_lists_that_have_too_few_are_not_enough(
    found_by: Lists, vectors: np.ndarray, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as are asked for are found, even those that no query has in its lists."""
    monkeypatch.setattr(lists, "PROBES", 1)
    queries = gallery.queries(5)
    scores = vectors[:].astype(np.float32) @ queries[0]
    allowed = scores < np.sort(scores)[60]
    found = found_by.search(queries, 60, allowed)
    assert all({*rows} == {*np.flatnonzero(allowed)} for rows in found.rows)
    assert found_by.search(queries, 70, allowed).rows.shape == (5, 70)
    assert (found_by.search(queries, 70, allowed).rows[:, 60:] == -1).all()
    assert found_by.search(queries, COUNT + 5).rows.shape == (5, COUNT + 5)


def test_blocks_are_compared_as_the_whole(
    vectors: np.ndarray, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bdam_reid.search.index import neighbours

    monkeypatch.setattr(neighbours, "BLOCK", 700)
    queries, rows = gallery.queries(5), np.arange(0, COUNT, 3)
    for some in (None, rows):
        truth = Exact(vectors).search(queries, 7, None if some is None else np.isin(np.arange(COUNT), rows))
        found = compare_all(vectors, queries, 7, some)
        assert np.array_equal(found.rows, truth.rows)
        np.testing.assert_allclose(found.scores, truth.scores, rtol=1e-5)


def test_half_precision_ranks_as_single_does(gallery: Gallery) -> None:
    single = np.vstack(list(gallery.blocks()))
    queries = gallery.queries(100)
    truth = np.argsort(-(queries @ single.T), axis=1)[:, :10]
    found = Exact(single.astype(np.float16)).search(queries, 10)
    assert recall(found, Nearest(found.scores, truth)) >= 0.998


def test_an_index_with_lists_is_updated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "EXACT", 20)
    folder, place = write_photos(tmp_path / "folder", *(f"{n}.png" for n in range(40))), tmp_path / "index"
    update(place, folder)
    assert open_index(place).manifest.trained_on == 40
    trained = (place / "generation-00000001" / lists.TRAINED).read_bytes()
    (folder / "3.png").unlink()
    write_photos(folder, "new.png")
    update(place, folder)
    index = open_index(place)
    assert (place / "generation-00000002" / lists.TRAINED).read_bytes() == trained
    queries = np.random.default_rng(0).standard_normal((20, 12)).astype(np.float32)
    truth = Exact(index.vectors(np.arange(40)).astype(np.float16)).search(queries, 5)
    assert recall(Nearest(*_as_arrays(index.search(queries, 5))), truth) >= 0.97
    write_photos(folder, *(f"more/{n}.png" for n in range(50)))
    update(place, folder)
    assert open_index(place).manifest.trained_on == 90
    codes = place / "generation-00000003" / lists.CODES
    codes.write_bytes(codes.read_bytes()[:300])
    with pytest.raises(GalleryError, match="is damaged"):
        open_index(place)


def _as_arrays(found: list) -> tuple[np.ndarray, np.ndarray]:
    return np.array([[hit.score for hit in hits] for hits in found]), np.array(
        [[hit.row for hit in hits] for hits in found]
    )


def test_without_faiss_a_large_gallery_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "EXACT", 2)
    monkeypatch.setattr(lists, "find_spec", lambda name: None)
    folder, embedder = write_photos(tmp_path / "folder", "a.png", "b.png", "c.png"), Colours()
    with pytest.raises(ConfigError, match=r"needs faiss-cpu: pip install -e '\.\[search\]', got 3 images"):
        update(tmp_path / "index", folder, embedder=embedder)
    assert embedder.seen == 0
    (folder / "a.png").unlink()
    update(tmp_path / "index", folder)
    assert open_index(tmp_path / "index").search(np.ones((1, 12), np.float32), 1, where=Where()) != [[]]
