"""The baseline as a method of the house."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW

from baseline.config import BaselineConfig
from bdam_reid.config import DataConfig
from bdam_reid.data.images import load_image
from bdam_reid.data.records import Dataset, Query, QueryError
from bdam_reid.data.samplers import DomainSampler
from bdam_reid.data.training import Batches, Item, TrainingSet, nothing
from bdam_reid.encoders.image import ImageEncoder
from bdam_reid.losses.triplet import triplet_loss
from bdam_reid.methods.method import Losses, Method, Stage
from bdam_reid.methods.schedules import warm_up_and_anneal


@dataclass(frozen=True)
class Batch:
    """Images (B, 3, H, W) and class indices (B,)."""

    images: Tensor
    identities: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(self.images.to(device), self.identities.to(device))


def collate(items: Sequence[Item[None]]) -> Batch:
    return Batch(torch.stack([item.image for item in items]), torch.tensor([item.identity for item in items]))


class Baseline(Method):
    """Mean of the encoder's tokens, a batch-normalised neck, a classifier of the training persons."""

    def __init__(self, config: BaselineConfig, data: DataConfig, persons: int) -> None:
        super().__init__()
        self.config, self.data, self.image_size = config, data, data.image_size
        self.encoder = ImageEncoder(config.image, data.image_size)
        self.neck = nn.BatchNorm1d(self.encoder.width)
        self.neck.bias.requires_grad_(False)
        self.classifier = nn.Linear(self.encoder.width, persons, bias=False)
        self.parts, self.weights = {"person": slice(0, self.encoder.width)}, {"person": 1.0}
        self.with_triplets = False

    def stages(self, dataset: Dataset, seed: int) -> Sequence[Stage]:
        config, data = self.config, self.data
        items = TrainingSet(dataset.train, data.image_size, data.augment, data.erase, seed, nothing)
        sampler = DomainSampler(dataset.train, data.identities_per_batch, data.images_per_identity, seed)
        head = {"params": [self.neck.weight, self.classifier.weight]}
        body = {"params": list(self.encoder.parameters()), "factor": 0.5}
        stage = partial(
            Stage,
            optimizer=partial(AdamW, lr=config.lr),
            learning_rate=partial(warm_up_and_anneal, rate=config.lr, warmup_steps=0),
            batches=Batches(items, sampler, collate),
        )
        return [
            stage("head", [head], config.head_epochs, validates=False),
            stage("all", [head, body], config.epochs, clip_norm=5.0),
        ]

    def begin_stage(self, stage: Stage) -> None:
        self.with_triplets = stage.name == "all"

    def losses(self, batch: Batch, step: int) -> Losses:
        features = self.encoder(batch.images).mean(dim=1)
        scores = self.classifier(self.neck(features))
        parts = {"id": F.cross_entropy(scores.float(), batch.identities, label_smoothing=self.config.smoothing)}
        if self.with_triplets:
            features = F.normalize(features.float(), dim=1)
            parts["triplet"] = triplet_loss(features, batch.identities, self.config.margin)
        right = (scores.argmax(dim=1) == batch.identities).float().mean()
        return Losses(torch.stack(list(parts.values())).sum(), parts, {"train/accuracy": right})

    def embed_images(self, images: Tensor) -> Tensor:
        return F.normalize(self.neck(self.encoder(images).mean(dim=1)), dim=1)

    def embed_queries(self, queries: Sequence[Query]) -> Tensor:
        paths = [query.image for query in queries if query.image is not None and query.text is None]
        if len(paths) < len(queries):
            raise QueryError("the baseline searches by an image alone, got a query with a text or without an image")
        images = torch.stack([load_image(path, self.image_size) for path in paths])
        return self.embed_images(images.to(self.neck.weight.device))
