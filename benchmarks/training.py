"""Training steps of whole presets with one kind of operators or another, on a drawn set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from bdam_reid.config import Config
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.records import Dataset
from bdam_reid.encoders.config import ImageEncoderConfig, TextEncoderConfig
from bdam_reid.engine.environment import make_accelerator
from bdam_reid.engine.trainer import Trainer, make_method
from bdam_reid.evaluation.validation import validator
from bdam_reid.methods.bdam.batches import Batch
from bdam_reid.methods.bdam.config import BDAMConfig
from bdam_reid.synthetic.writer import write_synthetic
from benchmarks.measure import error

Operators = Callable[[], AbstractContextManager[None]]
"""What decides which operators compute inside of it."""

PUBLISHED: Mapping[str, Any] = {"pretrained": "", "width": 768, "layers": 12, "heads": 12}
"""Sizes of ViT-B/16 and BERT-base, with random weights."""


@dataclass(frozen=True)
class Run:
    """A trainer that takes all its steps on one batch, with one kind of operators."""

    trainer: Trainer
    batch: Batch
    operators: Operators
    module: ClassVar[None] = None

    def train(self) -> list[Tensor]:
        """A step with its update of the weights: the loss."""
        torch.manual_seed(0)
        with self.operators():
            scalars = self.trainer.step(self.batch)
        return [torch.tensor(scalars["loss/total"])]

    def loss_and_gradients(self) -> list[Tensor]:
        """Of a step, the gradients as one vector."""
        loss = self.train()[0]
        gradients = [p.grad.flatten() for p in self.trainer.method.parameters() if p.grad is not None]
        return [loss, torch.cat(gradients)]


def drawn(folder: Path, persons: int) -> Dataset:
    """A set of so many persons in all three splits."""
    write_synthetic(folder, persons, 0, processes=1)
    return load_dataset(folder)


def trainer_of(config: Config, folder: Path, dataset: Dataset) -> tuple[Trainer, Batch]:
    """A trainer in a folder of its own with the weights that the seed decides, and the batch that it begins with."""
    folder.mkdir()
    accelerator = make_accelerator(config.engine)
    method = make_method(config, folder, dataset)
    validate = validator(dataset, accelerator.device, "no", allow_missing=False)
    trainer = Trainer(config, folder, method, dataset, accelerator, validate)
    return trainer, next(trainer.stage.batches.batches(0)).to(accelerator.device)


def difference(results: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """`error`, to keep."""
    return float(f"{error(results, expected):.4g}")


def bdam(config: Config) -> BDAMConfig:
    assert isinstance(config.method, BDAMConfig)
    return config.method


def one_layer_of(config: Config) -> Config:
    """A preset at the least size."""
    method = bdam(config)
    image, text = (
        replace(encoder, pretrained="", width=12, layers=1, heads=3) for encoder in (method.image, method.text)
    )
    decoupling = replace(
        method.decoupling, self_layers=1, cross_layers=1, heads=3, width=0, erase=min(method.decoupling.erase, 4)
    )
    return replace(
        config,
        data=replace(config.data, identities_per_batch=2, images_per_identity=2, image_height=32, image_width=32),
        method=replace(method, image=image, text=text, decoupling=decoupling),
    )


def with_random_weights(config: Config) -> Config:
    """A preset on published encoders with encoders of the same sizes that nobody trained."""
    method = bdam(config)
    image: ImageEncoderConfig = replace(method.image, **PUBLISHED)
    text: TextEncoderConfig = replace(method.text, **PUBLISHED)
    return replace(config, method=replace(method, image=image, text=text))
