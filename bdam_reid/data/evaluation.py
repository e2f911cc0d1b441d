"""Galleries and queries of a protocol, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bdam_reid.captions.splitter import split_caption
from bdam_reid.data.images import ImageError, load_image
from bdam_reid.data.records import ClothingChange, DatasetError, Query, Record
from bdam_reid.data.text import Tokenize


@dataclass(frozen=True)
class GalleryBatch:
    """Images (B, 3, H, W), their identities (B,) and their records."""

    images: Tensor
    identities: Tensor
    records: tuple[Record, ...]


@dataclass(frozen=True)
class QueryBatch:
    """Token ids (B, L) and masks of the two parts of captions, who they describe (B,), and the queries."""

    identity_ids: Tensor
    identity_mask: Tensor
    clothing_ids: Tensor
    clothing_mask: Tensor
    identities: Tensor
    queries: tuple[Query, ...]


class EvaluationSet:
    """A gallery and the queries that search it.

    Every caption is a query, split into identity and clothing by rules: sidecar texts of test images are
    never used. Gallery images that cannot be read are left out and counted in `skipped`.

    Args:
        image_size: height and width.
        batch_size: images or queries of a batch.
    """

    def __init__(
        self,
        gallery: Sequence[Record],
        queries: Sequence[Query],
        tokenize: Tokenize,
        image_size: tuple[int, int],
        batch_size: int = 128,
    ):
        self.gallery, self.queries = tuple(gallery), tuple(queries)
        self.skipped: set[str] = set()
        self._tokenize, self._image_size, self._batch_size = tokenize, image_size, batch_size

    @classmethod
    def of_split(
        cls, records: Sequence[Record], tokenize: Tokenize, image_size: tuple[int, int], batch_size: int = 128
    ) -> EvaluationSet:
        """The standard protocol: all captions of a split against all of its images."""
        queries = [Query(caption, record.identity) for record in records for caption in record.captions]
        return cls(records, queries, tokenize, image_size, batch_size)

    @classmethod
    def of_clothing_change(
        cls, change: ClothingChange, tokenize: Tokenize, image_size: tuple[int, int], batch_size: int = 128
    ) -> EvaluationSet:
        """The clothing-change protocol."""
        return cls(change.gallery, change.queries, tokenize, image_size, batch_size)

    def gallery_batches(self) -> Iterator[GalleryBatch]:
        """All images that can be read, in order. Raises: DatasetError if that is less than half of them."""
        for at in range(0, len(self.gallery), self._batch_size):
            images, records = [], []
            for record in self.gallery[at : at + self._batch_size]:
                try:
                    images.append(load_image(record.path, self._image_size))
                    records.append(record)
                except ImageError:
                    self._skip(record)
            if records:
                identities = torch.tensor([record.identity for record in records])
                yield GalleryBatch(torch.stack(images), identities, tuple(records))

    def query_batches(self) -> Iterator[QueryBatch]:
        """All queries, in order."""
        for at in range(0, len(self.queries), self._batch_size):
            queries = self.queries[at : at + self._batch_size]
            identity, clothing = zip(*(split_caption(query.caption) for query in queries), strict=True)
            yield QueryBatch(
                *self._tokenize(identity),
                *self._tokenize(clothing),
                torch.tensor([query.identity for query in queries]),
                queries,
            )

    def _skip(self, record: Record) -> None:
        self.skipped.add(record.key)
        if 2 * len(self.skipped) > len(self.gallery):
            raise DatasetError(
                f"{len(self.skipped)} of {len(self.gallery)} gallery images cannot be read, such as "
                f"{record.key}: the set is damaged, unpack it again"
            )
