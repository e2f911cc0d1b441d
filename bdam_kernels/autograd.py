"""Second derivatives: a backward pass that is itself differentiable, by way of the reference formulas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

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
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of `reference(*inputs)`, differentiable by the inputs and by grad_outputs.

    Args:
        reference: takes the inputs in order; returns a tuple of outputs.
        inputs: the tensors saved by forward; None stands for an absent one.
        grad_outputs: one per output; None where no gradient arrives.
        wanted: by input, whether it needs a gradient, as `ctx.needs_input_grad` says. Under torch.func's transforms a
            saved tensor need not say so itself.
    """
    places = [i for i, tensor in enumerate(inputs) if tensor is not None and wanted[i]]

    def of_wanted(*tensors: Tensor) -> tuple[Tensor, ...]:
        arguments = list(inputs)
        for i, tensor in zip(places, tensors, strict=True):
            arguments[i] = tensor
        return reference(*arguments)

    product: Any = torch.func.vjp(of_wanted, *(inputs[i] for i in places))
    outputs, gradients_of = product
    present = [torch.zeros_like(o) if g is None else g.to(o.dtype) for o, g in zip(outputs, grad_outputs, strict=True)]
    gradients: list[Tensor | None] = [None] * len(inputs)
    for i, gradient in zip(places, gradients_of(tuple(present)), strict=True):
        gradients[i] = gradient
    return gradients
