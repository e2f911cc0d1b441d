"""A moving average of the weights, which does better than the last ones where steps are noisy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving average of all that is in a module's state dict: a = d a + (1 - d) w after each step.

    d = min(decay, (1 + n) / (10 + n)) with n steps done before, so that the random weights of the beginning are soon
    forgotten. What is no floating-point number is that of the last step.

    Args:
        module: whose weights are averaged; they are changed in place and never replaced.
        decay: d in the end.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay, self._present = decay, module.state_dict()
        self.weights = _copies(self._present)
        # By type: a GPU takes all of one in a few launches.
        self._names: dict[torch.dtype, list[str]] = {}
        for name, weight in self.weights.items():
            self._names.setdefault(weight.dtype, []).append(name)

    def update(self, steps: int) -> None:
        """Take in the weights after a step; `steps` were done before it."""
        decay = min(self._decay, (1 + steps) / (10 + steps))
        for dtype, names in self._names.items():
            averages, present = ([weights[name] for name in names] for weights in (self.weights, self._present))
            if dtype.is_floating_point:
                torch._foreach_lerp_(averages, present, 1 - decay)
            else:
                torch._foreach_copy_(averages, present)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from the average of a checkpoint. Raises: KeyError if it lacks a weight."""
        for name, average in self.weights.items():
            average.copy_(weights[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module with the average as its weights."""
        kept = _copies(self._present)
        try:
            _put(self.weights, self._present)
            yield
        finally:
            _put(kept, self._present)


def _copies(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in weights.items()}


def _put(weights: Mapping[str, Tensor], place: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, weight in weights.items():
            place[name].copy_(weight)
