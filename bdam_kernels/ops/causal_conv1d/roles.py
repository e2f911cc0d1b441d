"""What the causal convolution takes and gives, by role."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Inputs(NamedTuple):
    """As `bdam_kernels.causal_conv1d` names and shapes them; or the gradients of these."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    initial_state: Tensor | None


class Outputs(NamedTuple):
    """Results, or the gradients of these."""

    out: Tensor
    final_state: Tensor | None
