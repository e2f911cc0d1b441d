"""What the processes of one run do together: each computes its share of every batch, all know the losses of the whole.

The gradient of a run is the mean over its processes of what each has, and `gather` and `mean` are differentiated
accordingly: backwards they add up what every process made of the result. Where each process computes the same losses of
gathered features, the mean of the gradients is therefore that of one process with the whole batch, to rounding, for
parameters before the gathering and after it alike. Without other processes all of it does nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """Which part of every batch a process computes; alone, all of it."""

    number: int = 0
    count: int = 1

    def of(self, batch: Sequence[T]) -> Sequence[T]:
        """The part of a batch; the parts of all processes in their order are the batch. Raises: ValueError if it
        cannot be divided."""
        size, rest = divmod(len(batch), self.count)
        if rest:
            raise ValueError(f"a batch is divided among {self.count} processes, got one of {len(batch)}")
        return batch[self.number * size : (self.number + 1) * size]


WHOLE = Share()


def own_share() -> Share:
    """That of this process."""
    return Share(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else WHOLE


def is_main() -> bool:
    """Whether this is the process that writes files and speaks to the user."""
    return own_share().number == 0


def gather(x: Tensor) -> Tensor:
    """x (B, ...) of each process, of one shape -> (processes * B, ...) in their order, differentiable once."""
    return _Gather.apply(x) if own_share().count > 1 else x


def mean(x: Tensor) -> Tensor:
    """The mean over the processes of x, of one shape, differentiable once."""
    return _Mean.apply(x) if own_share().count > 1 else x


def average(tensors: Iterable[Tensor]) -> None:
    """Make each tensor its mean over the processes, in place; every process has them in the same order."""
    count, tensors = own_share().count, list(tensors)
    if count == 1 or not tensors:
        return
    with torch.no_grad():
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        parts = flat.div_(count).split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


def take_over(tensors: Iterable[Tensor]) -> None:
    """Make each tensor that of process 0, in place."""
    if own_share().count > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def highest(number: int) -> int:
    """The greatest of the numbers that the processes give."""
    if own_share().count == 1:
        return number
    found = torch.tensor(number)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


@contextmanager
def main_first() -> Iterator[None]:
    """Let process 0 go through the block, and then the others. If it leaves by an error, or because the user wants it,
    they end without a word: it says why."""
    if not is_main():
        if failed := highest(0):
            sys.exit(failed)
        yield
        return
    try:
        yield
    except BaseException:
        highest(1)
        raise
    highest(0)


def leave() -> None:
    """Have no more to do with the other processes, each of which calls this."""
    if dist.is_initialized():
        dist.destroy_process_group()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        # Not every backend knows bool.
        sent = (x.byte() if x.dtype == torch.bool else x).contiguous()
        parts = [torch.empty_like(sent) for _ in range(own_share().count)]
        dist.all_gather(parts, sent)
        return torch.cat(parts).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        share, total = own_share(), grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(share.count)[share.number]


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        return _mean(x)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return _mean(grad)


def _mean(x: Tensor) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total / own_share().count
