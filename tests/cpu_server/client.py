"""C++'s kernels of another processor as the backend "cpu": calls go to a process, which server.cpp describes."""

from __future__ import annotations

import ctypes
import os
import shlex
import struct
import subprocess
import sys
import sysconfig
import threading
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from tests.cuda_host.build import load

MODULE = "bdam_kernels._cpu_baseline"
PATH = Path(__file__).parents[2] / f"{MODULE.replace('.', '/')}{sysconfig.get_config_var('EXT_SUFFIX')}"
# In the order of csrc/tensor.h's DType.
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.uint8)
MAX_DIMS = 4
# Of server.cpp: block, offset, dtype, dims, sizes, strides, a number as an integer and in floating point.
ARGUMENT = struct.Struct("<13qd")


class Server:
    """A process that runs kernels; `kernels` are their names."""

    def __init__(self, command: str) -> None:
        process = subprocess.Popen(shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None and process.stdout is not None
        self._requests, self._answers = process.stdin, process.stdout
        self._lock = threading.Lock()
        lanes, pairs_bfloat16, *self.kernels = self._answers.readline().decode().split()
        self.lanes, self.pairs_bfloat16 = int(lanes), int(pairs_bfloat16)

    def call(self, place: int, *arguments: Tensor | float | None) -> None:
        """Runs a kernel, by its place among `kernels`, on all of the tensors' storages: views stay views there."""
        storages = [t.untyped_storage() for t in arguments if isinstance(t, Tensor)]
        blocks = {storage.data_ptr(): storage.nbytes() for storage in storages}
        places = {address: block for block, address in enumerate(blocks)}
        request = [_integers(place, len(blocks), len(arguments), *blocks.values())]
        request += [_packed(argument, places) for argument in arguments]
        request += [ctypes.string_at(address, size) for address, size in blocks.items()]
        with self._lock:
            self._requests.write(b"".join(request))
            self._requests.flush()
            for address, size in blocks.items():
                answer = self._answers.read(size)
                if len(answer) != size:
                    raise RuntimeError(f"the process of the kernels ended in {self.kernels[place]}")
                ctypes.memmove(address, answer, size)


def _packed(argument: Tensor | float | None, places: dict[int, int]) -> bytes:
    if argument is None:
        return ARGUMENT.pack(-1, *[0] * 12, 0)
    if not isinstance(argument, Tensor):
        return ARGUMENT.pack(*[0] * 12, argument if isinstance(argument, int) else 0, argument)
    start = argument.untyped_storage().data_ptr()
    # A tensor without elements has no memory.
    block, offset = (places[start], argument.data_ptr() - start) if argument.data_ptr() else (-1, 0)
    dtype = torch.uint8 if argument.dtype == torch.bool else argument.dtype
    rest = [0] * (MAX_DIMS - argument.dim())
    shape = [*argument.shape, *rest, *argument.stride(), *rest]
    return ARGUMENT.pack(block, offset, DTYPES.index(dtype), argument.dim(), *shape, 0, 0)


def _integers(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}q", *values)


def stand_in_for_the_cpu() -> None:
    """Where BDAM_CPU_SERVER is a command, its kernels take the place of this processor's. To be called before
    bdam_kernels is imported."""
    command = os.environ.get("BDAM_CPU_SERVER")
    if not command or MODULE in sys.modules:
        return
    server, native, module = Server(command), load(PATH, MODULE), ModuleType(MODULE)
    kernels = {name: partial(server.call, place) for place, name in enumerate(server.kernels)}
    # What looks at tensors alone stays here.
    here = {name: getattr(native, name) for name in ("__spec__", "kinds", "have_unit_strides")}
    facts = {"lanes": server.lanes, "pairs_bfloat16": server.pairs_bfloat16, "best_isa": lambda: "baseline"}
    vars(module).update(here | kernels | facts)
    sys.modules[MODULE] = module
