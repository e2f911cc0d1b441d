"""Finds persons in a gallery: an index, and the model that made it to ask it with.

finder = open_finder(Path("INDEX"))
finder.find(Question("a woman in a red coat - backpack"), k=5, where=where_of(["camera=3"]))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from bdam_reid.config import ConfigError, Presets
from bdam_reid.data.records import CLOTHES, Clothes
from bdam_reid.search.columns import Where
from bdam_reid.search.index.reader import EVERYTHING, Gallery, open_index
from bdam_reid.search.opening import open_model
from bdam_reid.search.query import Question, embed_question, weighted
from bdam_reid.search.retriever import Retriever
from bdam_reid.search.rewording.reword import Reworded, as_it_is, lists_words, open_rewording


class Found(NamedTuple):
    """An image that was found."""

    path: str
    """Within the gallery's folder."""
    score: float
    """Weighted sum of `parts`."""
    parts: Mapping[str, float]
    """The cosine of each part of the embedding with that of the question."""
    about: Mapping[str, str]
    """What else is known of it, by column."""


class Finder:
    """An index and its model. Threads may share one.

    Args:
        gallery: its index.
        retriever: the model.
        reword: what puts a sentence in the words that the model was trained on; of a published one as it is, which has
            read all words.
    Raises: ConfigError if the index is another model's.
    """

    def __init__(self, gallery: Gallery, retriever: Retriever, reword: Callable[[str], Reworded] = as_it_is) -> None:
        check_model(gallery.manifest.fingerprint, retriever, gallery.manifest.model)
        self.gallery, self.retriever, self.reword = gallery, retriever, reword

    def find(
        self,
        question: Question,
        k: int = 10,
        *,
        clothes: Clothes = "same",
        weights: Mapping[str, float] | None = None,
        where: Where = EVERYTHING,
        one_per: str = "",
    ) -> list[Found]:
        """The k images that fit a question best, the best first.

        Args:
            question: what is looked for.
            k: how many, at least 1; fewer if there are no more.
            clothes: whether the person wears the clothes of the question, "same", or may wear any, "other": whose
                weights are taken if none are given.
            weights: of the parts, if not those that validation chose; a part that is not named has none.
            where: which images may be found.
            one_per: a column of each text of which the best image alone is given; empty gives all.
        Raises: QueryError, ImageError as `embed_question`; ValueError for another word for clothes, and as `weighted`
            and `Gallery.entries`.
        """
        if clothes not in CLOTHES:
            raise ValueError(f"clothes must be {' or '.join(CLOTHES)}, got {clothes!r}")
        parts = self.retriever.parts
        vector = embed_question(question, self.retriever)
        query = weighted(vector, parts, self.gallery.manifest.weights[clothes] if weights is None else weights)
        found = self.gallery.entries(query.numpy(), k, where=where, one_per=one_per)
        return [
            Found(
                entry.path,
                entry.score,
                {name: float(entry.vector[part] @ vector[part].numpy()) for name, part in parts.items()},
                entry.about,
            )
            for entry in found
        ]


def open_finder(index: Path, presets: Presets, *, model: str = "", device: str = "auto") -> Finder:
    """The finder of an index.

    Args:
        index: its folder.
        presets: where the preset of a run is looked up.
        model: where the model lies now, if not where it was when the index was made.
        device: as torch names it; "auto" is the GPU where there is one.
    Raises: CheckpointError, ConfigError.
    """
    opened = open_index(index)
    name = model or opened.manifest.model
    reword = open_rewording(Path(name)) if lists_words(Path(name)) else as_it_is
    return Finder(opened, open_model(name, device, presets), reword)


def check_model(fingerprint: str, retriever: Retriever, name: str) -> None:
    """Raise ConfigError if a model is not the one of an index."""
    if retriever.fingerprint != fingerprint:
        raise ConfigError(
            f"the index was made with other weights than these, those that {name} had then: give --run the model as "
            "it was, or make another index with this one"
        )
