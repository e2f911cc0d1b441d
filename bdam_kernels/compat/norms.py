"""Stand-ins for the norms of mamba_ssm, in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def layer_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    eps: float = 1e-6,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    is_rms_norm: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The norm of x + residual over the last dimension, computed in float32, in x's dtype; with prenorm also the sum,
    in the residual's dtype, or float32 if there is none and residual_in_fp32."""
    total = x.float() if residual is None else x.float() + residual.float()
    wide = None if bias is None else bias.float()
    if is_rms_norm:
        out = F.rms_norm(total, x.shape[-1:], weight.float(), eps)
        out = out if wide is None else out + wide
    else:
        out = F.layer_norm(total, x.shape[-1:], weight.float(), wide, eps)
    if not prenorm:
        return out.to(x.dtype)
    kept = residual.dtype if residual is not None else torch.float32 if residual_in_fp32 else x.dtype
    return out.to(x.dtype), total.to(kept)


def rms_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    eps: float = 1e-6,
) -> Tensor | tuple[Tensor, Tensor]:
    """`layer_norm_fn` of root mean squares; the options stand in another order, as in mamba_ssm 1."""
    return layer_norm_fn(x, weight, bias, residual, eps, prenorm, residual_in_fp32, is_rms_norm=True)


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension, with `layer_norm_fn`'s residual."""

    def __init__(
        self, hidden_size: int, eps: float = 1e-5, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", None)

    def forward(
        self, x: Tensor, residual: Tensor | None = None, prenorm: bool = False, residual_in_fp32: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        return rms_norm_fn(x, self.weight, None, residual, prenorm, residual_in_fp32, self.eps)
