"""What a method's `rerank` makes of rankings, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from bdam_reid.data.records import Clothes, Query, Record
from bdam_reid.engine.environment import inference
from bdam_reid.evaluation.metrics import Metrics, average, rates
from bdam_reid.evaluation.ranking import Embedder, Ranking

ALONE = 20
"""Queries that are re-ranked one at a time, to time one."""
PATCHES = 1 << 32
"""Bytes that is kept at most of what is read of a gallery's images."""


class Reranked(NamedTuple):
    """A ranking whose best images were ordered anew."""

    metrics: Metrics
    pair_ms: float
    """Milliseconds a pair of query and image, many at a time, the image's patches being there: a median."""
    query_ms: float
    """Milliseconds a query alone, its text being read: a median."""


def rerank(embedder: Embedder, ranking: Ranking, weights: Mapping[str, float], clothes: Clothes) -> Reranked:
    """Order the best images of each query anew; the others, and junk, stay in their order behind them.

    Args:
        embedder: of a method that re-ranks.
        ranking: with the gallery whose images are read again.
        weights: of the parts, for the ranking that is improved.
        clothes: what is asked.
    Raises: DatasetError for images that cannot be read.
    """
    method, patches = embedder.method, _Patches(embedder, ranking.gallery)
    query_ids, gallery_ids = ranking.query_ids, ranking.gallery_ids
    rated: list[Tensor] = []
    alone: list[float] = []
    batches: list[_Timed] = []
    for numbers in ranking.chunks():
        scores, junk = ranking.scores(weights, numbers), ranking.left_out(numbers)
        order = (scores if junk is None else scores.masked_fill(junk, float("-inf"))).argsort(
            dim=1, descending=True, stable=True
        )
        best = order[:, : method.reranks]
        asked = _Asked([ranking.queries[number] for number in numbers], best, scores.gather(1, best))
        with inference(method, embedder.device, embedder.precision):
            alone = alone or [
                again.milliseconds for again in islice(asked.reranked(embedder, patches, clothes, 1), ALONE)
            ]
            found = list(asked.reranked(embedder, patches, clothes, max(1, embedder.batch_size // best.shape[1])))
        new = torch.cat([some.scores for some in found])
        order[:, : method.reranks] = best.gather(1, new.argsort(dim=1, descending=True, stable=True))
        rated.append(rates(_as_scores(order), query_ids[list(numbers)], gallery_ids, junk))
        batches += found
    return Reranked(
        average(torch.cat(rated), len(ranking.gallery)),
        pair_ms=median(some.milliseconds / some.scores.numel() for some in batches),
        query_ms=median(alone),
    )


class _Timed(NamedTuple):
    """New scores of some queries, (q, K), and how long they took."""

    scores: Tensor
    milliseconds: float


class _Asked(NamedTuple):
    """Some queries, and the numbers (q, K) and scores (q, K) of the best images of each."""

    queries: Sequence[Query]
    best: Tensor
    scores: Tensor

    def reranked(self, embedder: Embedder, patches: _Patches, clothes: Clothes, at_once: int) -> Iterator[_Timed]:
        """New scores, so many queries at a time."""
        for at in range(0, len(self.queries), at_once):
            rows = slice(at, at + at_once)
            candidates, old = patches.of(self.best[rows]), self.scores[rows].to(embedder.device)
            began = _now(embedder.device)
            new = embedder.method.rerank(self.queries[rows], candidates, old, clothes)
            yield _Timed(new.float().cpu(), 1000 * (_now(embedder.device) - began))


class _Patches:
    """What a method reads of images to re-rank them: of a whole gallery, read once, where that fits into PATCHES; else
    of those that are asked for, read anew each time."""

    def __init__(self, embedder: Embedder, gallery: Sequence[Record]) -> None:
        self._embedder, self._gallery = embedder, gallery
        fits = embedder.candidates(gallery[:1]).nbytes * len(gallery) <= PATCHES
        self._all = embedder.candidates(gallery) if fits else None

    def of(self, images: Tensor) -> Tensor:
        """Of images (q, K) by their numbers, (q, K, ...)."""
        if self._all is not None:
            return self._all[images]
        numbers, places = images.unique(return_inverse=True)
        return self._embedder.candidates([self._gallery[number] for number in numbers.tolist()])[places]


def _as_scores(order: Tensor) -> Tensor:
    """Scores (Q, G) by which images rank in the order (Q, G) of their numbers."""
    falling = torch.arange(order.shape[1], 0, -1, dtype=torch.float32)
    return torch.empty(order.shape).scatter_(1, order, falling.expand_as(order))


def _now(device: torch.device) -> float:
    """Seconds, when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
