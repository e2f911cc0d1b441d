"""Features at unit length, whatever precision they were computed in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """What is in half precision as float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def unit(features: Tensor) -> Tensor:
    """(..., D) -> the same at unit length, in full precision: in bfloat16 lengths would be off by some thousandths."""
    return F.normalize(full_precision(features), dim=-1)
