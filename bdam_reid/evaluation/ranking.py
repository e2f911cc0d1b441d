"""Ranking galleries by queries with a trained method.

A similarity is the inner product of two embeddings, part by part, weighted and added up in the order of the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress, pairwise
from math import ceil
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor
from tqdm.auto import tqdm

from bdam_reid.data.checks import check_answers, missing_images, named
from bdam_reid.data.images import ImageError, load_image
from bdam_reid.data.records import DatasetError, Junk, Protocol, Query, Record
from bdam_reid.engine.environment import inference
from bdam_reid.engine.run import log
from bdam_reid.evaluation.cache import FeatureCache
from bdam_reid.evaluation.metrics import Metrics, average, mean, rates
from bdam_reid.methods.method import Method

Gallery: TypeAlias = tuple[tuple[Record, ...], Tensor]
"""Records whose images could be read, and their embeddings."""


BUDGET = 1 << 30
"""Bytes in which a ranking is rated, about, besides the embeddings; more where LEAST queries take more."""
LEAST = 16
"""Queries at a time at least. Fewer are multiplied in another order, so that last bits would depend on their number."""


@dataclass(frozen=True)
class Ranking:
    """Q queries and the G gallery images that could be read, embedded. Similarities are computed of some queries at a
    time, so that nothing of the size Q x G is held of a large gallery."""

    queries: tuple[Query, ...]
    gallery: tuple[Record, ...]
    asked: Tensor
    """Embeddings of the queries, (Q, E) float32 on the CPU."""
    embeddings: Tensor
    """Of the gallery, (G, E) float32 on the CPU."""
    parts: Mapping[str, slice]
    """Of an embedding, by name."""
    junk: Junk | None = None
    """Says which entries do not count for a query; None if all count."""
    missing_images: int = 0
    """Gallery images that could not be read and were left out."""
    queries_without_image: int = 0
    """Queries whose image could not be read: left out if they are searches by it, kept if their text describes it."""

    @property
    def query_ids(self) -> Tensor:
        """(Q,)."""
        return torch.tensor([query.identity for query in self.queries])

    @property
    def gallery_ids(self) -> Tensor:
        """(G,)."""
        return torch.tensor([record.identity for record in self.gallery])

    def chunks(self) -> Iterator[Sequence[int]]:
        """The numbers of all queries in order, evenly divided, so many at a time that rating them fits the budget."""
        pair = 56 + 4 * len(self.parts)  # bytes: similarities, junk, `rates`
        at_once = max(LEAST, BUDGET // (pair * max(1, len(self.gallery))))
        count = ceil(len(self.queries) / at_once)
        edges = [len(self.queries) * number // count for number in range(count + 1)]
        # A bar for what takes long.
        bar = tqdm(pairwise(edges), "ranking", count, disable=True if count == 1 else None, leave=False)
        yield from (range(first, end) for first, end in bar)

    def similarity(self, queries: Sequence[int] | None = None) -> dict[str, Tensor]:
        """Of each part, of q queries by their numbers, or of all, (q, G)."""
        asked = self.asked if queries is None else self.asked[list(queries)]
        return {name: asked[:, part].contiguous() @ self.embeddings[:, part].T for name, part in self.parts.items()}

    def scores(self, weights: Mapping[str, float], queries: Sequence[int] | None = None) -> Tensor:
        """What the gallery is ranked by, of q queries or of all, (q, G); a part that `weights` lacks has none."""
        return _weighted(self.similarity(queries), weights)

    def left_out(self, queries: Sequence[int]) -> Tensor | None:
        """(q, G) bool, True where an entry does not count for a query; None if all count."""
        return self.junk([self.queries[number] for number in queries], self.gallery) if self.junk else None

    def metrics(self, weights: Mapping[str, float]) -> Metrics:
        """Retrieval metrics at some weights of the parts."""
        return self.metrics_at([weights])[0]

    def metrics_at(self, settings: Sequence[Mapping[str, float]]) -> list[Metrics]:
        """Retrieval metrics at each of several weights of the parts."""
        return [average(each, len(self.gallery)) for each in self.rates_at(settings)]

    def rates_at(self, settings: Sequence[Mapping[str, float]]) -> list[Tensor]:
        """The `rates` of all queries, (Q, 5), at each of several weights of the parts."""
        query_ids, gallery_ids = self.query_ids, self.gallery_ids
        rated: list[list[Tensor]] = [[] for _ in settings]
        for queries in self.chunks():
            similarity, junk = self.similarity(queries), self.left_out(queries)
            for some, weights in zip(rated, settings, strict=True):
                some.append(rates(_weighted(similarity, weights), query_ids[list(queries)], gallery_ids, junk))
        return list(map(torch.cat, rated))

    def chance(self) -> float:
        """R-1 of a random ranking, in percent, over the queries that have a positive."""
        query_ids, gallery_ids = self.query_ids, self.gallery_ids
        shares = []
        for queries in self.chunks():
            positive = query_ids[list(queries)][:, None] == gallery_ids
            junk = self.left_out(queries)
            counts = torch.ones_like(positive) if junk is None else ~junk
            shares.append((positive & counts).float().sum(dim=1) / counts.sum(dim=1).clamp(min=1))
        each = torch.cat(shares)
        return float(100 * each[each > 0].mean())


def _weighted(similarity: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    first, *others = ((weights.get(name, 0.0), part) for name, part in similarity.items())
    total = first[0] * first[1]
    for weight, part in others:
        total = total + weight * part
    return total


def choose_weights(
    rankings: Sequence[Ranking], choices: Sequence[Mapping[str, float]]
) -> tuple[Mapping[str, float], Sequence[Metrics]]:
    """Of some weights of the parts, the simplest first, the first that validation cannot tell from the best, which has
    the best R-1, then mAP, in the mean over the validation splits of one or several sets: its R-1 is less by no more
    than the standard error of that difference over persons (the one-standard-error rule of Breiman et al. 1984).

    Returns: the weights, and the metrics of each split at them.
    """
    rated = list(zip(*(ranking.rates_at(choices) for ranking in rankings), strict=True))
    metrics = [
        [average(each, len(ranking.gallery)) for each, ranking in zip(of, rankings, strict=True)] for of in rated
    ]
    best = max(range(len(choices)), key=lambda number: (mean(metrics[number]).r1, mean(metrics[number]).map))
    persons = [ranking.query_ids for ranking in rankings]
    chosen = next(number for number, of in enumerate(rated) if _as_good(of, rated[best], persons))
    return choices[chosen], metrics[chosen]


def _as_good(some: Sequence[Tensor], best: Sequence[Tensor], persons: Sequence[Tensor]) -> bool:
    """Whether the best of two `rates` of queries, (Q, 5) of each set, has an R-1 that is greater by no more than the
    standard error of the difference over the persons that are asked for, (Q,)."""
    short, variance = 0.0, 0.0
    for one, other, ids in zip(some, best, persons, strict=True):
        there = ~one.isnan().any(dim=1)
        less = (other - one)[there, 0]
        short += float(less.mean())
        # A mean of the queries' differences from it for each person, as queries of one person are alike.
        _, person = ids[there].unique(return_inverse=True)
        apart = torch.zeros(int(person.max()) + 1, dtype=less.dtype).index_add(0, person, less - less.mean())
        variance += float(apart.square().sum()) / len(less) ** 2
    return short <= variance**0.5


@dataclass(frozen=True)
class Embedder:
    """Embeds with a method in evaluation mode, in batches."""

    method: Method
    device: torch.device
    precision: str = "no"
    """"no", "bf16" or "fp16"."""
    batch_size: int = 128
    allow_missing: bool = False
    """Whether images of an evaluation that cannot be read are left out, and counted; else they are an error. Those of
    the training split are left out of what is computed of them in any case."""
    cache: FeatureCache | None = None
    """Where features of galleries are kept."""

    def rank(self, protocol: Protocol, gallery: Gallery | None = None) -> Ranking:
        """All queries of a protocol and all of its gallery, which `gallery` gave if it is not to be embedded anew.

        Raises: DatasetError if images cannot be read, or no query has an image of its person to find;
            QueryError.
        """
        asked, queries = self._asked(protocol)
        records, embeddings = gallery or self.gallery(protocol.gallery)
        check_answers(replace(protocol, queries=asked, gallery=records))
        missing, silent = len(protocol.gallery) - len(records), len(protocol.queries) - len(asked)
        if missing:
            lost = {record.path for record in protocol.gallery} - {record.path for record in records}
            silent += sum(query.described in lost for query in asked)
        if missing or silent:
            log.warning(
                f"{protocol.name}: without {missing} of {len(protocol.gallery)} gallery images, which cannot be "
                f"read; {silent} of {len(protocol.queries)} queries lack their image"
            )
        return Ranking(asked, records, queries, embeddings, self.method.parts, protocol.junk, missing, silent)

    def gallery(self, records: Sequence[Record]) -> Gallery:
        """The G records whose images can be read, and their embeddings (G, E), float32 on the CPU."""

        def embed() -> dict[str, Tensor]:
            readable, found = self._collect(records, lambda *both: {"": self.method.embed_records(*both)})
            there = {record.path for record in readable}
            return {"readable": torch.tensor([record.path in there for record in records]), "embeddings": found[""]}

        found = self._kept("embeddings", records, embed)
        return tuple(compress(records, found["readable"].tolist())), found["embeddings"]

    def candidates(self, records: Sequence[Record]) -> Tensor:
        """What the method reads of images to re-rank them, (G, ...) float16 on the CPU. Raises: DatasetError."""
        with inference(self.method, self.device, self.precision):
            found = [self.method.candidates(images).half().cpu() for images, _ in self._batches(records)]
        return torch.cat(found)  # not above: autocast of a CPU to bfloat16 takes no float16

    def probed(self, records: Sequence[Record]) -> tuple[tuple[Record, ...], dict[str, Tensor]]:
        """The G records whose images can be read, and what probes read of them, (G, D) each, float32 on the CPU."""
        readable, features = self._collect(records, lambda images, _: self.method.probed(images))
        if lost := len(records) - len(readable):
            log.warning(f"probes: without {lost} of {len(records)} {records[0].split} images, which cannot be read")
        return readable, features

    def analyse(self, records: Sequence[Record]) -> Mapping[str, Mapping[str, Tensor]]:
        """What the method itself reports of the images."""

        def compute() -> dict[str, Tensor]:
            with inference(self.method, self.device, self.precision):
                found = self.method.analyse(self._batches(records))
            return {f"{group}/{name}": values for group, series in found.items() for name, values in series.items()}

        analysed: dict[str, dict[str, Tensor]] = {}
        for both, values in self._kept("analysis", records, compute).items():
            group, name = both.split("/", 1)
            analysed.setdefault(group, {})[name] = values
        return analysed

    def _kept(
        self, what: str, records: Sequence[Record], compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        if self.cache is None:
            return compute()
        how = (self.device.type, self.precision, self.batch_size, self.allow_missing)
        return self.cache.kept(what, self.method, how, records, compute)

    def queries(self, queries: Sequence[Query]) -> Tensor:
        """Embeddings (Q, E), float32 on the CPU. Raises: QueryError, ImageError."""
        embedded = []
        with inference(self.method, self.device, self.precision):
            for at in range(0, len(queries), self.batch_size):
                embedded.append(self.method.embed_queries(queries[at : at + self.batch_size]).float().cpu())
        return torch.cat(embedded)

    def _asked(self, protocol: Protocol) -> tuple[tuple[Query, ...], Tensor]:
        """The queries whose image, if they have one, can be read, and their embeddings."""
        try:
            return protocol.queries, self.queries(protocol.queries)
        except ImageError:
            asked: list[Query] = []
            lost: list[str] = []
            for query in protocol.queries:
                if query.image and self._load(query.image) is None:
                    lost.append(query.image.name)
                else:
                    asked.append(query)
            self._leave_out(lost, len(protocol.queries), f"query images of {protocol.name}", self.allow_missing)
            return tuple(asked), self.queries(asked)

    def _collect(
        self, records: Sequence[Record], compute: Callable[[Tensor, list[Record]], Mapping[str, Tensor]]
    ) -> tuple[tuple[Record, ...], dict[str, Tensor]]:
        readable: list[Record] = []
        kept: dict[str, Tensor] = {}
        with inference(self.method, self.device, self.precision):
            for images, of in self._batches(records):
                rows = slice(len(readable), len(readable) + len(of))
                for name, value in compute(images, of).items():
                    if name not in kept:  # a list of batches, put together at the end, would take twice as much
                        kept[name] = torch.empty(len(records), *value.shape[1:])
                    kept[name][rows] = value
                readable += of
        return tuple(readable), {name: values[: len(readable)] for name, values in kept.items()}

    def _batches(self, records: Sequence[Record]) -> Iterator[tuple[Tensor, list[Record]]]:
        """Images (B, 3, H, W) on the device, and their records, in order. Raises: DatasetError."""
        lost: list[str] = []
        starts = range(0, len(records), self.batch_size)
        for at in tqdm(starts, "reading images", unit="batch", disable=None, leave=False):
            images, readable = [], []
            for record in records[at : at + self.batch_size]:
                image = self._load(record.path)
                if image is None:
                    lost.append(record.key)
                else:
                    images.append(image)
                    readable.append(record)
            if readable:
                yield torch.stack(images).to(self.device), readable
        if lost:
            split = records[0].split
            self._leave_out(lost, len(records), f"{split} images", self.allow_missing or split == "train")

    def _load(self, path: Path) -> Tensor | None:
        try:
            return load_image(path, self.method.image_size)
        except ImageError:
            return None

    @staticmethod
    def _leave_out(lost: Sequence[str], total: int, what: str, allowed: bool) -> None:
        """Raise DatasetError unless some may be left out, and there are others."""
        which = f"{len(lost)} of {total} {what} cannot be read ({named(lost)})"
        if len(lost) == total:
            raise DatasetError(f"{which}: unpack the set again")
        if not allowed:
            raise missing_images(which)
