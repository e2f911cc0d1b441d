"""Gated selective scan: schema, autograd and the public function."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from bdam_kernels import backend as backends
from bdam_kernels import reference
from bdam_kernels.autograd import reference_gradients, wants_double_backward
from bdam_kernels.ops import selective_scan_gpu

_INPUTS = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, "
    "Tensor? initial_state"
)
_OPTIONS = "bool delta_softplus, bool reverse, str backend"
torch.library.define(
    "bdam::selective_scan_forward",
    f"({_INPUTS}, bool with_checkpoints, {_OPTIONS}) -> (Tensor out, Tensor last_state, Tensor checkpoints)",
)
torch.library.define(
    "bdam::selective_scan_backward",
    f"({_INPUTS}, Tensor checkpoints, Tensor grad_out, Tensor? grad_last_state, {_OPTIONS}) -> Tensor[]",
)

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


@torch.library.impl("bdam::selective_scan_forward", ("cpu", "cuda"))
def _selective_scan_forward(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    *inputs, _, delta_softplus, reverse, backend = args
    out, last_state, checkpoints = _selective_scan_forward_fake(*args)
    if backend == "cpu":
        tensors = map(backends.native, (*inputs, out, last_state))
        backends.cpu().selective_scan_forward(*tensors, delta_softplus, reverse, torch.get_num_threads())
    else:
        selective_scan_gpu.forward(backend, inputs, (out, last_state, checkpoints), delta_softplus, reverse)
    return out, last_state, checkpoints


@torch.library.register_fake("bdam::selective_scan_forward")
def _selective_scan_forward_fake(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Checkpoints are the states that backward starts from, (B, K, D, N); K = 0 where it needs none."""
    u, _, A, *_ = args
    with_checkpoints, _, _, backend = args[9:]
    batch, _, length = u.shape
    count = selective_scan_gpu.chunks(length) - 1 if with_checkpoints and backend != "cpu" else 0
    return torch.empty_like(u), A.new_empty(batch, *A.shape), A.new_empty(batch, count, *A.shape)


@torch.library.impl("bdam::selective_scan_backward", ("cpu", "cuda"))
def _selective_scan_backward(*args: Any) -> list[Tensor]:
    inputs = args[:9]
    checkpoints, grad_out, grad_last_state, delta_softplus, reverse, backend = args[9:]
    grads = _selective_scan_backward_fake(*args)
    present = [g if i is not None else None for g, i in zip(grads, inputs, strict=False)]
    if backend == "cpu":
        tensors = map(backends.native, (*inputs, grad_out, grad_last_state, *present))
        backends.cpu().selective_scan_backward(*tensors, delta_softplus, reverse, torch.get_num_threads())
    else:
        outer = (checkpoints, grad_out, grad_last_state)
        selective_scan_gpu.backward(backend, inputs, outer, present, delta_softplus, reverse)
    return grads


@torch.library.register_fake("bdam::selective_scan_backward")
def _selective_scan_backward_fake(*args: Any) -> list[Tensor]:
    """A gradient per input, in order; empty where the input is absent."""
    u, *others = args[:9]
    return [torch.empty_like(u), *(_empty_gradient(t, u) for t in others)]


def _empty_gradient(tensor: Tensor | None, u: Tensor) -> Tensor:
    return u.new_empty(0) if tensor is None else torch.empty_like(tensor, memory_format=torch.contiguous_format)


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *args):  # type: ignore[no-untyped-def]
        *inputs, _, ctx.delta_softplus, ctx.reverse, ctx.backend = args
        out, last_state, checkpoints = torch.ops.bdam.selective_scan_forward(*args)
        ctx.save_for_backward(*inputs, checkpoints)
        ctx.set_materialize_grads(False)
        return out, last_state

    @staticmethod
    def backward(ctx, grad_out, grad_last_state):  # type: ignore[no-untyped-def]
        *inputs, checkpoints = ctx.saved_tensors
        flags = (ctx.delta_softplus, ctx.reverse)
        if wants_double_backward():
            grads = reference_gradients(
                lambda *tensors: reference.selective_scan(*tensors, *flags),  # type: ignore[call-arg]
                inputs,
                (grad_out, grad_last_state),
            )
            return *grads, None, None, None, None
        if grad_out is None:
            grad_out = torch.zeros_like(inputs[0])
        grads = torch.ops.bdam.selective_scan_backward(
            *inputs, checkpoints, grad_out, grad_last_state, *flags, ctx.backend
        )
        return *(None if i is None else g for g, i in zip(grads, inputs, strict=True)), None, None, None, None


@overload
def selective_scan(*args: Any, return_last_state: Literal[True], **kwargs: Any) -> tuple[Tensor, Tensor]: ...
@overload
def selective_scan(*args: Any, **kwargs: Any) -> Tensor: ...
def selective_scan(  # type: ignore[misc]
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    initial_state: Tensor | None = None,
    reverse: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Gated selective scan of a diagonal state-space model.

    h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t,  out_t = (C_t . h_t + D u_t) silu(z_t), with delta_t replaced by
    softplus(delta_t + delta_bias) where asked.  Source: Gu and Dao 2023; names as mamba_ssm's selective_scan_fn.

    Args:
        u, delta, z: (B, D, L), any strides; float16, bfloat16, float32 or float64.
        A: (D, N), real or complex; a complex state counts twice its real part, as in mamba_ssm.
        B, C: (D, N) for all times, (B, N, L), or (B, G, N, L) with D/G channels a group; for complex A the last
            dimension of the latter two is 2L, real and imaginary parts interleaved.
        D, delta_bias: (D,).
        initial_state: (B, D, N), h before the first step; zero if None.
        reverse: scan from the end; last_state is then the state after step 0.
        backend: see `bdam_kernels.backends`; None takes the best that runs.
    Returns: out (B, D, L) in u's dtype, and with return_last_state also h after the last step (B, D, N), float32
        (float64 for float64 inputs, complex for complex A). Gradients flow from and to both states.
    Raises: ValueError for shapes that do not fit; TypeError for dtypes that are not floating point;
        BackendUnavailable if a forced backend cannot run.
    """
    inputs: Inputs = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    _check(*inputs)
    inputs = _normalise(*inputs)
    compute = inputs[2].dtype
    reason = f"its kernels take real A up to float32, got {compute}" if compute != torch.float32 else ""
    states = A.shape[1]
    gpu = reason or (f"its kernels take up to 256 states, got {states}" if states > 256 else "")
    chosen = backends.choose(backend, u.device, {"cpu": reason, "cuda": gpu, "triton": gpu})
    if chosen == "reference" or u.numel() == 0 or A.numel() == 0:
        real = torch.float64 if compute in (torch.float64, torch.complex128) else torch.float32
        wide: list[Any] = [t if t is None or t.is_complex() else t.to(real) for t in inputs]
        out, last_state = reference.selective_scan(*wide, delta_softplus, reverse)  # type: ignore[call-arg]
    else:
        differentiable = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
        out, last_state = _SelectiveScan.apply(*inputs, differentiable, delta_softplus, reverse, chosen)
    out = out.to(u.dtype)
    return (out, last_state) if return_last_state else out


def _normalise(u, delta, A, B, C, D, z, delta_bias, initial_state) -> Inputs:  # type: ignore[no-untyped-def]
    """One dtype for what streams over time, float32 (or wider) for the rest, (B, G, N, L) for B and C with one G."""
    present = [t for t in (u, delta, A, B, C, D, z, delta_bias, initial_state) if t is not None]
    double = any(t.dtype in (torch.float64, torch.complex128) for t in present)
    real = torch.float64 if double else torch.float32
    state = (torch.complex128 if double else torch.complex64) if A.is_complex() else real
    streams = [t for t in (u, delta, z, *(m for m in (B, C) if m.dim() > 2)) if t is not None]
    stream = real if double or any(t.dtype != u.dtype for t in streams) else u.dtype

    def over_time(matrix: Tensor) -> Tensor:
        if matrix.dim() == 2:
            return matrix.to(state)
        if A.is_complex() and not matrix.is_complex():
            matrix = torch.view_as_complex(matrix.to(real).unflatten(-1, (-1, 2)).contiguous())
        elif not A.is_complex():
            matrix = matrix.to(stream)
        return matrix if matrix.dim() == 4 else matrix.unsqueeze(1)

    B, C = over_time(B), over_time(C)
    if B.dim() == 4 and C.dim() == 4 and B.shape[1] != C.shape[1]:
        groups = max(B.shape[1], C.shape[1])
        if groups % B.shape[1] or groups % C.shape[1]:
            groups = u.shape[1]
        B, C = (m.repeat_interleave(groups // m.shape[1], dim=1) for m in (B, C))
    return (
        u.to(stream),
        delta.to(stream),
        A.to(state),
        B,
        C,
        None if D is None else D.to(real).contiguous(),
        None if z is None else z.to(stream),
        None if delta_bias is None else delta_bias.to(real).contiguous(),
        None if initial_state is None else initial_state.to(state),
    )


def _check(u, delta, A, B, C, D, z, delta_bias, initial_state) -> None:  # type: ignore[no-untyped-def]
    if u.dim() != 3:
        raise ValueError(f"u must be (B, D, L), got {tuple(u.shape)}")
    batch, channels, length = u.shape
    if A.dim() != 2 or A.shape[0] != channels:
        raise ValueError(f"A must be (D, N) with D = {channels}, got {tuple(A.shape)}")
    states = A.shape[1]
    expected = {
        "delta": (delta, (batch, channels, length)),
        "z": (z, (batch, channels, length)),
        "D": (D, (channels,)),
        "delta_bias": (delta_bias, (channels,)),
        "initial_state": (initial_state, (batch, channels, states)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must be {shape}, got {tuple(tensor.shape)}")
    for name, matrix in (("B", B), ("C", C)):
        steps = 2 * length if A.is_complex() and not matrix.is_complex() else length
        groups = matrix.shape[1] if matrix.dim() == 4 else 1
        shapes = {2: (channels, states), 3: (batch, states, steps), 4: (batch, groups, states, steps)}
        if tuple(matrix.shape) != shapes.get(matrix.dim()) or (channels and (not groups or channels % groups)):
            raise ValueError(
                f"{name} must be ({channels}, {states}), ({batch}, {states}, {steps}) or "
                f"({batch}, G, {states}, {steps}) with G dividing {channels}, got {tuple(matrix.shape)}"
            )
    named = {"u": u, "A": A, "B": B, "C": C} | {name: tensor for name, (tensor, _) in expected.items()}
    for name, tensor in named.items():
        if tensor is None:
            continue
        if not (tensor.is_floating_point() or (tensor.is_complex() and name in ("A", "B", "C", "initial_state"))):
            raise TypeError(f"{name} must be floating point, got {tensor.dtype}")
        if tensor.device != u.device:
            raise ValueError(f"{name} must be on {u.device} like u, got {tensor.device}")
