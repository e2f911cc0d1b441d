"""causal_conv1d: every output and gradient against the reference in float64, on every backend."""

from __future__ import annotations

import pytest
import torch
from combinations import every
from helpers import assert_matches, device_of, require
from torch import Tensor

from bdam_kernels import causal_conv1d

BACKENDS = ("reference", "cpu", "triton")
NAMES = ("x", "weight", "bias", "initial_state")


def make_inputs(batch: int, channels: int, length: int, width: int, dtype: torch.dtype = torch.float32) -> dict:
    return {
        "x": torch.randn(batch, channels, length).to(dtype),
        "weight": torch.randn(channels, width),
        "bias": torch.randn(channels),
        "initial_state": torch.randn(batch, channels, width - 1).to(dtype),
    }


def run(inputs: dict, weights: tuple[Tensor, Tensor], activation: str | None, backend: str | None) -> dict:
    device = device_of(backend or "reference")
    leaves = {name: None if t is None else t.detach().to(device).requires_grad_() for name, t in inputs.items()}
    out, final = causal_conv1d(**leaves, activation=activation, return_final_state=True, backend=backend)
    torch.autograd.backward((out, final), (weights[0].to(out), weights[1].to(final)))
    grads = {f"grad_{name}": t.grad.cpu() for name, t in leaves.items() if t is not None}
    return {"out": out.detach().cpu(), "final_state": final.detach().cpu(), **grads}


def check(inputs: dict, backend: str, activation: str | None) -> None:
    x, width = inputs["x"], inputs["weight"].shape[1]
    weights = torch.randn(x.shape).to(x.dtype), torch.randn(*x.shape[:2], width - 1).to(x.dtype)
    actual = run(inputs, weights, activation, backend)
    double = {name: None if t is None else t.double() for name, t in inputs.items()}
    for name, value in run(double, weights, activation, None).items():
        assert_matches(actual[name], value, name, dtype=x.dtype)


@every(
    BACKENDS,
    activation=[None, "silu"],
    width=[1, 2, 4, 5, 40],
    length=[1, 3, 16, 37],
    in_interpreter={"width": [1, 4, 5, 17], "length": [1, 3, 37]},
)
def test_sizes(backend: str, activation: str | None, width: int, length: int) -> None:
    check(make_inputs(2, 5, length, width), require(backend), activation)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("absent", ["bias", "initial_state"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["f32", "bf16", "f16"])
def test_optional_arguments_and_dtypes(backend: str, absent: str, dtype: torch.dtype) -> None:
    check({**make_inputs(2, 5, 21, 4, dtype), absent: None}, require(backend), "silu")


@pytest.mark.parametrize("backend", BACKENDS)
def test_strides(backend: str) -> None:
    inputs = make_inputs(2, 6, 19, 4)
    inputs["x"] = inputs["x"].transpose(1, 2).contiguous().transpose(1, 2)
    inputs["weight"] = inputs["weight"].T.contiguous().T
    check(inputs, require(backend), "silu")


def in_layout(x: Tensor, layout: str) -> Tensor:
    """x with other strides."""
    if layout == "channels last":
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "batches last":
        return x.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    if layout == "every other step":
        return torch.stack((x, x), -1)[..., 0]
    if layout == "Mamba":  # The half of (2D, B, L).
        return torch.cat((x, x), 1).transpose(0, 1).contiguous().transpose(0, 1)[:, x.shape[1] :]
    return x


@every(
    ["cpu", "triton"],
    layout=["dense", "channels last", "batches last", "every other step", "Mamba"],
    length=[64, 77],
    absent=["initial_state", None],
)
def test_layouts_and_tiles(backend: str, layout: str, length: int, absent: str | None) -> None:
    inputs = make_inputs(2, 24, length, 4, torch.bfloat16)
    inputs["x"] = in_layout(inputs["x"], layout)
    check(inputs if absent is None else {**inputs, absent: None}, require(backend), "silu")


@pytest.mark.parametrize("programs", [1, 4096])
@pytest.mark.parametrize("backend", ["triton"])
def test_tiles_between_others(backend: str, programs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one program or of three."""
    monkeypatch.setattr(f"bdam_kernels.ops.causal_conv1d.{require(backend)}_launches.PROGRAMS", programs)
    check(make_inputs(1, 3, 140, 4), backend, "silu")


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_many_batches(backend: str) -> None:
    """More than one step of the sum over them takes."""
    check(make_inputs(33, 2, 1, 1), require(backend), None)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("layout", ["channels last", "expanded", "other alignment"])
def test_gradients_in_other_layouts_than_inputs(backend: str, layout: str) -> None:
    def grads(backend: str | None, dtype: torch.dtype) -> list[Tensor]:
        leaves = {n: t.to(device_of(backend or "reference"), dtype).requires_grad_() for n, t in inputs.items()}
        out = causal_conv1d(**leaves, activation="silu", backend=backend)
        return list(torch.autograd.grad(out, list(leaves.values()), grad.to(out)))

    inputs = make_inputs(2, 8, 32, 4)
    grad = in_layout(torch.randn(2, 8, 32), layout)
    if layout == "expanded":
        grad = torch.randn(2, 1, 1).expand(2, 8, 32)
    elif layout == "other alignment":
        grad = torch.randn(2 * 8 * 32 + 1)[1:].view(2, 8, 32)
    require(backend)
    for name, actual, expected in zip(NAMES, grads(backend, torch.float32), grads(None, torch.float64), strict=True):
        assert_matches(actual.cpu(), expected.cpu(), name)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_rows_do_not_see_their_neighbours(backend: str) -> None:
    x = torch.randn(2, 3, 21).to(device_of(backend), torch.bfloat16)
    x[:, 1] = torch.nan
    x.requires_grad_()
    out = causal_conv1d(x, torch.randn(3, 4).to(x.device), activation="silu", backend=require(backend))
    (grad,) = torch.autograd.grad(out[:, ::2].float().sum(), x)
    assert out[:, ::2].isfinite().all() and grad[:, ::2].isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_are_the_whole(backend: str) -> None:
    inputs = {n: t.to(device_of(backend)) for n, t in make_inputs(2, 3, 9, 4).items()} | {"initial_state": None}
    whole = causal_conv1d(**inputs, activation="silu", backend=require(backend))
    state, steps = torch.zeros_like(whole[..., :3]), []
    for t in range(9):
        step = {**inputs, "x": inputs["x"][..., t : t + 1], "initial_state": state}
        out, state = causal_conv1d(**step, activation="silu", return_final_state=True, backend=backend)
        steps.append(out)
    assert_matches(torch.cat(steps, -1), whole.double(), "out")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 0, 5), (2, 3, 0)], ids=str)
def test_empty(backend: str, shape: tuple[int, int, int]) -> None:
    inputs = {n: t.to(device_of(backend)) for n, t in make_inputs(*shape, 4).items()}
    out, final = causal_conv1d(**inputs, return_final_state=True, backend=require(backend))
    assert out.shape == shape and final.shape == (*shape[:2], 3)


def test_gradcheck_and_second_derivative() -> None:
    leaves = [t.double().requires_grad_() for t in make_inputs(2, 2, 4, 3).values()]

    def conv(x: Tensor, weight: Tensor, bias: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return causal_conv1d(x, weight, bias, "silu", initial_state=state, return_final_state=True)

    assert torch.autograd.gradcheck(conv, leaves)
    assert torch.autograd.gradgradcheck(conv, leaves)


def test_second_derivative_of_the_kernel() -> None:
    require("cpu")
    inputs = make_inputs(2, 4, 10, 4)

    def second(backend: str | None, dtype: torch.dtype) -> list[Tensor]:
        leaves = {n: t.to(dtype).requires_grad_() for n, t in inputs.items()}
        out = causal_conv1d(**leaves, activation="silu", backend=backend)
        grads = torch.autograd.grad(out, list(leaves.values()), torch.ones_like(out), create_graph=True)
        return list(torch.autograd.grad(sum(g.square().sum() for g in grads), list(leaves.values())))

    for name, a, e in zip(NAMES, second("cpu", torch.float32), second(None, torch.float64), strict=True):
        assert_matches(a, e, name)


@pytest.mark.parametrize("backend", BACKENDS)
def test_compile(backend: str) -> None:
    inputs = {n: t.to(device_of(backend)) for n, t in make_inputs(2, 4, 10, 4).items()}
    compiled = torch.compile(causal_conv1d, fullgraph=True, backend="aot_eager")
    expected = causal_conv1d(**inputs, activation="silu", backend=require(backend))
    assert_matches(compiled(**inputs, activation="silu", backend=backend), expected.double(), "out")


def test_opcheck() -> None:
    require("cpu")
    inputs = tuple(make_inputs(2, 4, 10, 4).values())
    torch.library.opcheck(torch.ops.bdam.causal_conv1d_forward.default, (*inputs, None, True, "cpu"))
    grads = torch.randn(2, 4, 10), torch.randn(2, 4, 3)
    torch.library.opcheck(torch.ops.bdam.causal_conv1d_backward.default, (*inputs, None, *grads, True, "cpu"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x", torch.zeros(3), r"x must be \(B, D, L\), got \(3,\)"),
        ("weight", torch.zeros(4, 3), r"weight must be \(D, W\) with D = 3 and W >= 1, got \(4, 3\)"),
        ("bias", torch.zeros(4), r"bias must be \(3,\), got \(4,\)"),
        ("initial_state", torch.zeros(2, 3, 4), r"initial_state must be \(2, 3, 3\), got \(2, 3, 4\)"),
        ("activation", "relu", r"activation must be None, 'silu' or 'swish', got 'relu'"),
    ],
)
def test_errors(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        causal_conv1d(**{**make_inputs(2, 3, 5, 4), name: value})
