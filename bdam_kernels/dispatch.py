"""Finds which backends run on this machine, records why the others do not, and chooses one for a call.

Backends are "cuda", "triton", "cpu" (C++) and "reference" (plain PyTorch, which runs everywhere).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

INSTRUCTION_SETS = ("baseline", "avx2", "avx512", "avx512_bf16")

FORCED = os.environ.get("BDAM_BACKEND") or None
"""Backend of the whole process, from the environment variable BDAM_BACKEND; read once, at import."""

_KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_NOTHING = nullcontext()


class BackendUnavailable(RuntimeError):
    """A backend was forced that cannot run on this machine, or not with these inputs."""


def _module(name: str, compiler: str = "a C++ compiler") -> ModuleType:
    try:
        return importlib.import_module(f"bdam_kernels.{name}")
    except ImportError as error:
        raise BackendUnavailable(
            f"the native module {name} cannot be loaded ({error}); install again where {compiler} is found, "
            "with BDAM_STRICT_BUILD=1 to see why a build fails"
        ) from None


def usable_isas() -> tuple[str, ...]:
    """Instruction sets of the C++ kernels that this processor has, the best last.

    An editable install from a machine with fewer of them has no modules for the others.
    """
    best = INSTRUCTION_SETS.index(_module("_cpu_baseline").best_isa())
    return tuple(isa for isa in INSTRUCTION_SETS[: best + 1] if importlib.util.find_spec(f"bdam_kernels._cpu_{isa}"))


@cache
def cpu_isa() -> str:
    """Instruction set of the C++ kernels: BDAM_CPU_ISA, or the best that the processor has."""
    usable = usable_isas()
    forced = os.environ.get("BDAM_CPU_ISA") or usable[-1]
    if forced not in usable:
        raise BackendUnavailable(f"BDAM_CPU_ISA must be one of {', '.join(usable)} on this processor, got {forced!r}")
    return forced


@cache
def cpu() -> ModuleType:
    """The module of C++ kernels for this processor.

    Raises: BackendUnavailable if it was not built or BDAM_CPU_ISA names one that cannot run.
    """
    return _module(f"_cpu_{cpu_isa()}")


@cache
def cuda() -> ModuleType:
    """The module of CUDA kernels. Raises: BackendUnavailable if it was not built."""
    return _module("_cuda", "nvcc")


def _triton() -> None:
    # Importing it takes as long as all the rest: that is left to the first call.
    if importlib.util.find_spec("triton") is None:
        raise BackendUnavailable("the package triton is not installed")


def _cuda_reason() -> str:
    if torch.version.cuda is None:
        return "this build of torch has no CUDA support"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    return ""


def _find(load: Callable[[], Any], device: Callable[[Any], str]) -> tuple[str, str]:
    """Device type of the tensors that a backend's kernels take, and "" or the reason why it does not run."""
    try:
        serves = device(load())
    except BackendUnavailable as error:
        # Beside a torch without CUDA the CUDA module is not even built.
        return "", _cuda_reason() if load is cuda and torch.version.cuda is None else str(error)
    return serves, _cuda_reason() if serves == "cuda" else ""


# Found once, at import, so that torch.compile sees constants. Triton's interpreter, and the CUDA kernels when they are
# compiled for the host, take CPU tensors.
_FOUND = {
    "reference": ("", ""),
    "cpu": _find(cpu, lambda _: "cpu"),
    "triton": _find(_triton, lambda _: "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"),
    "cuda": _find(cuda, lambda module: module.device),
}
_CUDA_ON_GPU = _FOUND["cuda"][0] == "cuda"
_BACKENDS = {name: reason for name, (_, reason) in _FOUND.items()}


def backends() -> dict[str, str]:
    """Every backend, with "" if it runs here, else the reason why not, as a sentence."""
    return dict(_BACKENDS)


def choose(requested: str | None, device: torch.device, kernels: Mapping[str, str]) -> str:
    """Name of the backend that serves a call.

    Args:
        requested: a backend's name, or None for BDAM_BACKEND or else the best one that runs.
        device: where the inputs are.
        kernels: the backends that the operator has besides "reference", the best first, each with "" or the reason
            why it cannot take these inputs.
    Raises: ValueError for an unknown name; BackendUnavailable if the named backend cannot serve the call.
    """
    name = requested or FORCED
    if forward_mode() and name in (None, *kernels):
        return _without_kernels(name)
    if name is None:
        for candidate in kernels:
            if not _reason(candidate, device, kernels):
                return candidate
        return "reference"
    if name not in _BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(_BACKENDS)}, got {name!r}")
    reason = _reason(name, device, kernels)
    if reason:
        raise BackendUnavailable(f"backend {name!r} cannot run this call: {reason}")
    return name


def forward_mode() -> bool:
    """Whether forward-mode AD is at work, under torch.func too."""
    return forward_ad._current_level >= 0


def _without_kernels(name: str | None) -> str:
    """Tangents would not come out of a kernel: forward-mode AD goes through the reference."""
    if name is None:
        return "reference"
    raise BackendUnavailable(
        f"backend {name!r} has no forward-mode derivatives: leave backend out, or take 'reference', which has"
    )


def _reason(name: str, device: torch.device, kernels: Mapping[str, str]) -> str:
    if name == "reference":
        return ""
    if _BACKENDS[name]:
        return _BACKENDS[name]
    if device.type != _FOUND[name][0]:
        return f"it does not serve tensors on {device.type!r}"
    return kernels.get(name, "this operator has no such kernel")


def dtype_reason(*tensors: Tensor | None) -> str:
    """"" if native kernels take the dtypes of these tensors, else why not."""
    for t in tensors:
        if t is not None and t.dtype not in _KERNEL_DTYPES:
            return f"its kernels take float32, bfloat16 and float16, got {t.dtype}"
    return ""


def gpu_module(backend: str, op: str) -> ModuleType:
    """The module with an operator's kernels of the backend "cuda" or "triton": the same functions in both."""
    return cuda() if backend == "cuda" else importlib.import_module(f"bdam_kernels.ops.{op}")


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Makes the tensor's GPU the current one, if it is on one and that is not."""
    index = tensor.get_device()
    return _NOTHING if index < 0 or index == torch.cuda.current_device() else torch.cuda.device(index)


def launch(function: Callable[..., None], *args: Any) -> None:
    """Starts a kernel of a GPU module on torch's current stream, with torch tensors or None among its arguments."""
    if function.__module__ == "bdam_kernels._cuda":
        stream = torch._C._cuda_getCurrentRawStream(torch.cuda.current_device()) if _CUDA_ON_GPU else 0
        function(*args, stream)
    else:
        function(*args)
