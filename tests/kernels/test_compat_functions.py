"""The stand-ins' rarer arguments, each against what it says written out; and how the stand-ins are installed."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from helpers import assert_matches, without_the_real_packages
from torch import Tensor
from torch.nn import functional as F

from bdam_kernels import BackendUnavailable, dispatch
from bdam_kernels.compat import (
    causal_conv1d_update,
    causal_conv1d_varlen_states,
    install,
    mamba_inner_fn,
    selective_scan_fn,
    selective_state_update,
)
from bdam_kernels.compat.causal_conv1d import causal_conv1d_ref, causal_conv1d_update_ref
from bdam_kernels.compat.mamba_ssm import (
    mamba_inner_fn_no_out_proj,
    mamba_inner_ref,
    selective_scan_ref,
    selective_state_update_ref,
)
from bdam_kernels.compat.selective_scan_cuda import bwd, fwd

CHANNELS, STATES, RANK, LENGTH = 6, 3, 2, 5


def inner_arguments(constant: str, is_complex: bool) -> dict[str, Any]:
    """constant: those of B and C that are given; those that are not have a bias."""
    width = 2 * STATES if is_complex else STATES
    rows = RANK + width * (2 - len(constant))
    shapes: dict[str, tuple[int, ...]] = {
        "xz": (2, 2 * CHANNELS, LENGTH), "conv1d_weight": (CHANNELS, 1, 4), "conv1d_bias": (CHANNELS,),
        "x_proj_weight": (rows, CHANNELS), "delta_proj_weight": (CHANNELS, RANK), "out_proj_weight": (4, CHANNELS),
        "D": (CHANNELS,), "delta_bias": (CHANNELS,),
    }  # fmt: skip
    for name in "BC":
        shapes |= {name: (CHANNELS, STATES)} if name in constant else {f"{name}_proj_bias": (width,)}
    dtype = torch.complex64 if is_complex else torch.float32
    tensors: dict[str, Any] = {
        name: torch.randn(shape, dtype=dtype if name in "BC" else torch.float32) for name, shape in shapes.items()
    }
    A = -torch.rand(CHANNELS, STATES)
    tensors["A"] = torch.complex(A, torch.randn(CHANNELS, STATES)) if is_complex else A
    return tensors | {"out_proj_bias": None}


def written_out(t: dict[str, Any], constant: str) -> Tensor:
    """`mamba_inner_fn` in a loop over time."""
    x, z = t["xz"].chunk(2, 1)
    x = F.silu(F.conv1d(x, t["conv1d_weight"], t["conv1d_bias"], padding=3, groups=CHANNELS)[..., :LENGTH])
    projected = t["x_proj_weight"] @ x
    dt = F.softplus(t["delta_proj_weight"] @ projected[:, :RANK] + t["delta_bias"][:, None])
    rows, parts = projected[:, RANK:], {}
    for name in "BC":
        if name in constant:
            parts[name] = t[name][None, :, :, None].expand(2, -1, -1, LENGTH)
            continue
        width = len(t[f"{name}_proj_bias"])
        own, rows = rows[:, :width] + t[f"{name}_proj_bias"][:, None], rows[:, width:]
        if width != STATES:
            own = torch.complex(own[:, ::2], own[:, 1::2])
        parts[name] = own[:, None].expand(-1, CHANNELS, -1, -1)
    state, outs = 0, []
    for i in range(LENGTH):
        state = torch.exp(dt[:, :, i, None] * t["A"]) * state + (dt * x)[:, :, i, None] * parts["B"][..., i]
        y = (state * parts["C"][..., i]).sum(2)
        outs.append((2 * y.real if y.is_complex() else y) + t["D"] * x[:, :, i])
    return (torch.stack(outs, 2) * F.silu(z)).transpose(1, 2) @ t["out_proj_weight"].T


@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("constant", ["", "B", "C", "BC"])
def test_inner_with_constants_biases_and_complex_states(constant: str, is_complex: bool) -> None:
    arguments = inner_arguments(constant, is_complex)
    leaves = {n: t.requires_grad_() for n, t in arguments.items() if t is not None}
    doubles = {
        n: t.detach().to(torch.complex128 if t.is_complex() else torch.float64).requires_grad_()
        for n, t in leaves.items()
    }
    actual, expected = mamba_inner_fn(**arguments, checkpoint_lvl=0), written_out(doubles, constant)
    assert_matches(actual, expected, "out")
    assert_matches(mamba_inner_ref(**arguments), expected, "out of the reference")
    weight = torch.randn(actual.shape)
    actual.backward(weight)
    expected.backward(weight.double())
    for name, leaf in leaves.items():
        a, e = leaf.grad, doubles[name].grad
        if a.is_complex():
            a, e = torch.view_as_real(a), torch.view_as_real(e)
        assert_matches(a, e, f"gradient of {name}")


def test_inner_without_an_output_projection() -> None:
    arguments = inner_arguments("", is_complex=False)
    del arguments["out_proj_bias"]
    projection = arguments.pop("out_proj_weight")
    out = mamba_inner_fn_no_out_proj(**arguments)
    assert out.shape == (2, CHANNELS, LENGTH)
    doubles = {n: t.double() for n, t in arguments.items()} | {"out_proj_weight": torch.eye(CHANNELS).double()}
    assert_matches(out.transpose(1, 2), written_out(doubles, ""), "out")
    assert_matches(
        mamba_inner_fn(**arguments, out_proj_weight=projection, out_proj_bias=None),
        out.double().transpose(1, 2) @ projection.double().T, "projected",
    )  # fmt: skip


@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("gate", [False, True])
def test_functions_of_the_compiled_module(is_complex: bool, constant: bool, gate: bool) -> None:
    """As an autograd Function calls them: outputs, last state and gradients of `selective_scan_fn`."""
    dtype = torch.complex64 if is_complex else torch.float32
    u, delta, z, dout = (torch.randn(2, CHANNELS, LENGTH) for _ in range(4))
    A = -torch.rand(CHANNELS, STATES) + (1j * torch.randn(CHANNELS, STATES) if is_complex else 0)
    B = torch.randn(CHANNELS, STATES, dtype=dtype) if constant else torch.randn(2, 1, STATES, LENGTH << is_complex)
    C = torch.randn(2, 2, STATES, LENGTH << is_complex)
    inputs = [u, delta, A, B, C, None, z if gate else None, torch.randn(CHANNELS)]
    leaves = [None if t is None else t.clone().requires_grad_() for t in inputs]
    expected, last_state = selective_scan_fn(*leaves, True, return_last_state=True)
    expected.backward(dout)

    out, x, *gated = fwd(*inputs, True)
    assert_matches(out, selective_scan_fn(*inputs[:6], None, inputs[7], True).double(), "out")
    assert torch.equal(x[:, :, -1, 1::2], last_state)
    assert_matches(gated[0] if gate else out, expected.double(), "out behind the gate")
    dz = torch.empty_like(z)
    found = bwd(*inputs, dout, x, out, dz, True, True)
    assert len(found) == (9 if gate else 7) and found[5] is None
    of_z = leaves.pop(6)
    for gradient, leaf in zip(found, leaves, strict=False):
        assert leaf is None or torch.equal(gradient, leaf.grad)
    if gate:
        assert torch.equal(found[7], of_z.grad) and torch.equal(dz, of_z.grad) and torch.equal(found[8], expected)


def test_inner_refuses_what_does_not_fit() -> None:
    arguments = inner_arguments("B", is_complex=False)
    with pytest.raises(ValueError, match="B_proj_bias are for a B that depends on the input, got B as well"):
        mamba_inner_fn(**arguments, B_proj_bias=torch.zeros(STATES))
    with pytest.raises(ValueError, match=r"x_proj_weight must be \(8, 6\), got \(5, 6\)"):
        mamba_inner_fn(**{**arguments, "B": None})
    with pytest.raises(ValueError, match=r"C_proj_bias must be \(3,\), got \(4,\)"):
        mamba_inner_fn(**{**arguments, "C_proj_bias": torch.zeros(4)})


def convolved(window: Tensor, weight: Tensor, bias: Tensor, steps: int) -> Tensor:
    """The last steps of a window that begins W - 1 inputs before them, with SiLU."""
    taps = window[..., -(steps + weight.shape[1] - 1) :].unfold(2, weight.shape[1], 1)
    return F.silu((taps * weight[:, None]).sum(-1) + bias[:, None])


@pytest.mark.parametrize("steps", [1, 3, 9])
@pytest.mark.parametrize("before", [0, 2, 11])
@torch.no_grad()
def test_convolution_into_a_ring(steps: int, before: int) -> None:
    """Inputs are kept at their time modulo the ring's size, of which one is enough steps and one is not."""
    weight, bias = torch.randn(CHANNELS, 4), torch.randn(CHANNELS)
    offsets = torch.tensor([before, before + 5], dtype=torch.int32)
    history = torch.randn(2, CHANNELS, before + 5 + steps)
    for b, count in enumerate(offsets.tolist()):
        history[b, :, count + steps :] = 0
    for size in (4, 7):
        ring = torch.zeros(2, CHANNELS, size)
        for b, count in enumerate(offsets.tolist()):
            for time in range(count):
                ring[b, :, time % size] = history[b, :, time]
        x = torch.stack([history[b, :, c : c + steps] for b, c in enumerate(offsets.tolist())])
        expected = torch.cat(
            [
                convolved(F.pad(history[b : b + 1, :, : c + steps], (3, 0)), weight, bias, steps)
                for b, c in enumerate(offsets.tolist())
            ]
        )
        same = ring.clone()
        out = causal_conv1d_update(x, ring, weight, bias, "silu", cache_seqlens=offsets)
        assert_matches(out, expected.double(), "out")
        assert_matches(causal_conv1d_update_ref(x, same, weight, bias, "silu", offsets), expected.double(), "reference")
        for b, count in enumerate(offsets.tolist()):
            for time in range(max(0, count + steps - size), count + steps):
                assert torch.equal(ring[b, :, time % size], history[b, :, time])
        assert torch.equal(ring, same)
        if steps == 1:
            assert torch.equal(causal_conv1d_update(x[..., 0], same, weight, bias, "silu", offsets), out[..., 0])


@pytest.mark.parametrize("ring", [False, True], ids=["in order", "ring"])
@pytest.mark.parametrize("shape", [(2, CHANNELS, 2), (3, CHANNELS, 4), (2, CHANNELS + 1, 4), (2, CHANNELS)], ids=str)
def test_states_that_do_not_fit(shape: tuple[int, ...], ring: bool) -> None:
    lengths = torch.zeros(2, dtype=torch.int32) if ring else None
    with pytest.raises(ValueError, match=rf"conv_state must be \(2, {CHANNELS}, K\) with K >= 3, got \({shape[0]}, "):
        causal_conv1d_update(
            torch.randn(2, CHANNELS), torch.zeros(shape), torch.randn(CHANNELS, 4), cache_seqlens=lengths
        )


@pytest.mark.parametrize("ring", [False, True], ids=["in order", "ring"])
@pytest.mark.parametrize("steps", [None, 2], ids=["one step", "two steps"])
@torch.no_grad()
def test_convolution_of_chosen_rows_and_padding(steps: int | None, ring: bool) -> None:
    weight, bias, state = torch.randn(CHANNELS, 4), torch.randn(CHANNELS), torch.randn(5, CHANNELS, 4)
    x = torch.randn(3, CHANNELS) if steps is None else torch.randn(3, CHANNELS, steps)
    lengths = torch.tensor([2, 9, 5], dtype=torch.int32) if ring else None
    before, chosen = state.clone(), [4, 1]
    indices = torch.tensor([4, -1, 1], dtype=torch.int32)
    out = causal_conv1d_update(x, state, weight, bias, "silu", lengths, conv_state_indices=indices)
    own = before[chosen]
    expected = causal_conv1d_update(x[[0, 2]], own, weight, bias, "silu", None if lengths is None else lengths[[0, 2]])
    assert torch.equal(out[[0, 2]], expected) and not out[1].any()
    before[chosen] = own
    assert torch.equal(state, before)
    with pytest.raises(ValueError, match=r"conv_state_indices must be \(3,\), got \(2,\)"):
        causal_conv1d_update(x, state, weight, bias, conv_state_indices=indices[:2])


@pytest.mark.parametrize("state_len", [1, 3, 8])
def test_states_of_packed_sequences(state_len: int) -> None:
    x, cuts = torch.randn(12, CHANNELS), [0, 2, 2, 11, 12]
    states = causal_conv1d_varlen_states(x, torch.tensor(cuts, dtype=torch.int32), state_len)
    for state, begin, end in zip(states, cuts, cuts[1:], strict=False):
        kept = F.pad(x[begin:end].T, (state_len, 0))[:, -state_len:]
        assert torch.equal(state, kept)


@torch.no_grad()
def test_state_update_of_padding() -> None:
    state, x, dt = torch.randn(5, CHANNELS, STATES), torch.randn(3, CHANNELS), torch.rand(3, CHANNELS)
    A, B, C = -torch.rand(CHANNELS, STATES), torch.randn(3, STATES), torch.randn(3, STATES)
    before = state.clone()
    indices = torch.tensor([4, -1, 1])
    out = selective_state_update(state, x, dt, A, B, C, state_batch_indices=indices)
    own = before[[4, 1]]
    expected = selective_state_update_ref(own, *(t[[0, 2]] for t in (x, dt)), A, *(t[[0, 2]] for t in (B, C)))
    assert_matches(out[[0, 2]], expected.double(), "out")
    assert not out[1].any()
    before[[4, 1]] = own
    assert_matches(state, before.double(), "state")


@torch.no_grad()
def test_servers_steps_and_packed_rows_compile_whole() -> None:
    """Into one graph, for values that it was not traced with as well."""
    weight, x, dt = torch.randn(CHANNELS, 4), torch.randn(3, CHANNELS), torch.rand(3, CHANNELS)
    A, B, C = -torch.rand(CHANNELS, STATES), torch.randn(3, STATES), torch.randn(3, STATES)

    def steps(conv_state: Tensor, state: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
        out = causal_conv1d_update(x, conv_state, weight, conv_state_indices=rows)
        return selective_state_update(state, out, dt, A, B, C, state_batch_indices=rows), conv_state, state

    def packed(cu_seqlens: Tensor) -> tuple[Tensor]:
        return (selective_scan_fn(x.T[None], dt.T[None], A, B.T[None], C.T[None], cu_seqlens=cu_seqlens),)

    states = torch.randn(5, CHANNELS, 4), torch.randn(5, CHANNELS, STATES)
    compiled = [torch.compile(f, backend="eager", fullgraph=True) for f in (steps, packed)]
    for rows in ([4, -1, 0], [-1, -1, -1], [-1, 2, 1]):
        inputs = [(*(t.clone() for t in states), torch.tensor(rows)) for _ in range(2)]
        assert all(torch.equal(a, e) for a, e in zip(compiled[0](*inputs[0]), steps(*inputs[1]), strict=True))
        untouched = [i for i in range(5) if i not in rows]
        assert all(torch.equal(t[untouched], before[untouched]) for t, before in zip(inputs[0], states, strict=False))
    for cuts in ([0, 1, 3], [0, 2, 3]):
        assert torch.equal(*compiled[1](torch.tensor(cuts)), *packed(torch.tensor(cuts)))
    with pytest.raises(RuntimeError, match=r"from 0 to the length 3"):
        compiled[1](torch.tensor([0, 2, 4]))


def test_steps_of_no_elements() -> None:
    none = torch.zeros(0, dtype=torch.int32)
    state, x, B = torch.randn(5, CHANNELS, STATES), torch.randn(0, CHANNELS), torch.randn(0, STATES)
    out = selective_state_update(state, x, x, -torch.rand(CHANNELS, STATES), B, B, state_batch_indices=none)
    assert out.shape == x.shape


def test_references_run_on_the_reference_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_kernels() -> Any:
        raise AssertionError("a kernel was called")

    monkeypatch.setattr(dispatch, "cpu", no_kernels)
    u, A, B = torch.randn(2, CHANNELS, LENGTH), -torch.rand(CHANNELS, STATES), torch.randn(2, STATES, LENGTH)
    monkeypatch.setattr(dispatch, "kinds", lambda *_: None)
    monkeypatch.setattr(dispatch, "have_unit_strides", lambda *_: False)
    selective_scan_ref(u, u.abs(), A, B, B)
    causal_conv1d_ref(u, torch.randn(CHANNELS, 4))


PROGRAM = """
import importlib.metadata as metadata
import pytest, torch
from bdam_kernels import BackendUnavailable, compat
compat.install(strict=True)
compat.install(strict=True)
import causal_conv1d, mamba_ssm, selective_scan_cuda
from causal_conv1d.causal_conv1d_interface import causal_conv1d_ref, causal_conv1d_update_ref
from causal_conv1d.causal_conv1d_varlen import causal_conv1d_varlen_states, causal_conv1d_varlen_states_ref
from mamba_ssm.models.config_mamba import MambaConfig
from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel, MixerModel, create_block, _init_weights
from mamba_ssm.models.mixer_seq_simple import RMSNorm, layer_norm_fn, rms_norm_fn, Block, Mamba, MambaConfig
from mamba_ssm.modules.block import Block
from mamba_ssm.modules.mamba_simple import Mamba, Block as SimpleBlock
from mamba_ssm.ops.selective_scan_interface import mamba_inner_fn, mamba_inner_ref, mamba_inner_fn_no_out_proj
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn, selective_scan_ref
from mamba_ssm.ops.triton.layer_norm import RMSNorm, layer_norm_fn, rms_norm_fn
from mamba_ssm.ops.triton.layernorm import RMSNorm
from mamba_ssm.ops.triton.selective_state_update import selective_state_update
from mamba_ssm.modules.mlp import GatedMLP
from mamba_ssm.utils.generation import GenerationMixin, InferenceParams, decode, sample
from mamba_ssm.utils.hf import load_config_hf, load_state_dict_hf

for package, name in ((mamba_ssm, "mamba_ssm"), (causal_conv1d, "causal_conv1d")):
    for spelling in (name, name.replace("_", "-")):
        assert metadata.version(spelling) == package.__version__, spelling
    assert metadata.distribution(name).metadata["Name"] == name.replace("_", "-")
    assert name in metadata.packages_distributions() and not metadata.files(name)
assert metadata.version("torch") and sum(d.metadata["Name"] == "mamba-ssm" for d in metadata.distributions()) == 1
with pytest.raises(metadata.PackageNotFoundError):
    metadata.version("mamba-ssm-2")

u, A, B = torch.randn(1, 4, 6), -torch.rand(4, 3), torch.randn(1, 3, 6)
selective_scan_fn(u, u.abs(), A, B, B)
selective_scan_ref(u, u.abs(), A, B, B)
selective_state_update(torch.zeros(1, 4, 3), u[..., 0], u[..., 1], A, B[..., 0], B[..., 1])
with pytest.raises(BackendUnavailable, match="no kernel takes this call.* cpu: .*float64"):
    selective_scan_fn(*(t.double() for t in (u, u.abs(), A, B, B)))
with pytest.raises(BackendUnavailable, match="float64"):
    causal_conv1d.causal_conv1d_fn(u.double(), torch.randn(4, 4).double())

# Models of transformers get a None in its place; others get the function.
from transformers.utils.import_utils import resolve_internal_import
assert resolve_internal_import(mamba_ssm, "ops.selective_scan_interface.mamba_inner_fn") is mamba_inner_fn
with pytest.raises(AttributeError, match="no attribute 'mamba_chunk_scan'"):
    mamba_ssm.mamba_chunk_scan
with pytest.raises(ImportError):
    from mamba_ssm.modules.mamba2 import Mamba2

from transformers import Mamba2Config, Mamba2ForCausalLM
config = Mamba2Config(vocab_size=9, hidden_size=16, num_hidden_layers=1, state_size=4, num_heads=4, head_dim=8)
model = Mamba2ForCausalLM(config)
with pytest.raises(RuntimeError, match="has no kernel here: call install"):
    model.eval()(torch.tensor([[1, 2, 3]]))
"""


@without_the_real_packages
def test_installed_strictly_with_metadata() -> None:
    """Imports that public code has; versions by every spelling; errors where a slow path would be taken."""
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_strict_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = ModuleType("mamba_ssm")
    installed.__dict__["__bdam__"] = True
    monkeypatch.setitem(sys.modules, "mamba_ssm", installed)
    install()
    with pytest.raises(RuntimeError, match=r"call bdam_kernels\.compat\.install\(strict=True\) first"):
        install(strict=True)


def test_strict_where_no_kernel_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_REASONS", {"reference": "", "cpu": "none", "triton": "none", "cuda": "none"})
    with pytest.raises(BackendUnavailable, match="no kernel runs on this machine: cpu: none; "):
        dispatch.be_strict()
    assert not dispatch.is_strict()
