"""The temperatures of contrastive losses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

LEAST_TEMPERATURE = 0.01


class LossTemperatures(nn.Module):
    """The temperature tau of each loss: a constant, or learnt as exp(s), at least LEAST_TEMPERATURE.

    Args:
        names: of the losses.
        value: tau, or what it begins with.
        learnt: whether training changes it.
    """

    def __init__(self, names: Sequence[str], value: float, learnt: bool) -> None:
        super().__init__()
        self.constant = value
        self.logarithms = nn.ParameterDict({name: torch.tensor(math.log(value)) for name in names if learnt})

    def __getitem__(self, loss: str) -> float | Tensor:
        """tau of a loss."""
        if loss not in self.logarithms:
            return self.constant
        logarithm = self.logarithms[loss]
        with torch.no_grad():
            # Of the parameter and not of its exponential, below whose limit no gradient would raise it again.
            logarithm.clamp_(min=math.log(LEAST_TEMPERATURE))
        return logarithm.exp()
