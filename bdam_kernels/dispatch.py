"""Finds which backends run on this machine, records why the others do not, and chooses one for a call.

Backends are "cuda", "triton", "cpu" (C++) and "reference" (plain PyTorch, which runs everywhere). What names one for a
call, the strongest first: its argument `backend`, `use_backend`, the environment variable BDAM_BACKEND. Where nothing
does, the call takes the best that runs for its inputs, which never depends on a failed call.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import threading
from collections.abc import Callable, Hashable, Mapping
from functools import cache, lru_cache, wraps
from types import ModuleType, TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

INSTRUCTION_SETS = ("baseline", "avx2", "avx512", "avx512_bf16")

_KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_OF_PROCESS = os.environ.get("BDAM_BACKEND") or None
"""What BDAM_BACKEND names, read once, at import."""


class _Thread(threading.local):
    """What `use_backend` names, by thread, and what it named before."""

    def __init__(self) -> None:
        # An attribute of the instance: of a class's default torch.compile makes guards that fail in other threads.
        self.backend: str | None = None
        self.before: list[str | None] = []


_THREAD = _Thread()


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
_SERVES = {name: device for name, (device, _) in _FOUND.items()}
_REASONS = {name: reason for name, (_, reason) in _FOUND.items()}


def kinds(*tensors: Tensor | None) -> bytes | None:
    """What checks of arguments depend on: equal for tensors of the same dtypes, devices and sizes, and with adjacent
    elements in the last dimension or not; None where that is not known at once, as of a tracer's tensors."""
    return None if _REASONS["cpu"] or torch.compiler.is_compiling() else cpu().kinds(*tensors)


def have_unit_strides(*tensors: Tensor) -> bool:
    """Whether all of them are known at once to have adjacent elements in their last dimension."""
    return not _REASONS["cpu"] and not torch.compiler.is_compiling() and cpu().have_unit_strides(*tensors)


def have_whole_rows(*tensors: Tensor) -> bool:
    """Whether rows of their last dimension are known at once to start at multiples of 16 bytes, and to be as wide."""
    return not _REASONS["cpu"] and not torch.compiler.is_compiling() and cpu().have_whole_rows(*tensors)


def backends() -> dict[str, str]:
    """Every backend, with "" if it runs here, else the reason why not, as a sentence."""
    return dict(_REASONS)


class use_backend:
    """Context manager: calls of this thread that name no backend take this one; the inner one of two counts.

    It counts for the operators that are called, not for their backward passes, which run on the backend of their
    forward pass. A forward pass that autograd runs again in a thread of its own, as activation checkpointing does on a
    GPU, needs the argument `backend`.

    Args:
        name: one of `backends()`.
    Raises: ValueError for another name; BackendUnavailable if it does not run on this machine.
    """

    def __init__(self, name: str) -> None:
        _check_name("backend", name)
        if _REASONS[name]:
            raise BackendUnavailable(f"backend {name!r} cannot run: {_REASONS[name]}")
        self._name = name

    def __enter__(self) -> None:
        _THREAD.before.append(_THREAD.backend)
        _THREAD.backend = self._name

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _THREAD.backend = _THREAD.before.pop()


def asked(requested: str | None) -> str | None:
    """The backend that a call with the argument `backend=requested` asks for; None if it leaves the choice."""
    return requested or _THREAD.backend or _OF_PROCESS


Answer = TypeVar("Answer")


def remembered(function: Callable[..., Answer]) -> Callable[..., Answer]:
    """The function, with its answers kept: every call asks it, for facts such as dtypes and sizes."""
    kept = lru_cache(4096)(function)

    @wraps(function)
    def call(*facts: Hashable) -> Answer:
        if torch.compiler.is_compiling():
            return function(*facts)
        try:
            return kept(*facts)
        except TypeError:  # a symbolic size, which has no hash
            return function(*facts)

    return call


Rule = Callable[..., Mapping[str, str]]

_is_strict = False


def be_strict() -> None:
    """From now on, and in the whole process, a call that would be left with the reference raises.

    Raises: BackendUnavailable if no kernel runs on this machine.
    """
    global _is_strict
    if all(_REASONS[name] for name in _every_kernel()):
        raise BackendUnavailable(f"no kernel runs on this machine: {_sentence(_REASONS)}")
    _is_strict = True


def is_strict() -> bool:
    return _is_strict


def choose(requested: str | None, device: torch.device, rule: Rule, *facts: Hashable) -> str:
    """Name of the backend that serves a call.

    Args:
        requested: the call's argument `backend`.
        device: where the inputs are.
        rule: `rule(*facts)` gives the backends that the operator has besides "reference", the best first, each with ""
            or the reason why it cannot take such inputs.
        facts: what the rule wants to know of the inputs: dtypes and sizes. The answer is remembered.
    Raises: ValueError for an unknown name; BackendUnavailable if the named backend cannot serve the call, or after
        `be_strict` if no kernel can.
    """
    name = asked(requested)
    if name is not None or forward_mode():
        return _named(name, requested, device.type, rule(*facts))
    chosen = _best(device.type, rule, *facts)
    if _is_strict and chosen == "reference":
        kernels = rule(*facts)
        raise BackendUnavailable(
            "no kernel takes this call, and the slow reference is not to: "
            f"{_sentence({name: _reason(name, device.type, kernels) for name in kernels})}"
        )
    return chosen


def serves(name: str, device: torch.device) -> bool:
    """Whether a backend of kernels runs here, and on tensors of this device."""
    return not _REASONS[name] and _SERVES[name] == device.type


def best(device: torch.device) -> str:
    """The backend that calls take on a device: the one that is named, or the best that runs there.

    Said of an operator that has every kernel: one that has not, or that gets inputs which it has none for, takes the
    next.

    Raises: ValueError if BDAM_BACKEND names none; BackendUnavailable if the named one cannot run.
    """
    return choose(None, device, _every_kernel)


def forward_mode() -> bool:
    """Whether forward-mode AD is at work, under torch.func too."""
    return forward_ad._current_level >= 0


def dtype_reason(*dtypes: torch.dtype | None) -> str:
    """ "" if native kernels take these dtypes of tensors (None for an absent one), else why not."""
    for dtype in dtypes:
        if dtype is not None and dtype not in _KERNEL_DTYPES:
            return f"its kernels take float32, bfloat16 and float16, got {dtype}"
    return ""


@remembered
def _best(device: str, rule: Rule, *facts: Hashable) -> str:
    kernels = rule(*facts)
    for name in kernels:
        if not _reason(name, device, kernels):
            return name
    return "reference"


def _named(name: str | None, requested: str | None, device: str, kernels: Mapping[str, str]) -> str:
    """`choose` where a backend is named, or forward-mode AD at work: tangents would not come out of a kernel."""
    if forward_mode() and name in (None, *kernels):
        if name is None:
            return "reference"
        raise BackendUnavailable(
            f"backend {name!r} has no forward-mode derivatives: leave backend out, or take 'reference', which has"
        )
    assert name is not None
    _check_name("backend" if requested or _THREAD.backend else "BDAM_BACKEND", name)
    reason = _reason(name, device, kernels)
    if reason:
        raise BackendUnavailable(f"backend {name!r} cannot run this call: {reason}")
    return name


def _check_name(what: str, name: str) -> None:
    if name not in _REASONS:
        raise ValueError(f"{what} must be one of {', '.join(_REASONS)}, got {name!r}")


def _reason(name: str, device: str, kernels: Mapping[str, str]) -> str:
    if name == "reference":
        return ""
    if _REASONS[name]:
        return _REASONS[name]
    if device != _SERVES[name]:
        return f"it does not serve tensors on {device!r}"
    return kernels.get(name, "this operator has no such kernel")


def _sentence(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items() if reason)


def _every_kernel() -> dict[str, str]:
    return {"cpu": "", "cuda": "", "triton": ""}
