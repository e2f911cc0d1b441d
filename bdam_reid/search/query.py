"""What is looked for, as one vector: a sentence, pictures, or both, without what is not wanted.

The parts of all embeddings are brought to unit length first. Then, part by part,

    vector = (1 - share) sentence + share mean(pictures) - `UNWANTED` mean(unwanted)

where the share is 0 without pictures and 1 without a sentence; the vector's parts, brought to unit length again, are
scaled by the weights of the parts. A score, its inner product with an image's embedding, is therefore a weighted sum of
cosines, whatever a question consists of. A part that a sentence has no words for is zero: it takes no side.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from bdam_reid.data.printable import shortened
from bdam_reid.data.records import QueryError

ImageLike: TypeAlias = Path | str | Image.Image
Parts: TypeAlias = Mapping[str, slice]

WITHOUT = re.compile(r"(?<=\s)-(?=\s)")
"""What stands in a sentence before each thing that is not wanted: a hyphen by itself; "t-shirt" has none."""
UNWANTED = 0.5
"""Weight of the mean of what is not wanted. Sentences of persons are alike: with 1 little of the rest is left."""

LARGEST = 1e6
"""A weight at most: scores are float32, and weights count beside each other alone."""


class Embedder(Protocol):
    """What embeds images and sentences, such as a `Retriever`."""

    @property
    def parts(self) -> Parts: ...

    def embed_images(self, images: Sequence[ImageLike]) -> Tensor: ...

    def embed_texts(self, sentences: Sequence[str]) -> Tensor: ...


@dataclass(frozen=True)
class Question:
    """What is looked for."""

    sentence: str = ""
    """Such as "a woman in a red coat - backpack - hat": what is wanted, then what is not, each after " - "."""
    pictures: tuple[ImageLike, ...] = ()
    """Of the one person who is looked for."""
    share: float = 0.5
    """Of the pictures against the sentence, from 0 to 1, where both are given."""


def split(sentence: str) -> tuple[str, tuple[str, ...]]:
    """What a sentence wants, which may be empty, and what it does not. Raises: QueryError if anything after " - " is
    blank, or the sentence has halves of characters."""
    try:
        sentence.encode("utf-8")
    except UnicodeEncodeError as error:
        raise QueryError(
            f"a sentence must be text, got {shortened(sentence)!r}, which has halves of characters"
        ) from error
    wanted, *unwanted = (term.strip() for term in WITHOUT.split(f" {sentence} "))
    if not all(unwanted):
        raise QueryError(f'after each " - " must stand what is not wanted, got {shortened(sentence)!r}')
    return wanted, tuple(unwanted)


def embed_question(question: Question, embedder: Embedder) -> Tensor:
    """The vector (E,) of a question, its parts unit vectors or zero, before parts are weighted.

    Raises: QueryError for a question without a sentence and pictures, or with unwanted things alone, a share outside
        0 to 1, or an embedder that cannot read sentences; ImageError for a picture that cannot be read.
    """
    wanted, unwanted = split(question.sentence)
    if not wanted and not question.pictures:
        raise QueryError("a question must have a sentence that says what is wanted, or a picture, got neither")
    if not 0 <= question.share <= 1:
        raise QueryError(f"the share of pictures must be from 0 to 1, got {question.share}")
    texts = [wanted] * bool(wanted) + list(unwanted)
    said = unit_parts(embedder.embed_texts(texts), embedder.parts) if texts else None
    shown = unit_parts(embedder.embed_images(question.pictures), embedder.parts) if question.pictures else None
    first = int(bool(wanted))
    return combine(
        embedder.parts,
        sentence=said[0] if said is not None and wanted else None,
        pictures=shown,
        unwanted=said[first:] if said is not None and unwanted else None,
        share=question.share,
    )


def combine(
    parts: Parts, *, sentence: Tensor | None, pictures: Tensor | None, unwanted: Tensor | None, share: float
) -> Tensor:
    """sentence (E,), pictures (P, E), unwanted (U, E), whose parts are unit vectors or zero; of the first two at least
    one -> the vector (E,) of the module's formula."""
    if sentence is None:
        share = 1.0
    if pictures is None:
        share = 0.0
    vector = torch.zeros(max(part.stop for part in parts.values()))
    if sentence is not None:
        vector += (1 - share) * sentence
    if pictures is not None:
        vector += share * pictures.mean(dim=0)
    if unwanted is not None:
        vector -= UNWANTED * unwanted.mean(dim=0)
    return unit_parts(vector, parts)


def unit_parts(embeddings: Tensor, parts: Parts) -> Tensor:
    """Embeddings (..., E) with each part brought to unit length; zeros stay."""
    normed = embeddings.clone()
    for part in parts.values():
        normed[..., part] = F.normalize(embeddings[..., part], dim=-1)
    return normed


def weighted(vectors: Tensor, parts: Parts, weights: Mapping[str, float]) -> Tensor:
    """Vectors (..., E) with their parts scaled; a part that is not named has no weight.

    Raises: QueryError for a part that there is not, or a weight that is no finite number, or beyond `LARGEST`.
    """
    if unknown := weights.keys() - parts.keys():
        raise QueryError(f"weights must be of {', '.join(parts)}, got {', '.join(sorted(unknown))}")
    if other := [weight for weight in weights.values() if not abs(weight) <= LARGEST]:
        raise QueryError(
            f"weights must be finite numbers from {-LARGEST:,.0f} to {LARGEST:,.0f}, got {shortened(str(other[0]))}"
        )
    scale = torch.zeros(vectors.shape[-1])
    for name, weight in weights.items():
        scale[parts[name]] = weight
    return scale * vectors


def to_rank_by(vector: Tensor, parts: Parts, weights: Mapping[str, float]) -> Tensor:
    """The vector (E,) of a question as `weighted` scales it. Raises: QueryError as that, and if nothing is left to rank
    by: a sentence about clothes alone says nothing of a person in others."""
    scaled = weighted(vector, parts, weights)
    if not scaled.any():
        counts = " or ".join(name for name, weight in weights.items() if weight) or "none"
        raise QueryError(
            f"the question must say something of the parts that count here ({counts}), got nothing: say more, or "
            "give other weights"
        )
    return scaled
