"""Configuration of a run: frozen dataclasses, and what every one of them can do.

No method is known here: a method brings a `MethodConfig` of its own, and presets, which are functions that give a
`Config`. The range of a number stands beside its field, as `Annotated[int, Range(2)]`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from inspect import getdoc
from math import inf, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias, get_args, get_origin, get_type_hints

import tyro

if TYPE_CHECKING:
    from bdam_reid.data.records import Dataset
    from bdam_reid.methods.method import Method


class ConfigError(ValueError):
    """A config that cannot be run, or that is not the config of the run it is used on."""


@dataclass(frozen=True)
class Range:
    """Least and greatest value of a field. Without one, 1 is the least if it is an int, 0 if it is a float."""

    least: float
    greatest: float = inf


@dataclass(frozen=True)
class DataConfig:
    """What is read, and how it becomes batches."""

    root: str = "data/synthetic"
    """Folder of a data set: CUHK-PEDES, ICFG-PEDES, RSTPReid, Market-1501, DukeMTMC-reID, MSMT17, PRCC, LTCC,
    images.csv, or a folder a person."""
    domains: tuple[str, ...] = ()
    """Folders of further sets that are trained on together with the root, each a domain."""
    image_height: int = 224
    image_width: int = 224
    max_tokens: Annotated[int, Range(3)] = 64
    """Texts are truncated to this many word pieces: [CLS], a word and [SEP] at least."""
    vocab_size: int = 2000
    """Size of the WordPiece vocabulary that is trained where the text encoder brings none."""
    identities_per_batch: Annotated[int, Range(2)] = 16
    images_per_identity: Annotated[int, Range(2)] = 4
    across_outfits: bool = False
    """Whether a person's images in a batch show as many outfits as there are, where these are known."""
    texts_probability: Annotated[float, Range(0, 1)] = 0.5
    """Chance that a training text is the identity/clothing pair of texts.json instead of the split human caption."""
    augment: bool = True
    """Whether training images are varied: mirrored, shifted, relit, partly erased."""
    erase: Annotated[float, Range(0, 1)] = 0.3
    """Chance that a varied image loses a part."""
    hold_out: bool = True
    """Where a set has no validation split: whether a tenth of the training persons is one. Without it all of them are
    trained on, as for published figures; the last checkpoint is the result, and weights of parts are the method's."""
    allow_missing: bool = False
    """Whether validation and evaluation may lack images, which are then left out and counted; else that is an error."""

    @property
    def roots(self) -> tuple[str, ...]:
        """The folders of all sets, that of `root` first."""
        return (self.root, *self.domains)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width, in pixels."""
        return self.image_height, self.image_width


@dataclass(frozen=True)
class EngineConfig:
    """How a run is computed, whatever its method."""

    mixed_precision: Literal["no", "auto", "bf16", "fp16"] = "no"
    """auto: bf16 where the GPU or processor multiplies in it, else no; a CPU without is many times slower in it."""
    validate_every: int = 1
    """Epochs between validations, each of which saves the best checkpoint if it is better than all before."""
    save_every: Annotated[int, Range(0)] = 200
    """Steps between saves of the last checkpoint within an epoch; 0 saves after epochs only."""
    average: Annotated[float, Range(0, 0.99999)] = 0.0
    """Decay of a moving average of the weights (EMA), which is what is validated and kept as the best checkpoint; 0 is
    none."""
    micro_batches: int = 1
    """Parts in which the features of a batch are computed, one after the other. Losses are still those of the whole
    batch; it takes the memory of one part, and a second forward pass."""
    recompute: bool = False
    """Whether layers keep their inputs alone, and compute the rest again for their gradients (activation
    checkpointing): less memory, a second forward pass."""
    compile: bool = False
    """Whether torch.compile compiles the layers of the encoders and of the method; the first steps wait for it."""
    workers: Annotated[int, Range(-1)] = -1
    """Processes that read images for each process that trains; -1: none on a CPU, up to 8 of its cores on a GPU."""


class MethodConfig(ABC):
    """What a method is made from; the config of each method is a frozen dataclass of this kind."""

    prepared: ClassVar[tuple[str, ...]] = ()
    """Names in a run folder of what `prepare` may write there."""

    @abstractmethod
    def check(self, data: DataConfig) -> None:
        """Raise ConfigError, naming the fields, if values do not fit each other or `data`."""

    @abstractmethod
    def prepare(self, data: DataConfig, dataset: Dataset, folder: Path) -> None:
        """Write into a run folder what the model needs besides its weights (a tokenizer, the number of persons),
        each whole or not at all; what is there stays. Raises: ConfigError."""

    @abstractmethod
    def build(self, data: DataConfig, folder: Path, *, fresh: bool) -> Method:
        """The model of a prepared run folder, without a data set; random numbers come from torch's global generator.

        Args:
            fresh: whether published weights are fetched; else a checkpoint brings all weights, and nothing is fetched.
        Raises: ConfigError if it cannot be built.
        """

    @classmethod
    def renewed(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The content of a config.json of any older version, as this version would have written it."""
        return values


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that a run depends on besides code and data."""

    preset: tyro.conf.Suppress[str]
    """Name of the preset that this config started from."""
    output: str
    """Run folder; an existing one is resumed if its config is the same."""
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0
    """All that is random comes from it."""
    method: MethodConfig
    data: DataConfig = field(default_factory=DataConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)


Presets: TypeAlias = Mapping[str, Callable[[], Config]]
"""By name, functions that give a config; their docstrings are what the command line says of them."""

FREE_FIELDS = ("output", "engine.save-every", "engine.workers", "data.root", "data.domains", "data.allow-missing")
"""Fields in which a resumed run may differ from its beginning: they change no result, or say that they did. The root
and the domains say where the data is; that it is the same, the run checks by itself."""


def parse_config(presets: Presets, arguments: Sequence[str] | None = None) -> Config:
    """The config that the command line `PRESET [--field value ...]` means; exits with 2 if there is none."""
    return tyro.extras.overridable_config_cli(
        {name: (getdoc(preset) or "", preset()) for name, preset in presets.items()},
        prog="python -m bdam_reid.train",
        args=arguments,
        config=(tyro.conf.FlagConversionOff,),
    )


def check_config(config: Config) -> None:
    """Raise ConfigError, naming the field and its value, if `config` cannot be run."""
    check_ranges(config)
    config.method.check(config.data)


def check_ranges(options: Any) -> None:
    """Raise ConfigError, naming the field and its value, if a number in a dataclass is out of its range."""
    for name, value, hint in _leaves(options):
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        default = Range(0 if isinstance(value, float) else 1)
        allowed = next((extra for extra in get_args(hint)[1:] if isinstance(extra, Range)), default)
        if not isfinite(value):
            raise ConfigError(f"--{name} must be a finite number, got {value}")
        if not allowed.least <= value <= allowed.greatest:
            too_high = value > allowed.greatest
            limit = f"at most {allowed.greatest}" if too_high else f"at least {allowed.least}"
            raise ConfigError(f"--{name} must be {limit}, got {value}")


def check_multiple(whole: tuple[str, int], part: tuple[str, int]) -> None:
    """Raise ConfigError if the field `whole`, (name, value), is not a multiple of the field `part`."""
    if whole[1] % part[1]:
        raise ConfigError(f"--{whole[0]} must be a multiple of --{part[0]}, got {whole[1]} and {part[1]}")


def _leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Names as on the command line, values and annotations of all fields that are no dataclasses."""
    hints = get_type_hints(type(config), include_extras=True)
    for entry in fields(config):
        value, name = getattr(config, entry.name), prefix + entry.name.replace("_", "-")
        if is_dataclass(value):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value, hints[entry.name]


def from_dict(values: Any, presets: Presets) -> Config:
    """The config that `dataclasses.asdict` turned into `values`, in this version or an older one.

    A field that `values` lacks has its default: it came later than the run.

    Raises: ConfigError if the preset or a field is unknown, or a field is of another type.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"a config must be a JSON object, got {type(values).__name__}")
    preset = values.get("preset")
    if not isinstance(preset, str) or preset not in presets:
        raise ConfigError(f"config field preset must be one of {', '.join(presets)}, got {preset!r}")
    method = type(presets[preset]().method)
    return _build(Config, method.renewed(values), "", {"method": method})


def _build(kind: type, values: Mapping[str, Any], prefix: str, known: Mapping[str, type]) -> Any:
    """A dataclass from its values; `known` has the types of fields whose annotation leaves them open."""
    entries = {entry.name: entry for entry in fields(kind)}
    if unknown := sorted(values.keys() - entries.keys()):
        raise ConfigError(f"unknown config field: {', '.join(prefix + name for name in unknown)}")
    without_default = {
        name for name, e in entries.items() if e.default is MISSING and e.default_factory is MISSING
    }  # fmt: skip
    if missing := sorted(without_default - values.keys()):
        raise ConfigError(f"missing config field: {', '.join(prefix + name for name in missing)}")
    hints = get_type_hints(kind, include_extras=True)
    return kind(**{name: _value(known.get(name, hints[name]), v, prefix + name) for name, v in values.items()})


def _value(hint: Any, value: Any, name: str) -> Any:
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if is_dataclass(hint) and isinstance(value, Mapping):
        return _build(hint, value, f"{name}.", {})  # type: ignore[arg-type]
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ConfigError(f"config field {name} must be one of {', '.join(get_args(hint))}, got {value!r}")
        return value
    if get_origin(hint) is tuple and isinstance(value, list | tuple):
        return tuple(_value(get_args(hint)[0], each, name) for each in value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"config field {name} must be {(get_origin(hint) or hint).__name__}, got {value!r}")
    return value


def differences(then: Config, now: Config) -> list[str]:
    """One line per field in which `now` differs from `then`, but for FREE_FIELDS."""
    old, new = ({name: value for name, value, _ in _leaves(config)} for config in (then, now))
    return [
        f"--{name}: {old.get(name)!r} in the run, {new.get(name)!r} now"
        for name in dict.fromkeys((*old, *new))
        if old.get(name) != new.get(name) and name not in FREE_FIELDS
    ]
