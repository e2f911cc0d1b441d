"""Clusters of style embeddings by the algorithms of long's Table 4, all of scikit-learn."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bdam_reid.captions.style_vectors import Vectors

Clustering: TypeAlias = Literal["dbscan", "kmeans", "gmm", "agglomerative", "hdbscan", "random", "none"]
"""The rows of Table 4; none is one cluster of all."""
Labels: TypeAlias = NDArray[np.intp]

SAMPLE = 4000
"""Captions that are clustered; others join the nearest cluster. Some algorithms take memory in the square of them."""
NEIGHBOURS = 10
"""Captions within eps that make a place dense, the one in its middle among them."""
SMALLEST = 0.01
"""Share of the captions below which a cluster is merged with the nearest one."""
NOISE = -1


def cluster(vectors: Vectors, by: Clustering, count: int = 8, seed: int = 0) -> Labels:
    """The cluster of each of N vectors: numbers from 0 on, the largest cluster first.

    Args:
        vectors: (N, D), of unit length.
        by: which algorithm.
        count: clusters of those that have to be told.
        seed: of all that is random.
    """
    if by == "none":
        return np.zeros(len(vectors), dtype=np.intp)
    random = np.random.default_rng(seed)
    if by == "random":
        return _by_size(random.integers(count, size=len(vectors)))
    chosen = np.sort(random.permutation(len(vectors))[:SAMPLE])
    labels = np.full(len(vectors), NOISE, dtype=np.intp)
    labels[chosen] = _clustered(vectors[chosen], by, count, seed)
    labels = _without_small(labels, round(SMALLEST * len(chosen)))
    return _by_size(_without_noise(vectors, labels))


def eps_of(vectors: Vectors, neighbours: int = NEIGHBOURS) -> float:
    """The radius of DBSCAN: the median of the curve of cosine distances between each vector and its neighbour of that
    number, so that half of the vectors lie densely.

    The usual reading, the bend of the curve (Ester et al. 1996), lies behind nine tenths of it for captions, where the
    clusters have long grown together into one.
    """
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=min(neighbours, len(vectors) - 1), metric="cosine").fit(vectors)
    return max(float(np.median(nearest.kneighbors()[0][:, -1])), 1e-6)


def _clustered(vectors: Vectors, by: Clustering, count: int, seed: int) -> Labels:
    from sklearn import cluster as algorithms
    from sklearn.mixture import GaussianMixture

    count = min(count, len(np.unique(vectors.round(4), axis=0)))
    if count < 2 or len(vectors) <= NEIGHBOURS:
        return np.zeros(len(vectors), dtype=np.intp)
    match by:
        case "dbscan":
            model = algorithms.DBSCAN(eps=eps_of(vectors), min_samples=NEIGHBOURS, metric="cosine")
        case "hdbscan":
            model = algorithms.HDBSCAN(min_cluster_size=max(NEIGHBOURS, round(SMALLEST * len(vectors))), copy=True)
        case "kmeans":
            model = algorithms.KMeans(count, n_init=4, random_state=seed)
        case "agglomerative":
            model = algorithms.AgglomerativeClustering(count)
        case _:
            model = GaussianMixture(count, covariance_type="diag", n_init=2, random_state=seed)
    return np.asarray(model.fit_predict(vectors), dtype=np.intp)


def _without_small(labels: Labels, smallest: int) -> Labels:
    """Labels in which clusters of fewer than `smallest` are noise."""
    names, sizes = np.unique(labels[labels != NOISE], return_counts=True)
    return np.where(np.isin(labels, names[sizes >= smallest]), labels, NOISE)


def _without_noise(vectors: Vectors, labels: Labels) -> Labels:
    """Labels in which each that was noise has the cluster with the nearest mean direction; 0 if there is none."""
    names = np.unique(labels[labels != NOISE])
    if not len(names):
        return np.zeros_like(labels)
    means = np.stack([vectors[labels == name].mean(axis=0) for name in names])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-6)
    return np.where(labels == NOISE, names[np.argmax(vectors @ means.T, axis=1)], labels)


def _by_size(labels: Labels) -> Labels:
    _, numbers, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    rank = np.empty_like(sizes)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    return rank[numbers]
