"""Ranks the images of a protocol with any experts of a run of MoSAIC-ReID, again and again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from bdam_reid.data.attributes import Labels, labels_of
from bdam_reid.data.images import load_image
from bdam_reid.data.records import Protocol, Query, QueryError, Record
from bdam_reid.data.training import CACHE_BYTES
from bdam_reid.engine.environment import inference
from bdam_reid.engine.run import Opened
from bdam_reid.evaluation.metrics import Metrics
from bdam_reid.evaluation.ranking import Ranking
from bdam_reid.methods.mosaic.method import Mosaic


class Switched:
    """The images of a protocol, each once, whose embeddings depend on states of attributes and on switches.

    The tokens below the first layer with experts are the same for all of these: they are computed once and kept, if
    they fit into a quarter of the memory; else they are computed every time. Images of a person are beside each other,
    as labels are a person's: those that the same experts read are read together, by one matrix a layer.

    Args:
        opened: the run.
        protocol: searches by an image.
        batch_size: images at a time.
    Raises: QueryError for a protocol that does not search by images. Later, ImageError for one that cannot be read.
    """

    def __init__(self, opened: Opened, protocol: Protocol, batch_size: int) -> None:
        assert isinstance(opened.method, Mosaic)
        self.method, self._device, self._precision = opened.method, opened.device, opened.precision
        self.protocol = protocol
        if any(query.image is None or query.text is not None for query in protocol.queries):
            raise QueryError(f"attributes are of images, and {protocol.name} has queries with texts: give another set")
        entries: dict[Path, Query | Record] = {
            **{query.image: query for query in protocol.queries if query.image is not None},
            **{record.path: record for record in protocol.gallery},
        }
        entries = dict(sorted(entries.items(), key=lambda entry: entry[1].identity or 0))
        self.paths = tuple(entries)
        self.labels: tuple[Labels, ...] = tuple(map(labels_of, entries.values()))
        """Of who is on each of N images; empty where there are none."""
        self.persons = tuple(entry.identity or 0 for entry in entries.values())
        """Who is on each; 0 is nobody that a query shows."""
        self.states = self.method.router.read(self.labels)
        """What the labels say, (N, A)."""
        rows = {path: row for row, path in enumerate(self.paths)}
        self._asked = torch.tensor([rows[query.image] for query in protocol.queries if query.image is not None])
        self._found = torch.tensor([rows[record.path] for record in protocol.gallery])
        edges = [*range(0, len(self.paths), batch_size), len(self.paths)]
        self._batches = [slice(first, end) for first, end in pairwise(edges)]
        self._kept: list[Tensor] | None = None

    def embed(self, states: Tensor) -> Tensor:
        """States of the attributes of all images (N, A) -> embeddings (N, E), at the switches as they are."""
        embedded = []
        with inference(self.method, self._device, self._precision):
            for tokens, own in zip(self._tokens(), self._batches, strict=True):
                weights = self.method.expert_weights(states[own].to(self._device))
                embedded.append(self.method.finish(self._features(tokens.to(self._device), weights)).float().cpu())
        return torch.cat(embedded)

    def _features(self, tokens: Tensor, weights: Tensor) -> Tensor:
        """Of the tower, of tokens (B, L, D) and weights of the experts (B, E): (B, width)."""
        rows, which = weights.unique(dim=0, return_inverse=True)
        groups = [(which == number).nonzero().flatten() for number in range(len(rows))]
        features = [self.method.tower.above(tokens[group], row[None]) for group, row in zip(groups, rows, strict=True)]
        return torch.cat(features)[torch.cat(groups).argsort()]

    def metrics(self, embeddings: Tensor) -> Metrics:
        """The protocol ranked by embeddings of all images, (N, any width)."""
        asked, found = embeddings[self._asked], embeddings[self._found]
        parts = {"all": slice(0, embeddings.shape[1])}
        protocol = self.protocol
        return Ranking(protocol.queries, protocol.gallery, asked, found, parts, protocol.junk).metrics({"all": 1.0})

    def _tokens(self) -> Iterator[Tensor]:
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Tensor] = []
        for own in tqdm(self._batches, "tokens below the experts", unit="batch", disable=None, leave=False):
            tokens = self.method.tower.below(_pixels(self.paths[own], self.method.image_size).to(self._device)).cpu()
            yield tokens
            if tokens[0].nbytes * len(self.paths) <= CACHE_BYTES:
                kept.append(tokens)
        self._kept = kept or None


def _pixels(paths: Sequence[Path], size: tuple[int, int]) -> Tensor:
    return torch.stack([load_image(path, size) for path in paths])
