"""The layers, and the stand-ins for mamba_ssm and causal_conv1d."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from helpers import assert_matches, device_of, require, without_the_real_packages
from torch import Tensor, nn

from bdam_kernels import BidirectionalCrossAttention, HSICLoss, Mamba, hsic, use_backend
from bdam_kernels.compat import causal_conv1d_update, mamba_inner_fn, selective_state_update
from bdam_kernels.ops.steps import op as steps


def naive_mamba(layer: Mamba, hidden_states: Tensor) -> Tensor:
    """Section 3.4 of Gu and Dao 2023, written out."""
    x, z = layer.in_proj(hidden_states).chunk(2, dim=-1)
    x = layer.conv1d(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)
    x = nn.functional.silu(x)
    dt, B, C = layer.x_proj(x).split([layer.dt_rank, layer.d_state, layer.d_state], dim=-1)
    dt = nn.functional.softplus(layer.dt_proj(dt))
    A = -torch.exp(layer.A_log)
    state = x.new_zeros(x.shape[0], x.shape[2], layer.d_state)
    outputs = []
    for t in range(x.shape[1]):
        state = torch.exp(dt[:, t, :, None] * A) * state + (dt * x)[:, t, :, None] * B[:, t, None]
        outputs.append((state * C[:, t, None]).sum(-1) + layer.D * x[:, t])
    return layer.out_proj(torch.stack(outputs, 1) * nn.functional.silu(z))


@pytest.mark.parametrize("bias", [False, True])
def test_mamba_and_its_gradients(bias: bool) -> None:
    layer = Mamba(10, d_state=5, d_conv=3, bias=bias)
    x = torch.randn(2, 13, 10)
    double = Mamba(10, d_state=5, d_conv=3, bias=bias).double()
    double.load_state_dict(layer.state_dict())
    out, expected = layer(x), naive_mamba(double, x.double())
    weight = torch.randn_like(out)
    out.backward(weight)
    expected.backward(weight.double())
    assert_matches(out, expected, "out")
    for (name, p), q in zip(layer.named_parameters(), double.parameters(), strict=True):
        assert_matches(p.grad, q.grad, f"grad of {name}")


def test_mamba_has_mamba_ssm_parameters() -> None:
    shapes = {name: tuple(p.shape) for name, p in Mamba(32).state_dict().items()}
    assert shapes == {
        "A_log": (64, 16),
        "D": (64,),
        "in_proj.weight": (128, 32),
        "conv1d.weight": (64, 1, 4),
        "conv1d.bias": (64,),
        "x_proj.weight": (34, 64),
        "dt_proj.weight": (64, 2),
        "dt_proj.bias": (64,),
        "out_proj.weight": (32, 64),
    }
    layer = Mamba(32, dt_min=0.01, dt_max=0.02)
    steps = nn.functional.softplus(layer.dt_proj.bias)
    assert steps.min() >= 0.0099 and steps.max() <= 0.0201
    assert torch.allclose(layer.A_log.exp(), torch.arange(1.0, 17.0).expand(64, 16))


@torch.no_grad()
def test_mamba_steps_are_the_sequence() -> None:
    layer, x = Mamba(12), torch.randn(3, 9, 12)
    states = layer.allocate_inference_cache(3)
    steps = [layer.step(x[:, t : t + 1], *states)[0] for t in range(9)]
    assert_matches(torch.cat(steps, 1), layer(x).double(), "out")
    with pytest.raises(ValueError, match="one token at a time"):
        layer.step(x, *states)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize(("states", "width"), [(16, 4), (5, 3), (16, 1)])
@torch.no_grad()
def test_mamba_steps_in_triton(dtype: torch.dtype, states: int, width: int) -> None:
    device = device_of(require("triton"))
    layer = Mamba(12, d_state=states, d_conv=width, bias=True, device=device, dtype=dtype)
    double = Mamba(12, d_state=states, d_conv=width, bias=True).double()
    double.load_state_dict(layer.state_dict())
    x = torch.randn(3, 7, 12).to(dtype)
    caches = layer.allocate_inference_cache(3)
    outs = []
    for t in range(7):
        with use_backend("triton"):
            out, *returned = layer.step(x[:, t : t + 1].to(device), *caches)
        assert all(a is b for a, b in zip(returned, caches, strict=True))
        outs.append(out)
    expected = naive_mamba(double, x.double())
    # Of the half type, six roundings in a row: four projections, convolution, scan; the states are rounded too.
    out = torch.cat(outs, 1).cpu().double()
    if dtype == torch.float32:
        assert_matches(out, expected, "out", dtype=dtype)
    else:
        assert (out - expected).abs().max() <= 6 * 2 * torch.finfo(dtype).eps * expected.abs().max()


@pytest.mark.parametrize("backend", ["cpu", "triton", "reference"])
@pytest.mark.parametrize("length", [2, 3, 6])
@pytest.mark.parametrize("plain", [False, True])
def test_steps_of_the_operators(backend: str, length: int, plain: bool) -> None:
    device = device_of(require(backend))
    x, weight, bias = (torch.randn(s).to(device) for s in ((3, 10), (5, 3), (5,)))
    x = x[:, ::2]
    state = torch.randn(5, 3, length).to(device).transpose(0, 1)
    window = torch.cat([state, x[..., None]], -1)
    options = (None, None) if plain else (bias, "silu")
    out = steps.causal_conv1d_update(x, state, weight, *options, backend=backend)
    expected = (window[..., -3:].double() * weight.double()).sum(-1)
    if not plain:
        expected = nn.functional.silu(expected + bias.double())
    assert_matches(out, expected, "conv")
    assert torch.equal(state, window[..., 1:])

    state, before = (torch.randn(3, 5, 4).to(device) for _ in range(2))
    before.copy_(state)
    A, B, C, dt = (torch.randn(s).to(device) for s in ((5, 4), (3, 4), (3, 4), (3, 5)))
    out = steps.selective_state_update(state, x, dt, A, B, C, log_A=True, backend=backend)
    decay = torch.exp(-dt[..., None].double() * A.double().exp())
    expected = decay * before + (dt * x).double()[..., None] * B[:, None]
    assert_matches(state, expected, "state")
    assert_matches(out, (expected * C[:, None]).sum(-1), "out")


@torch.no_grad()
def test_steps_of_the_operators_reject_wrong_shapes() -> None:
    device = device_of(require("triton"))
    x, matrix, A, state = (torch.zeros(s, device=device) for s in ((3, 5), (3, 4), (5, 4), (3, 5, 4)))
    with pytest.raises(ValueError, match=r"dt must be \(3, 5\), got \(3, 4\)"):
        steps.selective_state_update(state, x, matrix, A, matrix, matrix, backend="triton")
    with pytest.raises(ValueError, match="with S >= W - 1"):
        steps.causal_conv1d_update(x, state[..., :2], A, backend="triton")


def test_mamba_steps_are_differentiable() -> None:
    layer, x = Mamba(12), torch.randn(3, 2, 12)
    states = layer.allocate_inference_cache(3)
    layer.step(x[:, :1], *states)[0].sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_mamba_under_autocast_and_compile() -> None:
    layer, x = Mamba(16), torch.randn(2, 7, 16)
    expected = layer(x)
    assert_matches(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), expected.double(), "compiled")
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    # Five roundings to bfloat16 in a row: two projections in, convolution, scan, projection out.
    assert (out - expected).abs().max() <= 5 * 2 * torch.finfo(torch.bfloat16).eps * expected.abs().max()


def test_mamba_rejects_unknown_initialisation() -> None:
    with pytest.raises(ValueError, match="dt_init must be 'random' or 'constant', got 'zeros'"):
        Mamba(8, dt_init="zeros")  # type: ignore[arg-type]


def test_cross_attention_layer_against_multi_head_attention() -> None:
    layer = BidirectionalCrossAttention(12, 3)
    a, b = torch.randn(2, 7, 12), torch.randn(2, 5, 12)
    padding = torch.tensor([[False] * 5, [False, False, False, True, True]])
    out_a, out_b = layer(a, b, key_padding_mask_b=padding)
    for out, x, y, own, other, project, mask in (
        (out_a, a, b, layer.qkv_a, layer.qkv_b, layer.out_a, padding),
        (out_b, b, a, layer.qkv_b, layer.qkv_a, layer.out_b, None),
    ):
        peer = nn.MultiheadAttention(12, 3, batch_first=True)
        rows = [own.weight[:12], other.weight[12:24], other.weight[24:]]
        biases = [own.bias[:12], other.bias[12:24], other.bias[24:]]
        peer.load_state_dict(
            {
                "in_proj_weight": torch.cat(rows),
                "in_proj_bias": torch.cat(biases),
                "out_proj.weight": project.weight,
                "out_proj.bias": project.bias,
            }
        )
        expected = peer.double()(x.double(), y.double(), y.double(), key_padding_mask=mask)[0]
        assert_matches(out, expected, "out")
    with pytest.raises(ValueError, match="multiple of num_heads = 5, got 12"):
        BidirectionalCrossAttention(12, 5)


@pytest.mark.parametrize("bias", [False, True])
def test_pooled_cross_attention_layer_is_the_mean_over_tokens(bias: bool) -> None:
    layer = BidirectionalCrossAttention(12, 3, dropout=0.2, bias=bias)
    double = BidirectionalCrossAttention(12, 3, dropout=0.2, bias=bias).double()
    double.load_state_dict(layer.state_dict())
    a, b = torch.randn(2, 7, 12), torch.randn(2, 5, 12)
    padding = torch.tensor([[False] * 5, [False, False, False, True, True]])
    torch.manual_seed(0)
    pooled = layer.pooled(a, b, key_padding_mask_b=padding)
    torch.manual_seed(0)
    outputs = double(a.double(), b.double(), key_padding_mask_b=padding)
    for actual, out in zip(pooled, outputs, strict=True):
        assert_matches(actual, out.mean(1), "pooled")
    weights = torch.randn(2, 2, 12)
    torch.autograd.backward(pooled, tuple(weights))
    torch.autograd.backward([out.mean(1) for out in outputs], tuple(weights.double()))
    for (name, p), q in zip(layer.named_parameters(), double.parameters(), strict=True):
        assert_matches(p.grad, q.grad, f"grad of {name}")


def test_hsic_loss_is_the_function() -> None:
    x, y = torch.randn(9, 4), torch.randn(9, 5)
    options = {"kernel": "rbf", "sigma": 1.5, "estimator": "unbiased", "normalize": True}
    assert torch.equal(HSICLoss(**options)(x, y), hsic(x, y, **options))


def test_selective_state_update_and_conv_update() -> None:
    layer, x = Mamba(12), torch.randn(3, 12)
    state = torch.randn(3, 24, 16)
    before = state.clone()
    u, dt = torch.randn(3, 24), torch.rand(3, 24)
    A, B, C = -torch.rand(24, 16), torch.randn(3, 16), torch.randn(3, 16)
    out = selective_state_update(state, u, dt, A, B, C, layer.D.detach(), z=u)
    expected = torch.exp(dt[..., None] * A) * before + (dt * u)[..., None] * B[:, None]
    assert_matches(state, expected.double(), "state")
    y = (expected * C[:, None]).sum(-1) + layer.D * u
    assert_matches(out, (y * nn.functional.silu(u)).double(), "out")

    conv_state = torch.randn(3, 12, 6)
    weight, bias = torch.randn(12, 4), torch.randn(12)
    window = torch.cat([conv_state, x[..., None]], -1)
    out = causal_conv1d_update(x, conv_state, weight, bias)
    assert_matches(out, ((window[..., -4:] * weight).sum(-1) + bias).double(), "conv")
    assert torch.equal(conv_state, window[..., 1:])


def test_mamba_inner_fn_is_the_layer() -> None:
    layer, x = Mamba(12), torch.randn(2, 5, 12)
    arguments = (
        layer.in_proj(x).transpose(1, 2), layer.conv1d.weight, layer.conv1d.bias, layer.x_proj.weight,
        layer.dt_proj.weight, layer.out_proj.weight, None, -torch.exp(layer.A_log),
    )  # fmt: skip
    out = mamba_inner_fn(*arguments, D=layer.D, delta_bias=layer.dt_proj.bias)
    assert_matches(out, layer(x).double(), "out")


PROGRAM = """
import torch, bdam_kernels.compat as compat
compat.install(); compat.install()
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn, selective_scan_ref, mamba_inner_fn
from mamba_ssm.modules.mamba_simple import Mamba
from causal_conv1d import causal_conv1d_fn, causal_conv1d_update
from transformers import MambaConfig, MambaModel
from transformers.models.mamba import modeling_mamba
torch.manual_seed(0)
config = MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, state_size=4)
model = MambaModel(config).eval()
ids = torch.randint(50, (2, 9))
calls = []
import bdam_kernels.ops.selective_scan.op as op
check = op._check
op._check = lambda *a: calls.append(1) or check(*a)
with torch.no_grad():
    whole = model(ids).last_hidden_state
    first = model(ids[:, :5], use_cache=True)
    cache = {"cache_params": first.cache_params, "use_cache": True}
    rest = [model(ids[:, t:t + 1], **cache).last_hidden_state for t in range(5, 9)]
assert calls, "transformers did not call the operators"
assert torch.allclose(torch.cat([first.last_hidden_state, *rest], 1), whole, atol=1e-5)
model.train()
model(ids).last_hidden_state.sum().backward()
torch.save(whole, __import__("sys").argv[1])
"""

PLAIN = """
import sys, torch
from transformers import MambaConfig, MambaModel
torch.manual_seed(0)
model = MambaModel(MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, state_size=4)).eval()
ids = torch.randint(50, (2, 9))
with torch.no_grad():
    expected = model(ids).last_hidden_state
actual = torch.load(sys.argv[1], weights_only=True)
assert torch.allclose(actual, expected, atol=1e-5), (actual - expected).abs().max()
import bdam_kernels.compat
try:
    bdam_kernels.compat.install()
except RuntimeError as error:
    assert "before importing" in str(error)
else:
    raise AssertionError("install() must refuse once transformers holds its own functions")
"""


@without_the_real_packages
def test_transformers_mamba_runs_on_these_operators(tmp_path) -> None:  # type: ignore[no-untyped-def]
    for program in (PROGRAM, PLAIN):
        run = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "hidden.pt")], capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
