"""Puts the stand-ins where imports look for the packages mamba_ssm and causal_conv1d."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, DistributionFinder
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NoReturn

from bdam_kernels import dispatch
from bdam_kernels.compat import causal_conv1d, generation, hub, mamba_ssm, models, norms, selective_scan_cuda
from bdam_kernels.compat.vision import Mamba

_VERSIONS = {"mamba_ssm": "1.2.2", "causal_conv1d": "1.4.0"}
"""The last releases without functions that have no stand-in here: the scan of Mamba-2 over time came after."""


def _of(module: ModuleType, *names: str) -> dict[str, Any]:
    return {name: getattr(module, name) for name in names}


_CONVOLUTIONS = ("causal_conv1d_fn", "causal_conv1d_update")
_NORMS = _of(norms, "RMSNorm", "layer_norm_fn", "rms_norm_fn")
_HUB = _of(hub, "load_config_hf", "load_state_dict_hf")
_MODULES: dict[str, dict[str, Any]] = {
    "mamba_ssm": {
        "Mamba": Mamba,
        **_of(mamba_ssm, "selective_scan_fn", "mamba_inner_fn"),
        **_of(models, "MambaLMHeadModel"),
    },
    "mamba_ssm.ops": {},
    "mamba_ssm.ops.selective_scan_interface": _of(
        mamba_ssm,
        "selective_scan_fn",
        "selective_scan_ref",
        "mamba_inner_fn",
        "mamba_inner_ref",
        "mamba_inner_fn_no_out_proj",
    ),
    "mamba_ssm.ops.triton": {},
    "mamba_ssm.ops.triton.selective_state_update": _of(
        mamba_ssm, "selective_state_update", "selective_state_update_ref"
    ),
    "mamba_ssm.ops.triton.layernorm": _NORMS,
    "mamba_ssm.ops.triton.layer_norm": _NORMS,
    "mamba_ssm.modules": {},
    "mamba_ssm.modules.mamba_simple": {"Mamba": Mamba, "Block": models.SimpleBlock},
    "mamba_ssm.modules.block": _of(models, "Block"),
    "mamba_ssm.modules.mlp": _of(models, "GatedMLP"),
    "mamba_ssm.models": {},
    "mamba_ssm.models.config_mamba": _of(models, "MambaConfig"),
    "mamba_ssm.models.mixer_seq_simple": {
        # What that module imports is imported from it, too.
        **_of(models, "MambaLMHeadModel", "MixerModel", "create_block", "_init_weights", "MambaConfig"),
        **_NORMS,
        **_HUB,
        **_of(generation, "GenerationMixin"),
        "Mamba": Mamba,
        "Block": models.SimpleBlock,
    },
    "mamba_ssm.utils": {},
    "mamba_ssm.utils.generation": _of(generation, "GenerationMixin", "InferenceParams", "decode", "sample"),
    "mamba_ssm.utils.hf": _HUB,
    "selective_scan_cuda": _of(selective_scan_cuda, "fwd", "bwd"),
    "causal_conv1d": _of(causal_conv1d, *_CONVOLUTIONS),
    "causal_conv1d.causal_conv1d_interface": _of(
        causal_conv1d, *_CONVOLUTIONS, "causal_conv1d_ref", "causal_conv1d_update_ref"
    ),
    "causal_conv1d.causal_conv1d_varlen": _of(
        causal_conv1d, "causal_conv1d_varlen_states", "causal_conv1d_varlen_states_ref"
    ),
}

_OF_MAMBA_2 = ("mamba_chunk_scan_combined", "mamba_split_conv1d_scan_combined")

_HELD = {*_CONVOLUTIONS, "mamba_inner_fn", "selective_scan_fn", "selective_state_update"}
"""What models of transformers look up, and hold on to."""


class _Metadata(Distribution):
    """What importlib.metadata reads of a package that has no files."""

    def __init__(self, package: str) -> None:
        self._files = {
            "METADATA": f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: {_VERSIONS[package]}\n"
            "Summary: Provided by bdam_kernels.compat.\n",
            "top_level.txt": f"{package}\n",
        }

    def read_text(self, filename: str) -> str | None:
        return self._files.get(filename)

    def locate_file(self, path: Any) -> Path:
        raise FileNotFoundError(f"{path}: bdam_kernels.compat provides this package, which has no files")


class _Finder(DistributionFinder):
    """Of metadata alone; the modules are in sys.modules."""

    def find_spec(self, *_: Any) -> None:
        return None

    def find_distributions(self, context: DistributionFinder.Context = DistributionFinder.Context()) -> Iterator[Any]:  # noqa: B008
        wanted = None if context.name is None else context.name.lower().replace("-", "_").replace(".", "_")
        return (_Metadata(package) for package in _VERSIONS if wanted in (None, package))


def install(strict: bool = False) -> None:
    """Registers these operators as the packages mamba_ssm and causal_conv1d, for imports that follow.

    Call it once, before anything imports those packages or models of transformers that look for them: Mamba, Mamba2,
    FalconMamba, Jamba, Zamba, Bamba, FalconH1, LFM2 and others. Calling it again does nothing.

    Args:
        strict: whether to raise, from now on and in the whole process, where a slow path would be taken:
            BackendUnavailable where a call leaves the choice of a backend and no kernel takes it, RuntimeError where
            transformers would take its own scan of Mamba-2 over time.
    Raises: RuntimeError if a real mamba_ssm or causal_conv1d is installed, if such a model of transformers was
        imported already and holds on to its own functions, or if strict is asked for after it was not;
        BackendUnavailable with strict if no kernel runs on this machine.
    """
    installed = sys.modules.get("mamba_ssm")
    if getattr(installed, "__bdam__", False):
        if strict and not dispatch.is_strict():
            raise RuntimeError("call bdam_kernels.compat.install(strict=True) first: it was called without strict")
        return
    for package in _VERSIONS:
        if importlib.util.find_spec(package) is not None:
            raise RuntimeError(f"expected no package {package}, got an installed one: uninstall it or use it directly")
    loaded = [
        name for name, module in sys.modules.items()
        if name.startswith("transformers.models.") and ".modeling_" in name and _HELD & vars(module).keys()
    ]  # fmt: skip
    if loaded:
        raise RuntimeError(f"call bdam_kernels.compat.install() before importing {', '.join(sorted(loaded))}")
    if strict:
        dispatch.be_strict()
    for name, attributes in _MODULES.items():
        _register(name, attributes)
    if strict:
        _register("mamba_ssm.ops.triton.ssd_combined", {name: _refusal(name) for name in _OF_MAMBA_2})
    sys.meta_path.append(_Finder())


class _StandIn(ModuleType):
    """A module of which models of transformers get some functions in another form than everybody else."""

    def __init__(self, name: str, attributes: dict[str, Any]) -> None:
        super().__init__(name, "Provided by bdam_kernels.compat.")
        self.__spec__ = ModuleSpec(name, loader=None, is_package=True)
        self.__path__: list[str] = []
        package = "causal_conv1d" if name.startswith("causal_conv1d") else "mamba_ssm"
        self.__dict__.update(__bdam__=True, __version__=_VERSIONS[package])
        # What is not in __dict__ is asked for through __getattr__.
        self.__dict__.update({name: a for name, a in attributes.items() if name not in _FORMS})
        self._formed = {name: a for name, a in attributes.items() if name in _FORMS}

    def __getattr__(self, name: str) -> Any:
        if name not in self.__dict__.get("_formed", ()):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        model = _model_that_asks(sys._getframe(1))
        return self._formed[name] if model is None else _FORMS[name](self._formed[name], model)


def _model_that_asks(frame: FrameType | None) -> str | None:
    """The module of a model of transformers for which transformers looks a function up; None if nobody does so."""
    if frame is None or frame.f_globals.get("__name__") not in _LOOKUPS:
        return None
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith("transformers.models."):
            return name
        frame = frame.f_back
    return None


def _unfused(function: Callable[..., Any], model: str) -> Callable[..., None]:
    """None, after which a model goes through its layers one by one, in training too. `mamba_inner_fn` knows neither of
    padding, which must not reach the states, nor of adapters around the layers whose weights it is given."""

    def mamba_inner_fn(*_args: Any, **_kwargs: Any) -> None:
        return None

    return mamba_inner_fn


_WITH_SCANS: set[str] = set()
"""Models that scan with `selective_scan_fn`, which they do not tell of packed sequences."""


def _noted(function: Callable[..., Any], model: str) -> Callable[..., Any]:
    _WITH_SCANS.add(model)
    return function


def _not_packed(function: Callable[..., Any], model: str) -> Callable[..., Any]:
    """causal_conv1d_fn that refuses packed sequences if the model's scan would mix them."""

    @functools.wraps(function)
    def causal_conv1d_fn(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("seq_idx") is not None and model in _WITH_SCANS:
            raise ValueError(
                f"{model} tells its convolution where packed sequences begin, but not its scan: leave seq_idx out and "
                "pad instead"
            )
        return function(*args, **kwargs)

    return causal_conv1d_fn


_FORMS = {"mamba_inner_fn": _unfused, "selective_scan_fn": _noted, "causal_conv1d_fn": _not_packed}
_LOOKUPS = ("transformers.utils.import_utils", "transformers.integrations.hub_kernels")


def _register(name: str, attributes: dict[str, Any]) -> None:
    module = _StandIn(name, attributes)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


def _refusal(name: str) -> Any:
    def refuse(*_args: Any, **_kwargs: Any) -> NoReturn:
        raise RuntimeError(
            f"{name} has no kernel here: call install() without strict for transformers' own, slower scan of Mamba-2"
        )

    return refuse
