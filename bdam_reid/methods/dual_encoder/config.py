"""The config of dual encoders, and the presets of three published ones and of a small CLIP from scratch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from bdam_reid.config import Config, ConfigError, DataConfig, MethodConfig, Presets, Range
from bdam_reid.encoders.config import PREPARED, ImageEncoderConfig, TextEncoderConfig
from bdam_reid.methods.bdam import presets as bdam
from bdam_reid.methods.optim import OptimConfig
from bdam_reid.methods.persons import PERSONS

if TYPE_CHECKING:
    from bdam_reid.data.records import Dataset
    from bdam_reid.methods.dual_encoder.method import DualEncoder

CLIP = "openai/clip-vit-base-patch16"


@dataclass(frozen=True)
class LossConfig:
    """What brings the images and sentences of a person together."""

    kind: Literal["itc", "sdm", "tal"] = "itc"
    """itc: CLIP's contrastive loss; sdm: IRRA's similarity distribution matching; tal: RDE's triplet alignment loss."""
    temperature: Annotated[float, Range(1e-3)] = 0.02
    learnt_temperature: bool = False
    """itc: whether training changes the temperature."""
    identity_aware: bool = False
    """itc: whether all captions of a person in the batch are positive for an image, not its own alone."""
    margin: float = 0.1
    """tal."""
    id_weight: float = 0.0
    """Of IRRA's identity loss: one classifier of the training persons reads images and sentences; 0 leaves it out."""

    def check(self) -> None:
        """Raise ConfigError for what the kind does not have."""
        if self.kind != "itc" and (self.learnt_temperature or self.identity_aware):
            raise ConfigError(
                "--method.loss.learnt-temperature and --method.loss.identity-aware need --method.loss.kind itc, got "
                f"{self.kind}"
            )


@dataclass(frozen=True)
class DualEncoderConfig(MethodConfig):
    """Encoders, pooling, loss and optimizer."""

    image: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    text: TextEncoderConfig = field(default_factory=lambda: TextEncoderConfig(pooling="own"))
    pooling: Literal["own", "position"] = "own"
    """How an image's tokens become its feature. own: the encoder's global one; position: each place has weights of its
    own, as in BDAM."""
    slots: int = 24
    """Channels that position pooling keeps of a token."""
    features: int = 256
    """Width of the feature of position pooling."""
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    prepared: ClassVar[tuple[str, ...]] = (*PREPARED, PERSONS)

    @property
    def pair(self) -> bool:
        """Whether both global features are of one pair of encoders, and can be compared as they are."""
        own = self.pooling == self.text.pooling == "own"
        return own and self.image.projected and self.text.projected

    def check(self, data: DataConfig) -> None:
        """Raise ConfigError if values do not fit each other."""
        self.image.check_image("method.image", data)
        self.text.check("method.text")
        self.loss.check()
        if self.pooling == "own" and self.image.kind == "convolutions":
            raise ConfigError(
                "--method.image.kind convolutions has no global feature: use --method.pooling position, got own"
            )

    def prepare(self, data: DataConfig, dataset: Dataset, folder: Path) -> None:
        """Write the tokenizer, the architectures of published encoders, and the number of training persons."""
        from bdam_reid.methods.dual_encoder.method import prepare

        prepare(self, data, dataset, folder)

    def build(self, data: DataConfig, folder: Path, *, fresh: bool) -> DualEncoder:
        """The model, with the tokenizer of the run folder."""
        from bdam_reid.methods.dual_encoder.method import build

        return build(self, data, folder, fresh=fresh)


def clip_itc() -> Config:
    """CLIP's towers fine-tuned by CLIP's own loss, the baseline of IRRA's paper.

    Batches of 64, 60 epochs, rates, decay and temperature are IRRA's; warm-up is its 5 epochs on CUHK-PEDES. There an
    epoch has every caption once, in any order; here every image once with one of its captions, two images of a person
    in a batch.
    """
    return Config(
        preset="clip-itc",
        output="runs/clip-itc",
        method=DualEncoderConfig(
            image=ImageEncoderConfig(pretrained=CLIP, projected=True),
            text=TextEncoderConfig(pretrained=CLIP, projected=True, pooling="own"),
            optim=OptimConfig(lr=1e-5, new_factor=5.0, weight_decay=4e-5, warmup_steps=2500),
        ),
        data=DataConfig(
            root="data/CUHK-PEDES",
            image_height=384,
            image_width=128,
            max_tokens=77,
            identities_per_batch=32,
            images_per_identity=2,
            erase=0.5,
        ),
    )


def irra() -> Config:
    """IRRA's similarity distribution matching and identity loss on CLIP's towers, without its masked words."""
    return _with_loss(clip_itc(), "irra", IRRA)


def rde() -> Config:
    """RDE's triplet alignment loss on CLIP's towers, without its selection of tokens and division of noisy pairs."""
    return _with_loss(clip_itc(), "rde", RDE)


def small_clip() -> Config:
    """A small CLIP from scratch on drawn persons, where others begin with a published one: convolutions, a few
    transformer layers, CLIP's loss with its learnt temperature. `python -m bdam_reid.export RUN FOLDER --hub` saves it
    for their --method.image.pretrained and --method.text.pretrained.

    A batch has two outfits of a person, so that of its images a caption fits its own alone.
    """
    return Config(
        preset="small-clip",
        output="runs/small-clip",
        method=DualEncoderConfig(
            image=ImageEncoderConfig(
                kind="clip", projected=True, width=128, layers=2, heads=4, patch_height=8, patch_width=8
            ),
            text=TextEncoderConfig(kind="clip", projected=True, pooling="own", width=128, layers=2, heads=4),
            loss=LossConfig(temperature=0.07, learnt_temperature=True),
            optim=OptimConfig(
                lr=1e-3, weight_decay=0.05, decoupled_decay=True, epochs=3, warmup_steps=100, clip_norm=5.0
            ),
        ),
        data=DataConfig(
            image_height=96,
            image_width=48,
            max_tokens=77,
            identities_per_batch=32,
            images_per_identity=2,
            across_outfits=True,
            erase=0.0,
        ),
    )


def itc_demo() -> Config:
    """CLIP's loss on the towers, images, batches and epochs of `demo`, from scratch."""
    demo = bdam.demo()
    recipe = demo.method
    assert isinstance(recipe, bdam.BDAMConfig)
    method = DualEncoderConfig(
        image=recipe.image,
        text=recipe.text,
        pooling="position",
        slots=recipe.decoupling.slots,
        features=recipe.decoupling.features,
        loss=LossConfig(temperature=recipe.loss.temperature, learnt_temperature=True),
        optim=recipe.optim,
    )
    return replace(demo, preset="itc-demo", output="runs/itc-demo", method=method)


def irra_demo() -> Config:
    """IRRA's losses at the size of `demo`, as `itc-demo`."""
    return _with_loss(itc_demo(), "irra-demo", IRRA)


def rde_demo() -> Config:
    """RDE's loss at the size of `demo`, as `itc-demo`."""
    return _with_loss(itc_demo(), "rde-demo", RDE)


IRRA = LossConfig(kind="sdm", temperature=0.02, id_weight=1.0)
RDE = LossConfig(kind="tal", temperature=0.015, margin=0.1)


def _with_loss(config: Config, name: str, loss: LossConfig) -> Config:
    assert isinstance(config.method, DualEncoderConfig)
    return replace(config, preset=name, output=f"runs/{name}", method=replace(config.method, loss=loss))


PRESETS: Presets = {
    "clip-itc": clip_itc,
    "irra": irra,
    "rde": rde,
    "small-clip": small_clip,
    "itc-demo": itc_demo,
    "irra-demo": irra_demo,
    "rde-demo": rde_demo,
}
