"""Packed sequences: several in one row of a batch, one after the other, each of which an operator starts anew."""

from __future__ import annotations

import torch
from torch import Tensor

from bdam_kernels.ops.arguments import check_shape

_ANY = 2**40
"""More steps than there are."""

_INTEGERS = (torch.int32, torch.int64, torch.int16, torch.int8, torch.uint8)


def resets_of(seq_idx: Tensor | None, like: Tensor, reverse: bool = False) -> Tensor | None:
    """Where a walk through time comes from one sequence into another: at the first step that it does of each, but for
    each row's first.

    Args:
        seq_idx: (B, L), integers; None for one sequence a row, and then also returned.
        like: (B, D, L), what the operator is called with.
        reverse: whether the walk begins at the end.
    Returns: (B, L), bool.
    Raises: ValueError for another shape or device; TypeError for a dtype that is not integer.
    """
    if seq_idx is None:
        return None
    check_shape("seq_idx", seq_idx, (like.shape[0], like.shape[2]))
    if seq_idx.dtype not in _INTEGERS:
        raise TypeError(f"seq_idx must be integer, got {seq_idx.dtype}")
    if seq_idx.device != like.device:
        raise ValueError(f"seq_idx must be on {like.device} like the input, got {seq_idx.device}")
    length = like.shape[2]
    first = length - 1 if reverse else 0
    is_other = seq_idx != seq_idx.roll(-1 if reverse else 1, 1)
    return is_other & (torch.arange(length, device=seq_idx.device) != first)


def dense(resets: Tensor | None) -> Tensor | None:
    """As kernels read them."""
    return None if resets is None else resets.contiguous()


def reach_of(resets: Tensor) -> Tensor:
    """How many steps before each belong to its sequence, (B, L): any number in a row's first sequence, to which what
    was before the row belongs."""
    times = torch.arange(resets.shape[1], device=resets.device)
    return times - torch.where(resets, times, -_ANY).cummax(1).values


def seq_idx_of(cu_seqlens: Tensor, length: int) -> Tensor:
    """The sequence of every step of one row, (1, L), from where sequences begin and the last one ends, (S + 1,).

    Raises: ValueError if cu_seqlens is no vector, or does not begin with 0 and end with the length (compiled, a
        RuntimeError).
    """
    expected = f"cu_seqlens must be (S + 1,), from 0 to the length {length}"
    if cu_seqlens.dim() != 1 or len(cu_seqlens) < 2:
        raise ValueError(f"{expected}, got {tuple(cu_seqlens.shape)}")
    fits = (cu_seqlens[0] == 0) & (cu_seqlens[-1] == length)
    if torch.compiler.is_compiling():
        torch._assert_async(fits, expected)
    elif not fits:
        raise ValueError(f"{expected}, got {cu_seqlens.tolist()}")
    times = torch.arange(length, device=cu_seqlens.device)
    return torch.bucketize(times, cu_seqlens[1:], right=True)[None]
