"""Bidirectional cross-attention: schema, autograd and the public function."""

from __future__ import annotations

import torch
from torch import Tensor

from bdam_kernels import reference


def bidirectional_cross_attention(
    q_a: Tensor,
    k_a: Tensor,
    v_a: Tensor,
    q_b: Tensor,
    k_b: Tensor,
    v_b: Tensor,
    *,
    key_padding_mask_a: Tensor | None = None,
    key_padding_mask_b: Tensor | None = None,
    dropout_p: float = 0.0,
    scale: float | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Provisional: the reference without dropout, until the kernel's author commits this file."""
    scale = q_a.shape[-1] ** -0.5 if scale is None else scale
    return reference.bidirectional_cross_attention(
        q_a, k_a, v_a, q_b, k_b, v_b, key_padding_mask_a, key_padding_mask_b, scale
    )
