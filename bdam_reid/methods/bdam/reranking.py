"""How the matcher is trained: on the best images that the embeddings find, as it will be used.

A query whose person is not among them says nothing of how to order them and is left out: with a positive forced upon
it, it would teach that a low score is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import trange

from bdam_reid.captions.splitter import phrases, split_caption
from bdam_reid.config import ConfigError
from bdam_reid.data.images import ImageError, load_image
from bdam_reid.data.records import Clothes, DatasetError, Record
from bdam_reid.data.samplers import indices_by_identity
from bdam_reid.data.tokens import Tokenize
from bdam_reid.data.training import CACHE_BYTES
from bdam_reid.losses.info_nce import contrastive
from bdam_reid.methods.batches import Tensors
from bdam_reid.methods.bdam.batches import UNKNOWN, outfit_of
from bdam_reid.methods.bdam.matcher import Matcher, Words, join_words
from bdam_reid.methods.bdam.network import Network, TextFeatures
from bdam_reid.processes import WHOLE, Share, gather

QUERIES = 8
"""In a batch."""
IMAGES = 128
"""Embedded at a time."""
BATCH_TOP = 5
"""Candidates of a query in joint training, at most. A batch is a small gallery: further down are images that no search
would show, and a matcher is paid for by the pair."""


@dataclass(frozen=True)
class Questions(Tensors):
    """B queries: whom they look for, identities (B,) and outfits (B,), UNKNOWN where they are not known; whether in
    other clothes, (B,) bool; ids and masks (B, L) of both texts; and which of the two the sentence has words for, (B,)
    bool each.
    """

    identities: Tensor
    outfits: Tensor
    other: Tensor
    identity_ids: Tensor
    identity_mask: Tensor
    clothing_ids: Tensor
    clothing_mask: Tensor
    says_identity: Tensor
    says_clothing: Tensor


class Asked(NamedTuple):
    """What is drawn of a person."""

    record: Record
    """Which image is described."""
    caption: str
    """How."""
    other: bool
    """Whether other clothes are looked for."""


class QuestionBatches:
    """Every training person is asked for once an epoch, by a caption of one of their images, in batches of QUERIES.
    Half of those with several known outfits are asked for in another one.

    Args:
        records: training records.
        image_size: height and width, in pixels.
        tokenize: of the run's tokenizer.
        seed: of all that is drawn.
    """

    def __init__(self, records: Sequence[Record], image_size: tuple[int, int], tokenize: Tokenize, seed: int) -> None:
        self.records, self.image_size = tuple(records), image_size
        self._tokenize, self._seed = tokenize, seed
        self._people = [[records[index] for index in own] for own in indices_by_identity(records).values()]

    def __len__(self) -> int:
        """Batches in an epoch; what does not fill one is left out."""
        return max(1, len(self._people) // QUERIES)

    @property
    def size(self) -> int:
        """Queries in a batch."""
        return min(QUERIES, len(self._people))

    def batches(self, epoch: int, start: int = 0, workers: int = 0, share: Share = WHOLE) -> Iterator[Questions]:
        """A share of the batches of an epoch from number `start` on. There is nothing to do for worker processes."""
        for number in range(start, len(self)):
            yield self._batch(share.of(self._asked(epoch, number)))

    def images(self, epoch: int, number: int) -> list[Path]:
        """The files of the images that the queries of a batch describe."""
        return [asked.record.path for asked in self._asked(epoch, number)]

    def _asked(self, epoch: int, number: int) -> list[Asked]:
        order = Random(f"{self._seed}/{epoch}/questions").sample(self._people, len(self._people))
        people = order[number * QUERIES : (number + 1) * QUERIES]
        rng = Random(f"{self._seed}/{epoch}/{number}/questions")
        described = [rng.choice(own) for own in people]
        captions = [rng.choice(record.captions) for record in described]
        change = [rng.random() < 0.5 and _changes(own) for own in people]
        return list(map(Asked, described, captions, change))

    def _batch(self, asked: Sequence[Asked]) -> Questions:
        described, captions, change = zip(*asked, strict=True)
        identity, clothing = zip(*map(split_caption, captions), strict=True)
        says_identity, says_clothing = zip(*map(said, captions), strict=True)
        return Questions(
            torch.tensor([record.identity for record in described]),
            torch.tensor([outfit_of(record) for record in described]),
            torch.tensor(change),
            *self._tokenize(identity),
            *self._tokenize(clothing),
            torch.tensor(says_identity),
            torch.tensor(says_clothing),
        )


class Gallery(NamedTuple):
    """N images that are searched, and E, the width of either part of an embedding."""

    identity: Tensor
    """Identity embeddings, (N, E)."""
    clothing: Tensor
    """Clothing embeddings, (N, E)."""
    patches: Tensor
    """(N, L, D)."""
    identities: Tensor
    """(N,)."""
    outfits: Tensor
    """(N,), UNKNOWN where they are not known."""


class Best(NamedTuple):
    """The K best images of a gallery for each of Q queries."""

    images: Tensor
    """Their numbers in the gallery, (Q, K)."""
    scores: Tensor
    """(Q, K)."""
    right: Tensor
    """(Q, K) bool, whether an image shows who is looked for."""
    counts: Tensor
    """(Q, K) bool; an image that does not count is there because the gallery has no more."""


def embed_gallery(network: Network, batches: QuestionBatches, device: torch.device) -> Gallery:
    """The training images that can be read as a network in evaluation mode sees them, not varied; their patches as
    float16 on the CPU.

    Raises: ConfigError if the patches do not fit into memory; DatasetError if no image can be read.
    """
    records: list[Record] = []
    identity, clothing, patches = [], [], torch.empty(0)
    for at in trange(0, len(batches.records), IMAGES, unit="batch", desc="gallery", leave=False, disable=None):
        images = []
        for record in batches.records[at : at + IMAGES]:
            with suppress(ImageError):
                images.append(load_image(record.path, batches.image_size))
                records.append(record)
        if images:
            features = network.encode_image(torch.stack(images).to(device))
            if not len(patches):
                patches = _room(len(batches.records), features.patches)
            patches[len(records) - len(images) : len(records)] = features.patches
            identity.append(features.identity_embedding.float())
            clothing.append(features.clothing_embedding.float())
    if not records:
        raise DatasetError(f"none of {len(batches.records)} training images can be read: unpack the set again")
    return Gallery(
        torch.cat(identity),
        torch.cat(clothing),
        patches[: len(records)],
        torch.tensor([record.identity for record in records], device=device),
        torch.tensor([outfit_of(record) for record in records], device=device),
    )


def _room(images: int, patches: Tensor) -> Tensor:
    size = 2 * images * patches[0].numel()
    if size > CACHE_BYTES:
        raise ConfigError(
            f"--method.rerank.training frozen keeps the patches of {images} training images in memory, at most "
            f"{CACHE_BYTES / 2**30:.1f} GiB, a quarter of it, got {size / 2**30:.1f} GiB: use joint, or a machine "
            "with more"
        )
    return torch.empty(images, *patches.shape[1:], dtype=torch.float16)


def find_best(scores: Tensor, top: int, batch: Questions, gallery: Gallery) -> Best:
    """The best of a gallery by scores (Q, N). Who is looked for in other clothes is not found in those that are
    described, nor in any that are not known to be others: such images do not count."""
    person = batch.identities[:, None] == gallery.identities
    known = (batch.outfits != UNKNOWN)[:, None] & (gallery.outfits != UNKNOWN)
    others = known & (batch.outfits[:, None] != gallery.outfits)
    junk = batch.other[:, None] & person & ~others
    best = scores.masked_fill(junk, float("-inf")).topk(min(top, scores.shape[1]), dim=1)
    counts = best.values.isfinite()
    return Best(best.indices, best.values, person.gather(1, best.indices) & counts, counts)


def base_scores(
    text: TextFeatures, batch: Questions, gallery: Gallery, weights: Mapping[Clothes, Mapping[str, float]]
) -> Tensor:
    """What the embeddings say, at the weights for the question of each query, (Q, N)."""
    factors = torch.tensor(
        [[weights[clothes][part] for part in ("identity", "clothing")] for clothes in ("same", "other")],
        device=batch.other.device,
    )[batch.other.long()] * torch.stack((batch.says_identity, batch.says_clothing), dim=1)
    identity, clothing = text.identity_embedding @ gallery.identity.T, text.clothing_embedding @ gallery.clothing.T
    return factors[:, :1] * identity + factors[:, 1:] * clothing


def words_of(text: TextFeatures, identity: Tensor, clothing: Tensor) -> Words:
    """What the matcher reads: the words of the identity text, then those of the clothing text, of those queries where
    `identity` (Q,) bool and `clothing` (Q,) bool are True."""
    return join_words(
        Words(text.identity_tokens, text.identity_mask & identity[:, None]),
        Words(text.clothing_tokens, text.clothing_mask & clothing[:, None]),
    )


class Matching(NamedTuple):
    """What a batch of queries says of the matcher."""

    loss: Tensor
    """Cross-entropy of the softmax over the K best images, averaged over those that are right; 0 if none is."""
    found: Tensor
    """Share of the queries whose person is among the K best; the others are left out of the loss."""


def matching(
    matcher: Matcher, words: Words, patches: Tensor, best: Best, weight: float, temperature: Tensor
) -> Matching:
    """The loss of the corrected scores, those of all processes.

    Args:
        matcher: that corrects them.
        words: of the Q queries of this process.
        patches: (Q, K, L, D) of `best.images`.
        best: as `find_best` gives it.
        weight: of the correction.
        temperature: of the softmax.
    """
    corrections = matcher(patches, words)
    with torch.autocast(patches.device.type, enabled=False):
        scores = gather(best.scores + weight * corrections.to(best.scores.dtype))
        right, counts = gather(best.right), gather(best.counts)
        return Matching(contrastive(scores / temperature, right, counts), right.any(dim=1).float().mean())


def said(text: str) -> tuple[bool, bool]:
    """Whether a text says something of the identity, and of the clothes; of both if neither is known."""
    identity, clothing = map(bool, phrases(text))
    return identity or not clothing, clothing or not identity


def _changes(records: Sequence[Record]) -> bool:
    """Whether a person's records show several outfits, all of them known."""
    worn = {record.outfit for record in records}
    return None not in worn and len(worn) > 1
