"""Configuration of a run: frozen dataclasses, and one function per preset.

Sources are the two drafts of the paper: "icme" (the conference draft) and "long" (the longer draft). Where
both are silent or disagree, the field says which reading is meant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from math import inf, isfinite
from typing import Any, Literal, TypeVar

import tyro


class ConfigError(ValueError):
    """A config that cannot be run, or that is not the config of the run it is used on."""


@dataclass(frozen=True)
class DataConfig:
    """What is read, and how it becomes batches."""

    root: str = "data/synthetic"
    """Folder of CUHK-PEDES, ICFG-PEDES or RSTPReid layout."""
    image_height: int = 224
    image_width: int = 224
    max_tokens: int = 64
    """Texts are truncated to this many word pieces."""
    vocab_size: int = 2000
    """Size of the WordPiece vocabulary that is trained when `text.pretrained` is empty."""
    identities_per_batch: int = 16
    images_per_identity: int = 4
    sidecar_probability: float = 0.5
    """Chance that a training text is the MLLM's identity/clothing pair instead of the split human caption."""
    augment: bool = True


@dataclass(frozen=True)
class EncoderConfig:
    """A transformers encoder: a hub name or local folder, or a small one built from these sizes."""

    pretrained: str = ""
    """Hub name or folder; empty builds the encoder from the sizes below, with random weights."""
    width: int = 128
    layers: int = 4
    heads: int = 4
    patch_height: int = 16
    """Patch sizes are read for images only."""
    patch_width: int = 16
    frozen: bool = False


@dataclass(frozen=True)
class BDAMConfig:
    """Bidirectional decoupled alignment module (icme section III-B, long section 3.2)."""

    self_layers: int = 6
    cross_layers: int = 3
    heads: int = 12
    dropout: float = 0.1
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
    dropout: float = 0.1


@dataclass(frozen=True)
class LossConfig:
    """Losses and their balance (icme section III-E, long section 3.5)."""

    query: Literal["identity", "fused", "both"] = "identity"
    """InfoNCE's v: the image identity feature (long); the fused feature (icme), which already contains the
    text and does not train the image embedding that the ranking uses; or both, the mean of the two losses."""
    clothing: Literal["alignment", "adversarial"] = "alignment"
    """alignment: icme Eq. 1; adversarial: long Eq. 1. They pull opposite ways, so a run has one of them."""
    temperature: float = 0.07
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
    gradnorm_every: int = 1
    """Update the task weights every so many steps; 0 leaves them at 1."""


@dataclass(frozen=True)
class OptimConfig:
    """Adam with cosine annealing (icme section IV-A, long section 4.2)."""

    lr: float = 1e-4
    weight_decay: float = 1e-3
    epochs: int = 60
    warmup_steps: int = 0
    clip_norm: float = 0.0
    """Gradient norm limit; 0 is none."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on besides code and data."""

    preset: str = ""
    """Name of the preset that this config started from."""
    output: str = "runs/bdam"
    """Run folder; an existing one is resumed if its config is the same."""
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    image: EncoderConfig = field(default_factory=EncoderConfig)
    text: EncoderConfig = field(default_factory=EncoderConfig)
    bdam: BDAMConfig = field(default_factory=BDAMConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    validate_every: int = 1
    """Epochs between validations, each of which saves the best checkpoint if it is better than all before."""
    save_every: int = 200
    """Steps between saves of the last checkpoint within an epoch; 0 saves after epochs only."""


def demo() -> Config:
    """Trains from scratch on two CPU cores in minutes, with every part of the papers' model.

    No augmentation and no weight decay: in so few steps they cost accuracy.
    """
    return Config(
        preset="demo",
        output="runs/demo",
        data=DataConfig(
            image_height=96,
            image_width=48,
            max_tokens=48,
            vocab_size=1000,
            identities_per_batch=32,
            images_per_identity=2,
            augment=False,
        ),
        image=EncoderConfig(width=96, layers=2, heads=3, patch_height=8, patch_width=8),
        text=EncoderConfig(width=96, layers=2, heads=3),
        bdam=BDAMConfig(self_layers=1, cross_layers=1, heads=3),
        fusion=FusionConfig(width=64),
        loss=LossConfig(query="both"),
        optim=OptimConfig(lr=8e-4, weight_decay=0.0, epochs=18, warmup_steps=50),
        validate_every=3,
    )


def paper_icme() -> Config:
    """The conference draft: fused query, clothing alignment, alpha 1.5 (icme section IV-A).

    The query is "both", as the fused one alone leaves the image embedding untrained that ranking rests on.
    """
    return Config(
        preset="paper-icme",
        output="runs/paper-icme",
        data=DataConfig(root="data/CUHK-PEDES"),
        image=EncoderConfig(pretrained="google/vit-base-patch16-224"),
        text=EncoderConfig(pretrained="bert-base-uncased"),
        loss=LossConfig(query="both", clothing="alignment"),
    )


def paper_long() -> Config:
    """The longer draft: identity query, adversarial clothing loss, gate regularisation (long section 4.2)."""
    return replace(
        paper_icme(),
        preset="paper-long",
        output="runs/paper-long",
        loss=LossConfig(query="identity", clothing="adversarial"),
    )


PRESETS: dict[str, Config] = {preset().preset: preset() for preset in (demo, paper_icme, paper_long)}

FREE_FIELDS = ("output", "save_every")
"""Fields in which a resumed run may differ from its beginning: they change no result."""

RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**31 - 1),
    "sidecar-probability": (0, 1),
    "dropout": (0, 0.99),
    "temperature": (1e-3, inf),
    "identities-per-batch": (2, inf),
    "images-per-identity": (2, inf),
    "self-layers": (0, inf),
    "cross-layers": (0, inf),
    "gradnorm-every": (0, inf),
    "warmup-steps": (0, inf),
    "save-every": (0, inf),
}
"""Least and greatest value of a field; of the others 1 is the least if they are int, 0 if they are float."""

T = TypeVar("T")


def parse_config(arguments: Sequence[str] | None = None) -> Config:
    """The config that the command line `PRESET [--field value ...]` means; exits with 2 if there is none."""
    return tyro.extras.overridable_config_cli(
        {preset().preset: (preset.__doc__ or "", preset()) for preset in (demo, paper_icme, paper_long)},
        args=arguments,
        config=(tyro.conf.FlagConversionOff,),
    )


def check_config(config: Config) -> None:
    """Raise ConfigError, naming the field and its value, if `config` cannot be run."""
    values, image, text = dict(_leaves(config)), config.image, config.text
    for name, value in values.items():
        if isinstance(value, bool | str):
            continue
        lowest, highest = RANGES.get(name.rsplit(".")[-1], (0, inf) if isinstance(value, float) else (1, inf))
        if not isfinite(value):
            raise ConfigError(f"--{name} must be a finite number, got {value}")
        if not lowest <= value <= highest:
            limit = f"at most {highest}" if value > highest else f"at least {lowest}"
            raise ConfigError(f"--{name} must be {limit}, got {value}")
    for whole, part, matters in (
        ("data.image-height", "image.patch-height", not image.pretrained),
        ("data.image-width", "image.patch-width", not image.pretrained),
        ("image.width", "image.heads", not image.pretrained),
        ("image.width", "bdam.heads", not image.pretrained),
        ("text.width", "text.heads", not text.pretrained),
        ("fusion.width", "fusion.heads", config.fusion.kind == "transformer"),
    ):
        if matters and values[whole] % values[part]:
            raise ConfigError(f"--{whole} must be a multiple of --{part}, got {values[whole]} and {values[part]}")
    if config.bdam.pooled_last and config.bdam.cross_layers == 0:
        raise ConfigError("--bdam.pooled-last needs a cross-attention layer, got --bdam.cross-layers 0")
    if config.bdam.pooled_last and config.fusion.tokens == "sequence":
        raise ConfigError(
            "--bdam.pooled-last leaves no image tokens for --fusion.tokens sequence: choose one of them, got both"
        )


def _leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for entry in fields(config):
        value = getattr(config, entry.name)
        if is_dataclass(value):
            yield from _leaves(value, f"{prefix}{entry.name}.")
        else:
            yield prefix + entry.name.replace("_", "-"), value


def from_dict(values: Mapping[str, Any], default: T, prefix: str = "") -> T:
    """The config that `dataclasses.asdict` turned into `values`; `default` gives the types.

    Raises: ConfigError if a field is unknown, missing, or of another type.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"a config must be a JSON object, got {type(values).__name__}")
    names = {entry.name for entry in fields(default)}  # type: ignore[arg-type]
    for problem, keys in (("unknown", values.keys() - names), ("missing", names - values.keys())):
        if keys:
            raise ConfigError(f"{problem} config field: {', '.join(prefix + key for key in sorted(keys))}")
    changes: dict[str, Any] = {}
    for name in names:
        old, new = getattr(default, name), values[name]
        if is_dataclass(old) and isinstance(new, Mapping):
            new = from_dict(new, old, f"{prefix}{name}.")
        elif type(new) is not type(old) and not (isinstance(old, float) and type(new) is int):
            raise ConfigError(f"config field {prefix}{name} must be {type(old).__name__}, got {new!r}")
        changes[name] = new
    return replace(default, **changes)  # type: ignore[type-var]


def differences(then: Config, now: Config) -> list[str]:
    """One line per field in which `now` differs from `then`, but for FREE_FIELDS."""
    old, new = dict(_leaves(then)), dict(_leaves(now))
    free = {name.replace("_", "-") for name in FREE_FIELDS}
    return [
        f"--{name}: {old[name]!r} in the run, {new[name]!r} now"
        for name in old
        if old[name] != new[name] and name not in free
    ]
