"""Operators exported: by torch.export with sizes that vary, as a package of AOTInductor, and to ONNX."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from helpers import assert_matches, require
from torch import Tensor, nn
from torch.export import Dim, export

from bdam_kernels import (
    BidirectionalCrossAttention,
    Mamba,
    bidirectional_cross_attention,
    causal_conv1d,
    pooled_bidirectional_cross_attention,
    selective_scan,
)

Sizes = dict[str, int]


class Case(NamedTuple):
    """A function of tensors, and their sizes: numbers, or names of what varies."""

    function: Callable[..., Any]
    shapes: tuple[tuple[int | str, ...], ...]

    def inputs(self, sizes: Sizes) -> tuple[Tensor, ...]:
        return tuple(torch.randn([sizes.get(s, s) for s in shape]) for shape in self.shapes)  # type: ignore[arg-type]

    def exported(self, sizes: Sizes) -> torch.export.ExportedProgram:
        dims = {name: Dim(name, min=2, max=4096) for name in sizes}
        specs = tuple({i: dims[s] for i, s in enumerate(shape) if isinstance(s, str)} for shape in self.shapes)
        return export(Call(self.function).eval(), self.inputs(sizes), dynamic_shapes=(specs,))


class Call(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(*tensors)


def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    return selective_scan(u, delta, -A.exp(), B, C, delta_softplus=True, return_last_state=True, **options)


def packed(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Sequences of three steps."""
    seq_idx = (torch.arange(u.shape[2]) // 3).expand(u.shape[0], -1)
    return scan(causal_conv1d(u, weight, seq_idx=seq_idx), delta, A, B, C, seq_idx=seq_idx)


def conv(x: Tensor, weight: Tensor, bias: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    return causal_conv1d(x, weight, bias, "silu", return_final_state=True, **options)


STREAMS = (("batch", 2, "a", 8),) * 3 + (("batch", 2, "b", 8),) * 3
SERIES = (("batch", 4, "length"), ("batch", 4, "length"), (4, 3), ("batch", 3, "length"), ("batch", 3, "length"))
CASES = {
    "scan": Case(scan, SERIES),
    "packed": Case(packed, (*SERIES, (4, 4))),
    "conv": Case(conv, (("batch", 4, "length"), (4, 4), (4,))),
    "attention": Case(bidirectional_cross_attention, STREAMS),
    "pooled attention": Case(pooled_bidirectional_cross_attention, STREAMS),
    "mamba": Case(Mamba(6), (("batch", "length", 6),)),
    "fusion": Case(BidirectionalCrossAttention(8, 2), (("batch", "a", 8), ("batch", "b", 8))),
}
TRACED = {"batch": 5, "length": 9, "a": 6, "b": 7}
OTHERS = ({"batch": 3, "length": 40, "a": 33, "b": 2}, {"batch": 70, "length": 2, "a": 3, "b": 65})


def used(case: Case, sizes: Sizes) -> Sizes:
    return {name: size for name, size in sizes.items() if any(name in shape for shape in case.shapes)}


def check(actual: Any, expected: Any) -> None:
    actual, expected = (results if isinstance(results, tuple | list) else (results,) for results in (actual, expected))
    for a, e in zip(actual, expected, strict=True):
        assert_matches(a, e.double(), "result")


@pytest.mark.parametrize("name", CASES)
def test_sizes_vary(name: str) -> None:
    require("cpu")
    case = CASES[name]
    if isinstance(case.function, nn.Module):
        case.function.requires_grad_(name == "mamba")
    program = case.exported(used(case, TRACED)).module()
    for sizes in (TRACED, *OTHERS):
        inputs = case.inputs(used(case, sizes))
        check(program(*inputs), case.function(*inputs))


def test_package_of_aot_inductor(tmp_path: Path) -> None:
    """Loaded where bdam_kernels is imported, which its operators need."""
    require("cpu")
    if "BDAM_AOT" not in os.environ:
        pytest.skip("AOTInductor compiles for half a minute: BDAM_AOT=1 has it")
    case = CASES["conv"]
    path = torch._inductor.aoti_compile_and_package(
        case.exported(used(case, TRACED)), package_path=str(tmp_path / "model.pt2")
    )
    loaded = torch._inductor.aoti_load_package(path)
    inputs = case.inputs(used(case, OTHERS[0]))
    check(loaded(*inputs), case.function(*inputs))


@pytest.mark.parametrize("name", ["scan", "conv", "attention"])
def test_onnx_of_the_reference(name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    case = CASES[name]
    inputs = case.inputs(TRACED)
    path = tmp_path / "model.onnx"
    model = Call(lambda *tensors: case.function(*tensors, backend="reference"))
    torch.onnx.export(model, inputs, str(path), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    actual = session.run(None, dict(zip(names, (t.numpy() for t in inputs), strict=True)))
    check(tuple(map(torch.from_numpy, actual)), case.function(*inputs))
