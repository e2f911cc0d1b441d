"""Ranking a gallery by sentences with a trained model.

score = cos(image identity, text identity) + beta cos(image clothing, text clothing). Images and sentences are
encoded apart: nothing of a gallery image's own caption ever reaches its features.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from bdam_reid.config import Config
from bdam_reid.data import ClothingChange, EvaluationSet, Query, Record, Tokenize
from bdam_reid.metrics import Metrics, retrieval
from bdam_reid.models import BDAMReID

BETAS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
"""Weights of the clothing similarity that validation chooses from."""


@dataclass(frozen=True)
class Gallery:
    """The G gallery images that could be read, and their features by the names of `ImageFeatures`."""

    records: tuple[Record, ...]
    features: dict[str, Tensor]
    """(G, D) or (G, E) each, float32 on the CPU; without the tokens, and the gate if there is none."""


@dataclass(frozen=True)
class Ranking:
    """Similarities of Q queries and G gallery images."""

    queries: tuple[Query, ...]
    gallery: Gallery
    identity: Tensor
    """(Q, G)."""
    clothing: Tensor
    """(Q, G)."""

    @property
    def query_ids(self) -> Tensor:
        """(Q,)."""
        return torch.tensor([query.identity for query in self.queries])

    @property
    def gallery_ids(self) -> Tensor:
        """(G,)."""
        return torch.tensor([record.identity for record in self.gallery.records])

    def scores(self, beta: float) -> Tensor:
        """What the gallery is ranked by, (Q, G)."""
        return self.identity + beta * self.clothing

    def metrics(self, beta: float) -> Metrics:
        """Retrieval metrics at a weight of the clothing similarity."""
        return retrieval(self.scores(beta), self.query_ids, self.gallery_ids)

    def chance(self) -> float:
        """R-1 of a random ranking, in percent, over the queries that have a positive."""
        shares = (self.query_ids[:, None] == self.gallery_ids).float().mean(dim=1)
        return float(100 * shares[shares > 0].mean())


def choose_beta(ranking: Ranking) -> tuple[float, Metrics]:
    """The beta of the best R-1, then mAP, on a validation split; the smallest of equals."""
    rated = [(beta, ranking.metrics(beta)) for beta in BETAS]
    return max(rated, key=lambda pair: (pair[1].r1, pair[1].map))


class Ranker:
    """Encodes images and sentences with a model in evaluation mode."""

    def __init__(self, model: BDAMReID, tokenize: Tokenize, config: Config, accelerator: Accelerator) -> None:
        self.model, self.tokenize, self.accelerator = model, tokenize, accelerator
        self.device = accelerator.device
        self.image_size = (config.data.image_height, config.data.image_width)

    def rank_split(self, records: Sequence[Record]) -> Ranking:
        """The standard protocol: every caption of a split against all of its images."""
        return self.rank(EvaluationSet.of_split(records, self.tokenize, self.image_size))

    def rank_clothing_change(self, change: ClothingChange) -> Ranking:
        """The clothing-change protocol: captions of one outfit against images of the others."""
        return self.rank(EvaluationSet.of_clothing_change(change, self.tokenize, self.image_size))

    def rank(self, protocol: EvaluationSet) -> Ranking:
        """Similarities of all queries of a protocol to all of its gallery."""
        gallery = self.encode_gallery(protocol)
        with self.inference():
            parts = [
                self.model.encode_text(
                    batch.identity_ids.to(self.device),
                    batch.identity_mask.to(self.device),
                    batch.clothing_ids.to(self.device),
                    batch.clothing_mask.to(self.device),
                )
                for batch in protocol.query_batches()
            ]
        identity = torch.cat([part.identity_embedding.float().cpu() for part in parts])
        clothing = torch.cat([part.clothing_embedding.float().cpu() for part in parts])
        return Ranking(
            queries=protocol.queries,
            gallery=gallery,
            identity=identity @ gallery.features["identity_embedding"].T,
            clothing=clothing @ gallery.features["clothing_embedding"].T,
        )

    def encode_gallery(self, protocol: EvaluationSet) -> Gallery:
        """Features of the gallery images that can be read."""
        records: list[Record] = []
        kept: dict[str, list[Tensor]] = defaultdict(list)
        with self.inference():
            for batch in protocol.gallery_batches():
                records += batch.records
                features = self.model.encode_image(batch.images.to(self.device))
                for name, value in features._asdict().items():
                    if name != "tokens" and value is not None:
                        kept[name].append(value.float().cpu())
        return Gallery(tuple(records), {name: torch.cat(values) for name, values in kept.items()})

    @contextmanager
    def inference(self) -> Iterator[None]:
        """The model in evaluation mode, without gradients, in the precision of the run."""
        self.model.eval()
        with torch.no_grad(), self.accelerator.autocast():
            yield
