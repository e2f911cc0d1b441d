"""How operators take part in autograd: Functions without what only torch.func needs, and second derivatives by way of
the reference formulas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def differentiable(function: type[torch.autograd.Function], outputs: int) -> Callable[..., tuple[Tensor, ...]]:
    """`function.apply`, of which only the first outputs are returned.

    torch.func's transforms want a Function's setup_context apart from its forward, so that all that backward is to
    find saved must be an output. Where there is no transform, a Function that does both has fewer of them to wrap.
    """

    class Both(function):  # type: ignore[valid-type, misc]
        @staticmethod
        def forward(ctx: Any, *args: Any) -> tuple[Tensor, ...]:
            results = function.forward(*args)
            function.setup_context(ctx, args, results)
            return results[:outputs]

        setup_context = torch.autograd.Function.setup_context

    Both.__name__ = function.__name__
    apply_both = super(torch.autograd.Function, Both).apply  # type: ignore[misc]

    def call(*args: Any) -> tuple[Tensor, ...]:
        return function.apply(*args)[:outputs] if _is_transformed() else apply_both(*args)

    return call


def derivatives_of(operator: str, function: type[torch.autograd.Function]) -> None:
    """Gives the operator `bdam::operator` the derivatives of the Function whose forward it is: in an exported graph it
    stands by itself."""
    torch.library.register_autograd(
        f"bdam::{operator}",
        function.backward,
        setup_context=lambda ctx, inputs, output: function.setup_context(ctx, inputs, output),
    )


def exported_without_gradients() -> RuntimeError:
    return RuntimeError(
        "this graph was exported without gradients: export it where inputs or parameters require them, or call it "
        "under torch.no_grad()"
    )


def no_derivatives_of(operator: str) -> None:
    """Makes a backward pass through the operator `bdam::operator`, which a Function calls, an error where it stands by
    itself: the Function has derivatives, an exported graph of the operator has not."""

    def refuse(ctx: Any, *grads: Any) -> None:
        raise RuntimeError(
            f"bdam::{operator} has no derivatives in an exported graph: export without naming a backend, which leaves "
            "it out"
        )

    torch.library.register_autograd(f"bdam::{operator}", refuse)


def apply(function: type[torch.autograd.Function], *args: Any) -> Any:
    """`function.apply(*args)`, without what only torch.func's transforms need unless there are some."""
    if _is_transformed():
        return function.apply(*args)
    return super(torch.autograd.Function, function).apply(*args)  # type: ignore[misc]


def _is_transformed() -> bool:
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def is_differentiated(tensors: Sequence[Tensor | None]) -> bool:
    """Whether a backward pass may want gradients of some of these."""
    if not torch.is_grad_enabled():
        return False
    for tensor in tensors:
        if tensor is not None and tensor.requires_grad:
            return True
    # A transform's tensor need not say so.
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


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
