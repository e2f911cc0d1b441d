"""The selective scan in plain PyTorch: differentiable any number of times, slow, and without casts
(float64 stays float64), so that it serves as the oracle, as the fallback and as the second derivative."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    resets: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """Selective scan, one step at a time; returns (out, last_state).

    h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t,  out_t = (Re C_t . h_t + D u_t) silu(z_t).
    Source: Gu and Dao 2023, "Mamba", Eq. 2 with the zero-order hold for A and Euler's rule for B.

    Args: as `bdam_kernels.selective_scan`, with B and C of shape (D, N) or (B, G, N, L).
        resets: (B, L), true where a step starts from a state of zero.
    """
    batch, channels, length = u.shape
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    state = u.new_zeros(batch, channels, A.shape[1], dtype=A.dtype) if initial_state is None else initial_state
    drive = delta * u
    outputs: list[Tensor] = []
    for t in reversed(range(length)) if reverse else range(length):
        decay = torch.exp(delta[:, :, t, None] * A)
        if resets is not None:
            state = torch.where(resets[:, t, None, None], 0, state)
        state = decay * state + drive[:, :, t, None] * _at(B, t, channels)
        y = (state * _at(C, t, channels)).sum(-1)
        # A complex state stands for a conjugate pair, whose two halves add up to twice the real part.
        outputs.append(2 * y.real if y.is_complex() else y)
    if reverse:
        outputs.reverse()
    out = torch.stack(outputs, -1) if outputs else drive
    if D is not None:
        out = out + D[:, None] * u
    return (out if z is None else out * F.silu(z)), state


def _at(matrix: Tensor, t: int, channels: int) -> Tensor:
    """B or C at time t, as (1 or B, D, N)."""
    if matrix.dim() == 2:
        return matrix[None]
    return matrix[..., t].repeat_interleave(channels // matrix.shape[1], dim=1)
