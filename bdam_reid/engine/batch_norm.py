"""Batch normalisation by the statistics of the whole batch, of which each process has a share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bdam_reid import processes


class GlobalBatchNorm(_BatchNorm):
    """What a BatchNorm of any number of dimensions computes, with the mean and variance over all processes.

    torch.nn.SyncBatchNorm does the same, on GPUs alone.

    Args:
        local: whose weights, statistics and settings it has.
    Raises: ValueError if `local` keeps no running statistics, or averages them without a momentum.
    """

    def __init__(self, local: _BatchNorm) -> None:
        if not local.track_running_stats or local.momentum is None:
            raise ValueError("batch normalisation over processes needs running statistics and a momentum")
        super().__init__(local.num_features, local.eps, local.momentum, local.affine)
        self.weight, self.bias = local.weight, local.bias
        self.running_mean, self.running_var = local.running_mean, local.running_var
        self.num_batches_tracked = local.num_batches_tracked
        self.train(local.training)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape."""
        if not self.training:
            return super().forward(x)
        across = [dim for dim in range(x.ndim) if dim != 1]
        shape = [-1 if dim == 1 else 1 for dim in range(x.ndim)]
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        mean = processes.mean(wide.mean(across))
        centred = wide - mean.view(shape)
        variance = processes.mean(centred.square().mean(across))
        self._remember(mean.detach(), variance.detach(), x.numel() // x.shape[1] * processes.own_share().count)
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        normal = centred * scale.view(shape)
        return (normal + self.bias.view(shape) if self.affine else normal).to(x.dtype)

    def _remember(self, mean: Tensor, variance: Tensor, samples: int) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        unbiased = variance * (samples / max(1, samples - 1))
        self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)

    def _check_input_dim(self, x: Tensor) -> None:
        """Any number of dimensions will do."""


def make_global(module: nn.Module) -> None:
    """Give each BatchNorm within a module the statistics of all processes; parameters and their names stay. Frozen
    ones, whose statistics are not computed, are among them. Raises: ValueError as `GlobalBatchNorm`."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, GlobalBatchNorm(child))
        else:
            make_global(child)
