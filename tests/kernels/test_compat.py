"""The stand-ins for mamba_ssm and causal_conv1d: their functions, and transformers' models with and without them."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from compat_models import FAMILIES
from helpers import FACTOR, assert_matches, device_of, require, without_the_real_packages
from torch import Tensor, nn
from torch.nn import functional as F

from bdam_kernels import use_backend
from bdam_kernels.compat import installation, mamba_inner_fn, selective_state_update

STAND_INS = {name: f for attributes in installation._MODULES.values() for name, f in attributes.items()}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `compat_models` finds without and with `install()`, which is for a whole process."""
    folder = tmp_path_factory.mktemp("compat")
    program = Path(__file__).with_name("compat_models.py")
    processes = {
        mode: subprocess.Popen(
            [sys.executable, str(program), mode, str(folder / mode)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for mode in ("without", "with")
    }  # fmt: skip
    for process in processes.values():
        output, _ = process.communicate()
        assert process.returncode == 0, output
    return {mode: torch.load(folder / mode, weights_only=True) for mode in processes}


@without_the_real_packages
@pytest.mark.parametrize("family", FAMILIES)
def test_models_are_the_same_with_and_without(models: dict[str, Any], family: str) -> None:
    """Logits, tokens, loss and gradients. Both are in float32: they may differ by two bounds."""
    expected, actual = (models[mode]["found"][family] for mode in ("without", "with"))
    assert actual.keys() == expected.keys() and len(actual) > 20
    for name, tensor in actual.items():
        if not tensor.is_floating_point():
            assert torch.equal(tensor, expected[name]), name
            continue
        bound = 2 * FACTOR[tensor.dtype] * torch.finfo(tensor.dtype).eps * expected[name].abs().max()
        assert (tensor - expected[name]).abs().max() <= bound, name


@without_the_real_packages
def test_models_call_the_stand_ins(models: dict[str, Any]) -> None:
    # mamba_inner_fn would let padding into the states, and pass adapters by.
    called = {"selective_scan_fn", "selective_state_update", "causal_conv1d_fn"}
    assert models["with"]["calls"].keys() == called | {"causal_conv1d_update"} and not models["without"]["calls"]


@without_the_real_packages
def test_a_late_install_names_every_model_that_it_is_too_late_for(models: dict[str, Any]) -> None:
    names = {"falcon_mamba", "mamba2", "jamba", "zamba", "zamba2", "bamba", "falcon_h1", "nemotron_h"}
    for name in names | {"mamba", "granitemoehybrid"}:
        assert f"transformers.models.{name}.modeling_{name}" in models["without"]["refusal"]
    assert models["with"]["refusal"] == ""


@without_the_real_packages
def test_packed_rows_that_a_model_would_mix_are_refused(models: dict[str, Any]) -> None:
    """Zamba tells its convolution of them, but not its scan; said without a compiler, and with one."""
    expected = "modeling_zamba tells its convolution where packed sequences begin, but not its scan"
    assert all(expected in said for said in models["with"]["packed"]) and len(models["with"]["packed"]) == 2


def keywords_that_models_pass() -> dict[str, set[str]]:
    """By the name of a stand-in, the keywords of all calls in transformers' models."""
    (root,) = importlib.util.find_spec("transformers.models").submodule_search_locations
    found: dict[str, set[str]] = {}
    for path in Path(root).glob("*/modeling_*.py"):
        source = path.read_text()
        if "use_kernel_func_from_hub_with_fallback(" not in source:
            continue
        tree, names = ast.parse(source), {}
        for node in ast.walk(tree):
            for decorator in node.decorator_list if isinstance(node, ast.FunctionDef) else []:
                if isinstance(decorator, ast.Call) and "from_hub_with_fallback" in ast.unparse(decorator.func):
                    names[node.name] = ast.literal_eval(decorator.args[0])
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
                found.setdefault(names[node.func.id], set()).update(k.arg for k in node.keywords if k.arg)
    return found


def test_stand_ins_take_every_keyword_that_models_pass() -> None:
    """transformers drops what a signature lacks, and says nothing."""
    passed = {name: keywords for name, keywords in keywords_that_models_pass().items() if name in STAND_INS}
    assert len(passed) == 5
    # They choose among forms that transformers has itself.
    passed["selective_scan_fn"] -= {"use_mambapy", "use_associative_scan"}
    for name, keywords in passed.items():
        assert keywords <= inspect.signature(STAND_INS[name]).parameters.keys(), name


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


@pytest.mark.parametrize("name", ["cpu", "triton", "reference"])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("indices", [None, [4, 0, 3]], ids=["in order", "by indices"])
@pytest.mark.parametrize("layout", ["contiguous", "permuted"])
@torch.no_grad()
def test_state_update_of_heads(name: str, groups: int, indices: list[int] | None, layout: str) -> None:
    """4 heads of 5 channels with 6 states, of which B and C have groups."""
    device = device_of(require(name))
    rows = [0, 1, 2] if indices is None else indices
    state = torch.randn(3 if indices is None else 5, 4, 5, 6, device=device)
    if layout == "permuted":
        state = state.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2)
    before = state.cpu().double()
    x, dt, z = (torch.randn(3, 4, 5, device=device) for _ in range(3))
    B, C = (torch.randn(3, groups, 6, device=device) for _ in range(2))
    # Of a head all channels have one step, one decay and one skip, and no memory of their own.
    dt, D, dt_bias = dt[..., :1].expand(3, 4, 5), torch.randn(4, 1, device=device).expand(4, 5), dt[0]
    A = -torch.rand(4, 1, 1, device=device).expand(4, 5, 6)
    chosen = None if indices is None else torch.tensor(indices, dtype=torch.int32, device=device)
    with use_backend(name):
        out = selective_state_update(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus=True, state_batch_indices=chosen)

    x, dt, z, A, B, C, D, dt_bias = (t.cpu().double() for t in (x, dt, z, A, B, C, D, dt_bias))
    B, C = (t.repeat_interleave(4 // groups, 1)[:, :, None] for t in (B, C))
    dt = F.softplus(dt + dt_bias)
    after = before.clone()
    after[rows] = torch.exp(dt[..., None] * A) * before[rows] + (dt * x)[..., None] * B
    assert_matches(state.cpu(), after, "state")
    assert_matches(out.cpu(), ((after[rows] * C).sum(-1) + D * x) * nn.functional.silu(z), "out")


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("state", (3, 20), r"state must be \(S, D, N\) or \(S, H, P, N\), got \(3, 20\)"),
        ("state", (5, 4, 5, 6), "state must have the batch's 3 rows .* got 5"),
        ("x", (3, 20), r"x must be \(3, 4, 5\), got \(3, 20\)"),
        ("A", (20, 6), r"A must be \(4, 5, 6\), got \(20, 6\)"),
        ("B", (3, 3, 6), r"B must be \(3, 6\) or \(3, G, 6\) with G that divides 4, got \(3, 3, 6\)"),
        ("D", (4,), r"D must be \(4, 5\), got \(4,\)"),
        ("state_batch_indices", (2,), r"state_batch_indices must be \(3,\), got \(2,\)"),
    ],
)
def test_state_update_refuses_shapes_that_do_not_fit(name: str, shape: tuple[int, ...], message: str) -> None:
    shapes = {"state": (3, 4, 5, 6), "x": (3, 4, 5), "dt": (3, 4, 5), "A": (4, 5, 6), "B": (3, 2, 6), "C": (3, 2, 6)}
    arguments = {n: torch.zeros(s) for n, s in (shapes | {name: shape}).items()}
    with pytest.raises(ValueError, match=message):
        selective_state_update(**arguments)
