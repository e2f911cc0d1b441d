"""Stand-ins for the functions of mamba_ssm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bdam_kernels import dispatch
from bdam_kernels.compat.rows import of_rows
from bdam_kernels.modules import mamba_inner
from bdam_kernels.ops.arguments import check_shape, check_shapes
from bdam_kernels.ops.packed import seq_idx_of
from bdam_kernels.ops.selective_scan.op import selective_scan
from bdam_kernels.ops.steps import op as steps


def selective_scan_fn(
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
    cu_seqlens: Tensor | None = None,
    *,
    seq_idx: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """`bdam_kernels.selective_scan` with mamba_ssm's arguments.

    Args:
        cu_seqlens: of sequences that are packed into one row, B = 1, where they begin and the last one ends, (S + 1,).
        seq_idx: the same as the sequence that each step belongs to, (B, L); one of both.
    """
    return selective_scan(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus=delta_softplus, return_last_state=return_last_state,
        seq_idx=_seq_idx(cu_seqlens, seq_idx, u),
    )  # fmt: skip


def _seq_idx(cu_seqlens: Tensor | None, seq_idx: Tensor | None, x: Tensor) -> Tensor | None:
    """The one of both that is there, for an x (B, D, L)."""
    if cu_seqlens is None:
        return seq_idx
    if seq_idx is not None or len(x) != 1:
        raise ValueError(
            f"cu_seqlens are for one row without seq_idx, got {len(x)} rows{'' if seq_idx is None else ' and seq_idx'}"
        )
    return seq_idx_of(cu_seqlens, x.shape[2])


def selective_scan_ref(*args: Any, **kwargs: Any) -> Tensor | tuple[Tensor, Tensor]:
    """The same on the reference backend."""
    with dispatch.use_backend("reference"):
        return selective_scan_fn(*args, **kwargs)


def mamba_inner_fn(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
    checkpoint_lvl: int = 1,
    b_rms_weight: Tensor | None = None,
    c_rms_weight: Tensor | None = None,
    dt_rms_weight: Tensor | None = None,
    b_c_dt_rms_eps: float = 1e-6,
    *,
    cu_seqlens: Tensor | None = None,
    seq_idx: Tensor | None = None,
) -> Tensor:
    """A Mamba layer after its input projection: xz (B, 2D, L) -> (B, L, d_model), as in mamba_ssm.

    Args:
        A: (D, N), real or complex; with complex A what is of N states here has 2N numbers, real and imaginary parts
            interleaved.
        B, C: (D, N) for all times, without rows in x_proj_weight; None where they depend on the input.
        B_proj_bias, C_proj_bias: (N,), added to B and C that depend on the input.
        checkpoint_lvl: has no effect; what backward recomputes here does not depend on it.
        b_rms_weight, c_rms_weight: (N,) of root mean square norms of B and C over their N states, as FalconMamba has
            them; None for no norm.
        dt_rms_weight: of the norm of the step sizes over their rank R, before their projection, (R,); or of shape
            (D,), as FalconMamba passes ones, which then scale the projected step sizes. (The kernels that FalconMamba
            was trained with take this norm over the D projected ones; transformers' own code takes it as it is here,
            in training and in generation.)
        b_c_dt_rms_eps: is added to the mean squares of all three.
        cu_seqlens, seq_idx: packed sequences, as in `selective_scan_fn`.
    Raises: ValueError for shapes that do not fit, or for a bias or norm of a B or C that is constant.
    """
    y = _inner(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, D, delta_bias, B_proj_bias,
        C_proj_bias, delta_softplus, b_rms_weight, c_rms_weight, dt_rms_weight, b_c_dt_rms_eps,
        _seq_idx(cu_seqlens, seq_idx, xz),
    )  # fmt: skip
    return torch.nn.functional.linear(y, out_proj_weight, out_proj_bias)


def mamba_inner_fn_no_out_proj(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
    checkpoint_lvl: int = 1,
) -> Tensor:
    """`mamba_inner_fn` before its output projection, (B, 2D, L) -> (B, D, L), as in the Mamba of Vision Mamba."""
    return _inner(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, D, delta_bias, B_proj_bias,
        C_proj_bias, delta_softplus,
    ).transpose(1, 2)  # fmt: skip


def _inner(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    A: Tensor,
    B: Tensor | None,
    C: Tensor | None,
    D: Tensor | None,
    delta_bias: Tensor | None,
    B_proj_bias: Tensor | None,
    C_proj_bias: Tensor | None,
    delta_softplus: bool,
    b_rms_weight: Tensor | None = None,
    c_rms_weight: Tensor | None = None,
    dt_rms_weight: Tensor | None = None,
    b_c_dt_rms_eps: float = 1e-6,
    seq_idx: Tensor | None = None,
) -> Tensor:
    """`mamba_inner_fn` before its output projection: (B, 2D, L) -> (B, L, D)."""
    rank, width = delta_proj_weight.shape[1], A.shape[1] * (2 if A.is_complex() else 1)
    rows = rank + width * ((B is None) + (C is None))
    check_shape("x_proj_weight", x_proj_weight, (rows, len(A)))
    if dt_rms_weight is not None and dt_rms_weight.shape != (rank,):
        check_shape("dt_rms_weight", dt_rms_weight, (len(delta_proj_weight),))
        delta_proj_weight = delta_proj_weight * dt_rms_weight[:, None].to(delta_proj_weight.dtype)
        dt_rms_weight = dt_rms_weight.new_ones(rank)
    for name, constant, of_input in (
        ("B", B, {"B_proj_bias": B_proj_bias, "b_rms_weight": b_rms_weight}),
        ("C", C, {"C_proj_bias": C_proj_bias, "c_rms_weight": c_rms_weight}),
    ):
        check_shapes({what: (t, (width,)) for what, t in of_input.items()})
        given = [what for what, t in of_input.items() if t is not None]
        if constant is not None and given:
            raise ValueError(f"{' and '.join(given)} are for a {name} that depends on the input, got {name} as well")

    def adjust(x: Tensor, bias: Tensor | None, weight: Tensor | None) -> Tensor:
        if bias is not None:
            x = x + bias[:, None].to(x.dtype)
        if weight is None:
            return x
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(0) + b_c_dt_rms_eps) * weight[:, None]).to(x.dtype)

    return mamba_inner(
        xz, conv1d_weight.squeeze(1), conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, D, delta_bias,
        delta_softplus, seq_idx=seq_idx,
        normalise=lambda dt, B, C: (
            adjust(dt, None, dt_rms_weight),
            adjust(B, B_proj_bias, b_rms_weight),
            adjust(C, C_proj_bias, c_rms_weight),
        ),
    )  # fmt: skip


def mamba_inner_ref(*args: Any, **kwargs: Any) -> Tensor:
    """The same on the reference backend."""
    with dispatch.use_backend("reference"):
        return mamba_inner_fn(*args, **kwargs)


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
    state_batch_indices: Tensor | None = None,
) -> Tensor:
    """One step of the scan, as in mamba_ssm: of D channels, or of H heads of P channels each.

    Args:
        state: (S, D, N) or (S, H, P, N), updated in place.
        x, dt, z: (B, D) or (B, H, P).
        A: (D, N) or (H, P, N).
        B, C: (B, N), or (B, G, N) of G groups of neighbouring heads or channels.
        D, dt_bias: (D,) or (H, P).
        state_batch_indices: the rows of state that belong to the batch, (B,), each once, or -1 for an element of the
            batch that is padding, of which out is zero; None for S = B, all of them.
    Returns: the shape and dtype of x.
    Raises: ValueError for shapes that do not fit.
    """
    if state.dim() not in (3, 4):
        raise ValueError(f"state must be (S, D, N) or (S, H, P, N), got {tuple(state.shape)}")
    *channels, states = state.shape[1:]
    batch, heads = len(x), channels[0]
    check_shapes({
        "x": (x, (batch, *channels)), "dt": (dt, (batch, *channels)), "z": (z, (batch, *channels)),
        "A": (A, (*channels, states)), "D": (D, tuple(channels)), "dt_bias": (dt_bias, tuple(channels)),
        "state_batch_indices": (state_batch_indices, (batch,)),
    })  # fmt: skip
    for name, tensor in (("B", B), ("C", C)):
        groups = tensor.shape[1] if tensor.dim() == 3 else 1
        if tensor.shape not in ((batch, states), (batch, groups, states)) or groups == 0 or heads % groups:
            raise ValueError(
                f"{name} must be ({batch}, {states}) or ({batch}, G, {states}) with G that divides {heads}, "
                f"got {tuple(tensor.shape)}"
            )
    if state_batch_indices is None and len(state) != batch:
        raise ValueError(f"state must have the batch's {batch} rows without state_batch_indices, got {len(state)}")

    if state_batch_indices is not None:
        return of_rows(
            lambda state, x, dt, B, C, z: selective_state_update(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus),
            state, state_batch_indices, x, dt, B, C, z,
        )  # fmt: skip

    def flat(t: Tensor, first: int) -> Tensor:
        return t if state.dim() == 3 else t.flatten(first, first + 1)

    def flat_or_none(t: Tensor | None, first: int) -> Tensor | None:
        return None if t is None else flat(t, first)

    B, C = (t[:, 0] if t.dim() == 3 and t.shape[1] == 1 else t for t in (B, C))
    flat_state = flat(state, 1)
    out = steps.selective_state_update(
        flat_state, flat(x, 1), flat(dt, 1), flat(A, 0), B, C, flat_or_none(D, 0), flat_or_none(z, 1),
        flat_or_none(dt_bias, 0), dt_softplus,
    )  # fmt: skip
    if not state.is_contiguous() and state.dim() == 4:
        state.copy_(flat_state.view_as(state))  # flattened, it may have been a copy
    return out.view_as(x)


def selective_state_update_ref(*args: Any, **kwargs: Any) -> Tensor:
    """The same on the reference backend."""
    with dispatch.use_backend("reference"):
        return selective_state_update(*args, **kwargs)
