"""A training step, an evaluation pass and gallery search: our kernels against the reference backend, and others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torch.nn import functional as F

from bdam_kernels import use_backend
from bdam_reid.config import Config
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.records import Dataset, Protocol, Query, Record
from bdam_reid.encoders.config import ImageEncoderConfig, TextEncoderConfig
from bdam_reid.engine.environment import make_accelerator
from bdam_reid.engine.trainer import Trainer, make_method
from bdam_reid.evaluation.ranking import Embedder, Ranking
from bdam_reid.evaluation.validation import validator
from bdam_reid.methods.bdam.batches import Batch
from bdam_reid.methods.bdam.config import BDAMConfig
from bdam_reid.methods.bdam.presets import demo, paper_icme
from bdam_reid.synthetic.writer import write_synthetic
from benchmarks.measure import Contender, error

Contest = Callable[..., None]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("people")
    write_synthetic(root / "set", 64, 0)
    return load_dataset(root / "set")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Training makes the whole process deterministic."""
    yield
    torch.use_deterministic_algorithms(False)


def forced(name: str) -> AbstractContextManager[None]:
    """Every operator on one backend; "cpu" leaves the choice to them, which is the best that runs."""
    return nullcontext() if name == "cpu" else use_backend(name)


@dataclass(frozen=True)
class Run:
    """A trainer that takes all its steps on one batch, with one backend."""

    trainer: Trainer
    batch: Batch
    test: Protocol
    backend: str
    module: None = None

    def train(self) -> list[Tensor]:
        """A step with its update of the weights: the loss and the gradients, as one vector."""
        torch.manual_seed(0)
        with forced(self.backend):
            scalars = self.trainer.step(self.batch)
        gradients = [p.grad.flatten() for p in self.trainer.method.parameters() if p.grad is not None]
        return [torch.tensor(scalars["loss/total"]), torch.cat(gradients)]

    def forward(self) -> list[Tensor]:
        """Every caption of some test images against these images."""
        with forced(self.backend):
            ranking = Embedder(self.trainer.method, self.trainer.accelerator.device).rank(self.test)
        return list(ranking.similarity().values())


def paper() -> Config:
    """The conference draft's model on four images; its encoders have the papers' sizes, but random weights."""
    config = paper_icme()
    sizes = {"width": 768, "layers": 12, "heads": 12}
    data = replace(config.data, identities_per_batch=2, images_per_identity=2)
    return replace(
        config,
        data=data,
        method=replace(bdam(config), image=ImageEncoderConfig(**sizes), text=TextEncoderConfig(**sizes)),
    )


def one_layer_of(config: Config) -> Config:
    method = bdam(config)
    image, text = (replace(encoder, width=12, layers=1, heads=3) for encoder in (method.image, method.text))
    decoupling = replace(method.decoupling, self_layers=1, cross_layers=1, heads=3, width=0)
    return replace(
        config,
        data=replace(config.data, identities_per_batch=2, images_per_identity=2, image_height=32, image_width=32),
        method=replace(method, image=image, text=text, decoupling=decoupling),
    )


def bdam(config: Config) -> BDAMConfig:
    assert isinstance(config.method, BDAMConfig)
    return config.method


def first_images(protocol: Protocol, count: int) -> Protocol:
    """A protocol of the first images of a gallery, and of their captions."""
    gallery = protocol.gallery[:count]
    captions = [Query(text=caption, identity=r.identity) for r in gallery for caption in r.captions]
    return Protocol(protocol.name, tuple(captions), gallery)


@pytest.mark.parametrize(("preset", "images"), [("demo", 32), ("paper", 4)])
def test_training_and_evaluation(
    contest: Contest, small: bool, tmp_path: Path, dataset: Dataset, preset: str, images: int
) -> None:
    config = demo() if preset == "demo" else paper()
    if small:
        config = one_layer_of(config)
    # One precision on all machines, in which the backends may be held against each other.
    config = replace(config, engine=replace(config.engine, mixed_precision="no"))
    accelerator = make_accelerator(config.engine)
    test = first_images(dataset.protocols["test"], images)
    runs = {}
    for name in ("cpu", "reference"):
        folder = tmp_path / name
        folder.mkdir()
        method = make_method(config, folder, dataset)
        validate = validator(dataset, accelerator.device, "no", allow_missing=False)
        trainer = Trainer(config, folder, method, dataset, accelerator, validate)
        batch = next(trainer.stage.batches.batches(0))
        runs[name] = Run(trainer, batch, test, name)
    # One step each from the same weights: those after it are compared no more, as rounding errors grow.
    errors = {}
    for mode in ("forward", "train"):
        results = {name: getattr(run, mode)() for name, run in runs.items()}
        errors[f"{mode}_error"] = float(f"{error(results['cpu'], results['reference']):.4g}")
        assert errors[f"{mode}_error"] <= torch.finfo(torch.float32).eps ** 0.5
    size = f"evaluation of {images} images, step of {len(batch.images)}"
    contest(runs, facts={"cpu": errors}, op=f"{preset} preset", size=size, peer="reference")


def test_search(contest: Contest, shrink: Callable[[Sequence[int]], tuple[int, ...]]) -> None:
    """The ten first images of every caption, at the sizes of CUHK-PEDES' test split; unit features of 768."""
    (queries, images), beta = shrink((6156, 3074)), 0.5
    text, image = ([F.normalize(torch.randn(rows, 768), dim=1) for _ in range(2)] for rows in (queries, images))
    people = range(images)
    records = tuple(Record(Path(f"{i}.jpg"), f"{i}.jpg", i, "test") for i in people)
    asked = tuple(Query(text="a", identity=i % images) for i in range(queries))
    weights = (1.0, math.sqrt(beta))
    joint_text, joint_image = (
        torch.cat([weight * t for weight, t in zip(weights, side, strict=True)], dim=1) for side in (text, image)
    )
    neighbours = NearestNeighbors(n_neighbors=min(10, images), metric="cosine", algorithm="brute").fit(joint_image)

    ranking = Ranking(
        asked, records, torch.cat(text, dim=1), torch.cat(image, dim=1),
        {"identity": slice(0, 768), "clothing": slice(768, 2 * 768)},
    )  # fmt: skip

    def first_ten() -> Tensor:
        return ranking.scores({"identity": 1.0, "clothing": beta}).topk(min(10, images), dim=1).values

    def first_ten_by_sklearn() -> Tensor:
        distances = neighbours.kneighbors(joint_text)[0]
        return (1 - torch.from_numpy(distances)) * (1 + beta)

    contest(
        {"ours": Contender(first_ten, []), "scikit-learn's neighbours": Contender(first_ten_by_sklearn, [])},
        expected=lambda: [first_ten().double()], modes=["forward"],
        op="gallery search, first ten", size=f"{queries} captions, {images} images, D = 768",
        peer="scikit-learn's neighbours",
    )  # fmt: skip
