"""Gated selective scan: schema, autograd and the public function."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from bdam_kernels import dispatch
from bdam_kernels.autograd import reference_gradients, wants_double_backward
from bdam_kernels.operators import differentiable, is_differentiated, operator
from bdam_kernels.ops.arguments import cast, cast_present, check_shape, empty_contiguous
from bdam_kernels.ops.selective_scan import plan, reference

_INPUTS = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, "
    "Tensor? initial_state"
)
_NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")
_COMPLEX = ("A", "B", "C", "initial_state")
"""What may be complex, if A is."""

_ALL_FLOAT32 = {torch.float32}
_OPTIONS = "bool delta_softplus, bool reverse, str backend"

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def _empty_outputs(*args: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    """Of the operator's arguments. Checkpoints are the states that backward starts from, (B, K, D, N)."""
    u, A = args[0], args[2]
    with_checkpoints, backend = args[9], args[12]
    batch, _, length = u.shape
    channels, states = A.shape
    checkpoints = None
    if backend != "cpu":
        count = plan.chunks(length) - 1 if with_checkpoints else 0
        checkpoints = A.new_empty(batch, count, channels, states)
    return torch.empty_like(u), A.new_empty(batch, channels, states), checkpoints


@operator(
    f"selective_scan_forward({_INPUTS}, bool with_checkpoints, {_OPTIONS}) "
    "-> (Tensor out, Tensor last_state, Tensor checkpoints)",
    fake=_empty_outputs,
)
def _forward(*args: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    inputs, (_, delta_softplus, reverse, backend) = args[:9], args[9:]
    outputs = _empty_outputs(*args)
    if backend == "cpu":
        threads = torch.get_num_threads()
        dispatch.cpu().selective_scan_forward(*inputs, *outputs[:2], delta_softplus, reverse, threads)
    else:
        u, delta, A, B, C, *others = inputs
        inputs = (u, delta, A, _with_groups(B), _with_groups(C), *others)
        plan.forward(backend, inputs, outputs, delta_softplus, reverse)
    return outputs


def _empty_gradients(*args: Any) -> list[Tensor | None]:
    """Of the operator's arguments: a gradient for each input, None where the input is absent."""
    return [torch.empty_like(args[0]), *map(empty_contiguous, args[1:9])]


@operator(
    f"selective_scan_backward({_INPUTS}, Tensor? checkpoints, Tensor grad_out, Tensor? grad_last_state, {_OPTIONS}) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    fake=_empty_gradients,
)
def _backward(*args: Any) -> list[Tensor | None]:
    inputs, (checkpoints, grad_out, grad_last_state, delta_softplus, reverse, backend) = args[:9], args[9:]
    grads = _empty_gradients(*args)
    if backend == "cpu":
        tensors = (*inputs, grad_out, grad_last_state, *grads)
        dispatch.cpu().selective_scan_backward(*tensors, delta_softplus, reverse, torch.get_num_threads())
    else:
        u, delta, A, B, C, *others = inputs
        inputs = (u, delta, A, _with_groups(B), _with_groups(C), *others)
        written = (*grads[:3], _with_groups(grads[3]), _with_groups(grads[4]), *grads[5:])
        outer = (checkpoints, grad_out, grad_last_state)
        plan.backward(backend, inputs, outer, written, delta_softplus, reverse)
    return grads


def _with_groups(matrix: Any) -> Any:
    """B or C as a GPU's kernels and the reference take it, (D, N) or (B, G, N, L)."""
    return matrix.unsqueeze(1) if matrix.dim() == 3 else matrix


class _SelectiveScan(torch.autograd.Function):
    generate_vmap_rule = True

    forward = staticmethod(_forward)

    @staticmethod
    def setup_context(ctx, args, outputs):  # type: ignore[no-untyped-def]
        *inputs, _, ctx.delta_softplus, ctx.reverse, ctx.backend = args
        ctx.save_for_backward(*inputs, outputs[2])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad_out, grad_last_state, *_):  # type: ignore[no-untyped-def]
        *inputs, checkpoints = ctx.saved_tensors
        flags = (ctx.delta_softplus, ctx.reverse)
        if wants_double_backward():
            grads = reference_gradients(
                lambda *tensors: _reference(*tensors, *flags), inputs, (grad_out, grad_last_state), ctx.needs_input_grad
            )
            return *grads, None, None, None, None
        if grad_out is None:
            grad_out = torch.zeros_like(inputs[0])
        grads = _backward(*inputs, checkpoints, grad_out, grad_last_state, *flags, ctx.backend)
        return *(None if i is None else g for g, i in zip(grads, inputs, strict=True)), None, None, None, None


_differentiable_forward = differentiable(_SelectiveScan, outputs=2)


def _reference(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    return reference.selective_scan(u, delta, A, _with_groups(B), _with_groups(C), *others)


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
    _check(u, delta, A, B, C, D, z, delta_bias, initial_state)
    inputs = _normalise(u, delta, A, B, C, D, z, delta_bias, initial_state)
    chosen = dispatch.choose(backend, u.device, _kernels(inputs[2]))
    if chosen == "reference" or u.numel() == 0 or A.numel() == 0:
        real = torch.float64 if inputs[2].dtype in (torch.float64, torch.complex128) else torch.float32
        wide: list[Any] = [t if t is None or t.is_complex() else t.to(real) for t in inputs]
        out, last_state = _reference(*wide, delta_softplus, reverse)
    else:
        differentiated = is_differentiated(inputs)
        run = _differentiable_forward if differentiated else _forward
        out, last_state, *_ = run(*inputs, differentiated, delta_softplus, reverse, chosen)
    out = cast(out, u.dtype)
    return (out, last_state) if return_last_state else out


def _kernels(A: Tensor) -> dict[str, str]:
    """The backends that have kernels, each with "" or the reason why they do not take such an A."""
    states = A.shape[1]
    real = "" if A.dtype == torch.float32 else f"its kernels take real A up to float32, got {A.dtype}"
    gpu = real or ("" if states <= 256 else f"its kernels take up to 256 states, got {states}")
    return {"cpu": real, "cuda": gpu, "triton": gpu}


def _normalise(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, initial_state: Tensor | None,
) -> Inputs:  # fmt: skip
    """One dtype for what streams over time, float32 (or wider) for the rest; one G for B and C if both have one."""
    dtypes = {t.dtype for t in (u, delta, A, B, C, D, z, delta_bias, initial_state) if t is not None}
    if dtypes != _ALL_FLOAT32:
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
    D = D if D is None else D.contiguous()
    delta_bias = delta_bias if delta_bias is None else delta_bias.contiguous()
    return u, delta, A, B, C, D, z, delta_bias, initial_state


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
    B, C = _with_groups(B), _with_groups(C)
    groups = max(B.shape[1], C.shape[1])
    if groups % B.shape[1] or groups % C.shape[1]:
        groups = channels
    B, C = (m if m.shape[1] == groups else m.repeat_interleave(groups // m.shape[1], dim=1) for m in (B, C))
    return B, C


def _check(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, initial_state: Tensor | None,
) -> None:  # fmt: skip
    if u.dim() != 3:
        raise ValueError(f"u must be (B, D, L), got {tuple(u.shape)}")
    batch, channels, length = u.shape
    if A.dim() != 2 or A.shape[0] != channels:
        raise ValueError(f"A must be (D, N) with D = {channels}, got {tuple(A.shape)}")
    states = A.shape[1]
    check_shape("delta", delta, (batch, channels, length))
    if z is not None:
        check_shape("z", z, (batch, channels, length))
    if D is not None:
        check_shape("D", D, (channels,))
    if delta_bias is not None:
        check_shape("delta_bias", delta_bias, (channels,))
    if initial_state is not None:
        check_shape("initial_state", initial_state, (batch, channels, states))
    is_real = A.is_floating_point()
    for name, matrix in (("B", B), ("C", C)):
        steps = length if is_real or matrix.is_complex() else 2 * length
        dims = matrix.dim()
        if dims == 4:
            groups = matrix.shape[1]
            divides = channels == 0 or (groups > 0 and channels % groups == 0)
            fits = divides and matrix.shape == (batch, groups, states, steps)
        else:
            fits = matrix.shape == ((channels, states) if dims == 2 else (batch, states, steps))
        if not fits:
            raise ValueError(
                f"{name} must be ({channels}, {states}), ({batch}, {states}, {steps}) or "
                f"({batch}, G, {states}, {steps}) with G dividing {channels}, got {tuple(matrix.shape)}"
            )
    device = u.device
    for name, tensor in zip(_NAMES, (u, delta, A, B, C, D, z, delta_bias, initial_state), strict=True):
        if tensor is None:
            continue
        if not tensor.is_floating_point() and (is_real or name not in _COMPLEX or not tensor.is_complex()):
            raise TypeError(f"{name} must be floating point, got {tensor.dtype}")
        if tensor.device != device:
            raise ValueError(f"{name} must be on {device} like u, got {tensor.device}")
