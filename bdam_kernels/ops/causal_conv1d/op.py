"""Depthwise causal convolution: schema, autograd and the public function."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from bdam_kernels import dispatch
from bdam_kernels.autograd import (
    derivatives_of,
    differentiable,
    is_differentiated,
    reference_gradients,
    wants_double_backward,
)
from bdam_kernels.operators import operator
from bdam_kernels.ops.arguments import cast, check_kinds, empty_contiguous, wrong_shape
from bdam_kernels.ops.causal_conv1d import reference
from bdam_kernels.ops.causal_conv1d.roles import Inputs, Outputs
from bdam_kernels.ops.gpu import gpu_module, on_device_of
from bdam_kernels.ops.packed import dense, reach_of, resets_of

_INPUTS = "Tensor x, Tensor weight, Tensor? bias, Tensor? initial_state, Tensor? resets"


def _empty_outputs(x: Tensor, weight: Tensor, *_others: Any) -> tuple[Tensor, Tensor]:
    batch, channels, _ = x.shape
    return torch.empty_like(x), x.new_empty(batch, channels, weight.shape[1] - 1)


@operator(
    f"causal_conv1d_forward({_INPUTS}, bool silu, str backend) -> (Tensor out, Tensor final_state)",
    fake=_empty_outputs,
)
def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    resets: Tensor | None,
    silu: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    outputs = _empty_outputs(x, weight)
    if backend == "cpu":
        dispatch.cpu().causal_conv1d_forward(
            x, weight, bias, initial_state, dense(resets), *outputs, silu, torch.get_num_threads()
        )
    else:
        launches = gpu_module(backend, "causal_conv1d.triton_launches")
        with on_device_of(x):
            launches.causal_conv1d_forward(Inputs(x, weight, bias, initial_state), Outputs(*outputs), resets, silu)
    return outputs


def _empty_gradients(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """A gradient for each input, None where the input is absent."""
    grad_bias = None if bias is None else empty_contiguous(bias)
    grad_initial_state = None if initial_state is None else empty_contiguous(initial_state)
    return torch.empty_like(x), torch.empty_like(weight), grad_bias, grad_initial_state


@operator(
    f"causal_conv1d_backward({_INPUTS}, Tensor grad_out, Tensor? grad_final_state, bool silu, str backend) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    fake=_empty_gradients,
)
def _backward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    resets: Tensor | None,
    grad_out: Tensor,
    grad_final_state: Tensor | None,
    silu: bool,
    backend: str,
) -> tuple[Tensor | None, ...]:
    grads = _empty_gradients(x, weight, bias, initial_state)
    if backend == "cpu":
        dispatch.cpu().causal_conv1d_backward(
            x,
            weight,
            bias,
            initial_state,
            dense(resets),
            grad_out,
            grad_final_state,
            *grads,
            silu,
            torch.get_num_threads(),
        )
    else:
        launches = gpu_module(backend, "causal_conv1d.triton_launches")
        inputs, grad_outputs = Inputs(x, weight, bias, initial_state), Outputs(grad_out, grad_final_state)
        with on_device_of(x):
            launches.causal_conv1d_backward(inputs, grad_outputs, Inputs(*grads), resets, silu)
    return grads


class _CausalConv1d(torch.autograd.Function):
    generate_vmap_rule = True

    forward = staticmethod(_forward)

    @staticmethod
    def setup_context(ctx, args, outputs):  # type: ignore[no-untyped-def]
        *inputs, ctx.silu, ctx.backend = args
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad_out, grad_final_state):  # type: ignore[no-untyped-def]
        x, _, bias, initial_state, _ = inputs = ctx.saved_tensors
        if wants_double_backward():
            grads = reference_gradients(
                lambda *tensors: reference.causal_conv1d(*tensors, ctx.silu),  # type: ignore[call-arg]
                inputs,
                (grad_out, grad_final_state),
                ctx.needs_input_grad,
            )
            return *grads, None, None
        if grad_out is None:
            grad_out = torch.zeros_like(x)
        grad_x, grad_weight, grad_bias, grad_initial = _backward(
            *inputs, grad_out, grad_final_state, ctx.silu, ctx.backend
        )
        # Through torch.library what is absent has an empty gradient.
        return (
            grad_x,
            grad_weight,
            None if bias is None else grad_bias,
            None if initial_state is None else grad_initial,
            None,
            None,
            None,
        )


derivatives_of("causal_conv1d_forward", _CausalConv1d)
_differentiable_forward = differentiable(_CausalConv1d, outputs=2)


def _kernels(*dtypes: torch.dtype | None) -> dict[str, str]:
    """The backends that have kernels, each with "" or the reason why they do not take inputs of these dtypes."""
    reason = dispatch.dtype_reason(*dtypes)
    return {"cpu": reason, "triton": reason}


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
    seq_idx: Tensor | None = None,
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
        seq_idx: of packed sequences the one that each step belongs to, (B, L), integers: a step whose neighbour has
            another number begins anew, with zeros before it. initial_state is then of each row's first sequence, the
            final state of its last. None for one sequence a row.
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
        raise wrong_shape("bias", bias, (channels,))
    width = weight.shape[1]
    if initial_state is not None and initial_state.shape != (batch, channels, width - 1):
        raise wrong_shape("initial_state", initial_state, (batch, channels, width - 1))
    if activation not in (None, "silu", "swish"):
        raise ValueError(f"activation must be None, 'silu' or 'swish', got {activation!r}")
    inputs = Inputs(x, weight, bias, initial_state)
    check_kinds(Inputs._fields, inputs)

    silu = activation is not None
    dtypes = [None if t is None else t.dtype for t in inputs]
    resets = resets_of(seq_idx, x)
    chosen = dispatch.choose(backend, x.device, _kernels, *dtypes)
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    weight = cast(weight, compute)
    bias = None if bias is None else cast(bias, compute)
    if chosen == "reference" or x.numel() == 0:
        wide = None if initial_state is None else initial_state.to(compute)
        out, final_state = reference.causal_conv1d(x.to(compute), weight, bias, wide, resets, silu)
        out, final_state = out.to(x.dtype), final_state.to(x.dtype)
    else:
        state = None if initial_state is None else cast(initial_state, x.dtype)
        args = (x, weight.contiguous(), bias, state, resets, silu, chosen)
        out, final_state = _differentiable_forward(*args) if is_differentiated(args[:4]) else _forward(*args)
    if not return_final_state:
        return out
    return out, final_state if resets is None else _of_last_sequence(final_state, resets)


def _of_last_sequence(final_state: Tensor, resets: Tensor) -> Tensor:
    """The last inputs, (B, D, W-1), with zeros for those of sequences before the last."""
    if resets.shape[1] == 0:
        return final_state
    back = torch.arange(final_state.shape[2], 0, -1, device=resets.device)
    return torch.where((back <= reach_of(resets)[:, -1:] + 1)[:, None], final_state, 0)
