"""Depthwise causal convolution: schema, autograd and the public function."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from bdam_kernels import backend as backends
from bdam_kernels import reference
from bdam_kernels.autograd import reference_gradients, wants_double_backward

_INPUTS = "Tensor x, Tensor weight, Tensor? bias, Tensor? initial_state"
torch.library.define(
    "bdam::causal_conv1d_forward", f"({_INPUTS}, bool silu, str backend) -> (Tensor out, Tensor final_state)"
)
torch.library.define(
    "bdam::causal_conv1d_backward",
    f"({_INPUTS}, Tensor grad_out, Tensor? grad_final_state, bool silu, str backend) -> "
    "(Tensor, Tensor, Tensor, Tensor)",
)


@torch.library.impl("bdam::causal_conv1d_forward", ("cpu", "cuda"))
def _causal_conv1d_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, silu: bool, backend: str
) -> tuple[Tensor, Tensor]:
    out, final_state = _causal_conv1d_forward_fake(x, weight, bias, initial_state, silu, backend)
    tensors = (x, weight, bias, initial_state, out, final_state)
    if backend == "cpu":
        backends.cpu().causal_conv1d_forward(*map(backends.native, tensors), silu, torch.get_num_threads())
    else:
        with torch.cuda.device_of(x):
            kernels = backends.gpu_module(backend, "causal_conv1d")
            backends.launch(kernels.causal_conv1d_forward, *tensors, silu)
    return out, final_state


@torch.library.register_fake("bdam::causal_conv1d_forward")
def _causal_conv1d_forward_fake(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, silu: bool, backend: str
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(*x.shape[:2], weight.shape[1] - 1)


@torch.library.impl("bdam::causal_conv1d_backward", ("cpu", "cuda"))
def _causal_conv1d_backward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    grad_out: Tensor,
    grad_final_state: Tensor | None,
    silu: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs = (x, weight, bias, initial_state)
    grads = _causal_conv1d_backward_fake(*inputs, grad_out, grad_final_state, silu, backend)
    present = [g if i is not None else None for g, i in zip(grads, inputs, strict=True)]
    tensors = (*inputs, grad_out, grad_final_state, *present)
    if backend == "cpu":
        backends.cpu().causal_conv1d_backward(*map(backends.native, tensors), silu, torch.get_num_threads())
    else:
        with torch.cuda.device_of(x):
            kernels = backends.gpu_module(backend, "causal_conv1d")
            backends.launch(kernels.causal_conv1d_backward, *tensors, silu)
    return grads


@torch.library.register_fake("bdam::causal_conv1d_backward")
def _causal_conv1d_backward_fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    grad_out: Tensor,
    grad_final_state: Tensor | None,
    silu: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A gradient per input, in order; empty where the input is absent."""
    grad_bias, grad_initial = (
        x.new_empty(0) if t is None else torch.empty_like(t, memory_format=torch.contiguous_format)
        for t in (bias, initial_state)
    )
    return torch.empty_like(x), torch.empty_like(weight), grad_bias, grad_initial


class _CausalConv1d(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, initial_state, silu, backend):  # type: ignore[no-untyped-def]
        ctx.silu, ctx.backend = silu, backend
        ctx.save_for_backward(x, weight, bias, initial_state)
        ctx.set_materialize_grads(False)
        return torch.ops.bdam.causal_conv1d_forward(x, weight, bias, initial_state, silu, backend)

    @staticmethod
    def backward(ctx, grad_out, grad_final_state):  # type: ignore[no-untyped-def]
        inputs = ctx.saved_tensors
        if wants_double_backward():
            grads = reference_gradients(
                lambda *tensors: reference.causal_conv1d(*tensors, ctx.silu),  # type: ignore[call-arg]
                inputs,
                (grad_out, grad_final_state),
            )
            return *grads, None, None
        if grad_out is None:
            grad_out = torch.zeros_like(inputs[0])
        grads = torch.ops.bdam.causal_conv1d_backward(*inputs, grad_out, grad_final_state, ctx.silu, ctx.backend)
        return *(None if i is None else g for g, i in zip(grads, inputs, strict=True)), None, None


@overload
def causal_conv1d(*args: Any, return_final_state: Literal[True], **kwargs: Any) -> tuple[Tensor, Tensor]: ...
@overload
def causal_conv1d(*args: Any, **kwargs: Any) -> Tensor: ...
def causal_conv1d(  # type: ignore[misc]
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Depthwise causal convolution over time, with an optional SiLU.

    out_t = act(bias + sum_w weight_w x_{t-W+1+w}); names as causal_conv1d's causal_conv1d_fn.

    Args:
        x: (B, D, L), any strides; float16, bfloat16, float32 or float64.
        weight: (D, W) with W >= 1.
        bias: (D,).
        activation: None or "silu" ("swish" is the same).
        initial_state: (B, D, W-1), the inputs before the first; zero if None.
        backend: see `bdam_kernels.backends`; None takes the best that runs.
    Returns: out (B, D, L) in x's dtype, and with return_final_state also the last W-1 inputs (B, D, W-1).
    Raises: ValueError for shapes or an activation that do not fit; TypeError for dtypes that are not floating point;
        BackendUnavailable if a forced backend cannot run.
    """
    if x.dim() != 3:
        raise ValueError(f"x must be (B, D, L), got {tuple(x.shape)}")
    batch, channels, _ = x.shape
    if weight.dim() != 2 or weight.shape[0] != channels or weight.shape[1] < 1:
        raise ValueError(f"weight must be (D, W) with D = {channels} and W >= 1, got {tuple(weight.shape)}")
    if bias is not None and bias.shape != (channels,):
        raise ValueError(f"bias must be ({channels},), got {tuple(bias.shape)}")
    width = weight.shape[1]
    if initial_state is not None and initial_state.shape != (batch, channels, width - 1):
        raise ValueError(
            f"initial_state must be {(batch, channels, width - 1)}, got {tuple(initial_state.shape)}"
        )
    if activation not in (None, "silu", "swish"):
        raise ValueError(f"activation must be None, 'silu' or 'swish', got {activation!r}")
    for name, tensor in {"x": x, "weight": weight, "bias": bias, "initial_state": initial_state}.items():
        if tensor is not None and not tensor.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {tensor.dtype}")
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name} must be on {x.device} like x, got {tensor.device}")

    silu = activation is not None
    reason = backends.dtype_reason(x, weight, bias, initial_state)
    chosen = backends.choose(backend, x.device, {"cpu": reason, "triton": reason})
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    parameters = (weight.to(compute), None if bias is None else bias.to(compute))
    if chosen == "reference" or x.numel() == 0:
        wide = None if initial_state is None else initial_state.to(compute)
        out, final_state = reference.causal_conv1d(x.to(compute), *parameters, wide, silu)
        out, final_state = out.to(x.dtype), final_state.to(x.dtype)
    else:
        state = None if initial_state is None else initial_state.to(x.dtype)
        weight, bias = parameters
        out, final_state = _CausalConv1d.apply(x, weight.contiguous(), bias, state, silu, chosen)
    return (out, final_state) if return_final_state else out
