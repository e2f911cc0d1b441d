"""Operators of torch.library that are called without it where nothing but a kernel takes note of the call.

Its dispatcher costs as much as a small kernel, and everything else that an operator does is cheaper. Whatever looks at
operators as they are called still sees them: compilers, exporters and tracers, torch.func's transforms, dispatch modes
such as FlopCounterMode, profilers, and subclasses of tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import profiler

Function = Callable[..., Any]

# Looked up once: every call asks.
_count_modes = torch._C._len_torch_dispatch_stack
_has_transforms = torch._C._are_functorch_transforms_active
_is_tracing = torch._C._is_tracing
_is_on = torch._C._dispatch_tls_is_dispatch_key_included
_BATCHED_GRADIENTS = torch._C._dispatch_key_parse("VmapMode")
_BEFORE_DISPATCH = torch._C.DispatchKey.PreDispatch
_TENSORS = frozenset({Tensor, torch.nn.Parameter})
_PLAIN = frozenset({type(None), bool, int, float, str})


def operator(schema: str, fake: Function, devices: Sequence[str] = ("cpu", "cuda")) -> Callable[[Function], Function]:
    """Decorates a function that becomes the operator `bdam::schema`.

    Args:
        fake: takes the same arguments and returns empty results.
        devices: of the tensors that the function takes.
    What the function and the fake return may have None where an operator must return a tensor: that gets an empty one.
    """
    name = f"bdam::{schema.partition('(')[0]}"
    torch.library.define(name, schema[schema.index("(") :])
    torch.library.register_fake(name, partial(_with_tensors_only, fake))

    def decorate(function: Function) -> Function:
        torch.library.impl(name, devices, partial(_with_tensors_only, function))
        through_dispatcher = getattr(torch.ops.bdam, name.removeprefix("bdam::")).default

        def call(*args: Any) -> Any:
            return through_dispatcher(*args) if _is_observed(args) else function(*args)

        return call

    return decorate


def _with_tensors_only(function: Function, *args: Any) -> tuple[Tensor, ...]:
    return tuple(args[0].new_empty(0) if result is None else result for result in function(*args))


def _is_observed(args: tuple[Any, ...]) -> bool:
    """Whether torch's dispatcher would do more with such a call than to find the function."""
    if torch.compiler.is_compiling() or profiler._is_profiler_enabled:
        return True
    # Modes, transforms and tracers are layers of the dispatcher that are switched on. torch's answers for each of them
    # take less time than its set of all.
    if _count_modes() or _has_transforms() or _is_tracing() or _is_on(_BATCHED_GRADIENTS) or _is_on(_BEFORE_DISPATCH):
        return True
    for arg in args:
        kind = type(arg)
        if kind in _TENSORS:
            # A negative view, such as x.conj().imag, which kernels do not know of.
            if arg.is_neg():
                return True
        elif kind not in _PLAIN:
            return True
    return False
