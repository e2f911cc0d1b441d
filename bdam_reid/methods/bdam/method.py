"""BDAM as a method of the house."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW
from transformers import PreTrainedTokenizerBase

from bdam_reid.captions.splitter import FUNCTION_WORDS, phrases, split_caption
from bdam_reid.config import ConfigError, DataConfig
from bdam_reid.data.records import Clothes, Dataset, DatasetError, Query, QueryError, Record
from bdam_reid.data.tokens import Tokenize, load_tokenizer, save_tokenizer, train_wordpiece
from bdam_reid.encoders.hub import hub_or_cache
from bdam_reid.methods.bdam.batches import Batch, make_batches
from bdam_reid.methods.bdam.config import BDAMConfig
from bdam_reid.methods.bdam.gates import gate_weights
from bdam_reid.methods.bdam.gradnorm import GradNorm, gradient_shares
from bdam_reid.methods.bdam.losses import Temperatures, task_names, total_loss, unweighted_losses, weighted_losses
from bdam_reid.methods.bdam.network import ImageFeatures, Network, full_precision, save_architectures
from bdam_reid.methods.method import Losses, Method, Stage
from bdam_reid.methods.schedules import warm_up_and_anneal

SHARES_EVERY = 50
"""Steps between looks at the share of each loss in the gradient."""
BETAS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
"""Weights of the clothing similarity that validation chooses from."""


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
        super().__init__(config, data, tokenize.vocab_size, architectures)
        self.gradnorm = GradNorm(task_names(config.loss), config.loss)
        self.temperatures = Temperatures(config.loss)
        self.config, self.data, self.tokenize = config, data, tokenize
        self.image_size = data.image_size
        width = self.text_encoder.width
        self.parts = {"identity": slice(0, width), "clothing": slice(width, 2 * width)}
        self.weights = _weights(0.5)

    def stages(self, dataset: Dataset, seed: int) -> Sequence[Stage]:
        """One stage: everything at once."""
        optim = self.config.optim
        kind = AdamW if optim.decoupled_decay else Adam
        return [
            Stage(
                name="all",
                groups=self._groups(),
                epochs=optim.epochs,
                optimizer=partial(kind, lr=optim.lr, weight_decay=optim.weight_decay, fused=True),
                learning_rate=partial(warm_up_and_anneal, rate=optim.lr, warmup_steps=optim.warmup_steps),
                batches=make_batches(dataset.train, self.data, self.tokenize, seed),
                clip_norm=optim.clip_norm,
            )
        ]

    def _groups(self) -> list[dict[str, Any]]:
        """All that is not frozen; a decoupled decay spares what has one dimension or none."""
        trained = [p for p in self.parameters() if p.requires_grad]
        if not self.config.optim.decoupled_decay:
            return [{"params": trained}]
        spared = [p for p in trained if p.ndim < 2]
        return [{"params": [p for p in trained if p.ndim > 1]}, {"params": spared, "weight_decay": 0.0}]

    def losses(self, batch: Batch, step: int) -> Losses:
        """Losses of a batch, after an update of the task weights by them."""
        config = self.config.loss
        image, text, fused, fusion_weights = self.features(batch)
        with torch.autocast(batch.images.device.type, enabled=False):
            # Once for all losses: their gradients add up in float32.
            image, text = full_precision(image), full_precision(text)
            fused = None if fused is None else fused.to(image.identity.dtype)
            parts = unweighted_losses(config, image, text, fused, batch, self.temperatures)
            weighted = weighted_losses(config, parts)
            if config.gradnorm_every and step % config.gradnorm_every == 0:
                self.gradnorm.update(weighted, self.shared_parameters())
            total = total_loss(weighted, self.gradnorm)
            return Losses(total, parts, self._scalars(image, fusion_weights, weighted, step))

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
        return torch.cat((features.identity_embedding, features.clothing_embedding), dim=1)

    def embed_queries(self, queries: Sequence[Query]) -> Tensor:
        """Queries with a text, split into identity and clothing by rules -> (B, 2 E), both parts unit vectors.

        A part that a text has no words for is zero: it weighs nothing. A text that has words for neither stands for
        both as a whole.
        """
        texts = [query.text for query in queries if query.text is not None and query.image is None]
        if len(texts) < len(queries):
            raise QueryError("BDAM searches by a sentence alone, got a query with an image or without a text")
        device = next(self.parameters()).device
        parts = zip(*(split_caption(text) for text in texts), strict=True)
        features = self.encode_text(*(x.to(device) for part in parts for x in self.tokenize(part)))
        identity, clothing = torch.tensor([_said(text) for text in texts], device=device).T[:, :, None]
        return torch.cat((identity * features.identity_embedding, clothing * features.clothing_embedding), dim=1)

    def weight_choices(self) -> Sequence[Mapping[str, float]]:
        """The clothing part at each of BETAS."""
        return [_weights(beta) for beta in BETAS]

    def chosen_weights(self, best: Mapping[str, Any]) -> Mapping[Clothes, Mapping[str, float]]:
        """Old runs have the weight of the clothing part alone."""
        return super().chosen_weights({"weights": _weights(best["beta"])} if "beta" in best else best)

    def analyse(self, gallery: Iterable[tuple[Tensor, Sequence[Record]]]) -> Mapping[str, Mapping[str, Tensor]]:
        """The weights of the gates."""
        return gate_weights(self, self.tokenize, gallery)


def _said(text: str) -> tuple[bool, bool]:
    """Whether a text says something of the identity, and of the clothes; of both if neither is known."""
    identity, clothing = map(bool, phrases(text))
    return identity or not clothing, clothing or not identity


def _weights(beta: float) -> dict[str, float]:
    return {"identity": 1.0, "clothing": beta}


def prepare(config: BDAMConfig, data: DataConfig, dataset: Dataset, folder: Path) -> None:
    """Write the tokenizer into a run folder: the text encoder's own, else one trained on the texts of the set; and the
    architectures of published encoders. What is there stays.

    Raises: ConfigError if the text encoder's tokenizer or a published encoder cannot be had; DatasetError for training
        images without a caption; OSError if they cannot be written.
    """
    if without := [record.key for record in dataset.train if not record.captions]:
        raise DatasetError(
            f"BDAM learns from captions, and {len(without)} of {len(dataset.train)} training images of {dataset.root} "
            f"have none, such as {without[0]}: give --data.root a set with captions"
        )
    if not (folder / "tokenizer").exists():
        if name := config.text.pretrained or config.text.words:
            field = "pretrained" if config.text.pretrained else "words"
            save_tokenizer(_pretrained_tokenizer(name, field), folder / "tokenizer")
        else:
            texts = [text for r in dataset.train for text in (*r.captions, *(r.texts or ()))]
            train_wordpiece(texts, data.vocab_size, folder / "tokenizer")
    try:
        save_architectures(config, folder)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def build(config: BDAMConfig, data: DataConfig, folder: Path, *, fresh: bool) -> BDAM:
    """The model of a prepared run folder. Raises: ConfigError if it cannot be built."""
    if not (folder / "tokenizer").is_dir():
        raise ConfigError(f"{folder} has no folder tokenizer, which training writes: copy the run with all its folders")
    left_out = frozenset() if config.text.function_words else FUNCTION_WORDS
    try:
        tokenize = Tokenize(load_tokenizer(folder / "tokenizer"), data.max_tokens, left_out)
    except ValueError as error:
        raise ConfigError(
            f"{folder / 'tokenizer'} must hold the tokenizer of the run, got: {error}. Delete that folder and give the "
            "command of its training again, which writes it anew"
        ) from error
    try:
        return BDAM(config, data, tokenize, None if fresh else folder)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _pretrained_tokenizer(name: str, field: str = "pretrained") -> PreTrainedTokenizerBase:
    try:
        with hub_or_cache(name) as source:
            return load_tokenizer(source)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the tokenizer of --method.text.{field} {name!r} could not be loaded ({error}): "
            "give a Hugging Face hub name (network or a filled cache needed) or a folder that holds one"
        ) from error
