"""Lets code written for mamba_ssm and causal_conv1d find these operators, on any device.

    import bdam_kernels.compat
    bdam_kernels.compat.install()
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    from causal_conv1d import causal_conv1d_fn

transformers' Mamba models (5.23 and later look functions up by these package names) use them too.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType

import torch
from torch import Tensor

from bdam_kernels.modules import Mamba, mamba_inner
from bdam_kernels.ops.arguments import check_shape, check_shapes
from bdam_kernels.ops.causal_conv1d.op import causal_conv1d
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
) -> Tensor | tuple[Tensor, Tensor]:
    """`bdam_kernels.selective_scan` with mamba_ssm's arguments."""
    return selective_scan(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus=delta_softplus, return_last_state=return_last_state
    )


def selective_scan_ref(*args: Tensor | None, **kwargs: object) -> Tensor | tuple[Tensor, Tensor]:
    """The same on the reference backend."""
    return selective_scan(*args, **kwargs, backend="reference")


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
) -> Tensor:
    """A Mamba layer after its input projection: xz (B, 2D, L) -> (B, L, d_model), as in mamba_ssm.

    Args:
        checkpoint_lvl: has no effect; what backward recomputes here does not depend on it.
        b_rms_weight, c_rms_weight: (N,) of root mean square norms of B and C over their N states, as FalconMamba has
            them; None for no norm.
        dt_rms_weight: of the norm of the step sizes over their rank R, before their projection, (R,); or of shape
            (D,), as FalconMamba passes ones, which then scale the projected step sizes. (The kernels that FalconMamba
            was trained with take this norm over the D projected ones; transformers' own code takes it as it is here,
            in training and in generation.)
        b_c_dt_rms_eps: is added to the mean squares of all three.
    Raises: ValueError if B, C or a bias of theirs is given: only the input-dependent form exists here.
    """
    if any(t is not None for t in (B, C, B_proj_bias, C_proj_bias)):
        raise ValueError("mamba_inner_fn takes input-dependent B and C without biases only: pass None for them")
    rank, states = delta_proj_weight.shape[1], A.shape[1]
    if dt_rms_weight is not None and dt_rms_weight.shape != (rank,):
        check_shape("dt_rms_weight", dt_rms_weight, (len(delta_proj_weight),))
        delta_proj_weight = delta_proj_weight * dt_rms_weight[:, None].to(delta_proj_weight.dtype)
        dt_rms_weight = dt_rms_weight.new_ones(rank)
    check_shapes({"b_rms_weight": (b_rms_weight, (states,)), "c_rms_weight": (c_rms_weight, (states,))})

    def norm(x: Tensor, weight: Tensor | None) -> Tensor:
        if weight is None:
            return x
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(0) + b_c_dt_rms_eps) * weight[:, None]).to(x.dtype)

    y = mamba_inner(
        xz, conv1d_weight.squeeze(1), conv1d_bias, x_proj_weight, delta_proj_weight, A, D, delta_bias, delta_softplus,
        lambda dt, B, C: (norm(dt, dt_rms_weight), norm(B, b_rms_weight), norm(C, c_rms_weight)),
    )  # fmt: skip
    return torch.nn.functional.linear(y, out_proj_weight, out_proj_bias)


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
        state_batch_indices: the rows of state that belong to the batch, (B,), each once; None for S = B, all of them.
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

    def flat(t: Tensor, first: int) -> Tensor:
        return t if state.dim() == 3 else t.flatten(first, first + 1)

    def flat_or_none(t: Tensor | None, first: int) -> Tensor | None:
        return None if t is None else flat(t, first)

    B, C = (t[:, 0] if t.dim() == 3 and t.shape[1] == 1 else t for t in (B, C))
    own = state if state_batch_indices is None else state.index_select(0, state_batch_indices)
    flat_state = flat(own, 1)
    out = steps.selective_state_update(
        flat_state, flat(x, 1), flat(dt, 1), flat(A, 0), B, C, flat_or_none(D, 0), flat_or_none(z, 1),
        flat_or_none(dt_bias, 0), dt_softplus,
    )  # fmt: skip
    if state_batch_indices is not None:
        state.index_copy_(0, state_batch_indices.long(), flat_state.view_as(own))
    elif not state.is_contiguous() and state.dim() == 4:
        state.copy_(flat_state.view_as(state))  # flattened, it may have been a copy
    return out.view_as(x)


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """`bdam_kernels.causal_conv1d` with causal_conv1d's arguments.

    Raises: ValueError for seq_idx: packed sequences are not supported.
    """
    if seq_idx is not None:
        raise ValueError("causal_conv1d_fn does not take packed sequences: pass seq_idx=None and pad instead")
    if not return_final_states:
        return causal_conv1d(x, weight, bias, activation, initial_state=initial_states)
    out, final_state = causal_conv1d(x, weight, bias, activation, initial_state=initial_states, return_final_state=True)
    if final_states_out is not None:
        final_state = final_states_out.copy_(final_state)
    return out, final_state


def causal_conv1d_ref(*args: Tensor | None, **kwargs: object) -> Tensor | tuple[Tensor, Tensor]:
    """The same; peers' tests compare with it in float64, which always runs on the reference backend."""
    return causal_conv1d_fn(*args, **kwargs)  # type: ignore[arg-type]


def causal_conv1d_update(
    x: Tensor, conv_state: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
) -> Tensor:
    """Steps of the convolution: x (B, D) or (B, D, L); conv_state (B, D, S) with S >= W - 1, updated in place."""
    if x.dim() == 2:
        return steps.causal_conv1d_update(x, conv_state, weight, bias, activation)
    if x.shape[2] == 1:
        return steps.causal_conv1d_update(x.squeeze(2), conv_state, weight, bias, activation).unsqueeze(2)
    length = conv_state.shape[2]
    before = conv_state[..., length - (weight.shape[1] - 1) :].clone()
    out = causal_conv1d(x, weight, bias, activation, initial_state=before)
    conv_state.copy_(torch.cat([conv_state, x.to(conv_state.dtype)], -1)[..., x.shape[2] :])
    return out


_MODULES: dict[str, dict[str, Callable[..., object]]] = {
    "mamba_ssm": {
        "Mamba": Mamba,
        "selective_scan_fn": selective_scan_fn,
        "mamba_inner_fn": mamba_inner_fn,
    },
    "mamba_ssm.ops": {},
    "mamba_ssm.ops.selective_scan_interface": {
        "selective_scan_fn": selective_scan_fn,
        "selective_scan_ref": selective_scan_ref,
        "mamba_inner_fn": mamba_inner_fn,
    },
    "mamba_ssm.ops.triton": {},
    "mamba_ssm.ops.triton.selective_state_update": {"selective_state_update": selective_state_update},
    "mamba_ssm.modules": {},
    "mamba_ssm.modules.mamba_simple": {"Mamba": Mamba},
    "causal_conv1d": {"causal_conv1d_fn": causal_conv1d_fn, "causal_conv1d_update": causal_conv1d_update},
    "causal_conv1d.causal_conv1d_interface": {
        "causal_conv1d_fn": causal_conv1d_fn,
        "causal_conv1d_ref": causal_conv1d_ref,
        "causal_conv1d_update": causal_conv1d_update,
    },
}


_VERSIONS = {"mamba_ssm": "1.2.2", "causal_conv1d": "1.2.1"}
"""The last releases without functions that have no stand-in here: the scan of Mamba-2 over time came after."""

_HELD = {
    name for attributes in _MODULES.values() for name, function in attributes.items() if not isinstance(function, type)
}


def install() -> None:
    """Registers these operators as the packages mamba_ssm and causal_conv1d, for imports that follow.

    Call it once, before anything imports those packages or models of transformers that look for them: Mamba, Mamba2,
    FalconMamba, Jamba, Zamba, Bamba, FalconH1 and others. Calling it again does nothing.

    Raises: RuntimeError if a real mamba_ssm or causal_conv1d is installed, or if such a model of transformers was
        imported already and holds on to its own functions.
    """
    if getattr(sys.modules.get("mamba_ssm"), "__bdam__", False):
        return
    for package in ("mamba_ssm", "causal_conv1d"):
        if importlib.util.find_spec(package) is not None:
            raise RuntimeError(f"expected no package {package}, got an installed one: uninstall it or use it directly")
    loaded = [
        name for name, module in sys.modules.items()
        if name.startswith("transformers.models.") and ".modeling_" in name and _HELD & vars(module).keys()
    ]  # fmt: skip
    if loaded:
        raise RuntimeError(f"call bdam_kernels.compat.install() before importing {', '.join(sorted(loaded))}")
    for name, attributes in _MODULES.items():
        module = ModuleType(name, "Provided by bdam_kernels.compat.")
        module.__spec__ = ModuleSpec(name, loader=None, is_package=True)
        module.__path__ = []
        module.__dict__.update(attributes, __bdam__=True, __version__=_VERSIONS[name.partition(".")[0]])
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
