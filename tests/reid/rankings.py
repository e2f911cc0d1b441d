"""Rankings of chosen similarities, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count

import torch

from bdam_reid.data.records import Junk, Query, Record
from bdam_reid.evaluation.ranking import Ranking


def ranking_of(
    queries: tuple[Query, ...],
    gallery: tuple[Record, ...],
    similarity: Mapping[str, torch.Tensor],
    junk: Junk | None = None,
) -> Ranking:
    """A ranking whose similarities (Q, G) are these to the last bit: each gallery image has an axis of its own."""
    size = len(gallery)
    parts = {name: slice(at * size, (at + 1) * size) for at, name in zip(count(), similarity)}
    asked, embeddings = torch.cat([*similarity.values()], dim=1), torch.eye(size).repeat(1, len(similarity))
    return Ranking(queries, gallery, asked, embeddings, parts, junk)
