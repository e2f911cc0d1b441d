"""Where a method looks in some images, to look at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from bdam_reid.data.images import load_image
from bdam_reid.engine.environment import inference
from bdam_reid.evaluation.ranking import Embedder, Ranking


class Look(NamedTuple):
    """An image and the method's maps of it, by name, (rows, columns)."""

    path: Path
    maps: Mapping[str, np.ndarray]


def looks(embedder: Embedder, ranking: Ranking, count: int) -> list[Look]:
    """The maps of `count` images of a gallery, evenly spread over all so that nobody chose them; none of a method that
    has no maps."""
    places = torch.linspace(0, len(ranking.gallery) - 1, min(count, len(ranking.gallery))).round().long().tolist()
    paths = [ranking.gallery[place].path for place in places]
    images = torch.stack([load_image(path, embedder.method.image_size) for path in paths])
    with inference(embedder.method, embedder.device, embedder.precision):
        found = {name: maps.float().cpu() for name, maps in embedder.method.maps(images.to(embedder.device)).items()}
    if not found:
        return []
    return [Look(path, {name: maps[at].numpy() for name, maps in found.items()}) for at, path in enumerate(paths)]
