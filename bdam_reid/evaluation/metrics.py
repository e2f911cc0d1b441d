"""Retrieval metrics of person re-identification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from statistics import fmean

import torch
from torch import Tensor

CHUNK = 1024


@dataclass(frozen=True)
class Metrics:
    """Rates in percent, averaged over the queries that have a positive in the gallery."""

    r1: float
    """Queries with a positive at rank 1."""
    r5: float
    """Queries with a positive among the first 5."""
    r10: float
    """Queries with a positive among the first 10."""
    map: float
    """Mean average precision over the full ranking."""
    minp: float
    """Mean inverse negative penalty: positives / rank of the last positive (Ye et al. 2021)."""
    queries: int
    """All queries, those without a positive included."""
    gallery: int
    queries_without_positive: int


def retrieval(similarity: Tensor, query_ids: Tensor, gallery_ids: Tensor, junk: Tensor | None = None) -> Metrics:
    """Ranks the gallery for each query by falling similarity and rates the rankings.

    Equal similarities rank by gallery index. Junk leaves a query's ranking before ranks are counted.

    Args:
        similarity: (Q, G), greater is more alike.
        query_ids: identities of the queries, (Q,) integers.
        gallery_ids: identities of the gallery, (G,) integers.
        junk: (Q, G) bool, True where an entry does not count for a query; None if all count.
    Raises: ValueError if shapes disagree, a similarity is NaN, the gallery is empty, or no query has a
        positive.
    """
    if similarity.ndim != 2 or similarity.shape != (*query_ids.shape, *gallery_ids.shape):
        raise ValueError(
            "similarity must be (queries, gallery) with one id for each of both, "
            f"got {tuple(similarity.shape)}, {tuple(query_ids.shape)} and {tuple(gallery_ids.shape)}"
        )
    if junk is not None and junk.shape != similarity.shape:
        raise ValueError(f"junk must have the shape of similarity {tuple(similarity.shape)}, got {tuple(junk.shape)}")
    chunks = zip(
        similarity.split(CHUNK),
        query_ids.split(CHUNK),
        repeat(None) if junk is None else junk.split(CHUNK),
        strict=False,
    )
    each = torch.cat([rates(scores, ids, gallery_ids, left_out) for scores, ids, left_out in chunks])
    return average(each, len(gallery_ids))


def average(each: Tensor, gallery: int) -> Metrics:
    """The metrics of all queries from the `rates` of each, (Q, 5), and the size of the gallery.

    Raises: ValueError if no query has a positive.
    """
    valid = ~each.isnan().any(dim=1)
    if not valid.any():
        raise ValueError(f"none of the {len(each)} queries has its identity in the gallery")
    r1, r5, r10, mean_ap, minp = (100 * each[valid].mean(dim=0)).tolist()
    return Metrics(
        r1=r1,
        r5=r5,
        r10=r10,
        map=mean_ap,
        minp=minp,
        queries=len(each),
        gallery=gallery,
        queries_without_positive=int((~valid).sum()),
    )


def mean(found: Sequence[Metrics]) -> Metrics:
    """The mean of the rates of several rankings, each counting alike; of queries and images the sums."""
    each_rate = zip(*((each.r1, each.r5, each.r10, each.map, each.minp) for each in found), strict=True)
    r1, r5, r10, mean_ap, minp = map(fmean, each_rate)
    return Metrics(
        r1=r1,
        r5=r5,
        r10=r10,
        map=mean_ap,
        minp=minp,
        queries=sum(each.queries for each in found),
        gallery=sum(each.gallery for each in found),
        queries_without_positive=sum(each.queries_without_positive for each in found),
    )


def rates(similarity: Tensor, query_ids: Tensor, gallery_ids: Tensor, junk: Tensor | None = None) -> Tensor:
    """R-1, R-5, R-10, AP and INP of each query, (Q, 5) float64; NaN for a query without a positive. Each depends on
    its own row alone. It takes about 50 bytes for a pair of query and gallery entry.

    Args:
        similarity, query_ids, gallery_ids, junk: as `retrieval` has them.
    Raises: ValueError if a similarity is NaN, or the gallery is empty.
    """
    if not len(gallery_ids):
        raise ValueError("the gallery is empty: nothing can be retrieved")
    if similarity.isnan().any():
        raise ValueError("similarity must not be NaN: the features are broken")
    order = similarity.argsort(dim=1, descending=True, stable=True)
    hits = gallery_ids[order] == query_ids[:, None]
    ranks = torch.arange(1, len(gallery_ids) + 1, device=hits.device)
    if junk is not None:
        counts = ~junk.gather(1, order)
        hits &= counts
        # Of an entry before any that counts the rank would be 0; it is no hit, so that 1 is as good.
        ranks = counts.cumsum(dim=1).clamp(min=1)
    found = hits.cumsum(dim=1)
    positives = found[:, -1].double()
    within = [(hits & (ranks <= k)).any(dim=1).double() for k in (1, 5, 10)]
    precision = (found.double() / ranks).mul_(hits).sum(dim=1) / positives
    penalty = positives / (ranks * hits).amax(dim=1)
    each = torch.stack((*within, precision, penalty), dim=1)
    return each.where(positives[:, None] > 0, torch.nan)
