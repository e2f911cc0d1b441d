"""Second derivatives: a backward pass that is itself differentiable, by way of the reference formulas."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def wants_double_backward() -> bool:
    """Whether the running backward pass was asked for with create_graph=True.

    torch.compile traces backward passes with gradients enabled but refuses double backward by itself.
    """
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def reference_gradients(
    reference: Callable[..., tuple[Tensor, ...]],
    inputs: Sequence[Tensor | None],
    grad_outputs: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Gradients of `reference(*inputs)` for every input that requires one, as a differentiable graph.

    Args:
        reference: takes the inputs in order; returns a tuple of outputs.
        inputs: the tensors saved by forward; None stands for an absent one.
        grad_outputs: one per output; None where no gradient arrives.
    """
    with torch.enable_grad():
        outputs = reference(*inputs)
        pairs = [(o, g) for o, g in zip(outputs, grad_outputs, strict=True) if g is not None and o.requires_grad]
        wanted = [i for i in inputs if i is not None and i.requires_grad]
        if not wanted or not pairs:
            return [None] * len(inputs)
        grads = iter(
            torch.autograd.grad(
                [o for o, _ in pairs], wanted, [g for _, g in pairs], create_graph=True, allow_unused=True
            )
        )
    return [next(grads) if i is not None and i.requires_grad else None for i in inputs]
