"""BDAM as a method of the house."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW

from bdam_reid.captions.splitter import split_caption
from bdam_reid.config import ConfigError, DataConfig
from bdam_reid.data.images import load_image
from bdam_reid.data.records import Clothes, Dataset, Query, QueryError, Record
from bdam_reid.data.tokens import Tokenize
from bdam_reid.methods.bdam.batches import UNKNOWN, Batch, Shown, make_batches, shown
from bdam_reid.methods.bdam.config import BDAMConfig
from bdam_reid.methods.bdam.gates import gate_weights
from bdam_reid.methods.bdam.gradnorm import GradNorm, gradient_shares
from bdam_reid.methods.bdam.losses import Temperatures, task_names, total_loss, unweighted_losses, weighted_losses
from bdam_reid.methods.bdam.network import ImageFeatures, Network, TextFeatures, all_in_full_precision, of_all
from bdam_reid.methods.bdam.reranking import (
    BATCH_TOP,
    Gallery,
    Matching,
    QuestionBatches,
    Questions,
    base_scores,
    embed_gallery,
    find_best,
    matching,
    said,
    words_of,
)
from bdam_reid.methods.bdam.text_tower import SplitTextTower
from bdam_reid.methods.method import Losses, Method, Stage
from bdam_reid.methods.optim import main_stage, parameter_groups, published_parameters
from bdam_reid.methods.parts import in_parts
from bdam_reid.methods.preparation import tokenize_of, words_left_out
from bdam_reid.methods.schedules import warm_up_and_anneal
from bdam_reid.methods.unit import unit
from bdam_reid.processes import gather, own_share

SHARES_EVERY = 50
"""Steps between looks at the share of each loss in the gradient."""
BETAS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
"""Weights of the clothing similarity that validation chooses from."""


class Sentences(NamedTuple):
    """Q sentences as they are read."""

    features: TextFeatures
    says_identity: Tensor
    """(Q,) bool, whether a sentence has words for the identity part."""
    says_clothing: Tensor
    """(Q,) bool, whether it has words for the clothing part."""


class BDAM(Network, Method):
    """Text-to-image person re-identification with disentangled identity and clothing features.

    score = cos(image identity, text identity) + beta cos(image clothing, text clothing)

    Args:
        config: of the method.
        data: sizes of images and texts, and how they become batches.
        tokenize: of the run's tokenizer.
        architectures: as `Network` has it.
    Raises: ValueError if an encoder cannot be loaded, or sizes do not fit each other.
    """

    def __init__(
        self, config: BDAMConfig, data: DataConfig, tokenize: Tokenize, architectures: Path | None = None
    ) -> None:
        super().__init__(config, data, tokenize.vocab_size, architectures, tokenize.pad_id)
        self.gradnorm = GradNorm(task_names(config.loss), config.loss)
        self.temperatures = Temperatures(config.loss)
        self.config, self.data, self.tokenize = config, data, tokenize
        self.image_size = data.image_size
        width = self.text_encoder.width
        self.parts = {"identity": slice(0, width), "clothing": slice(width, 2 * width)}
        self.weights = _weights(0.5)
        self.reranks = config.rerank.top if self.matcher else 0
        self.gallery: Gallery | None = None
        self.micro_batches = 1

    def stages(self, dataset: Dataset, seed: int) -> Sequence[Stage]:
        """Everything at once; and then the matcher alone, if it has a stage of its own."""
        optim, rerank = self.config.optim, self.config.rerank
        stages = [main_stage(optim, self._groups(), make_batches(dataset.train, self.data, self.tokenize, seed))]
        if alone := self._alone():
            stages.append(
                Stage(
                    name="rerank",
                    groups=[{"params": alone}],
                    epochs=rerank.epochs,
                    optimizer=partial(AdamW, lr=rerank.lr, weight_decay=optim.weight_decay, fused=True),
                    learning_rate=partial(warm_up_and_anneal, rate=rerank.lr, warmup_steps=0),
                    batches=QuestionBatches(dataset.train, self.image_size, self.tokenize, seed),
                    clip_norm=optim.clip_norm,
                )
            )
        return stages

    def _alone(self) -> list[nn.Parameter]:
        """What is trained in a stage of its own."""
        if self.matcher is None or self.config.rerank.training == "joint":
            return []
        return list(self.matcher.parameters())

    def begin_stage(self, stage: Stage) -> None:
        """Embed the training images for the matcher's stage."""
        self.gallery = None
        if isinstance(stage.batches, QuestionBatches):
            self.eval()
            with torch.no_grad():
                self.gallery = embed_gallery(self, stage.batches, self.device)

    def _groups(self) -> list[dict[str, Any]]:
        """All that is neither frozen nor trained later."""
        later = set(map(id, self._alone()))
        trained = [p for p in self.parameters() if p.requires_grad and id(p) not in later]
        published = published_parameters(
            (self.image_encoder, self.config.image), (self.text_encoder, self.config.text)
        )  # fmt: skip
        return parameter_groups(self.config.optim, trained, published)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def losses(self, batch: Batch | Questions, step: int) -> Losses:
        """Losses of a batch, after an update of the task weights by them; of queries, that of the matcher."""
        if isinstance(batch, Questions):
            found = self._match_frozen(batch)
            return Losses(found.loss, {"rerank": found.loss}, {"rerank/found": found.found})
        config = self.config.loss
        image, text, fused, fusion_weights = in_parts(self.features, batch, self.micro_batches or 1)
        with torch.autocast(batch.images.device.type, enabled=False):
            # Once for all losses: their gradients add up in float32.
            image, text = of_all(all_in_full_precision(image)), of_all(all_in_full_precision(text))
            fused = None if fused is None else gather(fused.to(image.identity.dtype))
            fusion_weights = None if fusion_weights is None else gather(fusion_weights)
            if self.erasure is not None:
                self.erasure.observe(image.identity_embedding, text.clothing_embedding, text.identity_embedding)
            who = shown(batch)
            parts = unweighted_losses(config, image, text, fused, who, self.temperatures)
            weighted = weighted_losses(config, parts)
            if config.gradnorm_every and step % config.gradnorm_every == 0:
                self.gradnorm.update(weighted, self.shared_parameters())
            total = total_loss(weighted, self.gradnorm)
            scalars = self._scalars(image, fusion_weights, weighted, step)
        if self.matcher is None or self._alone():
            return Losses(total, parts, scalars)
        found = self._match_jointly(image, text, batch, who)
        return Losses(total + found.loss, {**parts, "rerank": found.loss}, {**scalars, "rerank/found": found.found})

    def _match_frozen(self, batch: Questions) -> Matching:
        """Queries with the best images of the whole training set; all but the matcher is as it will be used."""
        assert self.matcher is not None and self.gallery is not None
        self.eval()
        self.matcher.train()
        with torch.no_grad():
            text = self.encode_text(
                batch.identity_ids, batch.identity_mask, batch.clothing_ids, batch.clothing_mask
            )  # fmt: skip
        return self._match(text, batch, self.gallery, self.reranks)

    def _match_jointly(self, image: ImageFeatures, text: TextFeatures, batch: Batch, who: Shown) -> Matching:
        """The texts of this process's batch with the best of all images: every second one, if its outfit is known, asks
        for other clothes. The matcher trains the encoders; their own scores have losses of their own."""
        size = len(batch.images)
        own = slice(own_share().number * size, (own_share().number + 1) * size)
        number = torch.arange(own.start, own.stop, device=batch.images.device)
        all_said = torch.ones_like(number, dtype=torch.bool)
        texts = (batch.identity_ids, batch.identity_mask, batch.clothing_ids, batch.clothing_mask)
        other = (number % 2 == 1) & (batch.outfits != UNKNOWN)
        questions = Questions(batch.identities, batch.outfits, other, *texts, all_said, all_said)
        gallery = Gallery(image.identity_embedding, image.clothing_embedding, gather(image.patches), *who)
        embeddings = {name: getattr(text, name)[own] for name in ("identity_embedding", "clothing_embedding")}
        return self._match(text._replace(**embeddings), questions, gallery, min(self.reranks, BATCH_TOP))

    def _match(self, text: TextFeatures, batch: Questions, gallery: Gallery, top: int) -> Matching:
        assert self.matcher is not None
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            scores = base_scores(all_in_full_precision(text), batch, gallery, self.default_weights())
            best = find_best(scores, top, batch, gallery)
            temperature = torch.as_tensor(self.temperatures["info"]).detach()
        patches = gallery.patches[best.images.to(gallery.patches.device)].to(self.device, text.identity.dtype)
        words = words_of(text, batch.says_identity, batch.says_clothing & ~batch.other)
        return matching(self.matcher, words, patches, best, self.config.rerank.weight, temperature)

    def _scalars(
        self, image: ImageFeatures, fusion_weights: Tensor | None, weighted: Mapping[str, Tensor], step: int
    ) -> dict[str, Tensor]:
        """What is logged of a step besides its losses: task weights, temperatures, gates, and now and then the share
        of each loss in the gradient."""
        scalars: dict[str, Tensor] = {}
        if self.config.loss.gradnorm_every:
            weights = zip(self.gradnorm.tasks, self.gradnorm.weights(), strict=True)
            scalars |= {f"weight/{name}": weight for name, weight in weights}
        scalars |= {f"temperature/{name}": s.exp() for name, s in self.temperatures.logarithms.items()}
        if fusion_weights is not None:
            scalars["gate/fusion_image"] = fusion_weights[:, 0].float().mean()
        if image.gate is not None:
            scalars["gate/identity"] = image.gate.mean()
        if step % SHARES_EVERY == 0:
            shares = gradient_shares(weighted, self.shared_parameters())
            scalars |= {f"gradient/{name}": share for name, share in shares.items()}
        return scalars

    def embed_images(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) in [-1, 1] -> (B, 2 E), both parts unit vectors."""
        features = self.encode_image(images)
        identity, clothing = features.identity_embedding, features.clothing_embedding
        if self.config.mirror:
            mirrored = self.encode_image(images.flip(-1))
            identity = unit(identity + mirrored.identity_embedding)
            clothing = unit(clothing + mirrored.clothing_embedding)
        return torch.cat((identity, clothing), dim=1)

    def embed_queries(self, queries: Sequence[Query]) -> Tensor:
        """Queries with a text, an image or both -> (B, 2 E), both parts unit vectors.

        A text is split into identity and clothing by rules. A part that it has no words for is zero: it weighs nothing.
        A text that has words for neither stands for both as a whole. Of an image and a text, the text says which
        clothes are looked for, unless it has no words for them, and the identity is what both have in sum.
        """
        told = [number for number, query in enumerate(queries) if query.text is not None]
        shown = [number for number, query in enumerate(queries) if query.image is not None]
        if len({*told, *shown}) < len(queries):
            raise QueryError("BDAM searches by a sentence, an image or both, got a query with neither")
        if not shown:
            return self._embed_texts(queries)
        images = [load_image(query.image, self.image_size) for query in queries if query.image is not None]
        of_images = torch.zeros(len(queries), self.parts["clothing"].stop, device=self.device)
        of_images[shown] = self.embed_images(torch.stack(images).to(self.device)).to(of_images)
        of_texts = torch.zeros_like(of_images)
        if told:
            of_texts[told] = self._embed_texts([queries[number] for number in told]).to(of_texts)
        return _composed(of_texts, of_images, self.parts)

    def _embed_texts(self, queries: Sequence[Query]) -> Tensor:
        sentences = self._read(queries)
        identity, clothing = sentences.features.identity_embedding, sentences.features.clothing_embedding
        return torch.cat(
            (sentences.says_identity[:, None] * identity, sentences.says_clothing[:, None] * clothing), dim=1
        )

    def text_tower(self) -> SplitTextTower:
        """Identity text and clothing text -> (B, 2 E)."""
        return SplitTextTower(self, self.tokenize.vocab_size, self.data.max_tokens, words_left_out(self.config.text))

    def strip(self) -> None:
        """Drop the balance of the losses, and the fusion, which has no part in ranking."""
        del self.gradnorm, self.temperatures
        self.fusion = None

    def candidates(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) in [-1, 1] -> tokens of the encoder, (B, L, D)."""
        return self.image_encoder(images)

    def rerank(self, queries: Sequence[Query], candidates: Tensor, scores: Tensor, clothes: Clothes) -> Tensor:
        """candidates (Q, K, L, D), scores (Q, K) -> (Q, K), score + weight matcher(patches, words). In search of other
        clothes the words on clothes are not read; without any words the order stays."""
        if self.matcher is None:
            raise ValueError("--method.rerank.kind none has no part that re-ranks")
        if any(query.image or query.text is None for query in queries):
            raise QueryError("BDAM re-ranks by a sentence alone, got a query with an image or without a text")
        read = self._read(queries)
        words = words_of(read.features, read.says_identity, read.says_clothing & (clothes == "same"))
        patches = candidates.to(self.device, read.features.identity.dtype)
        return scores + self.config.rerank.weight * self.matcher(patches, words).to(scores)

    def _read(self, queries: Sequence[Query]) -> Sentences:
        texts = [query.text for query in queries if query.text is not None]
        parts = zip(*(split_caption(text) for text in texts), strict=True)
        features = self.encode_text(*(x.to(self.device) for part in parts for x in self.tokenize(part)))
        return Sentences(features, *torch.tensor([said(text) for text in texts], device=self.device).T)

    def weight_choices(self) -> Sequence[Mapping[str, float]]:
        """The clothing part at each of BETAS."""
        return [_weights(beta) for beta in BETAS]

    def chosen_weights(self, best: Mapping[str, Any]) -> Mapping[Clothes, Mapping[str, float]]:
        """Old runs have the weight of the clothing part alone."""
        return super().chosen_weights({"weights": _weights(best["beta"])} if "beta" in best else best)

    def probed(self, images: Tensor) -> Mapping[str, Tensor]:
        """images (B, 3, H, W) -> the parts of the embedding, and where nothing is decoupled the entangled feature that
        both are read from, (B, D) by name."""
        if self.config.decoupling.kind == "bdam":
            return super().probed(images)
        features = self.encode_image(images)
        parts = {"identity": features.identity_embedding, "clothing": features.clothing_embedding}
        return {**parts, "entangled": features.identity}

    def analyse(self, gallery: Iterable[tuple[Tensor, Sequence[Record]]]) -> Mapping[str, Mapping[str, Tensor]]:
        """The weights of the gates."""
        return gate_weights(self, self.tokenize, gallery)


def _composed(of_texts: Tensor, of_images: Tensor, parts: Mapping[str, slice]) -> Tensor:
    """Embeddings of queries from those of their texts and of their images, (B, 2 E) each, zero where there is none."""
    told, shown = ([of[:, part] for part in parts.values()] for of in (of_texts, of_images))
    told_any, shown_any = ([part.any(dim=1, keepdim=True) for part in of] for of in (told, shown))
    total = told[0] + shown[0]
    identity = torch.where(told_any[0] & shown_any[0], F.normalize(total, dim=1), total)
    return torch.cat((identity, torch.where(told_any[1], told[1], shown[1])), dim=1)


def _weights(beta: float) -> dict[str, float]:
    return {"identity": 1.0, "clothing": beta}


def build(config: BDAMConfig, data: DataConfig, folder: Path, *, fresh: bool) -> BDAM:
    """The model of a prepared run folder. Raises: ConfigError if it cannot be built."""
    tokenize = tokenize_of(config.text, data, folder)
    try:
        return BDAM(config, data, tokenize, None if fresh else folder)
    except ValueError as error:
        raise ConfigError(str(error)) from error
