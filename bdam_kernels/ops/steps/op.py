"""One time step of the causal convolution and of the selective scan, for decoding: states are updated in place."""

from __future__ import annotations

import torch
from torch import Tensor

from bdam_kernels import dispatch
from bdam_kernels.ops.arguments import check_shapes, unit_stride
from bdam_kernels.ops.causal_conv1d.op import causal_conv1d
from bdam_kernels.ops.gpu import gpu_module, on_device_of
from bdam_kernels.ops.selective_scan.op import selective_scan


def _takes_triton(backend: str | None, x: Tensor, *others: Tensor | None) -> bool:
    """Whether Triton's kernels serve a call; else the operators over time do, which autograd and torch.compile know."""
    name = dispatch.asked(backend)
    if name not in (None, "triton") or torch.compiler.is_compiling():
        return False
    if name is None and not dispatch.serves("triton", x.device):
        return False
    tensors = (x, *others)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return False
    dtypes = [None if t is None else t.dtype for t in tensors]
    return dispatch.choose(backend, x.device, _kernels, *dtypes) == "triton"


def _kernels(*dtypes: torch.dtype | None) -> dict[str, str]:
    return {"triton": dispatch.dtype_reason(*dtypes)}


def _for_autograd(state: Tensor) -> Tensor:
    """The state, or a copy that backward finds as it was."""
    return state.clone() if torch.is_grad_enabled() else state


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    """A step of `causal_conv1d`.

    Args:
        x: (B, D).
        conv_state: the inputs before, (B, D, S) with S >= W - 1, of which the last count; x is appended and the first
            dropped, in place.
        weight, bias, activation, backend: as in `causal_conv1d`.
    Returns: (B, D) in x's dtype.
    """
    width = weight.shape[1]
    if x.dim() == 2 and conv_state.shape[-1] and _takes_triton(backend, x, conv_state, weight, bias):
        if activation not in (None, "silu", "swish"):
            raise ValueError(f"activation must be None, 'silu' or 'swish', got {activation!r}")
        if conv_state.shape[:2] != x.shape or conv_state.shape[2] < width - 1 or weight.shape[0] != x.shape[1]:
            raise ValueError(
                f"conv_state and weight must be (B, D, S) and (D, W) with S >= W - 1 and (B, D) = {tuple(x.shape)}, "
                f"got {tuple(conv_state.shape)} and {tuple(weight.shape)}"
            )
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        if x.numel():
            kernels = gpu_module("triton", "steps.triton_kernels")
            bias = None if bias is None else bias.contiguous()
            with on_device_of(x):
                kernels.causal_conv1d_update(x, conv_state, weight.contiguous(), bias, out, activation is not None)
        return out
    steps = x.unsqueeze(-1)
    before = _for_autograd(conv_state[..., conv_state.shape[-1] - (width - 1) :])
    out = causal_conv1d(steps, weight, bias, activation, initial_state=before, backend=backend)
    conv_state.copy_(torch.cat([conv_state, steps.to(conv_state.dtype)], -1)[..., 1:])
    return out.squeeze(-1)


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    *,
    log_A: bool = False,
    backend: str | None = None,
) -> Tensor:
    """A step of `selective_scan`, named as in mamba_ssm.

    Args:
        state: (B, D, N), updated in place.
        x, dt, z: (B, D).
        A: (D, N); with log_A it is log(-A).
        B, C: (B, N), or (B, G, N).
        D, dt_bias: (D,).
        backend: as in `selective_scan`.
    Returns: (B, D) in x's dtype.
    """
    shape = (*x.shape, A.shape[-1])
    if state.shape == shape and B.dim() == C.dim() == 2 and not A.is_complex():
        tensors = (state, dt, A, B, C, D, z, dt_bias)
        if state.is_contiguous() and _takes_triton(backend, x, *tensors):
            return _update(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus, log_A)

    def one_step(t: Tensor | None) -> Tensor | None:
        return None if t is None else t.unsqueeze(-1)

    out, last_state = selective_scan(
        x.unsqueeze(-1), dt.unsqueeze(-1), -torch.exp(A.float()) if log_A else A, B.unsqueeze(-1), C.unsqueeze(-1), D,
        one_step(z), dt_bias, dt_softplus, return_last_state=True, initial_state=_for_autograd(state),
        backend=backend,
    )  # fmt: skip
    state.copy_(last_state)
    return out.squeeze(-1)


def _update(  # type: ignore[no-untyped-def]
    state, x, dt, A, B, C, D, z, dt_bias, dt_softplus, log_A
) -> Tensor:
    batch, channels, states = state.shape
    check_shapes({
        "dt": (dt, (batch, channels)), "z": (z, (batch, channels)), "A": (A, (channels, states)),
        "B": (B, (batch, states)), "C": (C, (batch, states)), "D": (D, (channels,)), "dt_bias": (dt_bias, (channels,)),
    })  # fmt: skip

    def whole(t: Tensor | None) -> Tensor | None:
        return None if t is None else t.contiguous()

    out = torch.empty((batch, channels), dtype=x.dtype, device=x.device)
    if out.numel():
        kernels = gpu_module("triton", "steps.triton_kernels")
        with on_device_of(x):
            kernels.selective_state_update(
                state, unit_stride(x), unit_stride(dt), A.contiguous(), unit_stride(B), unit_stride(C), whole(D),
                None if z is None else unit_stride(z), whole(dt_bias), out, dt_softplus, log_A,
            )  # fmt: skip
    return out
