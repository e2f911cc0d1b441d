"""The causal convolution in plain PyTorch: differentiable any number of times, slow, and without casts
(float64 stays float64), so that it serves as the oracle, as the fallback and as the second derivative."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bdam_kernels.ops.packed import reach_of


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    resets: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor]:
    """Depthwise causal convolution; returns (out, final_state).

    out_t = act(bias + sum_w weight_w x_{t-W+1+w}), where x before the start is initial_state (B, D, W-1) or zero.

    Args: as `bdam_kernels.causal_conv1d`.
        resets: (B, L), true where a step has zeros before it.
    """
    width = weight.shape[1]
    padding = x.new_zeros(*x.shape[:2], width - 1) if initial_state is None else initial_state
    padded = torch.cat([padding, x], dim=2)
    length = x.shape[2]
    reach = None if resets is None or length == 0 else reach_of(resets)[:, None]
    out = torch.zeros_like(x)
    for w in range(width):
        tap = padded[..., w : w + length]
        if reach is not None:
            tap = torch.where(reach >= width - 1 - w, tap, 0)
        out = out + weight[:, w, None] * tap
    if bias is not None:
        out = out + bias[:, None]
    return (F.silu(out) if silu else out), padded[..., length:]
