"""Gated selective scan: schema, autograd and the public function."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from bdam_kernels import dispatch
from bdam_kernels.autograd import (
    derivatives_of,
    differentiable,
    exported_without_gradients,
    is_differentiated,
    reference_gradients,
    wants_double_backward,
)
from bdam_kernels.operators import operator
from bdam_kernels.ops.arguments import cast, cast_present, check_kinds, checked_once, empty_contiguous, wrong_shape
from bdam_kernels.ops.packed import dense, resets_of
from bdam_kernels.ops.selective_scan import plan, reference
from bdam_kernels.ops.selective_scan.roles import Inputs, Options, Outer, Outputs, with_groups

_INPUTS = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, "
    "Tensor? initial_state, Tensor? resets"
)
_OPTIONS = "bool delta_softplus, bool reverse, str backend"
_COMPLEX = ("A", "B", "C", "initial_state")
"""What may be complex, if A is."""


def _empty_outputs(*args: Any) -> Outputs:
    """Of the operator's arguments."""
    u, A = args[0], args[2]
    with_checkpoints, backend = args[10], args[13]
    batch, _, length = u.shape
    channels, states = A.shape
    checkpoints = None
    if backend != "cpu":
        count = plan.chunks(length) - 1 if with_checkpoints else 0
        checkpoints = A.new_empty(batch, count, channels, states)
    return Outputs(torch.empty_like(u), A.new_empty(batch, channels, states), checkpoints)


@operator(
    f"selective_scan_forward({_INPUTS}, bool with_checkpoints, {_OPTIONS}) "
    "-> (Tensor out, Tensor last_state, Tensor checkpoints)",
    fake=_empty_outputs,
)
def _forward(*args: Any) -> Outputs:
    *inputs, resets, _, delta_softplus, reverse, backend = args
    outputs = _empty_outputs(*args)
    if backend == "cpu":
        dispatch.cpu().selective_scan_forward(
            *inputs, dense(resets), outputs.out, outputs.last_state, delta_softplus, reverse, torch.get_num_threads()
        )
    else:
        plan.forward(backend, Inputs(*inputs).with_groups(), outputs, Options(delta_softplus, reverse), resets)
    return outputs


def _empty_gradients(*args: Any) -> list[Tensor | None]:
    """Of the operator's arguments: a gradient for each input, None where the input is absent."""
    return [torch.empty_like(args[0]), *[None if t is None else empty_contiguous(t) for t in args[1:9]]]


@operator(
    f"selective_scan_backward({_INPUTS}, Tensor? checkpoints, Tensor grad_out, Tensor? grad_last_state, {_OPTIONS}) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    fake=_empty_gradients,
)
def _backward(*args: Any) -> list[Tensor | None]:
    *inputs, resets, checkpoints, grad_out, grad_last_state, delta_softplus, reverse, backend = args
    grads = _empty_gradients(*args)
    if backend == "cpu":
        dispatch.cpu().selective_scan_backward(
            *inputs, dense(resets), grad_out, grad_last_state, *grads, delta_softplus, reverse, torch.get_num_threads()
        )
    else:
        plan.backward(
            backend,
            Inputs(*inputs).with_groups(),
            Outer(checkpoints, grad_out, grad_last_state),
            Inputs(*grads).with_groups(),  # type: ignore[arg-type]
            Options(delta_softplus, reverse),
            resets,
        )
    return grads


class _SelectiveScan(torch.autograd.Function):
    generate_vmap_rule = True

    forward = staticmethod(_forward)

    @staticmethod
    def setup_context(ctx, args, outputs):  # type: ignore[no-untyped-def]
        *inputs, resets, with_checkpoints, ctx.delta_softplus, ctx.reverse, ctx.backend = args
        if not with_checkpoints and ctx.backend != "cpu":
            raise exported_without_gradients()
        ctx.save_for_backward(*inputs, resets, outputs[2])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad_out, grad_last_state, *_):  # type: ignore[no-untyped-def]
        *inputs, resets, checkpoints = ctx.saved_tensors
        options = Options(ctx.delta_softplus, ctx.reverse)
        if wants_double_backward():
            grads = reference_gradients(
                lambda *tensors: _reference(*tensors, resets=resets, options=options),
                inputs,
                (grad_out, grad_last_state),
                ctx.needs_input_grad,
            )
            return *grads, None, None, None, None, None
        if grad_out is None:
            grad_out = torch.zeros_like(inputs[0])
        grads = _backward(*inputs, resets, checkpoints, grad_out, grad_last_state, *options, ctx.backend)
        # Through torch.library what is absent has an empty gradient.
        grads = [None if i is None else g for g, i in zip(grads, inputs, strict=True)]
        return *grads, None, None, None, None, None


derivatives_of("selective_scan_forward", _SelectiveScan)
_differentiable_forward = differentiable(_SelectiveScan, outputs=2)


def _reference(*tensors: Any, resets: Tensor | None, options: Options) -> tuple[Tensor, Tensor]:
    return reference.selective_scan(*Inputs(*tensors).with_groups(), resets, *options)


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
    seq_idx: Tensor | None = None,
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
        seq_idx: of packed sequences the one that each step belongs to, (B, L), integers: the state is zero before a
            step whose neighbour has another number. initial_state is then of each row's first sequence in the scan's
            direction, last_state of its last. None for one sequence a row.
        backend: see `bdam_kernels.backends`; None takes the best that runs.
    Returns: out (B, D, L) in u's dtype, and with return_last_state also h after the last step (B, D, N), float32
        (float64 for float64 inputs, complex for complex A). Gradients flow from and to both states.
    Raises: ValueError for shapes that do not fit; TypeError for dtypes that are not floating point;
        BackendUnavailable if a forced backend cannot run.
    """
    inputs = Inputs(u, delta, A, B, C, D, z, delta_bias, initial_state)
    if not _check(*inputs):
        inputs = _as_kernels_take(inputs)
    resets = resets_of(seq_idx, u, reverse)
    chosen = dispatch.choose(backend, u.device, _kernels, inputs.A.dtype, A.shape[1])
    if chosen == "reference" or u.numel() == 0 or A.numel() == 0:
        real = torch.float64 if inputs.A.dtype in (torch.float64, torch.complex128) else torch.float32
        wide: list[Any] = [t if t is None or t.is_complex() else t.to(real) for t in inputs]
        out, last_state = _reference(*wide, resets=resets, options=Options(delta_softplus, reverse))
    else:
        differentiated = is_differentiated(inputs)
        run = _differentiable_forward if differentiated else _forward
        out, last_state, *_ = run(*inputs, resets, differentiated, delta_softplus, reverse, chosen)
    out = cast(out, u.dtype)
    return (out, last_state) if return_last_state else out


def _kernels(dtype: torch.dtype, states: int) -> dict[str, str]:
    """The backends that have kernels, each with "" or the reason why they do not take A of this dtype and so wide."""
    real = "" if dtype == torch.float32 else f"its kernels take real A up to float32, got {dtype}"
    gpu = real or ("" if states <= 256 else f"its kernels take up to 256 states, got {states}")
    return {"cpu": real, "cuda": gpu, "triton": gpu}


def _as_kernels_take(inputs: Inputs) -> Inputs:
    """One dtype for what streams over time, float32 (or wider) for the rest; one G for B and C if both have one; D and
    delta_bias contiguous."""
    u, delta, A, B, C, D, z, delta_bias, initial_state = inputs
    dtypes = {t.dtype for t in inputs if t is not None}
    double = torch.float64 in dtypes or torch.complex128 in dtypes
    real = torch.float64 if double else torch.float32
    state = real if A.is_floating_point() else torch.complex128 if double else torch.complex64
    streams = [t.dtype for t in (delta, z, *(m for m in (B, C) if m.dim() > 2)) if t is not None]
    stream = real if double or any(dtype != u.dtype for dtype in streams) else u.dtype
    u, delta, A = cast(u, stream), cast(delta, stream), cast(A, state)
    B, C = _over_time(B, stream, real, state), _over_time(C, stream, real, state)
    D, delta_bias = cast_present(D, real), cast_present(delta_bias, real)
    z, initial_state = cast_present(z, stream), cast_present(initial_state, state)
    if B.dim() == 4 or C.dim() == 4:
        B, C = _with_as_many_groups(B, C, u.shape[1])
    D = None if D is None else D.contiguous()
    delta_bias = None if delta_bias is None else delta_bias.contiguous()
    return Inputs(u, delta, A, B, C, D, z, delta_bias, initial_state)


def _over_time(matrix: Tensor, stream: torch.dtype, real: torch.dtype, state: torch.dtype) -> Tensor:
    """B or C in the dtype that it has as a stream or as a constant."""
    if matrix.dim() == 2:
        return cast(matrix, state)
    if not state.is_complex:
        return cast(matrix, stream)
    if matrix.is_complex():
        return matrix
    return torch.view_as_complex(cast(matrix, real).unflatten(-1, (-1, 2)).contiguous())


def _with_as_many_groups(B: Tensor, C: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    if B.dim() == 2 or C.dim() == 2:
        return B, C
    B, C = with_groups(B), with_groups(C)
    groups = max(B.shape[1], C.shape[1])
    if groups % B.shape[1] or groups % C.shape[1]:
        groups = channels
    B, C = (m if m.shape[1] == groups else m.repeat_interleave(groups // m.shape[1], dim=1) for m in (B, C))
    return B, C


@checked_once
def _check(*tensors: Any) -> bool:
    """Of all inputs; whether `_as_kernels_take` has nothing to do for them."""
    u, delta, A, B, C, D, z, delta_bias, initial_state = inputs = Inputs(*tensors)
    if u.dim() != 3:
        raise ValueError(f"u must be (B, D, L), got {tuple(u.shape)}")
    batch, channels, length = shape = u.shape
    if A.dim() != 2 or A.shape[0] != channels:
        raise ValueError(f"A must be (D, N) with D = {channels}, got {tuple(A.shape)}")
    states = A.shape[1]
    if delta.shape != shape:
        raise wrong_shape("delta", delta, shape)
    if z is not None and z.shape != shape:
        raise wrong_shape("z", z, shape)
    if D is not None and D.shape != (channels,):
        raise wrong_shape("D", D, (channels,))
    if delta_bias is not None and delta_bias.shape != (channels,):
        raise wrong_shape("delta_bias", delta_bias, (channels,))
    if initial_state is not None and initial_state.shape != (batch, channels, states):
        raise wrong_shape("initial_state", initial_state, (batch, channels, states))
    is_real = A.is_floating_point()
    for name, matrix in (("B", B), ("C", C)):
        steps = length if is_real or matrix.is_complex() else 2 * length
        if matrix.shape != (batch, states, steps) and not _fits(matrix, batch, channels, states, steps):
            raise ValueError(
                f"{name} must be ({channels}, {states}), ({batch}, {states}, {steps}) or "
                f"({batch}, G, {states}, {steps}) with G dividing {channels}, got {tuple(matrix.shape)}"
            )
    check_kinds(Inputs._fields, inputs, complex_too=() if is_real else _COMPLEX)
    return (
        all([t is None or t.dtype == torch.float32 for t in inputs])
        and B.dim() < 4
        and C.dim() < 4
        and all([t is None or t.stride(0) == 1 for t in (D, delta_bias)])
    )


def _fits(matrix: Tensor, batch: int, channels: int, states: int, steps: int) -> bool:
    """Whether it is (D, N) or (B, G, N, L), of these sizes."""
    if matrix.dim() != 4:
        return matrix.shape == (channels, states)
    groups = matrix.shape[1]
    divides = channels == 0 or (groups > 0 and channels % groups == 0)
    return divides and matrix.shape == (batch, groups, states, steps)
