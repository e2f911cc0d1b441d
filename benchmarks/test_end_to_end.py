"""A training step, an evaluation pass and gallery search: our kernels against the reference backend, and others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torch.nn import functional as F

from bdam_kernels import use_backend
from bdam_reid.config import Config
from bdam_reid.data.records import Dataset, Protocol, Query, Record
from bdam_reid.evaluation.ranking import Embedder, Ranking
from bdam_reid.methods.bdam.presets import demo, paper_icme
from benchmarks.measure import Contender
from benchmarks.training import Operators, Run, difference, drawn, one_layer_of, trainer_of, with_random_weights

Contest = Callable[..., None]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return drawn(tmp_path_factory.mktemp("people") / "set", 64)


@dataclass(frozen=True)
class Evaluated(Run):
    """A run that is evaluated, too."""

    test: Protocol

    def forward(self) -> list[Tensor]:
        """Every caption of some test images against these images."""
        with self.operators():
            ranking = Embedder(self.trainer.method, self.trainer.accelerator.device).rank(self.test)
        return list(ranking.similarity().values())


def paper() -> Config:
    """The conference draft's model on four images; its encoders have the papers' sizes, but random weights."""
    config = paper_icme()
    data = replace(config.data, identities_per_batch=2, images_per_identity=2)
    return with_random_weights(replace(config, data=data))


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
    test = first_images(dataset.protocols["test"], images)
    # "cpu" leaves the choice to the operators, which is the best that runs.
    operators: dict[str, Operators] = {"cpu": nullcontext, "reference": lambda: use_backend("reference")}
    runs = {
        name: Evaluated(*trainer_of(config, tmp_path / name, dataset), operators=chosen, test=test)
        for name, chosen in operators.items()
    }
    # One step each from the same weights: those after it are compared no more, as rounding errors grow.
    errors = {}
    for mode, function in (("forward", Evaluated.forward), ("train", Evaluated.loss_and_gradients)):
        errors[f"{mode}_error"] = difference(*(function(run) for run in runs.values()))
        assert errors[f"{mode}_error"] <= torch.finfo(torch.float32).eps ** 0.5
    size = f"evaluation of {images} images, step of {len(runs['cpu'].batch.images)}"
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
