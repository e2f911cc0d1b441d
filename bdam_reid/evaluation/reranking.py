"""What a method's `rerank` makes of rankings, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from bdam_reid.data.records import Clothes
from bdam_reid.engine.environment import inference
from bdam_reid.evaluation.metrics import Metrics, retrieval
from bdam_reid.evaluation.ranking import Embedder, Ranking

ALONE = 20
"""Queries that are re-ranked one at a time, to time one."""


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
    method, scores = embedder.method, ranking.scores(weights)
    order = (scores if ranking.junk is None else scores.masked_fill(ranking.junk, float("-inf"))).argsort(
        dim=1, descending=True, stable=True
    )
    best = order[:, : method.reranks]
    candidates, old = embedder.candidates(ranking.gallery), scores.gather(1, best)
    at_once = max(1, embedder.batch_size // best.shape[1])

    def timed(first: int, number: int) -> tuple[Tensor, float]:
        """New scores of some queries, and milliseconds."""
        rows = slice(first, first + number)
        patches = candidates[best[rows]]
        began = _now(embedder.device)
        new = method.rerank(ranking.queries[rows], patches, old[rows].to(embedder.device), clothes)
        return new.float().cpu(), 1000 * (_now(embedder.device) - began)

    total = len(ranking.queries)
    with inference(method, embedder.device, embedder.precision):
        alone = [timed(first, 1)[1] for first in range(min(ALONE, total))]
        batches = [timed(first, at_once) for first in range(0, total, at_once)]
    new = torch.cat([scores for scores, _ in batches])
    order[:, : method.reranks] = best.gather(1, new.argsort(dim=1, descending=True, stable=True))
    return Reranked(
        retrieval(_as_scores(order), ranking.query_ids, ranking.gallery_ids, ranking.junk),
        pair_ms=median(milliseconds / scores.numel() for scores, milliseconds in batches),
        query_ms=median(alone),
    )


def _as_scores(order: Tensor) -> Tensor:
    """Scores (Q, G) by which images rank in the order (Q, G) of their numbers."""
    falling = torch.arange(order.shape[1], 0, -1, dtype=torch.float32)
    return torch.empty(order.shape).scatter_(1, order, falling.expand_as(order))


def _now(device: torch.device) -> float:
    """Seconds, when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
