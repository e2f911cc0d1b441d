"""What a user would install or write instead of each operator, with the operator's arguments."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mambapy_selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, delta_bias: Tensor
) -> Tensor:
    """mambapy's parallel scan, as its MambaBlock calls it: (B, L, D) layout, softplus, D and gate around pscan."""
    from mambapy.pscan import pscan

    x = u.transpose(1, 2)
    delta = F.softplus(delta.transpose(1, 2) + delta_bias)
    decay = torch.exp(delta.unsqueeze(-1) * A)
    drive = delta.unsqueeze(-1) * B.transpose(1, 2).unsqueeze(2) * x.unsqueeze(-1)
    states = pscan(decay, drive)
    y = (states @ C.transpose(1, 2).unsqueeze(-1)).squeeze(3) + D * x
    return (y * F.silu(z.transpose(1, 2))).transpose(1, 2)


def two_sdpa_calls(
    q_a: Tensor, k_a: Tensor, v_a: Tensor, q_b: Tensor, k_b: Tensor, v_b: Tensor
) -> tuple[Tensor, Tensor]:
    return F.scaled_dot_product_attention(q_a, k_b, v_b), F.scaled_dot_product_attention(q_b, k_a, v_a)


def textbook_hsic(x: Tensor, y: Tensor) -> Tensor:
    """tr(K H L H) / (N-1)^2 with the N x N matrices."""
    n = x.shape[0]
    centering = torch.eye(n) - 1.0 / n
    return torch.trace((x @ x.T) @ centering @ (y @ y.T) @ centering) / (n - 1) ** 2


def transformers_mixer(width: int) -> nn.Module:
    """A Mamba layer of transformers with random weights, on its PyTorch path."""
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    return MambaMixer(MambaConfig(hidden_size=width, state_size=16, conv_kernel=4, expand=2), layer_idx=0)
