"""The config of BDAM, its presets, and what older versions called them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from bdam_reid.config import (
    Config,
    ConfigError,
    DataConfig,
    EngineConfig,
    MethodConfig,
    Presets,
    Range,
    check_multiple,
)
from bdam_reid.encoders.config import EncoderConfig

if TYPE_CHECKING:
    from bdam_reid.data.records import Dataset
    from bdam_reid.methods.bdam.method import BDAM


@dataclass(frozen=True)
class DecouplingConfig:
    """Bidirectional decoupled alignment module (icme section III-B, long section 3.2)."""

    self_layers: Annotated[int, Range(0)] = 6
    cross_layers: Annotated[int, Range(0)] = 3
    heads: int = 12
    dropout: Annotated[float, Range(0, 0.99)] = 0.1
    gate: bool = True
    pooled_last: bool = False
    """The last cross-attention layer normalises its input instead of its output. Then nothing non-linear comes
    between its attention and the pooling, and the fused kernel pools without an output for each token. There are no
    tokens after it, so `fusion.tokens` cannot be "sequence"."""


@dataclass(frozen=True)
class FusionConfig:
    """Fusion module (icme section III-D, long section 3.4)."""

    kind: Literal["mamba", "transformer", "simple"] = "mamba"
    tokens: Literal["pooled", "pair", "sequence"] = "pooled"
    """pooled: the gated sum as one token (the literal reading); pair: image and text token; sequence: patches
    and words."""
    width: int = 256
    layers: int = 2
    """Mamba or transformer layers."""
    heads: int = 4
    """Transformer heads."""
    d_state: int = 16
    d_conv: int = 4
    dropout: Annotated[float, Range(0, 0.99)] = 0.1


@dataclass(frozen=True)
class LossConfig:
    """Losses and their balance (icme section III-E, long section 3.5)."""

    query: Literal["identity", "fused", "both"] = "identity"
    """InfoNCE's v: the image identity feature (long); the fused feature (icme), which already contains the
    text and does not train the image embedding that the ranking uses; or both, the mean of the two losses."""
    clothing: Literal["alignment", "adversarial"] = "alignment"
    """alignment: icme Eq. 1; adversarial: long Eq. 1. They pull opposite ways, so a run has one of them."""
    temperature: Annotated[float, Range(1e-3)] = 0.07
    margin: float = 0.3
    gate_weight: float = 0.01
    """Weight of the gate regularisation mean (g - 0.5)^2; 0 leaves it out."""
    decouple: bool = True
    gradnorm_target: Literal["reference", "mean"] = "reference"
    """reference: the first task's gradient norm times the loss ratio (Eq. 5); mean: the tasks' mean norm
    times the ratio to the power of alpha (Chen et al. 2018)."""
    gradnorm_alpha: float = 1.5
    """Weight of the GradNorm loss (Eq. 6), or, for the target "mean", the exponent."""
    gradnorm_lambda: float = 1e-3
    """Weight of sum (log w)^2 (Eq. 6)."""
    gradnorm_lr: float = 0.025
    gradnorm_every: Annotated[int, Range(0)] = 1
    """Update the task weights every so many steps; 0 leaves them at 1."""


@dataclass(frozen=True)
class OptimConfig:
    """Adam with cosine annealing (icme section IV-A, long section 4.2)."""

    lr: float = 1e-4
    weight_decay: float = 1e-3
    epochs: int = 60
    warmup_steps: Annotated[int, Range(0)] = 0
    clip_norm: float = 0.0
    """Gradient norm limit; 0 is none."""


@dataclass(frozen=True)
class BDAMConfig(MethodConfig):
    """Encoders, decoupling, fusion, losses and optimizer."""

    image: EncoderConfig = field(default_factory=EncoderConfig)
    text: EncoderConfig = field(default_factory=EncoderConfig)
    decoupling: DecouplingConfig = field(default_factory=DecouplingConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def check(self, data: DataConfig) -> None:
        """Raise ConfigError if values do not fit each other."""
        self.image.check_image("method.image", data)
        self.text.check_text("method.text")
        if not self.image.pretrained:
            check_multiple(("method.image.width", self.image.width), ("method.decoupling.heads", self.decoupling.heads))
        if self.fusion.kind == "transformer":
            check_multiple(("method.fusion.width", self.fusion.width), ("method.fusion.heads", self.fusion.heads))
        if self.decoupling.pooled_last and self.decoupling.cross_layers == 0:
            raise ConfigError(
                "--method.decoupling.pooled-last needs a cross-attention layer, got --method.decoupling.cross-layers 0"
            )
        if self.decoupling.pooled_last and self.fusion.tokens == "sequence":
            raise ConfigError(
                "--method.decoupling.pooled-last leaves no image tokens for --method.fusion.tokens sequence: "
                "choose one of them, got both"
            )

    def prepare(self, data: DataConfig, dataset: Dataset, folder: Path) -> None:
        """Write the tokenizer, and the architectures of published encoders."""
        from bdam_reid.methods.bdam.method import prepare

        prepare(self, data, dataset, folder)

    def build(self, data: DataConfig, folder: Path, *, fresh: bool) -> BDAM:
        """The model, with the tokenizer of the run folder."""
        from bdam_reid.methods.bdam.method import build

        return build(self, data, folder, fresh=fresh)

    @classmethod
    def renewed(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Until there were several methods, what is now in `method` and `engine` stood beside `data`."""
        if "method" in values or not all(isinstance(values.get(name), Mapping) for name in ("data", "bdam", "optim")):
            return values
        data = dict(values["data"])
        if "sidecar_probability" in data:
            data["texts_probability"] = data.pop("sidecar_probability")
        optim = dict(values["optim"])
        engine = {name: values[name] for name in ("validate_every", "save_every") if name in values}
        if "mixed_precision" in optim:
            engine["mixed_precision"] = optim.pop("mixed_precision")
        method = {name: values[name] for name in ("image", "text", "fusion", "loss") if name in values}
        method |= {"decoupling": values["bdam"], "optim": optim}
        moved = {"image", "text", "bdam", "fusion", "loss", "optim", "validate_every", "save_every"}
        kept = {name: value for name, value in values.items() if name not in moved}
        return {**kept, "data": data, "method": method, "engine": engine}


def demo() -> Config:
    """Trains from scratch on two CPU cores in minutes, with every part of the papers' model.

    No augmentation and no weight decay: in so few steps they cost accuracy.
    """
    return Config(
        preset="demo",
        output="runs/demo",
        method=BDAMConfig(
            image=EncoderConfig(width=96, layers=2, heads=3, patch_height=8, patch_width=8),
            text=EncoderConfig(width=96, layers=2, heads=3),
            decoupling=DecouplingConfig(self_layers=1, cross_layers=1, heads=3),
            fusion=FusionConfig(width=64),
            loss=LossConfig(query="both"),
            optim=OptimConfig(lr=8e-4, weight_decay=0.0, epochs=18, warmup_steps=50),
        ),
        data=DataConfig(
            image_height=96,
            image_width=48,
            max_tokens=48,
            vocab_size=1000,
            identities_per_batch=32,
            images_per_identity=2,
            augment=False,
        ),
        engine=EngineConfig(validate_every=3),
    )


def paper_icme() -> Config:
    """The conference draft: fused query, clothing alignment, alpha 1.5 (icme section IV-A).

    The query is "both", as the fused one alone leaves the image embedding untrained that ranking rests on.
    """
    return _paper("paper-icme", LossConfig(query="both", clothing="alignment"))


def paper_long() -> Config:
    """The longer draft: identity query, adversarial clothing loss, gate regularisation (long section 4.2)."""
    return _paper("paper-long", LossConfig(query="identity", clothing="adversarial"))


def _paper(name: str, loss: LossConfig) -> Config:
    return Config(
        preset=name,
        output=f"runs/{name}",
        method=BDAMConfig(
            image=EncoderConfig(pretrained="google/vit-base-patch16-224"),
            text=EncoderConfig(pretrained="bert-base-uncased"),
            loss=loss,
        ),
        data=DataConfig(root="data/CUHK-PEDES"),
    )


PRESETS: Presets = {"demo": demo, "paper-icme": paper_icme, "paper-long": paper_long}
