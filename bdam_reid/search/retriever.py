"""A trained run, opened to search with: what `bdam_reid.load` gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from bdam_reid.config import Presets
from bdam_reid.data.images import decode_image, normalise
from bdam_reid.data.records import CLOTHES, Clothes, Query, QueryError
from bdam_reid.engine.environment import inference
from bdam_reid.engine.run import fingerprint_of, open_best
from bdam_reid.methods.method import Method
from bdam_reid.search.query import ImageLike, combine, to_rank_by, unit_parts

BATCH = 128


class Hit(NamedTuple):
    """A gallery image that a search found."""

    image: int
    """Its place in the gallery."""
    score: float
    """Weighted sum of the parts' inner products; greater is more alike."""


class Retriever:
    """Embeds images and sentences with a trained method, and ranks the one by the other. Threads may share one.

    Args:
        method: with the weights to use, on `device`.
        weights: of the parts of an embedding, for each question.
        device: where the method is.
        precision: "no", "bf16" or "fp16".
        fingerprint: of the weights: embeddings of another one's cannot be compared with these.
    """

    def __init__(
        self,
        method: Method,
        weights: Mapping[Clothes, Mapping[str, float]],
        device: torch.device,
        precision: str,
        fingerprint: str,
    ) -> None:
        self._method, self._device, self._precision = method, device, precision
        self.weights, self.fingerprint = dict(weights), fingerprint

    @property
    def parts(self) -> Mapping[str, slice]:
        """Names and places of the parts of an embedding."""
        return self._method.parts

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images that it sees, in pixels."""
        return self._method.image_size

    @property
    def reranks(self) -> int:
        """How many of the best images `rerank` is for; 0 is a model that cannot."""
        return self._method.reranks

    def embed_pixels(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 of `image_size` -> embeddings (B, E) float32 on the CPU, all in one batch."""
        with inference(self._method, self._device, self._precision):
            return self._method.embed_images(normalise(pixels.to(self._device))).float().cpu()

    def embed_images(self, images: Iterable[ImageLike]) -> Tensor:
        """Embeddings of image files or pictures in memory, (N, E) float32 on the CPU, a batch at a time.

        Raises: ImageError for the first that cannot be read; TypeError for one image where several are taken.
        """
        if isinstance(images, Path | str | Image.Image):
            raise TypeError(f"images must be paths or pictures in a list, got the one {images!r}")
        total = len(images) if isinstance(images, Sequence) else None
        embedded, waiting = [torch.empty(0, max(part.stop for part in self.parts.values()))], iter(images)
        # One batch, such as the picture of a question, is there at once.
        alone = total is not None and total <= BATCH
        with tqdm(total=total, unit="image", disable=alone or None) as bar:
            while some := list(islice(waiting, BATCH)):
                embedded.append(
                    self.embed_pixels(torch.stack([decode_image(image, self.image_size) for image in some]))
                )
                bar.update(len(some))
        return torch.cat(embedded)

    def embed_texts(self, sentences: Sequence[str]) -> Tensor:
        """Embeddings of sentences to search with, (N, E) float32 on the CPU.

        Raises: ValueError if a sentence is blank; QueryError if the method cannot read sentences; TypeError for one
            sentence where several are taken.
        """
        if isinstance(sentences, str):
            raise TypeError(f"sentences must be a list of texts, got the one text {sentences!r}")
        queries = [Query(text=sentence) for sentence in sentences]
        with inference(self._method, self._device, self._precision):
            embedded = [
                self._method.embed_queries(queries[at : at + BATCH]).float().cpu()
                for at in range(0, len(queries), BATCH)
            ]
        return torch.cat([torch.empty(0, max(part.stop for part in self.parts.values())), *embedded])

    def rerank(self, sentence: str, images: Sequence[ImageLike], scores: Tensor, clothes: Clothes = "same") -> Tensor:
        """Better scores (K,) of the images that a sentence fits best, each read together with the sentence.

        Args:
            sentence: what is looked for.
            images: K of them.
            scores: (K,) by their embeddings, at the weights for a question.
            clothes: whether the person wears the clothes of the sentence, "same", or may wear any, "other".
        Raises: QueryError for a model that cannot re-rank; ImageError for the first image that cannot be read.
        """
        if not self.reranks:
            raise QueryError(
                "this model has no part that re-ranks: train a run of BDAM with --method.rerank.kind mamba, or search "
                "without re-ranking"
            )
        if not images:
            return scores
        pixels = torch.stack([decode_image(image, self.image_size) for image in images])
        with inference(self._method, self._device, self._precision):
            candidates = torch.cat(
                [self._method.candidates(normalise(some.to(self._device))) for some in pixels.split(BATCH)]
            )
            query, old = Query(text=sentence), scores[None].to(self._device)
            return self._method.rerank([query], candidates[None], old, clothes)[0].float().cpu()

    def search(
        self,
        gallery: Tensor,
        sentence: str = "",
        k: int = 10,
        weights: Mapping[str, float] | None = None,
        clothes: Clothes = "same",
        *,
        pictures: Sequence[ImageLike] = (),
    ) -> list[Hit]:
        """The k images of a gallery that fit a sentence best, or pictures of a person, or both, the best first; of
        equals the first. They are ranked by their embeddings alone: `rerank` has to see the images again.

        Args:
            gallery: (G, E) of any floating point dtype, as `embed_images` gives it.
            sentence: what is looked for; may be empty if there are pictures.
            k: how many, at least 1; all if there are fewer.
            weights: of the parts, if not those that validation chose; a part that is not named has none.
            clothes: whether the person wears the clothes of the sentence, "same", or may wear any, "other": whose
                weights are taken if none are given.
            pictures: of the one person who is looked for, files or in memory; with a sentence each has half the say.
        Raises: ValueError for a blank sentence without pictures, a gallery of another width, k below 1, another word
            for clothes, and as `to_rank_by`; TypeError for a gallery that is no tensor, a sentence that is no text, or
            one picture where several are taken; ImageError for a picture that cannot be read.
        """
        if not isinstance(gallery, Tensor):
            raise TypeError(f"the gallery must be a tensor as embed_images gives it, got {type(gallery).__name__}")
        if not isinstance(sentence, str):
            raise TypeError(
                f"a sentence must be a text, got {type(sentence).__name__}: a picture goes into pictures=[...]"
            )
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        if clothes not in CLOTHES:
            raise ValueError(f"clothes must be {' or '.join(CLOTHES)}, got {clothes!r}")
        query = self._embed_query(sentence, pictures)
        if gallery.ndim != 2 or gallery.shape[1] != len(query):
            raise ValueError(f"the gallery must be (images, {len(query)}), got {tuple(gallery.shape)}")
        weights = self.weights[clothes] if weights is None else weights
        query = to_rank_by(query, self.parts, weights)
        scores = gallery.to(query) @ query
        order = scores.argsort(descending=True, stable=True)[:k]
        return [Hit(index, float(scores[index])) for index in order.tolist()]

    def _embed_query(self, sentence: str, pictures: Sequence[ImageLike]) -> Tensor:
        if not isinstance(pictures, Sequence) or isinstance(pictures, str):
            raise TypeError(f"pictures must be paths or pictures in a list, got the one {pictures!r}")
        if not pictures:
            return self.embed_texts([sentence])[0]
        said = unit_parts(self.embed_texts([sentence])[0], self.parts) if sentence else None
        shown = unit_parts(self.embed_images(pictures), self.parts)
        return combine(self.parts, sentence=said, pictures=shown, unwanted=None, share=0.5)


def open_retriever(run: Path, device: str, presets: Presets) -> Retriever:
    """The retriever of a run's best checkpoint, or of an export. Raises: CheckpointError, ConfigError."""
    opened = open_best(run, presets, device)
    method = opened.method
    return Retriever(
        method, method.chosen_weights(opened.best), opened.device, opened.precision, fingerprint_of(run)
    )  # fmt: skip
