"""Stand-ins for the functions of mamba_ssm's compiled module, which copies of its Python code call by themselves."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bdam_kernels.ops.selective_scan.op import selective_scan


@torch.no_grad()
def fwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> list[Tensor]:
    """`bdam_kernels.selective_scan` without derivatives, for code that has its own.

    Returns: out before the gate z, (B, D, L); x (B, D, 1, 2N) with the last state in x[:, :, -1, 1::2], of which the
        rest is NaN; and, if there is z, out behind the gate.
    """
    out, state = selective_scan(u, delta, A, B, C, D, None, delta_bias, delta_softplus, return_last_state=True)
    x = torch.stack([torch.full_like(state, torch.nan), state], -1).flatten(2)[:, :, None]
    return [out, x] if z is None else [out, x, (out.float() * F.silu(z.float())).to(u.dtype)]


def bwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    dout: Tensor,
    x: Tensor | None,
    out: Tensor | None,
    dz: Tensor | None,
    delta_softplus: bool,
    recompute_out_z: bool,
) -> list[Tensor | None]:
    """Gradients of what `fwd` gives last, by way of another forward pass.

    Args:
        dout: of it, (B, D, L).
        x, out: have no effect.
        dz: where that of z is written to as well.
    Returns: those of u, delta, A, B, C, D and delta_bias, None for an absent one; if there is z, its own; with
        recompute_out_z also out behind the gate.
    """
    inputs = (u, delta, A, B, C, D, delta_bias, z)
    leaves = [None if t is None else t.detach().requires_grad_() for t in inputs]
    with torch.enable_grad():
        gated = selective_scan(*leaves[:6], leaves[7], leaves[6], delta_softplus)
    found = iter(torch.autograd.grad(gated, [t for t in leaves if t is not None], dout))
    gradients = [None if t is None else next(found) for t in leaves]
    if z is None:
        return gradients[:7]
    if dz is not None:
        gradients[7] = dz.copy_(gradients[7])  # type: ignore[arg-type]
    return [*gradients, gated.detach()] if recompute_out_z else gradients
