"""Puts the stand-ins where imports look for the packages mamba_ssm and causal_conv1d."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, DistributionFinder
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from bdam_kernels import dispatch
from bdam_kernels.compat import causal_conv1d, mamba_ssm, models, norms
from bdam_kernels.modules import Mamba

_VERSIONS = {"mamba_ssm": "1.2.2", "causal_conv1d": "1.4.0"}
"""The last releases without functions that have no stand-in here: the scan of Mamba-2 over time came after."""


def _of(module: ModuleType, *names: str) -> dict[str, Any]:
    return {name: getattr(module, name) for name in names}


_CONVOLUTIONS = ("causal_conv1d_fn", "causal_conv1d_update")
_NORMS = _of(norms, "RMSNorm", "layer_norm_fn", "rms_norm_fn")
_MODULES: dict[str, dict[str, Any]] = {
    "mamba_ssm": {
        "Mamba": Mamba,
        **_of(mamba_ssm, "selective_scan_fn", "mamba_inner_fn"),
        **_of(models, "MambaLMHeadModel"),
    },
    "mamba_ssm.ops": {},
    "mamba_ssm.ops.selective_scan_interface": _of(
        mamba_ssm, "selective_scan_fn", "selective_scan_ref", "mamba_inner_fn", "mamba_inner_ref"
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
    "mamba_ssm.models": {},
    "mamba_ssm.models.config_mamba": _of(models, "MambaConfig"),
    "mamba_ssm.models.mixer_seq_simple": _of(models, "MambaLMHeadModel", "MixerModel", "create_block", "_init_weights"),
    "mamba_ssm.utils": {},
    "mamba_ssm.utils.generation": _of(models, "InferenceParams"),
    "causal_conv1d": _of(causal_conv1d, *_CONVOLUTIONS),
    "causal_conv1d.causal_conv1d_interface": _of(
        causal_conv1d, *_CONVOLUTIONS, "causal_conv1d_ref", "causal_conv1d_update_ref"
    ),
    "causal_conv1d.causal_conv1d_varlen": _of(causal_conv1d, "causal_conv1d_varlen_states"),
}

_OF_MAMBA_2 = ("mamba_chunk_scan_combined", "mamba_split_conv1d_scan_combined")

_HELD = {
    name for attributes in _MODULES.values() for name, function in attributes.items() if not isinstance(function, type)
}


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


def _register(name: str, attributes: dict[str, Any]) -> None:
    module = ModuleType(name, "Provided by bdam_kernels.compat.")
    module.__spec__ = ModuleSpec(name, loader=None, is_package=True)
    module.__path__ = []
    module.__dict__.update(attributes, __bdam__=True, __version__=_VERSIONS[name.partition(".")[0]])
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
