"""The least that is a method: a search by an image, for tests of what is around a method."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bdam_reid.data.images import load_image
from bdam_reid.data.records import Query
from bdam_reid.methods.method import Losses, Method, Stage


class Brightness(Method):
    """Searches by an image, and knows how bright it is."""

    parts, weights, image_size = {"all": slice(0, 1)}, {"all": 1.0}, (8, 4)

    def stages(self, dataset: object, seed: int) -> list[Stage]:
        return []

    def losses(self, batch: object, step: int) -> Losses:
        raise NotImplementedError

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(1, 2, 3))[:, None]

    def embed_queries(self, queries: Sequence[Query]) -> torch.Tensor:
        return self.embed_images(torch.stack([load_image(query.image, self.image_size) for query in queries]))
