"""The config of MoSAIC-ReID, and its presets."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from bdam_reid.config import Config, ConfigError, DataConfig, EngineConfig, MethodConfig, Presets, Range
from bdam_reid.encoders.config import EFFICIENTNET, PREPARED, ImageEncoderConfig
from bdam_reid.methods.optim import OptimConfig
from bdam_reid.methods.persons import PERSONS

if TYPE_CHECKING:
    from bdam_reid.data.records import Dataset
    from bdam_reid.methods.mosaic.method import Mosaic

_, IMAGE, _ = PREPARED


@dataclass(frozen=True)
class ExpertsConfig:
    """The experts, one for each state of an attribute."""

    attributes: Literal["market", "duke"] = "market"
    """Whose labels they are for: Market-1501's 12 attributes have 35 experts, DukeMTMC-reID's 10 have 26."""
    layers: Annotated[int, Range(0)] = 4
    """Of the image tower, the last so many have experts, on queries, values and both layers of the MLP; 0 is the tower
    without experts, to compare with."""
    rank: int = 16
    alpha: Annotated[float, Range(1e-3)] = 16.0
    """Over the rank, it scales what the experts add."""


@dataclass(frozen=True)
class LossConfig:
    """What tells the training persons apart."""

    triplet_weight: float = 1.0
    smoothing: Annotated[float, Range(0, 0.9)] = 0.1
    """Of the labels of the classifier."""
    margin: float = 0.3


@dataclass(frozen=True)
class MosaicConfig(MethodConfig):
    """Image tower, experts, losses and optimizer."""

    image: ImageEncoderConfig = field(default_factory=lambda: ImageEncoderConfig(frozen=True))
    """A frozen one trains its experts alone."""
    experts: ExpertsConfig = field(default_factory=ExpertsConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    prepared: ClassVar[tuple[str, ...]] = (IMAGE, PERSONS)

    def check(self, data: DataConfig) -> None:
        """Raise ConfigError if values do not fit each other."""
        self.image.check_image("method.image", data)
        if self.image.kind == "convolutions" or self.image.pretrained == EFFICIENTNET:
            raise ConfigError("--method.image must be a transformer, whose layers have experts, got convolutions")
        if not self.image.pretrained and self.experts.layers > self.image.layers:
            raise ConfigError(
                f"--method.experts.layers must be at most --method.image.layers, got {self.experts.layers} and "
                f"{self.image.layers}"
            )

    def prepare(self, data: DataConfig, dataset: Dataset, folder: Path) -> None:
        """Write the architecture of a published tower, and the number of training persons."""
        from bdam_reid.methods.mosaic.method import prepare

        prepare(self, dataset, folder)

    def build(self, data: DataConfig, folder: Path, *, fresh: bool) -> Mosaic:
        """The model, with the number of persons of the run folder."""
        from bdam_reid.methods.mosaic.method import build

        return build(self, data, folder, fresh=fresh)


def mosaic_market() -> Config:
    """Experts for Market-1501's attributes in a frozen CLIP ViT-B/16, whose images say at test time too whom they
    show: market_attribute.mat lies in the set's folder.

    Rank, losses and epochs are the paper's; it leaves open how many layers have experts, alpha, the optimizer and how
    images are varied, which are ours.
    """
    return Config(
        preset="mosaic-market",
        output="runs/mosaic-market",
        method=MosaicConfig(
            image=ImageEncoderConfig(pretrained="openai/clip-vit-base-patch16", frozen=True),
            optim=OptimConfig(lr=3.5e-4, weight_decay=1e-4, epochs=120, warmup_steps=1000),
        ),
        data=DataConfig(
            root="data/Market-1501",
            image_height=256,
            image_width=128,
            identities_per_batch=16,
            images_per_identity=4,
            erase=0.5,
        ),
        engine=EngineConfig(validate_every=10),
    )


def mosaic_duke() -> Config:
    """As `mosaic-market`, for DukeMTMC-reID's attributes and duke_attribute.mat."""
    config = mosaic_market()
    assert isinstance(config.method, MosaicConfig)
    method = replace(config.method, experts=ExpertsConfig(attributes="duke"))
    data = replace(config.data, root="data/DukeMTMC-reID")
    return replace(config, preset="mosaic-duke", output="runs/mosaic-duke", method=method, data=data)


def mosaic_demo() -> Config:
    """The same at the size of a small CLIP, whose folder the preset `small-clip` exports, on drawn persons in
    Market-1501's layout: minutes on two slow cores."""
    return Config(
        preset="mosaic-demo",
        output="runs/mosaic-demo",
        method=MosaicConfig(
            image=ImageEncoderConfig(pretrained="models/small-clip", frozen=True),
            experts=ExpertsConfig(layers=2, rank=8, alpha=8.0),
            optim=OptimConfig(lr=2e-3, weight_decay=1e-4, epochs=10, warmup_steps=20),
        ),
        data=DataConfig(
            root="data/market-summer",
            image_height=96,
            image_width=48,
            identities_per_batch=16,
            images_per_identity=4,
        ),
        engine=EngineConfig(validate_every=4),
    )


PRESETS: Presets = {"mosaic-market": mosaic_market, "mosaic-duke": mosaic_duke, "mosaic-demo": mosaic_demo}
