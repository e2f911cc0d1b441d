"""What operators ask of their arguments: cheap where all is well, with words where it is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from bdam_kernels import dispatch

_KEPT = 4096
"""Kinds of arguments that a check remembers."""


def checked_once(check: Callable[..., bool]) -> Callable[..., bool]:
    """A check of tensors and None that depends on their dtypes, devices and sizes, and on whether elements of the last
    dimension are adjacent. It raises, or says whether the kernels take such arguments as they are; arguments of a kind
    that has passed get the answer of before, at a tenth of the cost."""
    answers: dict[bytes, bool] = {}

    def once(*tensors: Tensor | None) -> bool:
        kind = dispatch.kinds(*tensors)
        if kind is None:
            return check(*tensors)
        answer = answers.get(kind)
        if answer is None:
            if len(answers) == _KEPT:
                answers.clear()
            answer = answers[kind] = check(*tensors)
        return answer

    return once


def wrong_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> ValueError:
    return ValueError(f"{name} must be {tuple(shape)}, got {tuple(tensor.shape)}")


def check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise wrong_shape(name, tensor, shape)


def check_shapes(expected: Mapping[str, tuple[Tensor | None, tuple[int, ...]]]) -> None:
    """expected: tensors, None for absent ones, and the shapes that they must have, by name."""
    for name, (tensor, shape) in expected.items():
        if tensor is not None:
            check_shape(name, tensor, shape)


def check_kinds(names: Sequence[str], tensors: Sequence[Tensor | None], complex_too: Sequence[str] = ()) -> None:
    """Refuses tensors that are not floating point, or not on the device of the first.

    Args:
        tensors: the first is there; None for an absent one.
        complex_too: names of those that may be complex as well.
    """
    first = tensors[0]
    assert first is not None
    device = first.device
    if all([t is None or (t.device == device and t.is_floating_point()) for t in tensors]):
        return
    for i, tensor in enumerate(tensors):
        if tensor is None:
            continue
        if not tensor.is_floating_point() and not (tensor.is_complex() and names[i] in complex_too):
            raise TypeError(f"{names[i]} must be floating point, got {tensor.dtype}")
        if tensor.device != device:
            raise ValueError(f"{names[i]} must be on {device} like {names[0]}, got {tensor.device}")


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor.to(dtype)`, without its cost where there is nothing to do."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def cast_present(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if tensor is None else cast(tensor, dtype)


def unit_stride(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of it with adjacent elements in its last dimension."""
    return tensor if tensor.stride()[-1] == 1 else tensor.contiguous()


def unit_strides(*tensors: Tensor) -> Sequence[Tensor]:
    """`unit_stride` of each."""
    return tensors if dispatch.have_unit_strides(*tensors) else [unit_stride(t) for t in tensors]


def empty_contiguous(tensor: Tensor) -> Tensor:
    """A contiguous tensor like another, without values."""
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)
