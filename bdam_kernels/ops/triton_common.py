"""What Triton's kernels share: how they are declared, and how operators describe a launch of one, so that tests compile
ahead of time just what calls run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Dtypes that kernels are compiled for: of the tensors that stream over time."""

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)

_TYPES: dict[Any, str] = {
    torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.uint8: "*u8",
    torch.int32: "*i32", float: "fp32", int: "i32",
}  # fmt: skip


def kernel(function: Callable[..., None]) -> Any:
    """`triton.jit` without variants for the values of arguments: few kernels, known before the first call."""
    parameters = inspect.signature(function).parameters
    names = [name for name, parameter in parameters.items() if "constexpr" not in str(parameter.annotation)]
    return triton.jit(do_not_specialize=names, do_not_specialize_on_alignment=names)(function)


INTERPRETED = triton.knobs.runtime.interpret

device: Any = (lambda function: function) if INTERPRETED else triton.jit
"""`triton.jit` for functions that kernels call; Triton's interpreter takes half of its time for such calls, unless
they are plain functions."""


@cache
def _capability() -> int:
    """Of the GPU, as in sm_90."""
    major, minor = torch.cuda.get_device_capability() if torch.cuda.is_available() else (9, 0)
    return 10 * major + minor


class Launch(NamedTuple):
    """A kernel with all that it is launched with."""

    kernel: Any
    programs: int
    args: dict[str, Any]
    """By name: tensors, integers and floats."""
    constants: dict[str, Any]
    num_warps: int = 1
    registers: int = 255
    """The most that a thread may have before the compiler spills: all that 8 warps can have, or fewer, for more warps
    at a time."""

    def options(self) -> dict[str, int]:
        """For the compiler."""
        return {"num_warps": self.num_warps, "maxnreg": self.registers}

    def constants_on(self, capability: int) -> dict[str, Any]:
        """Before sm_90 rows that are on their way cost registers: there, none are."""
        return self.constants if capability >= 90 or "STAGES" not in self.constants else self.constants | {"STAGES": 1}

    def run(self) -> None:
        self.kernel[(self.programs,)](**self.args, **self.constants_on(_capability()), **self.options())

    def signature(self) -> dict[str, str]:
        """Types of the kernel's parameters, as the compiler names them."""
        names = inspect.signature(self.kernel.fn).parameters
        assert names.keys() == self.args.keys() | self.constants.keys()
        types = {name: _TYPES[a.dtype if isinstance(a, Tensor) else type(a)] for name, a in self.args.items()}
        return {name: types.get(name, "constexpr") for name in names}


@cache
def _parameters(name: str, axes: tuple[str, ...]) -> tuple[str, ...]:
    return (name, *(f"{name}_{axis}" for axis in axes))


def with_strides(name: str, axes: tuple[str, ...], tensor: Tensor, strides: Sequence[int]) -> dict[str, Any]:
    """Arguments of a kernel: a tensor, and by the names of its axes what its parameters NAME_AXIS take."""
    return dict(zip(_parameters(name, axes), (tensor, *strides), strict=True))
