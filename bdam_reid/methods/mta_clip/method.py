"""MTA-CLIP as a method of the house."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam
from tqdm.auto import tqdm
from transformers import CLIPTextModelWithProjection

from bdam_reid.config import ConfigError, DataConfig
from bdam_reid.data.images import load_image
from bdam_reid.data.records import Dataset, Query, QueryError, Record
from bdam_reid.data.tokens import Tokenize, save_tokenizer
from bdam_reid.encoders.base import save_architecture
from bdam_reid.encoders.config import TextEncoderConfig
from bdam_reid.encoders.text import TextEncoder
from bdam_reid.methods.frozen import frozen_report
from bdam_reid.methods.method import Losses, Method, Stage
from bdam_reid.methods.mta_clip.batches import (
    Images,
    Kept,
    RowBatches,
    Rows,
    image_batches,
    places_of,
    unvaried,
)
from bdam_reid.methods.mta_clip.config import MTAClipConfig, TowerConfig
from bdam_reid.methods.mta_clip.heads import Head
from bdam_reid.methods.mta_clip.losses import (
    contrastive_loss,
    identity_loss,
    image_to_text_loss,
    triplet_loss,
    weighted,
)
from bdam_reid.methods.mta_clip.people import People, read_people, write_people
from bdam_reid.methods.mta_clip.prompts import AFTER, BEFORE, Prompts, read_embeddings
from bdam_reid.methods.mta_clip.start import take_over
from bdam_reid.methods.mta_clip.tower import Features, ImageTower
from bdam_reid.methods.preparation import IMAGE, TEXT, TOKENIZER, architecture, pretrained_tokenizer, tokenize_of
from bdam_reid.methods.schedules import warm_up_and_anneal, warm_up_and_step
from bdam_reid.methods.unit import full_precision, unit
from bdam_reid.methods.whole_text_tower import WholeTextTower
from bdam_reid.processes import gather

log = logging.getLogger("bdam_reid")
AT_ONCE = 128
"""Images or prompts that frozen encoders read at a time."""


class MTAClip(Method):
    """Persons in several domains told apart by a CLIP. An embedding is the two features of its image tower as unit
    vectors side by side, so that a score is the mean of two cosines; of a sentence, which has the second alone, it is
    in proportion to one.

    Args:
        config: of the method.
        data: sizes of images and texts, and how they become batches.
        tokenize: of the CLIP's tokenizer.
        people: who is trained on.
        architectures: run folder with those of the CLIP, whose weights will come from a checkpoint; without it they are
            fetched.
    Raises: ValueError if the CLIP cannot be loaded, or sizes do not fit it.
    """

    places: Tensor

    def __init__(
        self,
        config: MTAClipConfig,
        data: DataConfig,
        tokenize: Tokenize,
        people: People,
        architectures: Path | None = None,
    ) -> None:
        super().__init__()
        self.config, self.data, self.tokenize, self.people = config, data, tokenize, people
        self.image_size = data.image_size
        image, text = (architecture(architectures, name) for name in (IMAGE, TEXT))
        # The first stage is without all that is added to the CLIP, and so is what it alone has trained.
        tower = TowerConfig(adapter="none", stride=config.tower.stride) if config.plan == "prompts" else config.tower
        cameras = len(people.cameras) if tower.cameras else 0
        if tower.cameras and not cameras:
            raise ValueError("--method.tower.cameras True needs training images whose cameras are known, got none")
        if cameras and len(people.of_domains) > 1:
            raise ValueError(
                f"--method.tower.cameras True is for one domain, whose cameras have numbers of their own, got "
                f"{len(people.of_domains)}"
            )
        self.image_encoder = ImageTower(config.clip, tower, data.image_size, cameras, image)
        if config.images.blocks > self.image_encoder.blocks:
            raise ValueError(
                f"--method.images.blocks must be at most {self.image_encoder.blocks}, those of the CLIP, got "
                f"{config.images.blocks}"
            )
        self.text_encoder = TextEncoder(
            TextEncoderConfig(pretrained=config.clip, projected=True, pooling="own", frozen=True),
            tokenize.vocab_size, data.max_tokens, text, tokenize.pad_id,
        )  # fmt: skip
        self.prompts: Prompts | None = self._prompts()
        widths = (self.image_encoder.width, self.image_encoder.features)
        self.heads: nn.ModuleList | None = nn.ModuleList(Head(widths, len(own)) for own in people.of_domains)
        # Of each class, its place among those of its domain.
        places = {person: place for own in people.of_domains for place, person in enumerate(own)}
        self.register_buffer("places", torch.tensor([places[person] for person in sorted(places)]), persistent=False)
        self.parts, self.weights = {"person": slice(0, sum(widths))}, {"person": 1.0}
        self.kept: Kept | None = None
        self.texts: Tensor | None = None

    def _prompts(self) -> Prompts:
        words = self._clip_text.text_model.embeddings.token_embedding
        ids = [self.tokenize([text])[0][0] for text in (BEFORE, AFTER)]
        if (longest := max(map(len, ids))) >= self.data.max_tokens:
            raise ValueError(
                f"--data.max-tokens must be above {longest}, or {BEFORE!r} of a prompt is cut, got "
                f"{self.data.max_tokens}"
            )
        with torch.no_grad():
            before, after = map(words, ids)
        learnt = self.config.prompts
        prompts = Prompts(
            before[:-1], after[1:], self.people.domains, learnt.shared, learnt.domain, learnt.person
        )  # fmt: skip
        if len(prompts) > self.text_encoder.longest:
            raise ValueError(
                f"a prompt must be of at most {self.text_encoder.longest} tokens, which the CLIP reads, got "
                f"{len(prompts)}: lower --method.prompts.shared, --method.prompts.domain or --method.prompts.person"
            )
        return prompts

    @property
    def _clip_text(self) -> CLIPTextModelWithProjection:
        assert isinstance(self.text_encoder.model, CLIPTextModelWithProjection)
        return self.text_encoder.model

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def stages(self, dataset: Dataset, seed: int) -> Sequence[Stage]:
        """As the plan has them; validation after the prompts says what the CLIP itself does."""
        plan = self.config.plan
        stages = [self._prompts_stage(dataset, seed)] if plan in ("progressive", "prompts") else []
        return [*stages, self._images_stage(dataset, seed)] if plan != "prompts" else stages

    def _prompts_stage(self, dataset: Dataset, seed: int) -> Stage:
        config = self.config.prompts
        batches = RowBatches(dataset.train, config.batch, seed)
        return Stage(
            name="prompts",
            groups=[{"params": self._words()}],
            epochs=config.epochs,
            optimizer=partial(Adam, lr=config.lr, weight_decay=self.config.weight_decay, fused=True),
            learning_rate=partial(
                warm_up_and_anneal, rate=config.lr, warmup_steps=config.warmup_epochs * len(batches)
            ),
            batches=batches,
            validates=self.config.plan == "prompts",
        )  # fmt: skip

    def _images_stage(self, dataset: Dataset, seed: int) -> Stage:
        config = self.config.images
        batches = image_batches(dataset.train, self.data, self.people.cameras, seed)
        return Stage(
            name="images",
            groups=[group for group in self._image_groups() if group["params"]],
            epochs=config.epochs,
            optimizer=partial(Adam, lr=config.lr, weight_decay=self.config.weight_decay, fused=True),
            learning_rate=partial(
                warm_up_and_step, rate=config.lr, warmup_steps=config.warmup_epochs * len(batches)
            ),
            batches=batches,
            clip_norm=config.clip_norm,
        )  # fmt: skip

    def _image_groups(self) -> list[dict[str, Any]]:
        """What is trained with the image tower: its last blocks, what no CLIP has, and jointly the prompts."""
        config = self.config
        assert self.heads is not None
        # Without the shifts of the necks, which stay 0.
        heads = [weight for name, weight in self.heads.named_parameters() if not name.endswith(".bias")]
        groups: list[dict[str, Any]] = [
            {"params": list(self.image_encoder.last(config.images.blocks))},
            {"params": [*self.image_encoder.new(), *heads], "factor": config.images.new_factor},
        ]
        if config.plan == "joint":
            groups.append({"params": self._words(), "factor": config.prompts.lr / config.images.lr})
        return groups

    def _words(self) -> list[nn.Parameter]:
        """The learnt words of the prompts."""
        assert self.prompts is not None
        return [words for words in self.prompts.parameters() if words.numel()]

    def begin_stage(self, stage: Stage) -> None:
        """Say what is frozen; compute the features of all images for the stage of the prompts, and the texts of all
        persons for that of the images. A run that goes on computes them anew, which takes less than an epoch of the
        second stage: of 4,122 images by the small CLIP 13 s on two cores."""
        log.info(f"stage {stage.name}: {frozen_report(self)}")
        self.kept = self.texts = None
        self.eval()
        with torch.no_grad():
            if isinstance(stage.batches, RowBatches):
                self.kept = self._keep(stage.batches.records)
            elif self.config.plan != "joint" and self.config.loss.i2t_weight:
                self.texts = full_precision(self._all_texts())

    def _keep(self, records: Sequence[Record]) -> Kept:
        features, classes = [], []
        with tqdm(total=len(records), unit="image", desc="features", leave=False, disable=None) as bar:
            for images, persons in unvaried(records, self.image_size, AT_ONCE):
                features.append(full_precision(self.image_encoder.published(images.to(self.device)).projected))
                classes.append(persons.to(self.device))
                bar.update(len(images))
        return Kept(torch.cat(features), torch.cat(classes))

    def _all_texts(self) -> Tensor:
        """What is read in the prompts of all persons, (N, E)."""
        persons = torch.arange(len(self.people.domains), device=self.device)
        return torch.cat([self.encode_prompts(some) for some in persons.split(AT_ONCE)])

    def encode_prompts(self, persons: Tensor) -> Tensor:
        """Class indices (B,) -> features of their prompts, (B, E)."""
        assert self.prompts is not None
        return read_embeddings(self._clip_text, self.prompts(persons))

    def losses(self, batch: Images | Rows, step: int) -> Losses:
        """Of the stage that the batch is for."""
        return self._prompt_losses(batch) if isinstance(batch, Rows) else self._image_losses(batch)

    def _prompt_losses(self, batch: Rows) -> Losses:
        assert self.kept is not None and self.prompts is not None
        persons = self.kept.classes[batch.numbers]
        texts = self.encode_prompts(persons)
        with torch.autocast(self.device.type, enabled=False):
            images, texts = gather(self.kept.features[batch.numbers]), gather(full_precision(texts))
            contrastive = contrastive_loss(images, texts, gather(persons), self.config.loss.temperature)
            overlap = self.prompts.overlap(self.prompts.domain_of[persons[0]])
        total = contrastive + self.config.prompts.overlap_weight * overlap
        return Losses(total, {"contrastive": contrastive, "overlap": overlap}, {})

    def _image_losses(self, batch: Images) -> Losses:
        assert self.heads is not None and self.prompts is not None
        config, domain = self.config.loss, self.people.domains[int(batch.classes[0])]
        features = self.image_encoder(batch.images, batch.cameras)
        scores = self.heads[domain](features)
        prompts = self.encode_prompts(batch.classes) if self.config.plan == "joint" else None
        with torch.autocast(self.device.type, enabled=False):
            features = Features(*(gather(full_precision(feature)) for feature in features))
            scores, persons = [gather(full_precision(each)) for each in scores], gather(batch.classes)
            labels = self.places[persons]
            parts = {
                "id": identity_loss(scores, labels, config.smoothing),
                "triplet": triplet_loss(features, labels, config.margin),
            }
            if prompts is not None:
                texts = gather(full_precision(prompts))
                parts["contrastive"] = contrastive_loss(features.projected, texts, persons, config.temperature)
            elif self.texts is not None:
                texts = self.texts[self.people.of_domains[domain]]
                parts["i2t"] = image_to_text_loss(
                    features.projected, texts, labels, config.temperature, config.smoothing
                )  # fmt: skip
            total = weighted(config, parts)
            if prompts is not None:
                overlap = self.prompts.overlap(domain)
                total, parts["overlap"] = total + self.config.prompts.overlap_weight * overlap, overlap
        return Losses(total, parts, self._scalars(scores[0], labels))

    def _scalars(self, scores: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """What is logged of a step besides its losses: how often the first classifier is right, and what the adapter
        has of its local stream, and adds."""
        scalars = {"train/accuracy": (scores.argmax(dim=1) == labels).float().mean()}
        if self.image_encoder.adapter is not None:
            scalars["adapter/local"] = self.image_encoder.adapter.mixture.softmax(dim=0)[0]
            scalars["adapter/scale"] = self.image_encoder.adapter.scale.abs().mean()
        return scalars

    def embed_images(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) in [-1, 1] -> unit vectors (B, D + E)."""
        return joined(self.image_encoder(images))

    def maps(self, images: Tensor) -> Mapping[str, Tensor]:
        """How alike each patch is to the image's feature, by their cosine in the space of texts, with the adapter and
        as if it were not there; and what the adapter keeps of each group of channels."""
        tower = self.image_encoder
        tokens = tower.tokens(images)
        maps = {"without adapter": tower.alike(tokens)}
        if tower.adapter is not None:
            grouped = tower.adapter.grouped(tokens[:, 1:])
            maps["with adapter"] = tower.alike(torch.cat((tokens[:, :1], grouped.tokens), dim=1))
            maps |= {f"group {number}": kept for number, kept in enumerate(grouped.maps.unbind(dim=1), start=1)}
        return {name: values.unflatten(1, tower.grid) for name, values in maps.items()}

    def embed_records(self, images: Tensor, records: Sequence[Record]) -> Tensor:
        """As `embed_images`, of images whose cameras are known."""
        return joined(self.image_encoder(images, self._cameras([record.camera for record in records])))

    def _cameras(self, cameras: Sequence[int | None]) -> Tensor:
        return places_of(cameras, {camera: place for place, camera in enumerate(self.people.cameras)}).to(self.device)

    def forget_cameras(self) -> None:
        """Tell every image the mean of all cameras, as where the camera is not known."""
        cameras = self.image_encoder.cameras
        if cameras is not None:
            log.info("cameras of another set are not those of training: all are told as unknown ones, of every set")
            with torch.no_grad():
                cameras.copy_(cameras.mean(dim=0).expand_as(cameras))

    def embed_queries(self, queries: Sequence[Query]) -> Tensor:
        """Queries with an image, or with a text -> unit vectors (B, D + E), of a text with D zeros."""
        shown = [number for number, query in enumerate(queries) if query.image is not None and query.text is None]
        told = [number for number, query in enumerate(queries) if query.text is not None and query.image is None]
        if len(shown) + len(told) < len(queries):
            raise QueryError("MTA-CLIP searches by an image or a sentence, got a query with both, or with neither")
        embedded = torch.zeros(len(queries), self.parts["person"].stop, device=self.device)
        if shown:
            paths = [query.image for query in queries if query.image is not None]
            images = torch.stack([load_image(path, self.image_size) for path in paths]).to(self.device)
            cameras = self._cameras([queries[number].camera for number in shown])
            embedded[shown] = joined(self.image_encoder(images, cameras)).to(embedded)
        if told:
            texts = [query.text for query in queries if query.text is not None]
            features = self.encode_text(*(x.to(self.device) for x in self.tokenize(texts)))
            embedded[told] = unit(features).to(embedded)
        return embedded

    def encode_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Word pieces (B, L), mask (B, L) bool, True = real token -> D zeros and the projected features (B, D + E)."""
        return F.pad(self.text_encoder.encode(ids, mask).pooled, (self.image_encoder.width, 0))

    def text_tower(self) -> WholeTextTower:
        """Reads a sentence as a whole."""
        return WholeTextTower(self, self.tokenize.vocab_size, self.data.max_tokens, ())

    def strip(self) -> None:
        """Drop the prompts and classifiers of the training persons."""
        self.prompts = self.heads = None


def joined(features: Features) -> Tensor:
    """Both features as unit vectors side by side, at unit length, (B, D + E)."""
    return torch.cat([unit(feature) for feature in features], dim=1) * 0.5**0.5


def prepare(config: MTAClipConfig, dataset: Dataset, folder: Path) -> None:
    """Write into a run folder what the model needs besides weights. What is there stays. Raises: ConfigError if the
    CLIP cannot be had; OSError if it cannot be written."""
    try:
        for name in (IMAGE, TEXT):
            save_architecture(config.clip, folder / name)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if not (folder / TOKENIZER).exists():
        save_tokenizer(pretrained_tokenizer(config.clip, "method.clip"), folder / TOKENIZER)
    write_people(People.of(dataset), folder)


def build(config: MTAClipConfig, data: DataConfig, folder: Path, *, fresh: bool) -> MTAClip:
    """The model of a prepared run folder; a fresh one begins with what another run gives. Raises: ConfigError if it
    cannot be built."""
    tokenize, people = tokenize_of(TextEncoderConfig(), data, folder), read_people(folder)
    try:
        method = MTAClip(config, data, tokenize, people, None if fresh else folder)
        if fresh and config.start.run:
            take_over(method, Path(config.start.run).expanduser())
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return method
