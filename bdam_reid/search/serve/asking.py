"""A question and its answer as the page and other programs put them."""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
from typing import Annotated
from urllib.parse import quote

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from bdam_reid.data.records import Clothes, QueryError
from bdam_reid.search.columns import where_of
from bdam_reid.search.query import Question
from bdam_reid.search.rewording.reword import as_it_is
from bdam_reid.search.serve.live import Served
from bdam_reid.search.serve.photographs import picture_of, sent_picture

LONGEST = 2_000
"""Characters of a sentence."""
MOST = 1_000
"""Photographs that are given at once."""
PICTURES = 8
PIXELS = 50_000_000
"""Of a picture that is sent: 150 MB when decoded."""

Weight = Annotated[float, Field(ge=-1_000, le=1_000, allow_inf_nan=False)]
Short = Annotated[str, Field(max_length=500)]


class Ask(BaseModel):
    """What is looked for."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"sentence": "a woman in a red coat - backpack", "k": 10}}
    )

    sentence: str = Field("", max_length=LONGEST, description='What is wanted, and what is not after each " - ".')
    images: list[str] = Field(
        [], max_length=PICTURES, description="Pictures of the person who is looked for: image files in base64."
    )
    like: list[Short] = Field([], max_length=PICTURES, description="Paths of such pictures in the index.")
    share: float = Field(0.5, ge=0, le=1, description="Of the pictures against the sentence.")
    k: int = Field(10, ge=1, le=MOST, description="How many photographs are given.")
    clothes: Clothes = Field("same", description="Whether the person may wear other clothes than those asked for.")
    weights: dict[Short, Weight] | None = Field(
        None, description="Of the parts of embeddings, by name; if none are given, those that validation chose."
    )
    where: list[Short] = Field(
        [], max_length=100, description="Filters: column=value, time>=2026-11-27T08:00, time<2026-11-28."
    )
    one_per: Short = Field("", description="Column of each text of which the best photograph alone is given.")
    rerank: bool = Field(
        False, description="Read the best photographs again, each with the sentence; for models that can."
    )
    as_written: bool = Field(False, description="Read words that the model does not know as they are.")


class Result(BaseModel):
    """A photograph that was found."""

    rank: int
    path: str = Field(description="Within the folder of the index.")
    image: str = Field(description="Where the photograph is, beside this address.")
    score: float
    parts: dict[str, float] = Field(description="Cosine of each part of the embedding with that of the question.")
    about: dict[str, str] = Field(description="What else is known of it, by column.")


class Answer(BaseModel):
    """What was found."""

    read_as: str = Field(description="The sentence in words that the model knows.")
    changes: dict[str, str] = Field(description="Words that gave way, and those that took their places.")
    results: list[Result]


def answer(ask: Ask, served: Served, pictures: tuple[Image.Image, ...] = ()) -> Answer:
    """The answer of an index.

    Args:
        ask: the question.
        served: the index.
        pictures: of the person, besides those of the question.
    Raises: QueryError, ImageError.
    """
    finder = served.finder
    if ask.weights is not None and (unknown := ask.weights.keys() - finder.retriever.parts.keys()):
        raise QueryError(f"weights must be of {', '.join(finder.retriever.parts)}, got {len(unknown)} others")
    size = finder.retriever.image_size
    shown = (
        *(picture_of(served, path, size) for path in ask.like),
        *(_sent(image, size) for image in ask.images),
        *pictures,
    )
    sentence, changes = as_it_is(ask.sentence) if ask.as_written else finder.reword(ask.sentence)
    found = finder.find(
        Question(sentence, shown, ask.share),
        ask.k,
        clothes=ask.clothes,
        weights=ask.weights,
        where=where_of(ask.where),
        one_per=ask.one_per,
        rerank=ask.rerank,
    )
    results = [
        Result(rank=rank, image=f"image/{quote(hit.path)}", **hit._asdict()) for rank, hit in enumerate(found, 1)
    ]
    return Answer(read_as=sentence, changes=dict(changes), results=results)


def _sent(text: str, least: tuple[int, int]) -> Image.Image:
    try:
        data = b64decode(text, validate=True)
    except (Base64Error, ValueError) as error:
        raise QueryError("images must be image files in base64, got other text") from error
    return sent_picture(data, least, PIXELS)
