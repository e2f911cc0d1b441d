"""Finds persons in a gallery: an index, and the model that made it to ask it with.

finder = open_finder(Path("INDEX"))
finder.find(Question("a woman in a red coat - backpack"), k=5, where=where_of(["camera=3"]))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from bdam_reid.config import ConfigError, Presets
from bdam_reid.data.records import CLOTHES, Clothes, QueryError
from bdam_reid.search.columns import Where
from bdam_reid.search.index.reader import EVERYTHING, Entry, Gallery, open_index
from bdam_reid.search.opening import open_model
from bdam_reid.search.pictures import open_picture
from bdam_reid.search.query import Question, embed_question, split, to_rank_by
from bdam_reid.search.retriever import Retriever
from bdam_reid.search.rewording.reword import Reworded, as_it_is, lists_words, open_rewording


class Found(NamedTuple):
    """An image that was found."""

    path: str
    """Within the gallery's folder."""
    score: float
    """Weighted sum of `parts`; of what was re-ranked, the better score that this became."""
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
        rerank: bool = False,
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
            rerank: whether the best images, as many as the model was trained for, are read again, each together with
                the sentence, and ordered by that; the others stay in their order behind them.
        Raises: QueryError, ImageError as `embed_question`, and as `Retriever.rerank`, which takes a question without
            pictures; ValueError for another word for clothes, and as `to_rank_by` and `Gallery.entries`.
        """
        if clothes not in CLOTHES:
            raise ValueError(f"clothes must be {' or '.join(CLOTHES)}, got {clothes!r}")
        parts = self.retriever.parts
        vector = embed_question(question, self.retriever)
        query = to_rank_by(vector, parts, self.gallery.manifest.weights[clothes] if weights is None else weights)
        more = self.retriever.reranks if rerank else 0
        found = self.gallery.entries(query.numpy(), max(k, more), where=where, one_per=one_per)
        if rerank:
            found = self._reranked(question, found, clothes)[:k]
        return [
            Found(
                entry.path,
                entry.score,
                {name: float(entry.vector[part] @ vector[part].numpy()) for name, part in parts.items()},
                entry.about,
            )
            for entry in found
        ]

    def _reranked(self, question: Question, found: Sequence[Entry], clothes: Clothes) -> list[Entry]:
        wanted, _ = split(question.sentence)
        if question.pictures or not wanted:
            raise QueryError("re-ranking reads a sentence with each photograph: ask without pictures")
        top, folder = self.retriever.reranks, Path(self.gallery.manifest.folder)
        best = found[:top]
        images = [open_picture(folder, entry.path, self.retriever.image_size) for entry in best]
        scores = self.retriever.rerank(wanted, images, torch.tensor([entry.score for entry in best]), clothes)
        order = scores.argsort(descending=True, stable=True).tolist()
        return [*(best[place]._replace(score=float(scores[place])) for place in order), *found[top:]]


def open_finder(index: Path, presets: Presets, *, model: str = "", device: str = "auto") -> Finder:
    """The finder of an index.

    Args:
        index: its folder.
        presets: where the preset of a run is looked up.
        model: where the model lies now, if not where it was when the index was made.
        device: as torch names it; "auto" is the GPU where there is one.
    Raises: CheckpointError, ConfigError.
    """
    return finder_of(open_index(index), presets, model=model, device=device)


def finder_of(gallery: Gallery, presets: Presets, *, model: str = "", device: str = "auto") -> Finder:
    """The finder of an index that is open, as `open_finder` says. Raises: CheckpointError, ConfigError."""
    name = model or gallery.manifest.model
    # Made of a folder, an index names it from the root.
    if not model and Path(name).is_absolute() and not Path(name).exists():
        raise ConfigError(f"the index was made with {name}, which is not there any more: give --run where it is now")
    reword = open_rewording(Path(name)) if lists_words(Path(name)) else as_it_is
    return Finder(gallery, open_model(name, device, presets), reword)


def check_model(fingerprint: str, retriever: Retriever, name: str) -> None:
    """Raise ConfigError if a model is not the one of an index."""
    if retriever.fingerprint != fingerprint:
        raise ConfigError(
            f"the index was made with other weights than these, those that {name} had then: give --run the model as "
            "it was, or make another index with this one"
        )
