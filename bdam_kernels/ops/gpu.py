"""How calls reach the kernels of the backends "cuda" and "triton"."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from bdam_kernels import dispatch

_NOTHING = nullcontext()


def gpu_module(backend: str, launches: str) -> ModuleType:
    """The module with an operator's kernels of the backend "cuda" or "triton": the same functions in both.

    Args:
        launches: the module of Triton's, by its name in `bdam_kernels.ops`; it is imported with its first call.
    """
    return dispatch.cuda() if backend == "cuda" else importlib.import_module(f"bdam_kernels.ops.{launches}")


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Makes the tensor's GPU the current one, if it is on one and that is not."""
    index = tensor.get_device()
    return _NOTHING if index < 0 or index == torch.cuda.current_device() else torch.cuda.device(index)


def launch(function: Callable[..., None], *roles: tuple[Any, ...]) -> None:
    """Starts a kernel of a GPU module on torch's current stream.

    Args:
        roles: its arguments by role, torch tensors or None among them. CUDA's kernels take them one by one.
    """
    if function.__module__ == "bdam_kernels._cuda":
        on_gpu = dispatch.cuda().device == "cuda"
        stream = torch._C._cuda_getCurrentRawStream(torch.cuda.current_device()) if on_gpu else 0
        function(*chain.from_iterable(roles), stream)
    else:
        function(*roles)
