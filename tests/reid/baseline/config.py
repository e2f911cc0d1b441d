"""The config of the baseline, and its preset."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from bdam_reid.config import Config, DataConfig, EngineConfig, MethodConfig, Presets, Range
from bdam_reid.encoders.config import ImageEncoderConfig

if TYPE_CHECKING:
    from baseline.method import Baseline
    from bdam_reid.data.records import Dataset


@dataclass(frozen=True)
class BaselineConfig(MethodConfig):
    """Encoder, losses and schedule."""

    image: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    lr: float = 3e-4
    head_epochs: int = 1
    epochs: int = 2
    smoothing: Annotated[float, Range(0, 0.9)] = 0.1
    margin: float = 0.3

    def check(self, data: DataConfig) -> None:
        self.image.check_image("method.image", data)

    def prepare(self, data: DataConfig, dataset: Dataset, folder: Path) -> None:
        if not (folder / "persons").exists():
            temporary = folder / "persons.tmp"
            temporary.write_text(str(len({record.identity for record in dataset.train})))
            temporary.replace(folder / "persons")

    def build(self, data: DataConfig, folder: Path, *, fresh: bool) -> Baseline:
        from baseline.method import Baseline

        return Baseline(self, data, int((folder / "persons").read_text()))


def baseline() -> Config:
    """Seconds on drawn persons."""
    return Config(
        preset="baseline",
        output="runs/baseline",
        method=BaselineConfig(image=ImageEncoderConfig(width=16, layers=1, heads=2, patch_height=8, patch_width=8)),
        data=DataConfig(image_height=32, image_width=16, identities_per_batch=4, images_per_identity=2),
        engine=EngineConfig(save_every=1),
    )


PRESETS: Presets = {"baseline": baseline}
