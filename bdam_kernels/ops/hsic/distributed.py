"""HSIC of the rows of all ranks of a process group."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from bdam_kernels.autograd import wants_double_backward
from bdam_kernels.ops.hsic.algebra import full_precision


class GlobalFeatureForm(torch.autograd.Function):
    """Biased linear HSIC of the rows of all ranks, with one all-reduce in forward and none in backward."""

    @staticmethod
    def forward(ctx, x, y, group):  # type: ignore[no-untyped-def]
        with full_precision(x):
            count, x, y, cross = _global_moments(x, y, group)
        norm = (count - 1).square()
        ctx.save_for_backward(x, y, (cross * (2 / norm)).to(x.dtype))
        return (cross.square().sum() / norm).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        if wants_double_backward():
            raise RuntimeError(
                "hsic with process_group has no second derivative in its linear biased form; differentiate once "
                "(create_graph=False), or gather the features first and leave process_group out"
            )
        x, y, scaled_cross = ctx.saved_tensors
        with full_precision(x):
            scaled_cross = grad * scaled_cross
            return y @ scaled_cross.mT, x @ scaled_cross, None


def _global_moments(x: Tensor, y: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Number of rows of all ranks, this rank's rows minus the global mean, and x^T y of all centred rows (float64).

    Products of raw rows add up over ranks, those of centred rows do not. The former are put together in float64 from
    products of rows that are centred on their rank's mean, so that a mean far from zero costs no accuracy.
    """
    n, dx, dy = x.shape[0], x.shape[1], y.shape[1]
    x_mean, y_mean = x.mean(0), y.mean(0)
    product = ((x - x_mean).mT @ (y - y_mean)).double()
    x_sum, y_sum = x.sum(0, dtype=torch.float64), y.sum(0, dtype=torch.float64)
    x_mean, y_mean = x_mean.double(), y_mean.double()
    product += x_sum.outer(y_mean) + x_mean.outer(y_sum) - n * x_mean.outer(y_mean)
    total = torch.cat([product.flatten(), x_sum, y_sum, x_sum.new_tensor([n])])
    dist.all_reduce(total, group=group)
    product, x_sum, y_sum, count = total.split([dx * dy, dx, dy, 1])
    cross = product.view(dx, dy) - x_sum.outer(y_sum) / count
    return count[0], x - (x_sum / count).to(x.dtype), y - (y_sum / count).to(y.dtype), cross


def gather_rows(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The rows of all ranks, in their order; only this rank's rows carry gradients."""
    world = dist.get_world_size(group)
    counts = [torch.zeros(1, dtype=torch.int64, device=x.device) for _ in range(world)]
    dist.all_gather(counts, torch.full_like(counts[0], len(x)), group=group)
    sizes = [int(c) for c in counts]
    padded = F.pad(x.detach(), (0, 0, 0, max(sizes) - len(x)))
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded, group=group)
    rows = [part[:size] for part, size in zip(parts, sizes, strict=True)]
    rows[dist.get_rank(group)] = x
    return torch.cat(rows)
