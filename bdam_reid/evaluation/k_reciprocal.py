"""Re-ranking by neighbours that are each other's (Zhong et al. 2017, "Re-ranking Person Re-identification with
k-reciprocal Encoding"), where queries are images.

Two images are alike if they are near to the same images. Of N = Q + G images nothing of the size N x N is held: of
each the k1 nearest are kept, of its encoding what is not zero, and distances of some queries at a time.

The paper's equations, with what they leave open as its authors' program has it: an image is its own first neighbour,
beside k1 others; d is the squared Euclidean distance, divided by the greatest from the image; half of k1 is rounded to
even; the encoding of an image sums up to 1, and is the first of the k2 that are averaged. Where that program differs
from the equations (it wants more than two thirds in common, not as much) they are followed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from scipy.sparse import csc_matrix, csr_matrix
from torch import Tensor
from tqdm.auto import tqdm

from bdam_reid.config import ConfigError
from bdam_reid.data.records import Query, Record
from bdam_reid.evaluation.metrics import Metrics, average, rates
from bdam_reid.evaluation.ranking import Ranking

K1, K2, LAMBDA = 20, 6, 0.3
"""Neighbours of an image, neighbours whose encodings are averaged, and the weight of the distance beside them."""
LIMIT = 150_000
"""Images of queries and gallery together at most: each is compared with each other."""
CELLS = 1 << 24
"""Distances that are computed at a time."""


def k_reciprocal(ranking: Ranking, weights: Mapping[str, float]) -> Metrics:
    """The metrics of a ranking of images by images after re-ranking. Junk is among the neighbours, and leaves the
    ranking afterwards.

    Args:
        ranking: whose queries are images.
        weights: of the parts, none of which is negative; one that is not named has none.
    Raises: ConfigError as `check_k_reciprocal`.
    """
    check_k_reciprocal(ranking.queries, ranking.gallery, weights)
    scale = torch.zeros(ranking.asked.shape[1])
    for name, part in ranking.parts.items():
        scale[part] = weights.get(name, 0.0) ** 0.5
    query_ids, gallery_ids = ranking.query_ids, ranking.gallery_ids
    rated = []
    for rows, distances in distances_of(ranking.asked * scale, ranking.embeddings * scale):
        junk = ranking.left_out(rows)
        rated.append(rates(-distances, query_ids[list(rows)], gallery_ids, junk))
    return average(torch.cat(rated), len(ranking.gallery))


def by_image(queries: Sequence[Query]) -> bool:
    """Whether queries are images and nothing else."""
    return all(query.image and query.text is None for query in queries)


def check_k_reciprocal(queries: Sequence[Query], gallery: Sequence[Record], weights: Mapping[str, float]) -> None:
    """Raise ConfigError for what `k_reciprocal` cannot re-rank, before anything is embedded."""
    if not by_image(queries):
        raise ConfigError("--k-reciprocal needs queries that are images and nothing else: leave it out")
    if negative := [name for name, weight in weights.items() if weight < 0]:
        raise ConfigError(f"--k-reciprocal needs weights of at least 0, got one below for {', '.join(negative)}")
    if (total := len(queries) + len(gallery)) > LIMIT:
        raise ConfigError(
            f"--k-reciprocal compares every image with every other, of {LIMIT:,} queries and images at most, got "
            f"{total:,}: leave it out"
        )


def distances_of(
    queries: Tensor, gallery: Tensor, k1: int = K1, k2: int = K2, weight: float = LAMBDA
) -> Iterator[tuple[Sequence[int], Tensor]]:
    """(1 - weight) Jaccard distance + weight d of queries (Q, E) and gallery (G, E), of some queries at a time: their
    numbers, and the distances (q, G) float64."""
    images = torch.cat((queries, gallery))
    nearest, greatest = _neighbours(images, min(k1, len(images) - 1))
    encodings = _indicator(nearest[:, :k2]) @ _encodings(images, nearest, greatest) / min(k2, nearest.shape[1])
    of_gallery = encodings[len(queries) :].tocsc()
    at_once = max(1, CELLS // len(images))
    for first in range(0, len(queries), at_once):
        rows = range(first, min(first + at_once, len(queries)))
        original = _distances(images, rows)[:, len(queries) :] / greatest[rows.start : rows.stop, None]
        jaccard = np.stack([_jaccard(encodings[row], of_gallery) for row in rows])
        yield rows, (1 - weight) * torch.from_numpy(jaccard) + weight * original.double()


def _distances(images: Tensor, rows: range) -> Tensor:
    """Squared distances of some images (N, E) to all, (n, N)."""
    norms, some = images.square().sum(dim=1), slice(rows.start, rows.stop)
    return (norms[some, None] + norms - 2 * images[some] @ images.T).clamp(min=0)


def _neighbours(images: Tensor, k1: int) -> tuple[np.ndarray, Tensor]:
    """The numbers (N, k1 + 1) of the images that are nearest to each, itself first, of equals the first; and the
    greatest of its distances (N,)."""
    at_once = max(1, CELLS // len(images))
    nearest, greatest = [], []
    for first in tqdm(range(0, len(images), at_once), "neighbours", disable=None, leave=False):
        rows = range(first, min(first + at_once, len(images)))
        distances = _distances(images, rows)
        greatest.append(distances.amax(dim=1).clamp(min=torch.finfo(distances.dtype).tiny))
        distances[range(len(rows)), rows] = -1  # before images that are the same
        nearest.append(distances.argsort(dim=1, stable=True)[:, : k1 + 1].numpy())
    return np.concatenate(nearest), torch.cat(greatest)


def _encodings(images: Tensor, nearest: np.ndarray, greatest: Tensor) -> csr_matrix:
    """V, (N, N) sparse: exp(-d) where an image is among the expanded reciprocal neighbours R* of another (Eq. 3 to 7),
    divided by the sum of its row."""
    near = _reciprocal(nearest)
    half = _reciprocal(nearest[:, : round((nearest.shape[1] - 1) / 2) + 1])
    # Whether two thirds of the half as many neighbours of q, who is one of p, are neighbours of p.
    common = (near @ half.T).multiply(near).tocsr()
    common.data = (3 * common.data >= 2 * np.diff(half.indptr)[common.indices]).astype(float)
    expanded = (near + common @ half).tocsr()
    expanded.eliminate_zeros()
    rows = np.repeat(np.arange(len(images)), np.diff(expanded.indptr))
    for first in range(0, len(rows), CELLS // images.shape[1] + 1):
        some = slice(first, first + CELLS // images.shape[1] + 1)
        one, other = torch.from_numpy(rows[some]), torch.from_numpy(expanded.indices[some]).long()
        distances = (images[one] - images[other]).square().sum(dim=1) / greatest[one]
        expanded.data[some] = torch.exp(-distances.double()).numpy()
    return expanded.multiply(1 / expanded.sum(axis=1)).tocsr()


def _reciprocal(nearest: np.ndarray) -> csr_matrix:
    """R(p, k), (N, N) sparse of ones: who is among the neighbours (N, k + 1) of an image that is among theirs."""
    near = _indicator(nearest)
    return near.multiply(near.T).tocsr()


def _indicator(nearest: np.ndarray) -> csr_matrix:
    """(N, N) sparse, one where an image is among the neighbours (N, k) of another."""
    total, k = nearest.shape
    ones = np.ones(nearest.size)
    return csr_matrix((ones, nearest.ravel(), np.arange(0, nearest.size + 1, k)), (total, total))


def _jaccard(encoding: csr_matrix, gallery: csc_matrix) -> np.ndarray:
    """1 - sum of minima / sum of maxima of the encoding (1, N) of a query and those of the gallery (G, N); (G,)."""
    least = np.zeros(gallery.shape[0])
    for place, value in zip(encoding.indices, encoding.data, strict=True):
        column = slice(gallery.indptr[place], gallery.indptr[place + 1])
        least[gallery.indices[column]] += np.minimum(value, gallery.data[column])
    return 1 - least / (2 - least)
