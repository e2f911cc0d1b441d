"""The picture of style clusters."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np

from bdam_reid.captions.styles import Clustered, Style

POINTS = 1500
"""Captions that are drawn, at most."""


def draw_styles(path: Path, found: Clustered, styles: Sequence[Style], title: str) -> None:
    """Draw captions by t-SNE of their style embeddings, in the colour and form of their style, as a PNG file.

    Raises: OSError if it cannot be written.
    """
    from matplotlib.figure import Figure

    shown = np.random.default_rng(0).permutation(len(found.labels))[:POINTS]
    places, labels = _flat(found.vectors[shown]), found.labels[shown]
    figure = Figure(figsize=(9.5, 6), layout="constrained")
    axes = figure.subplots()
    for number, style in enumerate(styles):
        rows = labels == number
        axes.scatter(
            places[rows, 0],
            places[rows, 1],
            s=12,
            color=f"C{number % 10}",
            marker="os^vDPX*"[number % 8],
            linewidths=0,
            alpha=0.75,
            label=f"{style.name} ({style.share:.0%})",
        )
    axes.set(title=title, xticks=[], yticks=[], xlabel="t-SNE of style embeddings")
    axes.set_aspect("equal", "datalim")
    figure.legend(loc="outside right upper", fontsize=8, markerscale=1.6, frameon=False)
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    path.write_bytes(picture.getvalue())


def _flat(vectors: np.ndarray) -> np.ndarray:
    """Vectors (N, D) in two dimensions."""
    from sklearn.manifold import TSNE

    if len(vectors) < 4:
        return np.pad(vectors, ((0, 0), (0, 2)))[:, :2]
    perplexity = min(30, (len(vectors) - 1) / 3)
    return TSNE(init="pca" if vectors.shape[1] > 1 else "random", perplexity=perplexity, random_state=0).fit_transform(
        vectors
    )
