"""The config of MTA-CLIP, its presets, and those of what it is built on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from bdam_reid.config import Config, ConfigError, DataConfig, EngineConfig, MethodConfig, Presets, Range
from bdam_reid.encoders.config import PREPARED

if TYPE_CHECKING:
    from bdam_reid.data.records import Dataset
    from bdam_reid.methods.mta_clip.method import MTAClip

CLIP = "openai/clip-vit-base-patch16"
PERSONS = "persons.json"
"""File of a run folder: who is trained on."""
WHOLE = -1
"""As a number of blocks, all of the image tower."""

_STAGES = {"progressive": ("prompts", "images"), "prompts": ("prompts",), "images": ("images",), "joint": ("images",)}
"""Which stages a plan has."""


@dataclass(frozen=True)
class TowerConfig:
    """What is added to CLIP's image tower."""

    adapter: Literal["sga", "identity", "none"] = "sga"
    """sga: the semantic grouping adapter; identity: patches as they are, whose mean is added to the class token all the
    same, which tells what the adapter itself is worth; none: the class token alone, as in CLIP and CLIP-ReID."""
    groups: int = 8
    """Of channels, in the adapter."""
    cameras: bool = False
    """Whether the class token is told the camera by a learnt vector (SIE): one domain only, as cameras of several have
    the same numbers. Evaluation tells it too, by number; of another set, and in search, the mean of all."""
    stride: Annotated[int, Range(0)] = 0
    """Pixels from one patch to the next (OLP), such as 12 of patches of 16; 0 lays them side by side."""

    def check(self) -> None:
        """Raise ConfigError for what there is not."""
        if self.adapter != "sga" and self.groups != TowerConfig.groups:
            raise ConfigError(f"--method.tower.groups needs --method.tower.adapter sga, got {self.adapter}")


@dataclass(frozen=True)
class PromptsConfig:
    """The learnt words of a prompt, and the stage that trains them."""

    shared: Annotated[int, Range(0)] = 4
    """Words that all prompts share."""
    domain: Annotated[int, Range(0)] = 4
    """Words of the domain."""
    person: int = 4
    """Words of the person."""
    overlap_weight: float = 0.0
    """Of |P_S P_D^T|^2, by which shared words and those of the domain are kept apart."""
    lr: float = 3.5e-4
    epochs: int = 120
    warmup_epochs: Annotated[int, Range(0)] = 5
    batch: Annotated[int, Range(2)] = 64
    """Images in a batch, or as many as the smallest domain has."""


@dataclass(frozen=True)
class ImagesConfig:
    """The stage that trains the image tower."""

    blocks: Annotated[int, Range(-1)] = 6
    """Of the image tower, the last so many blocks are trained, with the last norm and the projection; -1 is all of
    it."""
    lr: float = 5e-6
    new_factor: float = 1.0
    """Times `lr` is the rate of what no CLIP has: adapter, cameras, necks and classifiers."""
    epochs: int = 60
    """The rate falls to a tenth after half of them, and to a hundredth after five sixths."""
    warmup_epochs: Annotated[int, Range(0)] = 10
    clip_norm: float = 0.0
    """Gradient norm limit; 0 is none."""


@dataclass(frozen=True)
class LossConfig:
    """What the image tower is trained by.

    The weights are those of CLIP-ReID. The description of MTA-CLIP has L = id + l1 triplet + l2 i2t and no figures:
    they are l1 = l2 = 4, but for a factor of the whole, which Adam does not see.
    """

    id_weight: float = 0.25
    """Of the cross-entropies of the classifiers."""
    triplet_weight: float = 1.0
    i2t_weight: float = 1.0
    """Of the cross-entropy of an image among the texts of all persons of its domain; 0 leaves it out. In joint training
    it is that of the contrastive loss of a batch."""
    smoothing: Annotated[float, Range(0, 0.9)] = 0.1
    """Of the labels of both cross-entropies."""
    margin: float = 0.3
    temperature: Annotated[float, Range(1e-3)] = 0.01
    """Of cosines of images and texts: that which OpenAI's CLIPs have learnt."""


@dataclass(frozen=True)
class StartConfig:
    """Another run that training begins with."""

    run: str = ""
    """Its folder; empty begins with the CLIP alone. It gives its prompts: all of them if it was trained on the same
    persons, else the words that all prompts share."""
    images: bool = False
    """Whether it gives its image tower too, to be trained further on other persons."""

    def check(self) -> None:
        """Raise ConfigError if values do not fit each other."""
        if self.images and not self.run:
            raise ConfigError("--method.start.images True needs --method.start.run, the folder of a run, got none")


@dataclass(frozen=True)
class MTAClipConfig(MethodConfig):
    """CLIP, what is added to it, and how that is trained."""

    clip: str = CLIP
    """Hub name or folder."""
    plan: Literal["progressive", "prompts", "images", "joint"] = "progressive"
    """progressive: first the prompts, then, with these, the image tower; prompts, images: one of these stages alone;
    joint: both at once."""
    tower: TowerConfig = field(default_factory=TowerConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    images: ImagesConfig = field(default_factory=ImagesConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    start: StartConfig = field(default_factory=StartConfig)
    weight_decay: float = 1e-4
    """Of Adam, in every stage."""

    prepared: ClassVar[tuple[str, ...]] = (*PREPARED, PERSONS)

    def check(self, data: DataConfig) -> None:
        """Raise ConfigError if values do not fit each other."""
        self.tower.check()
        self.start.check()
        self._check_rates()
        self._check_losses()
        if not self.clip:
            raise ConfigError(f"--method.clip must be a hub name or folder, such as {CLIP}, got none")
        if self.plan == "images" and self.loss.i2t_weight and not self.start.run:
            raise ConfigError(
                "--method.plan images has no texts without --method.start.run, a run whose prompts are trained: give "
                f"it, or --method.loss.i2t-weight 0, got {self.loss.i2t_weight}"
            )

    def _check_rates(self) -> None:
        """Raise ConfigError for rates that are never reached, or of which one cannot be a multiple of the other."""
        stages: dict[str, PromptsConfig | ImagesConfig] = {"prompts": self.prompts, "images": self.images}
        for name in _STAGES[self.plan]:
            stage = stages[name]
            if stage.warmup_epochs > stage.epochs:
                raise ConfigError(
                    f"--method.{name}.warmup-epochs must be at most {stage.epochs}, as --method.{name}.epochs, got "
                    f"{stage.warmup_epochs}"
                )
        if self.plan == "joint" and not self.images.lr:
            raise ConfigError("--method.images.lr must be above 0 in joint training, got 0")

    def _check_losses(self) -> None:
        """Raise ConfigError where something is trained by nothing, or a weight counts nowhere."""
        loss, prompts = self.loss, self.prompts
        if self.plan == "joint" and not loss.i2t_weight:
            raise ConfigError("--method.loss.i2t-weight must be above 0 in joint training, or no prompt learns, got 0")
        if self.plan != "prompts" and not any((loss.id_weight, loss.triplet_weight, loss.i2t_weight)):
            raise ConfigError(
                "one of --method.loss.id-weight, triplet-weight and i2t-weight must be above 0, got 0 for all"
            )
        if prompts.overlap_weight and not (self.plan != "images" and prompts.shared and prompts.domain):
            raise ConfigError(
                "--method.prompts.overlap-weight needs prompts that are trained, with words that they share and words "
                f"of the domain, got {prompts.shared} and {prompts.domain} with --method.plan {self.plan}"
            )

    def prepare(self, data: DataConfig, dataset: Dataset, folder: Path) -> None:
        """Write the tokenizer and the architectures of the CLIP, and who is trained on."""
        from bdam_reid.methods.mta_clip.method import prepare

        prepare(self, dataset, folder)

    def build(self, data: DataConfig, folder: Path, *, fresh: bool) -> MTAClip:
        """The model of a prepared run folder."""
        from bdam_reid.methods.mta_clip.method import build

        return build(self, data, folder, fresh=fresh)


def mta_clip() -> Config:
    """Prompts of shared words, of the domain and of the person, then the semantic grouping adapter and the last blocks
    of a CLIP ViT-B/16, on the batches of one or several domains.

    What the description of MTA-CLIP leaves open is as in CLIP-ReID, but for the half of the blocks that is trained, and
    the rate of the adapter, which would stay where it begins at that of the others.
    """
    return Config(
        preset="mta-clip",
        output="runs/mta-clip",
        method=MTAClipConfig(images=ImagesConfig(new_factor=20.0)),
        data=DataConfig(
            root="data/Market-1501",
            image_height=256,
            image_width=128,
            max_tokens=77,
            identities_per_batch=16,
            images_per_identity=4,
            erase=0.5,
        ),
        engine=EngineConfig(validate_every=5),
    )


def clip_reid() -> Config:
    """CLIP-ReID (Li, Sun and Li, AAAI 2023): one domain, no adapter, the whole image tower trained.

    Its triplet loss reads the class token before the last block too; its products of features are not of unit vectors,
    which OpenAI's CLIPs make about as large as cosines by the temperature are here; images are varied as everywhere in
    the house. `--method.tower.cameras True --method.tower.stride 12` is its form with SIE and OLP.
    """
    config = mta_clip()
    method = MTAClipConfig(
        tower=TowerConfig(adapter="none"), prompts=PromptsConfig(shared=0, domain=0), images=ImagesConfig(blocks=WHOLE)
    )
    return replace(config, preset="clip-reid", output="runs/clip-reid", method=method)


def image_baseline() -> Config:
    """CLIP-ReID's baseline: a CLIP's image tower, trained by classifiers and triplets without any text."""
    config = clip_reid()
    assert isinstance(config.method, MTAClipConfig)
    method = replace(config.method, plan="images", loss=LossConfig(id_weight=1.0, i2t_weight=0.0))
    return replace(config, preset="image-baseline", output="runs/image-baseline", method=method)


def mta_clip_demo() -> Config:
    """MTA-CLIP on two drawn domains in minutes on a CPU, from the small CLIP that `small-clip` trains and
    `python -m bdam_reid.export RUN models/small-clip --hub` writes.

    `python -m bdam_reid.synthetic data/market-summer-1200 --layout market --identities 1200 --test-identities 300`, and
    data/market-winter-1200 with --domain 1 --seed 1, draw the domains.
    """
    return Config(
        preset="mta-clip-demo",
        output="runs/mta-clip-demo",
        method=MTAClipConfig(
            clip="models/small-clip",
            prompts=PromptsConfig(lr=2e-3, epochs=3, warmup_epochs=1),
            images=ImagesConfig(blocks=WHOLE, lr=1e-3, epochs=8, warmup_epochs=1, clip_norm=5.0),
            loss=LossConfig(temperature=0.05),
        ),
        data=DataConfig(
            root="data/market-summer-1200",
            domains=("data/market-winter-1200",),
            image_height=96,
            image_width=48,
            max_tokens=77,
            identities_per_batch=16,
            images_per_identity=4,
            erase=0.3,
        ),
        engine=EngineConfig(validate_every=2, average=0.99),
    )


PRESETS: Presets = {
    "mta-clip": mta_clip,
    "clip-reid": clip_reid,
    "image-baseline": image_baseline,
    "mta-clip-demo": mta_clip_demo,
}
