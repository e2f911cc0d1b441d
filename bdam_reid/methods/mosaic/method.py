"""MoSAIC-ReID as a method of the house."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bdam_reid.config import ConfigError, DataConfig
from bdam_reid.data.attributes import SCHEMAS, Labels, labels_of
from bdam_reid.data.images import load_image
from bdam_reid.data.records import Dataset, DatasetError, Query, QueryError, Record
from bdam_reid.encoders.base import save_architecture
from bdam_reid.losses.hard_triplet import hard_triplet_loss
from bdam_reid.methods.method import Losses, Method, Stage
from bdam_reid.methods.mosaic.batches import Batch, make_batches
from bdam_reid.methods.mosaic.config import MosaicConfig
from bdam_reid.methods.mosaic.router import Router, shares
from bdam_reid.methods.mosaic.tower import ExpertTower
from bdam_reid.methods.optim import main_stage, parameter_groups
from bdam_reid.methods.persons import read_persons, write_persons
from bdam_reid.methods.preparation import IMAGE, architecture
from bdam_reid.methods.unit import unit
from bdam_reid.processes import gather


class Mosaic(Method):
    """An image tower with experts, a batch-normalised neck, a classifier of the training persons.

    An embedding is the feature behind the neck as a unit vector. Where the labels of an image are known, they choose
    its experts; `router.switch` says which attributes have a say.

    Args:
        config: of the method.
        data: sizes of images, and how they become batches.
        persons: how many are trained on.
        architectures: run folder with that of the tower, whose weights will come from a checkpoint; without it they
            are fetched.
    Raises: ValueError if the tower cannot be loaded, or does not fit.
    """

    def __init__(self, config: MosaicConfig, data: DataConfig, persons: int, architectures: Path | None = None) -> None:
        super().__init__()
        self.config, self.data, self.image_size = config, data, data.image_size
        self.oracle = config.experts.layers > 0
        self.router = Router(SCHEMAS[config.experts.attributes])
        self.tower = ExpertTower(
            config.image, data.image_size, config.experts.layers, self.router.experts, config.experts.rank,
            architecture(architectures, IMAGE),
        )  # fmt: skip
        self.neck = nn.BatchNorm1d(self.tower.width)
        self.classifier: nn.Linear | None = nn.Linear(self.tower.width, persons, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)
        self.parts, self.weights = {"person": slice(0, self.tower.width)}, {"person": 1.0}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.neck.weight.device

    def stages(self, dataset: Dataset, seed: int) -> Sequence[Stage]:
        """Everything that is not frozen at once, but for the shift of the neck, which stays 0 (Luo et al. 2019)."""
        config = self.config
        trained = [p for p in self.parameters() if p.requires_grad and p is not self.neck.bias]
        new = set(map(id, self.tower.new()))
        published = [p for p in self.tower.parameters() if config.image.pretrained and id(p) not in new]
        groups = parameter_groups(config.optim, trained, published)
        return [main_stage(config.optim, groups, make_batches(dataset.train, self.data, self.router, seed))]

    def losses(self, batch: Batch, step: int) -> Losses:
        """The smoothed cross-entropy of the classifier behind the neck, and the hardest triplets before it."""
        assert self.classifier is not None
        features = self.tower(batch.images, self.expert_weights(batch.states))
        scores = self.classifier(self.neck(features))
        config = self.config.loss
        with torch.autocast(batch.images.device.type, enabled=False):
            features, scores, identities = gather(features.float()), gather(scores.float()), gather(batch.identities)
            parts = {
                "id": F.cross_entropy(scores, identities, label_smoothing=config.smoothing),
                "triplet": hard_triplet_loss(features, identities, config.margin),
            }
        right = (scores.argmax(dim=1) == identities).float().mean()
        total = parts["id"] + config.triplet_weight * parts["triplet"]
        return Losses(total, parts, {"train/accuracy": right})

    def expert_weights(self, states: Tensor) -> Tensor:
        """States of attributes (B, A) -> weights of the experts (B, E)."""
        experts = self.config.experts
        return shares(self.router(states), experts.alpha / experts.rank)

    def embed_images(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) in [-1, 1], of which nothing else is known, so that no expert reads them -> unit vectors
        (B, E)."""
        return self.finish(self.tower(images))

    def embed_records(self, images: Tensor, records: Sequence[Record]) -> Tensor:
        """As `embed_images`, with the experts that the labels of who is shown choose."""
        return self._embed_labelled(images, [labels_of(record) for record in records])

    def embed_queries(self, queries: Sequence[Query]) -> Tensor:
        """Queries by an image, with the experts that the labels of who is shown choose, where they are known -> unit
        vectors (B, E)."""
        paths = [query.image for query in queries if query.image is not None and query.text is None]
        if len(paths) < len(queries):
            raise QueryError("MoSAIC-ReID searches by an image alone, got a query with a text or without an image")
        images = torch.stack([load_image(path, self.image_size) for path in paths]).to(self.device)
        return self._embed_labelled(images, [labels_of(query) for query in queries])

    def _embed_labelled(self, images: Tensor, labels: Sequence[Labels]) -> Tensor:
        states = self.router.read(labels).to(self.device)
        return self.finish(self.tower(images, self.expert_weights(states)))

    def finish(self, features: Tensor) -> Tensor:
        """Features of the tower (B, E) -> embeddings (B, E)."""
        return unit(self.neck(features))

    def strip(self) -> None:
        """Drop the classifier."""
        self.classifier = None


def prepare(config: MosaicConfig, dataset: Dataset, folder: Path) -> None:
    """Write into a run folder what the model needs besides weights. What is there stays.

    Raises: ConfigError if the tower cannot be had; DatasetError if no training image has labels that experts are for;
        OSError if they cannot be written.
    """
    schema = SCHEMAS[config.experts.attributes]
    if not any(labels_of(record).keys() >= schema.states.keys() for record in dataset.train):
        raise DatasetError(
            f"experts are for attributes, and none of {len(dataset.train)} training images of {dataset.root} is "
            f"labelled with those of --method.experts.attributes {config.experts.attributes}: put {schema.struct}.mat "
            "into that folder, or give the other --method.experts.attributes"
        )
    try:
        save_architecture(config.image.pretrained, folder / IMAGE)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    write_persons(dataset, folder)


def build(config: MosaicConfig, data: DataConfig, folder: Path, *, fresh: bool) -> Mosaic:
    """The model of a prepared run folder. Raises: ConfigError if it cannot be built."""
    persons = read_persons(folder)
    try:
        return Mosaic(config, data, persons, None if fresh else folder)
    except ValueError as error:
        raise ConfigError(str(error)) from error
