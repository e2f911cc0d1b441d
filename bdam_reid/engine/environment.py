"""Where a run is computed: device, precision, backend of the kernels, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

import bdam_kernels
from bdam_kernels import dispatch
from bdam_reid import processes
from bdam_reid.config import ConfigError, EngineConfig

PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "safetensors", "numpy")
PATIENCE = timedelta(days=1)
"""With other processes, which wait for the first one while it validates."""
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def make_accelerator(config: EngineConfig) -> Accelerator:
    """Device and precision of training; on a CPU only algorithms that give the same bits every time. A process that
    `torchrun` or `accelerate launch` started joins the others.

    Raises: ConfigError for a precision that the device has not, or more processes than GPUs.
    """
    if config.mixed_precision == "fp16" and not torch.cuda.is_available():
        raise ConfigError("--engine.mixed-precision fp16 needs a GPU: take bf16 or no")
    _join_processes()
    on_cpus = dist.is_initialized() and not torch.cuda.is_available()
    # Of one precision for the whole process, unless it is forgotten: a study trains runs of several.
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=on_cpus, mixed_precision=precision_on(find_device("auto"), config))
    repeat_bits(accelerator.device)
    return accelerator


def _join_processes() -> None:
    """Where a launcher says that there are several processes: GPUs speak through NCCL, all else through gloo."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return
    backend = "gloo"
    if torch.cuda.is_available():
        number, gpus, backend = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count(), "cpu:gloo,cuda:nccl"
        if number >= gpus:
            raise ConfigError(f"each process needs a GPU of its own: start {gpus} on this machine, got one more")
        torch.cuda.set_device(number)
    dist.init_process_group(backend, timeout=PATIENCE)


def precision_on(device: torch.device, config: EngineConfig) -> str:
    """What the precision of a config is on a device: "no", "bf16" or "fp16"."""
    if config.mixed_precision != "auto":
        return config.mixed_precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    # Older versions of torch do not tell: then nothing is lost but time.
    has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bf16" if device.type == "cpu" and (has.get("amx_bf16") or has.get("avx512_bf16")) else "no"


def repeat_bits(device: torch.device) -> None:
    """On a CPU, let the whole process use only algorithms that give the same bits every time."""
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def find_device(name: str) -> torch.device:
    """The device of a name, as torch has them; "auto" is the GPU where there is one.

    Raises: ConfigError if there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"--device must be a device of this machine, such as cpu, got {name!r} ({reason})") from error


@contextmanager
def inference(model: nn.Module, device: torch.device, precision: str) -> Iterator[None]:
    """The model in evaluation mode, without gradients, in the precision of the run.

    A CPU computes in bfloat16 what was trained in float16, which it may not have.
    """
    model.eval()
    dtype = torch.bfloat16 if device.type == "cpu" else _DTYPES.get(precision)
    with torch.no_grad(), torch.autocast(device.type, dtype=dtype, enabled=precision != "no"):
        yield


def environment(device: torch.device) -> dict[str, Any]:
    """What a result may depend on besides the config: versions, machine, kernels. No host and no user."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES} | {"bdam-kernels": bdam_kernels.__version__},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": processes.own_share().count,
        "threads": torch.get_num_threads(),
        "backend": chosen_backend(device),
        "backends": dispatch.backends(),
        "cpu_isa": dispatch.cpu_isa() if not dispatch.backends()["cpu"] else "",
        "commit": _commit(),
    }


def chosen_backend(device: torch.device) -> str:
    """The backend of the kernels: the forced one, or the first choice of those that run on `device`.

    Raises: BackendUnavailable, ConfigError if the forced one cannot run.
    """
    try:
        return dispatch.best(device)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The commit of the project's own source tree, "+" where files differ from it; empty where this package is not one
    that such a tree tracks, whatever repository lies around it."""
    here = Path(__file__)
    own = f"{__package__.replace('.', '/')}/{here.name}"
    # Git sets such variables for its hooks, and they would name another repository.
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10, env=surroundings
        ).stdout.strip()

    try:
        if git("ls-files", "--full-name", here.name) != own:
            return ""
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""
