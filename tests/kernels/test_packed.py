"""Packed sequences: several in a row are what each is by itself, gradients too; and how to say where they begin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from combinations import every, fewer
from helpers import assert_matches, device_of, require
from torch import Tensor

from bdam_kernels import Mamba, causal_conv1d, selective_scan
from bdam_kernels.compat import causal_conv1d_fn, mamba_inner_fn, selective_scan_fn
from bdam_kernels.ops.selective_scan import plan

LENGTH = 45
CUTS = ((0, 1, 6, 20, LENGTH), (0, LENGTH), (0, 33, 34, 44, LENGTH))
"""Where the sequences of each row begin, and where the last one ends."""

LONG = ((0, 32, 64, 65, 130), (0, 7, 130), (0, 100, 128, 130))
"""Five chunks, of which a sequence begins with one, within one, or lasts for all of them."""

Function = Callable[..., tuple[Tensor, Tensor]]


def seq_idx_of(cuts: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Numbers that come again, as 0 1 0 1: neighbours alone must differ."""
    rows = [torch.cat([torch.full((b - a,), i % 2) for i, (a, b) in enumerate(pairwise(row))]) for row in cuts]
    return torch.stack(rows).to(device, torch.int32)


def scan(t: dict[str, Tensor], **options: object) -> tuple[Tensor, Tensor]:
    return selective_scan(**t, delta_softplus=True, return_last_state=True, **options)  # type: ignore[arg-type]


def conv(t: dict[str, Tensor], **options: object) -> tuple[Tensor, Tensor]:
    return causal_conv1d(**t, activation="silu", return_final_state=True, **options)  # type: ignore[arg-type]


def scan_inputs(form: str = "", channels: int = 19, states: int = 9, length: int = LENGTH) -> dict[str, Tensor]:
    batch = len(CUTS)
    shape = (batch, channels, length)
    B = {"groups": (batch, 1, states, length), "constant": (channels, states)}.get(form, (batch, states, length))
    return {
        "u": torch.randn(shape), "delta": torch.rand(shape) - 1, "A": -torch.rand(channels, states),
        "B": torch.randn(B), "C": torch.randn(batch, states, length), "D": torch.randn(channels),
        "z": torch.randn(shape),
        "delta_bias": torch.rand(channels), "initial_state": torch.randn(batch, channels, states),
    }  # fmt: skip


def conv_inputs(width: int) -> dict[str, Tensor]:
    batch, channels = len(CUTS), 5
    return {
        "x": torch.randn(batch, channels, LENGTH), "weight": torch.randn(channels, width),
        "bias": torch.randn(channels), "initial_state": torch.randn(batch, channels, width - 1),
    }  # fmt: skip


def one_by_one(
    function: Function, t: dict[str, Tensor], cuts: Sequence[Sequence[int]], reverse: bool
) -> tuple[Tensor, Tensor]:
    """Every sequence in a call of its own."""
    options = {"reverse": True} if reverse else {}
    outs, states = [], []
    for i, row in enumerate(cuts):
        pieces, state = [], t["initial_state"][i : i + 1]
        spans = list(pairwise(row))
        for begin, end in spans[::-1] if reverse else spans:
            piece = {
                n: v[i : i + 1, ..., begin:end] if v.shape[0] == len(cuts) and v.shape[-1] == row[-1] else v
                for n, v in t.items()
            }
            out, last = function(piece | {"initial_state": state}, **options)
            pieces.append(out)
            state = torch.zeros_like(state)
        outs.append(torch.cat(pieces[::-1] if reverse else pieces, -1))
        states.append(last)
    return torch.cat(outs), torch.cat(states)


def check(
    function: Function, inputs: dict[str, Tensor], backend: str | None, reverse: bool = False, cuts: Any = CUTS
) -> None:
    """Results and gradients against one call a sequence of the reference in float64. What streams over time has the
    dtype of the first input."""
    device, dtype = device_of(backend or "reference"), next(iter(inputs.values())).dtype
    leaves = {n: t.detach().to(device).requires_grad_() for n, t in inputs.items()}
    doubles = {n: t.detach().double().requires_grad_() for n, t in inputs.items()}
    options = {"reverse": True} if reverse else {}
    actual = function(leaves, seq_idx=seq_idx_of(cuts, device), backend=backend, **options)
    expected = one_by_one(function, doubles, cuts, reverse)
    weights = [torch.randn(e.shape) for e in expected]
    torch.autograd.backward(actual, [w.to(device) for w in weights])
    torch.autograd.backward(expected, [w.double() for w in weights])
    for name, a, e in zip(("out", "state"), actual, expected, strict=True):
        assert_matches(a.cpu(), e, name, dtype)
    for name, leaf in leaves.items():
        assert_matches(leaf.grad.cpu(), doubles[name].grad, f"gradient of {name}", dtype)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("form", ["", "groups", "constant"])
def test_scan(backend: str, reverse: bool, form: str) -> None:
    check(scan, scan_inputs(form), require(backend), reverse)


@every(
    ["triton", "cuda"],
    reverse=[False, True],
    segments=[1, 2],
    form=["", "groups", "constant"],
    in_interpreter={"form": ["", "constant"]},
)
def test_scan_on_a_gpu(backend: str, reverse: bool, segments: int, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one walk, and in segments of time of which some have resets and some have none."""
    monkeypatch.setattr(plan, "SEGMENT_CHUNKS", 1 if segments > 1 else 100)
    inputs, cuts = scan_inputs(form), CUTS[: fewer(require(backend), 3)]
    check(scan, {n: t[: len(cuts)] if len(t) == len(CUTS) else t for n, t in inputs.items()}, backend, reverse, cuts)


@pytest.mark.parametrize("backend", ["cuda"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_scan_of_many_segments(backend: str, reverse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which a state or its adjoint goes through several, or through some of them; with rates of zero too."""
    monkeypatch.setattr(plan, "SEGMENT_CHUNKS", 1)
    inputs = scan_inputs(channels=5, length=LONG[0][-1])
    inputs["A"][:, 0] = 0
    check(scan, inputs, require(backend), reverse, LONG)


@pytest.mark.parametrize("backend", ["cuda"])
@pytest.mark.parametrize(
    ("states", "dtype"), [(7, torch.bfloat16), (33, torch.float16), (200, torch.bfloat16)], ids=str
)
def test_scan_of_every_layout(backend: str, states: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SEGMENT_CHUNKS", 1)
    inputs = scan_inputs(channels=4, states=states)
    check(scan, {n: t.to(dtype) if t.shape[-1] == LENGTH else t for n, t in inputs.items()}, require(backend))


@pytest.mark.parametrize("backend", ["cuda"])
def test_scan_of_launches_that_add_up(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More blocks than one launch of backward takes."""
    monkeypatch.setitem(plan.BLOCKS, backend, 1)
    monkeypatch.setattr(plan, "_multiprocessors", lambda device: 1)
    check(scan, scan_inputs(channels=70, states=16), require(backend))


@every(
    ["reference", "cpu", "triton"],
    layout=["dense", "channels last"],
    width=[1, 4, 17],
    in_interpreter={"width": [4]},
)
def test_convolution(backend: str, layout: str, width: int) -> None:
    inputs = conv_inputs(width)
    if layout == "channels last":
        inputs["x"] = inputs["x"].transpose(1, 2).contiguous().transpose(1, 2)
    check(conv, inputs, require(backend))


@pytest.mark.parametrize(("function", "inputs"), [(scan, scan_inputs()), (conv, conv_inputs(4))], ids=["scan", "conv"])
def test_nothing_comes_over_from_a_sequence_that_is_not_finite(function: Function, inputs: dict[str, Tensor]) -> None:
    """Zero times infinity would."""
    require("cpu")
    name = next(iter(inputs))
    inputs = inputs | {name: inputs[name].clone()}
    inputs[name][0, :, 5] = torch.inf
    for backend in ("cpu", "reference"):
        out, _ = function(inputs, seq_idx=seq_idx_of(CUTS, torch.device("cpu")), backend=backend)
        assert out[0, :, :5].isfinite().all() and out[0, :, 6:].isfinite().all() and not out[0, :, 5].isfinite().any()


@pytest.mark.parametrize("backend", ["reference", "cpu", "cuda", "triton"])
@pytest.mark.parametrize(("row", "step", "sequence"), [(0, 10, slice(6, 20)), (2, 40, slice(34, 44))])
def test_no_gradient_comes_over_from_a_sequence_that_is_not_finite(
    backend: str, row: int, step: int, sequence: slice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it in a sum over a segment of time through which others would go."""
    monkeypatch.setattr(plan, "SEGMENT_CHUNKS", 1)
    device = device_of(require(backend))
    leaves = {n: t.to(device).requires_grad_() for n, t in scan_inputs(channels=3).items()}
    with torch.no_grad():
        leaves["u"][row, :, step] = torch.inf
        leaves["delta"][row, :, step + 1] = torch.nan
    out, last = scan(leaves, seq_idx=seq_idx_of(CUTS, device), backend=backend)
    (out.sum() + last.sum()).backward()
    for over_time in (out, *(leaves[n].grad for n in ("u", "delta", "B", "C", "z"))):
        is_finite = over_time.isfinite().all(1)
        assert not is_finite[row, step]
        is_finite[row, sequence] = True
        assert is_finite.all()
    assert last.isfinite().all() and leaves["initial_state"].grad.isfinite().all()


@pytest.mark.parametrize("function", [scan, conv])
def test_second_derivative(function: Function) -> None:
    inputs = scan_inputs(channels=2, states=2) if function is scan else conv_inputs(3)
    leaves = {n: t.double()[..., :4] if t.shape[-1] == LENGTH else t.double() for n, t in inputs.items()}
    seq_idx = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 2], [5, 5, 5, 5]])
    first = next(iter(leaves))

    def of_first(x: Tensor) -> tuple[Tensor, Tensor]:
        return function(leaves | {first: x}, seq_idx=seq_idx)

    assert torch.autograd.gradgradcheck(of_first, leaves[first].detach().requires_grad_())
    require("cpu")
    single = {n: t.float() for n, t in leaves.items()}
    x = single[first].requires_grad_()
    (grad,) = torch.autograd.grad(function(single | {first: x}, seq_idx=seq_idx)[0].sin().sum(), x, create_graph=True)
    wide = leaves[first].detach().requires_grad_()
    (wide_grad,) = torch.autograd.grad(of_first(wide)[0].sin().sum(), wide, create_graph=True)
    for a, e in (
        (grad, wide_grad),
        (*torch.autograd.grad(grad.square().sum(), x), *torch.autograd.grad(wide_grad.square().sum(), wide)),
    ):
        assert_matches(a.detach(), e.detach(), "derivative")


@pytest.mark.parametrize("function", [scan, conv])
def test_compiled(function: Function) -> None:
    require("cpu")
    inputs, seq_idx = scan_inputs() if function is scan else conv_inputs(4), seq_idx_of(CUTS, torch.device("cpu"))
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for actual, expected in zip(compiled(inputs, seq_idx=seq_idx), function(inputs, seq_idx=seq_idx), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("function", [scan, conv])
def test_a_row_of_one_sequence_is_as_without(function: Function) -> None:
    require("cpu")
    inputs = scan_inputs() if function is scan else conv_inputs(4)
    ones = torch.ones(len(CUTS), LENGTH, dtype=torch.int64)
    for packed, plain in zip(function(inputs, seq_idx=ones), function(inputs), strict=True):
        assert torch.equal(packed, plain)


@pytest.mark.parametrize("function", [scan, conv])
@pytest.mark.parametrize("layout", ["transposed", "expanded"])
def test_numbers_in_other_layouts(function: Function, layout: str) -> None:
    require("cpu")
    inputs = scan_inputs() if function is scan else conv_inputs(4)
    seq_idx = seq_idx_of(CUTS, torch.device("cpu"))
    other = seq_idx.T.contiguous().T if layout == "transposed" else seq_idx[:1].expand(3, -1)
    expected = function(inputs, seq_idx=other.contiguous())
    assert all(map(torch.equal, function(inputs, seq_idx=other), expected))


@pytest.mark.parametrize("function", [scan, conv])
def test_empty(function: Function) -> None:
    inputs = scan_inputs() if function is scan else conv_inputs(4)
    inputs = {n: t[..., :0] if t.shape[-1] == LENGTH else t for n, t in inputs.items()}
    out, state = function(inputs, seq_idx=torch.zeros(len(CUTS), 0, dtype=torch.int32))
    assert out.shape[2] == 0 and torch.equal(state, inputs["initial_state"])


@pytest.mark.parametrize("function", [scan, conv])
def test_errors(function: Function) -> None:
    inputs = scan_inputs() if function is scan else conv_inputs(4)
    with pytest.raises(ValueError, match=r"seq_idx must be \(3, 45\), got \(45,\)"):
        function(inputs, seq_idx=torch.zeros(LENGTH, dtype=torch.int32))
    with pytest.raises(TypeError, match=r"seq_idx must be integer, got torch\.float32"):
        function(inputs, seq_idx=torch.zeros(3, LENGTH))


def layer_inputs(layer: Mamba, x: Tensor) -> dict[str, Tensor | None]:
    return {
        "xz": layer.in_proj(x).transpose(1, 2), "conv1d_weight": layer.conv1d.weight, "conv1d_bias": layer.conv1d.bias,
        "x_proj_weight": layer.x_proj.weight, "delta_proj_weight": layer.dt_proj.weight,
        "out_proj_weight": layer.out_proj.weight, "out_proj_bias": None, "A": -layer.A_log.exp(), "D": layer.D,
        "delta_bias": layer.dt_proj.bias,
    }  # fmt: skip


@torch.no_grad()
def test_layers_and_stand_ins() -> None:
    """Each in its own way says where sequences begin."""
    layer, x = Mamba(12), torch.randn(1, 20, 12)
    cu_seqlens = torch.tensor([0, 7, 8, 20], dtype=torch.int32)
    seq_idx = torch.tensor([[0] * 7 + [1] + [2] * 12], dtype=torch.int32)
    expected = torch.cat([layer(x[:, a:b]) for a, b in ((0, 7), (7, 8), (8, 20))], 1).double()
    assert_matches(layer(x, seq_idx=seq_idx), expected, "layer")
    for said in ({"cu_seqlens": cu_seqlens}, {"seq_idx": seq_idx}):
        assert_matches(mamba_inner_fn(**layer_inputs(layer, x), **said), expected, "mamba_inner_fn")
    u, A, B = torch.randn(1, 6, 20), -torch.rand(6, 4), torch.randn(1, 4, 20)
    out = selective_scan_fn(u, u.abs(), A, B, B, cu_seqlens=cu_seqlens)
    assert torch.equal(out, selective_scan(u, u.abs(), A, B, B, seq_idx=seq_idx))
    # causal_conv1d makes zeros of steps whose number is negative.
    padded, weight = seq_idx.clone(), torch.randn(6, 4)
    padded[:, -5:] = -1
    conv = causal_conv1d_fn(u, weight, seq_idx=padded)
    assert (
        torch.equal(conv[..., :-5], causal_conv1d(u, weight, seq_idx=padded)[..., :-5]) and (conv[..., -5:] == 0).all()
    )


def test_cu_seqlens_that_do_not_fit() -> None:
    u, A, B = torch.randn(1, 6, 20), -torch.rand(6, 4), torch.randn(1, 4, 20)
    with pytest.raises(ValueError, match=r"cu_seqlens must be \(S \+ 1,\), from 0 to the length 20, got \[0, 7\]"):
        selective_scan_fn(u, u, A, B, B, cu_seqlens=torch.tensor([0, 7]))
    with pytest.raises(ValueError, match="cu_seqlens are for one row without seq_idx, got 2 rows"):
        selective_scan_fn(*(t.expand(2, -1, -1) for t in (u, u)), A, B, B, cu_seqlens=torch.tensor([0, 20]))
