"""The features of the same persons by several runs, side by side in the plane (t-SNE)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from sklearn.manifold import TSNE

from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.records import Record
from bdam_reid.engine.run import open_best
from bdam_reid.evaluation.pictures import Cloud, colours_of, draw_clouds
from bdam_reid.evaluation.ranking import Embedder
from bdam_reid.methods import PRESETS
from bdam_reid.studies.clusters import clusters

PERSONS = 20
"""Of each domain, evenly spread over those that are searched for."""
NEIGHBOURS = 15
"""Perplexity, where there are images enough."""


def draw_features(runs: Mapping[str, Path], roots: Sequence[str], path: Path) -> Path:
    """Draw a panel for each run: the gallery's images of the same persons, a colour each, those of the first domain as
    dots and of the second as crosses. Gives the path.

    Args:
        runs: name of the panel -> folder of the run.
        roots: folders of the data sets, one or several domains.
        path: of the picture.
    Raises: CheckpointError, ConfigError, DatasetError.
    """
    records, panels = _shown(roots), {}
    persons = [record.identity for record in records]
    for name, run in runs.items():
        _, method, _, device, precision = open_best(run, PRESETS, "auto")
        _, embeddings = Embedder(method, device, precision).gallery(records)
        title = f"{name} (silhouette {clusters(embeddings, persons).silhouette:.2f})"
        panels[title] = _clouds(_plane(embeddings.numpy()), records)
    draw_clouds(panels, path)
    return path


def _shown(roots: Sequence[str]) -> list[Record]:
    """Images of some persons of each domain's test."""
    shown: list[Record] = []
    for protocol in load_dataset(*roots).protocols.values():
        if protocol.split == "test":
            asked = sorted({query.identity for query in protocol.queries if query.identity is not None})
            persons = set(asked[:: max(1, len(asked) // PERSONS)][:PERSONS])
            shown += [record for record in protocol.gallery if record.identity in persons]
    return shown


def _plane(embeddings: np.ndarray) -> np.ndarray:
    """(N, D) -> (N, 2)."""
    perplexity = min(NEIGHBOURS, (len(embeddings) - 1) / 3)
    plane: np.ndarray = TSNE(perplexity=perplexity, metric="cosine", init="pca", random_state=0).fit_transform(
        embeddings
    )
    return plane


def _clouds(places: np.ndarray, records: Sequence[Record]) -> list[Cloud]:
    """A cloud for each domain."""
    clouds = []
    for number, domain in enumerate(dict.fromkeys(record.domain for record in records)):
        own = [at for at, record in enumerate(records) if record.domain == domain]
        colours = colours_of([str(records[at].identity) for at in own], None)
        clouds.append(Cloud(f"domain {number + 1}", places[own], colours))
    return clouds
