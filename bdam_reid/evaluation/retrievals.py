"""What some queries find, to look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bdam_reid.evaluation.ranking import Ranking

TOP = 5


@dataclass(frozen=True)
class Shown:
    """A gallery image in a query's ranking."""

    path: Path
    rank: int
    """From 1."""
    score: float
    right: bool
    """Whether it shows the person."""


@dataclass(frozen=True)
class Retrieval:
    """A query and what it finds."""

    text: str
    image: Path | None
    """Image to search with, if the query has one."""
    described: Path | None
    """Image that the text describes, where that is known; the search has not seen it."""
    hits: tuple[Shown, ...]
    """The first ones."""
    first_right: Shown | None
    """None if the gallery has none."""


def retrievals(ranking: Ranking, weights: Mapping[str, float], count: int) -> list[Retrieval]:
    """What `count` queries find, evenly spread over all queries so that nobody chose them."""
    places = torch.linspace(0, len(ranking.queries) - 1, min(count, len(ranking.queries))).round().long().tolist()
    all_scores, junk, ids = ranking.scores(weights, places), ranking.left_out(places), ranking.gallery_ids
    shown = []
    for row, place in enumerate(places):
        scores = all_scores[row]
        order = scores.argsort(descending=True, stable=True)
        if junk is not None:
            order = order[~junk[row][order]]
        query = ranking.queries[place]
        right = ids[order] == query.identity

        def hit(at: int, scores: Tensor = scores, order: Tensor = order, right: Tensor = right) -> Shown:
            index = int(order[at])
            return Shown(ranking.gallery[index].path, at + 1, float(scores[index]), bool(right[at]))

        shown.append(
            Retrieval(
                text=query.text or "",
                image=query.image,
                described=query.described,
                hits=tuple(hit(at) for at in range(min(TOP, len(order)))),
                first_right=hit(int(right.int().argmax())) if right.any() else None,
            )
        )
    return shown
