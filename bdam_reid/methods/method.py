"""The contract between a method and the rest of the house.

An embedding is one vector with named parts. A method ranks images by the inner products of theirs with a query's, part
by part, weighted. Nothing of a gallery image's text reaches its embedding. `config.MethodConfig` makes a method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

from bdam_reid.data.records import Clothes, Dataset, Query, Record
from bdam_reid.data.training import Source
from bdam_reid.methods.text_tower import TextTower


class Losses(NamedTuple):
    """What a batch costs."""

    total: Tensor
    """What the step descends on."""
    parts: Mapping[str, Tensor]
    """Unweighted losses by name, logged as loss/NAME."""
    scalars: Mapping[str, Tensor]
    """Anything else to log, by its full name (weight/info, gate/identity)."""


@dataclass(frozen=True)
class Stage:
    """A part of training with an optimizer of its own. Steps and epochs are counted from its beginning."""

    name: str
    groups: list[dict[str, Any]]
    """Parameter groups for the optimizer; what is in none of them is frozen in this stage."""
    epochs: int
    optimizer: Callable[[list[dict[str, Any]]], Optimizer]
    learning_rate: Callable[[int, int], float]
    """(step, steps of the stage) -> rate; the "factor" of a group, 1 if it has none, scales it."""
    batches: Source
    clip_norm: float = 0.0
    """Gradient norm limit; 0 is none."""
    validates: bool = True
    """Whether validation runs, and may choose a checkpoint of this stage; in the last one it must."""


class Method(nn.Module, ABC):
    """A model that can be trained by the engine, evaluated and searched with."""

    parts: Mapping[str, slice]
    """Of an embedding, by name; the first is what ranks alone where the others mislead."""
    weights: Mapping[str, float]
    """Of the parts in search of persons in the same clothes, unless validation chose others."""
    image_size: tuple[int, int]
    """Height and width, in pixels."""
    reranks: int = 0
    """How many of the best images of a ranking `rerank` orders anew; 0 is a method without such a part."""
    micro_batches: int | None = None
    """Parts in which `losses` computes the features of a batch (see `parts.in_parts`), for the engine to set; None is a
    method that cannot."""

    oracle: bool = False
    """Whether `embed_records` and `embed_queries` read the attributes of images, truths that a search has not: an
    evaluation says so, and reports results without them too."""

    @abstractmethod
    def stages(self, dataset: Dataset, seed: int) -> Sequence[Stage]:
        """What training consists of, in order."""

    def begin_stage(self, stage: Stage) -> None:
        """Called, with autocast as the run has it, before the first step of a stage and when a run goes on within it:
        computes from what is frozen in the stage only, and draws no random numbers. For caches of frozen features."""

    def forget_cameras(self) -> None:
        """Called before images of another set than that of training are embedded, where the numbers of cameras are
        those of other ones."""

    @abstractmethod
    def losses(self, batch: Any, step: int) -> Losses:
        """Run the forward pass of a batch, with autocast as the run has it; `step` counts from 0."""

    def forward(self, batch: Any, step: int) -> Losses:
        """`losses`: the engine calls the module, as wrappers of modules want it."""
        return self.losses(batch, step)

    @abstractmethod
    def embed_images(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) in [-1, 1] -> embeddings (B, E)."""

    def embed_records(self, images: Tensor, records: Sequence[Record]) -> Tensor:
        """As `embed_images`, where it is known what took the images (B, 3, H, W) and whom they show: a method may read
        the cameras, and the attributes if it says so."""
        return self.embed_images(images)

    @abstractmethod
    def embed_queries(self, queries: Sequence[Query]) -> Tensor:
        """B queries -> embeddings (B, E). Raises: QueryError for a query that the method cannot read."""

    def text_tower(self) -> TextTower | None:
        """What embeds sentences from their tokens on; None for a method that reads no sentences."""
        return None

    def strip(self) -> None:
        """Drop what only training needs, for good: what is left embeds and re-ranks as before."""

    def candidates(self, images: Tensor) -> Tensor:
        """What `rerank` reads of images (B, 3, H, W), (B, ...), whatever it is asked: it can be kept for a gallery."""
        raise NotImplementedError

    def rerank(self, queries: Sequence[Query], candidates: Tensor, scores: Tensor, clothes: Clothes) -> Tensor:
        """candidates (Q, K, ...) of Q queries, scores (Q, K) at the weights for a question -> better ones (Q, K), each
        of its pair alone. Raises: QueryError."""
        raise NotImplementedError

    def weight_choices(self) -> Sequence[Mapping[str, float]]:
        """Weights of the parts that validation chooses from, the simplest first: of those that it cannot tell from the
        best it takes the first."""
        return [self.weights]

    def default_weights(self) -> dict[Clothes, Mapping[str, float]]:
        """The weights of the parts for a question that validation does not ask."""
        return {"same": self.weights, "other": first_alone(self.parts)}

    def chosen_weights(self, best: Mapping[str, Any]) -> Mapping[Clothes, Mapping[str, float]]:
        """The weights of the parts for each question in the state of a best checkpoint; those of older versions are of
        the same clothes."""
        defaults, kept = self.default_weights(), best["weights"]
        if kept.keys() == defaults.keys():
            return {clothes: dict(kept[clothes]) for clothes in defaults}
        return {**defaults, "same": dict(kept)}

    def probed(self, images: Tensor) -> Mapping[str, Tensor]:
        """images (B, 3, H, W) -> features (B, D) by name, from which linear probes read ground truth."""
        embeddings = self.embed_images(images)
        return {name: embeddings[:, part] for name, part in self.parts.items()}

    def maps(self, images: Tensor) -> Mapping[str, Tensor]:
        """Where the method looks in images (B, 3, H, W), by name, (B, rows, columns); greater is more. For pictures."""
        return {}

    def analyse(self, gallery: Iterable[tuple[Tensor, Sequence[Record]]]) -> Mapping[str, Mapping[str, Tensor]]:
        """What else evaluation reports of images in batches: weights in [0, 1], (N, ...), by group and name."""
        return {}


def first_alone(parts: Iterable[str]) -> dict[str, float]:
    """The weights with which the first of the parts ranks alone."""
    first, *others = parts
    return {first: 1.0, **dict.fromkeys(others, 0.0)}
