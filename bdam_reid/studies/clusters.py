"""How well persons are told apart without any query: how close their images lie to each other and to those of others,
and where in an image a method looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from sklearn.metrics import silhouette_score
from torch import Tensor
from torch.nn import functional as F

from bdam_reid.data.images import load_image
from bdam_reid.data.records import Record
from bdam_reid.engine.environment import inference
from bdam_reid.evaluation.ranking import Embedder, Ranking

MIDDLE = 0.25
"""How far from the middle of an image, in widths of it, the centres of the patches lie that stand for the person."""
BRIGHTEST = 0.25
"""Share of the patches of an image."""


class Clusters(NamedTuple):
    """Of N images of persons with two images or more."""

    compactness: float
    """Mean cosine of two images of a person, over the persons."""
    separation: float
    """Mean cosine distance of an image to the nearest one of another person, over the images."""
    silhouette: float
    """Mean over the images, by cosine distance, in [-1, 1]: whether the former is small beside the latter."""


def clusters(embeddings: Tensor, persons: Sequence[int]) -> Clusters:
    """The clusters that persons are in a space of embeddings, in some 16 N^2 bytes.

    Args:
        embeddings: (N, D), of any length.
        persons: who each image shows.
    Raises: ValueError if there are not two persons with two images.
    """
    ids = torch.tensor(persons)
    several, counts = ids.unique(return_counts=True)
    several = several[counts > 1]
    if len(several) < 2:
        raise ValueError(f"clusters need two images or more of two persons or more, got {len(several)} such persons")
    kept = torch.isin(ids, several)
    ids, unit = ids[kept], F.normalize(embeddings[kept].double(), dim=1)
    cosines, same = unit @ unit.T, ids[:, None] == ids
    within = [_mean_of_pairs(cosines[ids == person][:, ids == person]) for person in several]
    nearest = cosines.masked_fill(same, -2.0).amax(dim=1)
    silhouette = float(silhouette_score(unit.numpy(), ids.numpy(), metric="cosine"))
    return Clusters(float(torch.stack(within).mean()), float((1 - nearest).mean()), silhouette)


def _mean_of_pairs(cosines: Tensor) -> Tensor:
    """Of the cosines of n vectors (n, n), the mean without those of a vector and itself."""
    n = len(cosines)
    return (cosines.sum() - cosines.trace()) / (n * (n - 1))


def of_ranking(ranking: Ranking) -> Clusters:
    """Those of the persons that are searched for, in the gallery; passers-by are left out."""
    asked = {query.identity for query in ranking.queries}
    places = [place for place, record in enumerate(ranking.gallery) if record.identity in asked]
    return clusters(ranking.embeddings[places], [ranking.gallery[place].identity for place in places])


def on_person(embedder: Embedder, records: Sequence[Record]) -> float | None:
    """Of the quarter of the patches that is most like the image as a whole, the share in the middle half of its width,
    where the person is; None of a method that has no such map."""
    images = torch.stack([load_image(record.path, embedder.method.image_size) for record in records])
    with inference(embedder.method, embedder.device, embedder.precision):
        maps = embedder.method.maps(images.to(embedder.device))
    of = next((maps[name] for name in ("with adapter", "without adapter") if name in maps), None)
    return None if of is None else share_in_middle(of.float().cpu())


def share_in_middle(maps: Tensor) -> float:
    """Of maps (B, rows, columns), how many of the brightest patches are in the middle columns, in [0, 1]."""
    columns = maps.shape[2]
    centres = (torch.arange(columns) + 0.5) / columns
    inside = ((centres - 0.5).abs() <= MIDDLE).expand(maps.shape[1:]).flatten()
    brightest = maps.flatten(1).topk(max(1, round(BRIGHTEST * inside.numel())), dim=1).indices
    return float(inside[brightest].double().mean())
