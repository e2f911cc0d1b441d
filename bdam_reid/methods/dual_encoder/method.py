"""Dual encoders as a method of the house."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bdam_reid.config import ConfigError, DataConfig
from bdam_reid.data.images import load_image
from bdam_reid.data.records import Dataset, Query, QueryError
from bdam_reid.data.tokens import Tokenize
from bdam_reid.encoders.convolutions import Convolutions
from bdam_reid.encoders.image import image_encoder
from bdam_reid.encoders.pooling import AttentionPooling, PlacePooling, head_of
from bdam_reid.encoders.text import TextEncoder, masked_mean
from bdam_reid.losses.info_nce import symmetric_info_nce
from bdam_reid.losses.sdm import similarity_distribution_matching
from bdam_reid.losses.tal import triplet_alignment_loss
from bdam_reid.losses.temperatures import LossTemperatures
from bdam_reid.methods.dual_encoder.batches import Batch, make_batches
from bdam_reid.methods.dual_encoder.config import DualEncoderConfig, LossConfig
from bdam_reid.methods.method import Losses, Method, Stage
from bdam_reid.methods.optim import main_stage, parameter_groups, published_parameters
from bdam_reid.methods.parts import in_parts
from bdam_reid.methods.persons import read_persons, write_persons
from bdam_reid.methods.preparation import IMAGE, TEXT, architecture, tokenize_of, words_left_out
from bdam_reid.methods.preparation import prepare as prepare_encoders
from bdam_reid.methods.unit import unit
from bdam_reid.methods.whole_text_tower import WholeTextTower
from bdam_reid.processes import gather


class DualEncoder(Method):
    """One feature of an image, one of a sentence, and their cosine.

    The space is that of the text features, into which a linear layer takes those of images, unless the encoders are a
    published pair, which share one.

    Args:
        config: of the method.
        data: sizes of images and texts, and how they become batches.
        tokenize: of the run's tokenizer.
        persons: how many are trained on.
        architectures: run folder with those of published encoders, whose weights will come from a checkpoint; without
            it they are fetched.
    Raises: ValueError if an encoder cannot be loaded, or the pair does not share a space.
    """

    def __init__(
        self,
        config: DualEncoderConfig,
        data: DataConfig,
        tokenize: Tokenize,
        persons: int,
        architectures: Path | None = None,
    ) -> None:
        super().__init__()
        self.config, self.data, self.tokenize, self.image_size = config, data, tokenize, data.image_size
        image, text = (architecture(architectures, name) for name in (IMAGE, TEXT))
        self.image_encoder = image_encoder(config.image, data.image_size, image)
        self.text_encoder = TextEncoder(
            config.text, tokenize.vocab_size, data.max_tokens, text, tokenize.pad_id
        )  # fmt: skip
        width = self.text_encoder.features if config.text.pooling == "own" else self.text_encoder.width
        self.text_pooling = AttentionPooling(width) if config.text.pooling == "attention" else None
        self.image_pooling: PlacePooling | None = None
        if config.pooling == "position":
            grids = self.image_encoder.grids
            places = sum(rows * columns for rows, columns in grids)
            self.image_pooling = PlacePooling(
                self.image_encoder.width, places, config.slots, config.features, head_of(grids)
            )
        self.projection = self._projection(width)
        self.classifier = _classifier(width, persons) if config.loss.id_weight else None
        self.temperatures = LossTemperatures(
            (config.loss.kind,), config.loss.temperature, config.loss.learnt_temperature
        )
        self.parts, self.weights = {"person": slice(0, width)}, {"person": 1.0}
        self.micro_batches = 1

    def _projection(self, text_width: int) -> nn.Module:
        if self.image_pooling is not None:
            return nn.Linear(self.config.features, text_width)
        assert not isinstance(self.image_encoder, Convolutions)
        width = self.image_encoder.features
        if not self.config.pair:
            return nn.Linear(width, text_width)
        if width != text_width:
            raise ValueError(
                f"--method.image.pretrained and --method.text.pretrained must be one pair, got features of {width} and "
                f"{text_width}"
            )
        return nn.Identity()

    def stages(self, dataset: Dataset, seed: int) -> Sequence[Stage]:
        """Everything that is not frozen at once."""
        config = self.config
        published = published_parameters((self.image_encoder, config.image), (self.text_encoder, config.text))
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        groups = parameter_groups(config.optim, trained, published)
        prompted = config.text.kind == "clip"
        batches = make_batches(dataset.train, self.data, self.tokenize, seed, prompted)
        return [main_stage(config.optim, groups, batches)]

    def encode_image(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) in [-1, 1] -> features (B, E)."""
        if self.image_pooling is not None:
            return self.projection(self.image_pooling(self.image_encoder(images)))
        assert not isinstance(self.image_encoder, Convolutions)
        return self.projection(self.image_encoder.encode(images).pooled)

    def encode_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Word pieces (B, L), mask (B, L) bool, True = real token -> features (B, E)."""
        if self.config.text.pooling == "own":
            return self.text_encoder.encode(ids, mask).pooled
        return (self.text_pooling or masked_mean)(self.text_encoder(ids, mask), mask)

    def features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Of the images and of the texts of a batch, (B, E) each."""
        return self.encode_image(batch.images), self.encode_text(batch.ids, batch.mask)

    def losses(self, batch: Batch, step: int) -> Losses:
        """The matching loss, and that of identities where the config has one."""
        image, text = in_parts(self.features, batch, self.micro_batches or 1)
        loss = self.config.loss
        with torch.autocast(batch.images.device.type, enabled=False):
            image, text, identities = gather(image.float()), gather(text.float()), gather(batch.identities)
            total = matching_loss(loss, image, text, identities, self.temperatures[loss.kind])
            parts: dict[str, Tensor] = {loss.kind: total}
            if self.classifier is not None:
                parts["id"] = identity_loss(self.classifier, image, text, identities)
                total = total + loss.id_weight * parts["id"]
        scalars = {f"temperature/{name}": s.exp() for name, s in self.temperatures.logarithms.items()}
        return Losses(total, parts, scalars)

    def embed_images(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) in [-1, 1] -> unit vectors (B, E)."""
        return unit(self.encode_image(images))

    def embed_queries(self, queries: Sequence[Query]) -> Tensor:
        """Queries with a text, read as a whole, or an image -> unit vectors (B, E). Raises: ImageError too."""
        texts = [query.text for query in queries if query.text is not None and query.image is None]
        paths = [query.image for query in queries if query.image is not None and query.text is None]
        if len(texts) + len(paths) < len(queries):
            raise QueryError("a dual encoder searches by a sentence or by an image, got a query with both or neither")
        device, embedded = next(self.parameters()).device, []
        if texts:
            read = self.encode_text(*(x.to(device) for x in self.tokenize(texts)))
            embedded.append(unit(read))
        if paths:
            images = torch.stack([load_image(path, self.image_size) for path in paths])
            embedded.append(self.embed_images(images.to(device)))
        order = sorted(range(len(queries)), key=lambda number: queries[number].text is None)
        return torch.cat(embedded)[torch.tensor(order).argsort()]

    def text_tower(self) -> WholeTextTower:
        """Reads a sentence as a whole."""
        return WholeTextTower(
            self, self.tokenize.vocab_size, self.data.max_tokens, words_left_out(self.config.text)
        )  # fmt: skip

    def strip(self) -> None:
        """Drop the classifier and the temperatures."""
        del self.temperatures
        self.classifier = None


def matching_loss(
    config: LossConfig, image: Tensor, text: Tensor, identities: Tensor, temperature: float | Tensor
) -> Tensor:
    """What the config says of features (B, E) of images and of their captions, in the same order."""
    image, text = F.normalize(image, dim=1), F.normalize(text, dim=1)
    if config.kind == "sdm":
        return similarity_distribution_matching(image, text, identities, temperature)
    if config.kind == "tal":
        return triplet_alignment_loss(image, text, identities, temperature, config.margin)
    return symmetric_info_nce(image, text, identities, temperature, config.identity_aware)


def identity_loss(classifier: nn.Module, image: Tensor, text: Tensor, identities: Tensor) -> Tensor:
    """The mean cross-entropy of a classifier that images and sentences share, on features (B, E) as they are.

    Source: Jiang and Ye, CVPR 2023, after Zheng et al. 2020.
    """
    return (F.cross_entropy(classifier(image), identities) + F.cross_entropy(classifier(text), identities)) / 2


def _classifier(width: int, persons: int) -> nn.Linear:
    """Near zero at first, so that its loss does not outweigh the matching."""
    classifier = nn.Linear(width, persons)
    nn.init.normal_(classifier.weight, std=0.001)
    nn.init.zeros_(classifier.bias)
    return classifier


def prepare(config: DualEncoderConfig, data: DataConfig, dataset: Dataset, folder: Path) -> None:
    """Write into a run folder what the model needs besides weights. What is there stays. Raises: as that of
    `preparation`."""
    prepare_encoders("a dual encoder", config.image, config.text, data, dataset, folder)
    write_persons(dataset, folder)


def build(config: DualEncoderConfig, data: DataConfig, folder: Path, *, fresh: bool) -> DualEncoder:
    """The model of a prepared run folder. Raises: ConfigError if it cannot be built."""
    tokenize = tokenize_of(config.text, data, folder)
    persons = read_persons(folder)
    try:
        return DualEncoder(config, data, tokenize, persons, None if fresh else folder)
    except ValueError as error:
        raise ConfigError(str(error)) from error
