"""What operators ask of their arguments: cheap where all is well, with words where it is not."""

from __future__ import annotations

import torch
from torch import Tensor


def check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise ValueError(f"{name} must be {shape}, got {tuple(tensor.shape)}")


def check_floating(name: str, tensor: Tensor, like: str, device: torch.device) -> None:
    """like: the name of the argument that is on the device."""
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {tensor.dtype}")
    if tensor.device != device:
        raise ValueError(f"{name} must be on {device} like {like}, got {tensor.device}")


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor.to(dtype)`, without its cost where there is nothing to do."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def cast_present(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if tensor is None else cast(tensor, dtype)


def unit_stride(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of it with adjacent elements in its last dimension."""
    return tensor if tensor.stride()[-1] == 1 else tensor.contiguous()


def empty_contiguous(tensor: Tensor | None) -> Tensor | None:
    """An empty tensor like another, contiguous; None for None."""
    return None if tensor is None else torch.empty_like(tensor, memory_format=torch.contiguous_format)
