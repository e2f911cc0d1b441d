"""Low-rank experts beside a linear layer, all of them in one product."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor, nn
from torch.nn import functional as F

PLACES = ("q_proj", "v_proj", "fc1", "fc2")
"""The linear layers of a transformer layer that have experts, by the names that transformers gives them."""
_weights: ContextVar[Tensor | None] = ContextVar("weights", default=None)
"""Those of the layer that runs now; each thread has its own."""


@contextmanager
def weighted(weights: Tensor | None) -> Iterator[None]:
    """Within it experts have these weights, (B, E), or (1, E) for all images alike; with None there are no experts."""
    before = _weights.set(weights)
    try:
        yield
    finally:
        _weights.reset(before)


class ExpertLinear(nn.Module):
    """y = W x + b + sum_e w_e B_e A_e x for E experts of rank r, whose weights w differ by image.

    All A_e are one matrix, and all B_e another: between the two products the activations of each expert are scaled by
    its weight, and those of an expert with weight 0 are 0 and give it no gradient. Images that are known to have the
    same weights are read by one matrix into which the experts are merged, at the cost of W alone. Every B_e is 0 at
    first, so that experts begin without an effect.

    Args:
        linear: W and b.
        experts: E.
        rank: r.
    """

    def __init__(self, linear: nn.Linear, experts: int, rank: int) -> None:
        super().__init__()
        self.linear, self.rank = linear, rank
        self.down = nn.Parameter(linear.weight.new_empty(experts * rank, linear.in_features))
        """A_e, one below the other."""
        self.up = nn.Parameter(linear.weight.new_zeros(linear.out_features, experts * rank))
        """B_e, side by side."""
        # That of a linear layer of its own for each expert, as in the source of LoRA.
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, L, in) -> (B, L, out), within `weighted`; without, the linear layer alone."""
        weights = _weights.get()
        if weights is None:
            return self.linear(x)
        if len(weights) == 1:
            return F.linear(x, self.linear.weight + self.merged(weights[0]), self.linear.bias)
        return self.linear(x) + self.low_rank(x, weights)

    def merged(self, weights: Tensor) -> Tensor:
        """The experts of all images alike as one matrix: weights (E,) -> sum_e w_e B_e A_e, (out, in)."""
        scale = weights.repeat_interleave(self.rank).to(self.up.dtype)
        on = scale.nonzero().flatten()
        return (self.up.index_select(1, on) * scale[on]) @ self.down.index_select(0, on)

    def low_rank(self, x: Tensor, weights: Tensor) -> Tensor:
        """What the experts add: x (B, L, in), their weights (B, E) -> (B, L, out)."""
        hidden = F.linear(x, self.down).unflatten(-1, (-1, self.rank))
        scaled = hidden * weights.to(hidden.dtype)[:, None, :, None]
        return F.linear(scaled.flatten(-2), self.up)


class ExpertLayer(nn.Module):
    """A transformer layer with experts beside its linear layers of PLACES.

    Args:
        layer: of CLIP or ViT as transformers has them; its linear layers are replaced.
        experts, rank: of each.
    Raises: ValueError if it lacks one of PLACES.
    """

    def __init__(self, layer: nn.Module, experts: int, rank: int) -> None:
        super().__init__()
        self.layer = layer
        found = {name.rpartition(".")[2]: name for name, _ in layer.named_modules()}
        for place in PLACES:
            linear = layer.get_submodule(found[place]) if place in found else None
            if not isinstance(linear, nn.Linear):
                raise ValueError(
                    f"experts need layers with {', '.join(PLACES)}, as those of CLIP and ViT in transformers, got a "
                    f"{type(layer).__name__} without {place}"
                )
            parent = layer.get_submodule(found[place].rpartition(".")[0])
            setattr(parent, place, ExpertLinear(linear, experts, rank))

    def forward(self, tokens: Tensor, weights: Tensor | None) -> Tensor:
        """tokens (B, L, D), weights of the experts (B, E), or (1, E) for all images alike, or None, which is the layer
        itself -> (B, L, D)."""
        with weighted(weights):
            return self.layer(tokens, None)
