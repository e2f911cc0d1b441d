"""The stand-ins for mamba_ssm and causal_conv1d."""

from __future__ import annotations

import pytest
import torch
from helpers import assert_matches
from torch import Tensor
from torch.nn import functional as F

from bdam_kernels.compat import mamba_inner_fn


def inner_arguments(dtype: torch.dtype) -> dict[str, Tensor | None]:
    """Of a layer with 6 channels, 3 states, rank 2 and 4 taps, for sequences of 5."""
    shapes = {
        "xz": (2, 12, 5), "conv1d_weight": (6, 1, 4), "conv1d_bias": (6,), "x_proj_weight": (8, 6),
        "delta_proj_weight": (6, 2), "out_proj_weight": (4, 6), "A": (6, 3), "D": (6,), "delta_bias": (6,),
    }  # fmt: skip
    tensors = {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}
    return tensors | {"A": -tensors["A"].abs(), "out_proj_bias": None}


@pytest.mark.parametrize("dt_width", [2, 6], ids=["of the rank", "of the channels"])
def test_norms_of_falcon_mamba(dt_width: int) -> None:
    weights = {"b_rms_weight": torch.rand(3), "c_rms_weight": torch.rand(3), "dt_rms_weight": torch.rand(dt_width)}
    arguments = inner_arguments(torch.float32) | weights
    leaves = {name: t.requires_grad_() for name, t in arguments.items() if t is not None}
    doubles = {name: t.detach().double().requires_grad_() for name, t in leaves.items()}

    def written_out(t: dict[str, Tensor]) -> Tensor:
        x, z = t["xz"].chunk(2, 1)
        x = F.silu(F.conv1d(x, t["conv1d_weight"], t["conv1d_bias"], padding=3, groups=6)[..., :5])
        parts = (t["x_proj_weight"] @ x).split([2, 3, 3], 1)
        dt, B, C = (p / (p.square().mean(1, keepdim=True) + 0.1).sqrt() for p in parts)
        B, C = (p * t[name][:, None] for p, name in ((B, "b_rms_weight"), (C, "c_rms_weight")))
        scale = t["dt_rms_weight"][:, None]
        dt = t["delta_proj_weight"] @ (scale * dt) if dt_width == 2 else scale * (t["delta_proj_weight"] @ dt)
        dt = F.softplus(dt + t["delta_bias"][:, None])
        state, outs = 0, []
        for i in range(5):
            decay, drive = torch.exp(dt[:, :, i, None] * t["A"]), (dt * x)[:, :, i, None] * B[:, None, :, i]
            state = decay * state + drive
            outs.append((state * C[:, None, :, i]).sum(2) + t["D"] * x[:, :, i])
        return (torch.stack(outs, 2) * F.silu(z)).transpose(1, 2) @ t["out_proj_weight"].T

    actual, expected = mamba_inner_fn(**arguments, b_c_dt_rms_eps=0.1), written_out(doubles)
    assert_matches(actual, expected, "out")
    weight = torch.randn(actual.shape)
    actual.backward(weight)
    expected.backward(weight.double())
    for name, leaf in leaves.items():
        assert_matches(leaf.grad, doubles[name].grad, f"gradient of {name}")


def test_mamba_inner_fn_refuses_what_it_does_not_know() -> None:
    arguments = inner_arguments(torch.float32)
    with pytest.raises(TypeError, match="unexpected keyword argument 'dt_scale'"):
        mamba_inner_fn(**arguments, dt_scale=2.0)
    with pytest.raises(ValueError, match=r"b_rms_weight must be \(3,\), got \(4,\)"):
        mamba_inner_fn(**arguments, b_rms_weight=torch.ones(4))
    with pytest.raises(ValueError, match=r"dt_rms_weight must be \(6,\), got \(3,\)"):
        mamba_inner_fn(**arguments, dt_rms_weight=torch.ones(3))
