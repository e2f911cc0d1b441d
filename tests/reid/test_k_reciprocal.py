"""k-reciprocal re-ranking against the paper's equations, written out for one pair of images at a time."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bdam_reid.config import ConfigError
from bdam_reid.data.junk import same_camera
from bdam_reid.data.records import Query, Record
from bdam_reid.evaluation import k_reciprocal as module
from bdam_reid.evaluation.k_reciprocal import distances_of, k_reciprocal
from bdam_reid.evaluation.metrics import retrieval
from bdam_reid.evaluation.ranking import Ranking


def slow(queries: np.ndarray, gallery: np.ndarray, k1: int, k2: int, weight: float) -> np.ndarray:
    """Eq. 1 to 12, of one pair at a time."""
    images = np.concatenate((queries, gallery))
    count = len(images)
    d = np.array([[float(((a - b) ** 2).sum()) for b in images] for a in images])
    d = d / d.max(axis=1, keepdims=True)

    @cache
    def near(p: int, k: int) -> list[int]:
        others = sorted((d[p, g], g) for g in range(count) if g != p)
        return [p, *(g for _, g in others[:k])]

    @cache
    def reciprocal(p: int, k: int) -> set[int]:
        return {g for g in near(p, k) if p in near(g, k)}

    @cache
    def expanded(p: int) -> set[int]:
        result = first = reciprocal(p, k1)
        for q in first:
            own = reciprocal(q, round(k1 / 2))
            if len(first & own) >= 2 / 3 * len(own):
                result = result | own
        return result

    encoded = []
    for p in range(count):
        v = np.array([math.exp(-d[p, g]) if g in expanded(p) else 0.0 for g in range(count)])
        encoded.append(v / v.sum())
    v = np.array([np.mean([encoded[g] for g in near(p, k2 - 1)], axis=0) for p in range(count)])
    result = np.zeros((len(queries), len(gallery)))
    for p in range(len(queries)):
        for g in range(len(gallery)):
            other = v[len(queries) + g]
            jaccard = 1 - np.minimum(v[p], other).sum() / np.maximum(v[p], other).sum()
            result[p, g] = (1 - weight) * jaccard + weight * d[p, len(queries) + g]
    return result


def random(rows: int, seed: int) -> Tensor:
    """Unit vectors about seven centres."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(7, 5, generator=torch.Generator().manual_seed(99))
    near = centres[torch.arange(rows) % 7] + 0.5 * torch.randn(rows, 5, generator=generator)
    return torch.nn.functional.normalize(near, dim=1)


def fast(queries: Tensor, gallery: Tensor, k1: int, k2: int, weight: float) -> np.ndarray:
    return torch.cat([distances for _, distances in distances_of(queries, gallery, k1, k2, weight)]).numpy()


@pytest.mark.parametrize(("k1", "k2", "weight"), [(20, 6, 0.3), (6, 3, 0.0), (5, 1, 0.5), (3, 2, 1.0), (7, 4, 0.3)])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_equations(monkeypatch: pytest.MonkeyPatch, k1: int, k2: int, weight: float, seed: int) -> None:
    queries, gallery = random(6, seed).double(), random(24, seed + 10).double()
    expected = slow(queries.numpy(), gallery.numpy(), k1, k2, weight)
    np.testing.assert_allclose(fast(queries, gallery, k1, k2, weight), expected, rtol=0, atol=1e-12)
    monkeypatch.setattr(module, "CELLS", 1)
    np.testing.assert_allclose(fast(queries, gallery, k1, k2, weight), expected, rtol=0, atol=1e-12)


def test_fewer_images_than_neighbours_and_images_that_are_the_same() -> None:
    queries, gallery = random(1, 0), random(3, 1)
    assert fast(queries, gallery, 20, 6, 0.3).shape == (1, 3)
    same = torch.ones(40, 5)
    found = fast(same[:10], same[10:], 20, 6, 0.3)
    assert np.isfinite(found).all() and (found > -1e-12).all()


def make_ranking(queries: int = 12, gallery: int = 60) -> Ranking:
    asked = tuple(Query(image=Path("a.jpg"), identity=i % 7, camera=i % 2) for i in range(queries))
    images = tuple(Record(Path(f"{i}.jpg"), f"{i}", i % 7, "test", camera=i % 3) for i in range(gallery))
    embeddings = [torch.cat((random(n, seed), random(n, seed + 5)), dim=1) for n, seed in ((queries, 0), (gallery, 1))]
    return Ranking(asked, images, *embeddings, {"a": slice(0, 5), "b": slice(5, 10)}, same_camera)


def test_metrics_are_those_of_the_distances_with_weights_and_without_junk() -> None:
    ranking = make_ranking()
    scale = torch.tensor([1.0] * 5 + [0.5**0.5] * 5)
    distances = torch.from_numpy(fast(ranking.asked * scale, ranking.embeddings * scale, 20, 6, 0.3))
    junk = same_camera(ranking.queries, ranking.gallery)
    expected = retrieval(-distances, ranking.query_ids, ranking.gallery_ids, junk)
    assert k_reciprocal(ranking, {"a": 1.0, "b": 0.5}) == expected
    assert k_reciprocal(ranking, {"a": 1.0}) != expected != ranking.metrics({"a": 1.0, "b": 0.5})


def test_what_it_cannot_do_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    ranking = make_ranking()
    with pytest.raises(ConfigError, match="weights of at least 0, got one below for b"):
        k_reciprocal(ranking, {"a": 1.0, "b": -1.0})
    monkeypatch.setattr(module, "LIMIT", 71)
    with pytest.raises(ConfigError, match="71 queries and images at most, got 72"):
        k_reciprocal(ranking, {"a": 1.0})
