"""What cross-attention takes and gives, by role: how its forms, the GPU's plan and Triton's launches hand it on."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Streams(NamedTuple):
    """Queries, keys and values of both streams, (B, H, La, d) and (B, H, Lb, d); or the gradients of these."""

    q_a: Tensor
    k_a: Tensor
    v_a: Tensor
    q_b: Tensor
    k_b: Tensor
    v_b: Tensor


class Pair(NamedTuple):
    """A tensor for each stream: of its queries where it is a result or has a number for each of them."""

    a: Tensor
    b: Tensor


class Masks(NamedTuple):
    """Key padding, (B, La) and (B, Lb) bool; None for none."""

    a: Tensor | None
    b: Tensor | None


class Options(NamedTuple):
    """What kernels are told besides tensors."""

    scale: float
    threshold: int
    """A weight is dropped if its 16 random bits are below."""
    seed: int
