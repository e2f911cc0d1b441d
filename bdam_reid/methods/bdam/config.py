"""The config of BDAM, and what older versions called its fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from bdam_reid.config import (
    ConfigError,
    DataConfig,
    MethodConfig,
    Range,
    check_multiple,
)
from bdam_reid.encoders.config import PREPARED, ImageEncoderConfig, TextEncoderConfig
from bdam_reid.methods.optim import OptimConfig

if TYPE_CHECKING:
    from bdam_reid.data.records import Dataset
    from bdam_reid.methods.bdam.method import BDAM


@dataclass(frozen=True)
class DecouplingConfig:
    """Bidirectional decoupled alignment module (icme section III-B, long section 3.2)."""

    kind: Literal["bdam", "none"] = "bdam"
    """none: the drafts' baseline, in which one entangled feature of an image is read for identity and clothing both;
    of the fields below it has those of pooling, and `erase`."""
    self_layers: Annotated[int, Range(0)] = 6
    cross_layers: Annotated[int, Range(0)] = 3
    heads: int = 12
    dropout: Annotated[float, Range(0, 0.99)] = 0.1
    gate: bool = True
    pooling: Literal["mean", "position"] = "mean"
    """mean: over the tokens (the drafts); position: each place has weights of its own, and the encoder's own tokens
    stand beside those of the layers."""
    width: Annotated[int, Range(0)] = 0
    """Of the tokens in the layers; 0 is that of the encoder's, and mean pooling has no other."""
    merge: int = 1
    """Side of the squares of tokens whose means the layers see; more than 1 with position pooling only."""
    slots: int = 24
    """Channels that position pooling keeps of a token."""
    features: int = 256
    """Width of the features of position pooling."""
    erase: Annotated[int, Range(0)] = 0
    """Directions of the identity embedding in which clothes are read best, by moments of the training batches; they are
    taken out in closed form wherever the model is not trained (ours)."""
    pooled_last: bool = False
    """The last cross-attention layer normalises its input instead of its output. Then nothing non-linear comes
    between its attention and the pooling, and the fused kernel pools without an output for each token. There are no
    tokens after it, so `fusion.tokens` cannot be "sequence"."""

    def check(self) -> None:
        """Raise ConfigError if values do not fit each other."""
        if self.pooled_last and self.kind == "none":
            raise ConfigError("--method.decoupling.pooled-last needs --method.decoupling.kind bdam, got none")
        if self.pooled_last and self.cross_layers == 0:
            raise ConfigError(
                "--method.decoupling.pooled-last needs a cross-attention layer, got --method.decoupling.cross-layers 0"
            )
        if self.pooling == "position" and self.pooled_last:
            raise ConfigError("--method.decoupling.pooled-last takes the mean: use --method.decoupling.pooling mean")
        if self.pooling == "mean" and (self.merge > 1 or self.width):
            raise ConfigError(
                "--method.decoupling.merge and --method.decoupling.width need --method.decoupling.pooling position, "
                f"got {self.merge} and {self.width} with mean"
            )


@dataclass(frozen=True)
class MixerConfig:
    """Sizes of what mixes tokens of an image and of a text."""

    width: int = 256
    layers: int = 2
    """Mamba or transformer layers."""
    heads: int = 4
    """Transformer heads."""
    d_state: int = 16
    d_conv: int = 4
    dropout: Annotated[float, Range(0, 0.99)] = 0.1
    alignment: bool = True
    """Whether an MLP brings image and text to the width; else it is one linear layer each (an ablation)."""


@dataclass(frozen=True)
class FusionConfig(MixerConfig):
    """Fusion module (icme section III-D, long section 3.4)."""

    kind: Literal["mamba", "transformer", "simple", "sum", "none"] = "mamba"
    """simple: both features side by side through a linear layer; sum: the gated sum as it is (without Mamba)."""
    gate: bool = True
    """Whether image and text have weights of their own for each pair; else they weigh the same (an ablation)."""
    tokens: Literal["pooled", "pair", "sequence"] = "pooled"
    """pooled: the gated sum as one token (the literal reading); pair: image and text token; sequence: patches
    and words."""


@dataclass(frozen=True)
class RerankConfig(MixerConfig):
    """Re-ranking of the best images of a search by the words of the query and the patches of each image, read together
    (ours: the drafts' fusion in the one place where it can tell images apart)."""

    kind: Literal["mamba", "transformer", "simple", "sum", "none"] = "none"
    """As in fusion."""
    gate: bool = False
    """As in fusion, which has it."""
    training: Literal["frozen", "joint"] = "frozen"
    """frozen: in a stage of its own after the others, on the best training images for each caption, with everything
    else as it is; joint: with everything else, on the five best images of each batch."""
    top: Annotated[int, Range(2)] = 20
    """Images of a ranking that are ordered anew."""
    width: int = 64
    weight: float = 0.1
    """Of the correction in the score, which else is a weighted sum of cosines."""
    epochs: int = 3
    """Of the stage of its own, in each of which every training person is asked for once."""
    lr: float = 1e-3
    """In the stage of its own."""


@dataclass(frozen=True)
class LossConfig:
    """Losses and their balance (icme section III-E, long section 3.5)."""

    query: Literal["identity", "fused", "both"] = "identity"
    """InfoNCE's v: the image identity feature (long); the fused feature (icme), which already contains the
    text and does not train the image embedding that the ranking uses; or both, the mean of the two losses."""
    clothing: Literal["alignment", "adversarial", "both"] = "alignment"
    """alignment: icme Eq. 1; adversarial: long Eq. 1. They pull opposite ways, so presets have one of them; both: the
    sum, which is least at a probability of one half."""
    symmetric: bool = False
    """InfoNCE and the alignment from texts to images too, as retrieval goes."""
    temperature: Annotated[float, Range(1e-3)] = 0.07
    learnt_temperature: bool = False
    """Whether training changes the temperatures, one of each contrastive loss, from `temperature` on."""
    margin: float = 0.3
    info_weight: float = 1.0
    """A weight of 0 leaves its loss out."""
    triplet_weight: float = 1.0
    clothing_weight: float = 1.0
    decouple_weight: float = 1.0
    contrast_weight: float = 0.0
    """Of InfoNCE between images of a person in different outfits (ours); not balanced by GradNorm."""
    gate_weight: float = 0.01
    """Of the gate regularisation mean (g - 0.5)^2; not balanced by GradNorm."""
    normalized_hsic: bool = False
    """Whether HSIC is divided by that of each feature with itself, so that shrinking both does not lower it."""
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

    def check(self) -> None:
        """Raise ConfigError if nothing is left to train."""
        if not any((self.info_weight, self.triplet_weight, self.clothing_weight, self.decouple_weight)):
            raise ConfigError(
                "one of --method.loss.info-weight, triplet-weight, clothing-weight and decouple-weight must be above "
                "0, got 0 for all"
            )


@dataclass(frozen=True)
class BDAMConfig(MethodConfig):
    """Encoders, decoupling, fusion, re-ranking, losses and optimizer."""

    image: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    text: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    decoupling: DecouplingConfig = field(default_factory=DecouplingConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    rerank: RerankConfig = field(default_factory=RerankConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    mirror: bool = False
    """An image is embedded as it is and mirrored, and the mean is taken: twice the time for a little accuracy."""

    prepared: ClassVar[tuple[str, ...]] = PREPARED

    def check(self, data: DataConfig) -> None:
        """Raise ConfigError if values do not fit each other."""
        self.image.check_image("method.image", data)
        self.text.check("method.text")
        self.decoupling.check()
        self.loss.check()
        if self.decoupling.kind == "none" and self.loss.decouple_weight:
            raise ConfigError(
                "--method.decoupling.kind none has one feature, which nothing decouples from itself: use "
                f"--method.loss.decouple-weight 0, got {self.loss.decouple_weight}"
            )
        if not self.text.pretrained and self.decoupling.erase >= self.text.width:
            raise ConfigError(
                f"--method.decoupling.erase must be below --method.text.width {self.text.width}, got "
                f"{self.decoupling.erase}"
            )
        heads = ("method.decoupling.heads", self.decoupling.heads)
        if self.decoupling.width:
            check_multiple(("method.decoupling.width", self.decoupling.width), heads)
        elif not self.image.pretrained:
            check_multiple(("method.image.width", self.image.width), heads)
        for name, mixer in (("fusion", self.fusion), ("rerank", self.rerank)):
            if mixer.kind == "transformer":
                check_multiple((f"method.{name}.width", mixer.width), (f"method.{name}.heads", mixer.heads))
        if self.fusion.kind == "none" and self.loss.query != "identity":
            raise ConfigError(
                f"--method.fusion.kind none leaves --method.loss.query identity only, got {self.loss.query}"
            )
        pooled = "pooled-last" if self.decoupling.pooled_last else f"pooling {self.decoupling.pooling}"
        if self.fusion.tokens == "sequence" and pooled != "pooling mean":
            raise ConfigError(
                f"--method.decoupling.{pooled} leaves no image tokens for --method.fusion.tokens sequence: "
                "choose one of them, got both"
            )

    def prepare(self, data: DataConfig, dataset: Dataset, folder: Path) -> None:
        """Write the tokenizer, and the architectures of published encoders."""
        from bdam_reid.methods.preparation import prepare

        prepare("BDAM", self.image, self.text, data, dataset, folder)

    def build(self, data: DataConfig, folder: Path, *, fresh: bool) -> BDAM:
        """The model, with the tokenizer of the run folder."""
        from bdam_reid.methods.bdam.method import build

        return build(self, data, folder, fresh=fresh)

    @classmethod
    def renewed(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The content of an older config.json as this version has it."""
        return _without_what_went(_in_sections(values))


def _in_sections(values: Mapping[str, Any]) -> Mapping[str, Any]:
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


def _without_what_went(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Text encoders had patch sizes that nothing read; whether the features are decoupled is a weight now."""
    method = values.get("method")
    if not isinstance(method, Mapping) or not all(isinstance(method.get(name), Mapping) for name in ("text", "loss")):
        return values
    text = {name: value for name, value in method["text"].items() if not name.startswith("patch_")}
    loss = dict(method["loss"])
    if "decouple" in loss:
        loss["decouple_weight"] = float(loss.pop("decouple"))
    return {**values, "method": {**method, "text": text, "loss": loss}}
