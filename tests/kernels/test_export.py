"""Operators exported: by torch.export with sizes that vary, as a package of AOTInductor, and to ONNX."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
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
    cka_matrix,
    conditional_hsic,
    dhsic,
    hsic,
    pooled_bidirectional_cross_attention,
    selective_scan,
)

Sizes = dict[str, int]


class Case(NamedTuple):
    """A function of tensors, and their sizes: numbers, or names of what varies."""

    function: Callable[..., Any]
    shapes: tuple[tuple[int | str, ...], ...]
    has_gradients: bool = True
    """Whether it is exported, and called, with gradients."""

    def inputs(self, sizes: Sizes) -> tuple[Tensor, ...]:
        return tuple(torch.randn([sizes.get(s, s) for s in shape]) for shape in self.shapes)  # type: ignore[arg-type]

    def exported(self, sizes: Sizes) -> torch.export.ExportedProgram:
        dims = {name: Dim(name, min=4 if "rows" in name else 2, max=4096) for name in sizes}
        specs = tuple({i: dims[s] for i, s in enumerate(shape) if isinstance(s, str)} for shape in self.shapes)
        inputs = tuple(t.requires_grad_(self.has_gradients) for t in self.inputs(sizes))
        return export(Call(self.function).eval(), inputs, dynamic_shapes=(specs,))


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


def cka(x: Tensor, y: Tensor) -> Tensor:
    return cka_matrix([x, y, x + y], [y, x])


FEATURES = (("rows", 5),) * 2
STREAMS = (("batch", 2, "a", 8),) * 3 + (("batch", 2, "b", 8),) * 3
SERIES = (("batch", 4, "length"), ("batch", 4, "length"), (4, 3), ("batch", 3, "length"), ("batch", 3, "length"))
CASES = {
    "scan": Case(scan, SERIES),
    "packed": Case(packed, (*SERIES, (4, 4))),
    "conv": Case(conv, (("batch", 4, "length"), (4, 4), (4,))),
    "attention": Case(bidirectional_cross_attention, STREAMS),
    "attention without gradients": Case(bidirectional_cross_attention, STREAMS, False),
    "pooled attention": Case(pooled_bidirectional_cross_attention, STREAMS),
    "mamba": Case(Mamba(6), (("batch", "length", 6),)),
    "fusion": Case(BidirectionalCrossAttention(8, 2), (("batch", "a", 8), ("batch", "b", 8))),
    "hsic": Case(hsic, FEATURES),
    "hsic of wide features": Case(hsic, (("rows", 40), ("rows", 50))),
    "hsic, unbiased": Case(partial(hsic, estimator="unbiased", normalize=True), FEATURES),
    "hsic on the kernel": Case(partial(hsic, backend="cpu"), FEATURES),
    "gaussian hsic": Case(partial(hsic, kernel="rbf", normalize=True), FEATURES),
    "gaussian hsic on the kernel": Case(partial(hsic, kernel="rbf", backend="cpu"), FEATURES, False),
    "cka": Case(cka, FEATURES),
    "dhsic": Case(dhsic, (("few_rows", 5), ("few_rows", 5), ("few_rows", 3))),
    "conditional hsic": Case(conditional_hsic, (("few_rows", 5), ("few_rows", 5), ("few_rows", 3))),
}
TRACED = {"batch": 5, "length": 9, "a": 6, "b": 7, "rows": 9, "few_rows": 9}
# Attention saves its weights up to 8 d keys, 64 and 32 here; HSIC takes the median distance of at most 1,024 rows.
OTHERS = (
    {"batch": 3, "length": 40, "a": 33, "b": 2, "rows": 4, "few_rows": 4},
    {"batch": 70, "length": 2, "a": 3, "b": 65, "rows": 1030, "few_rows": 50},
    {"batch": 2, "length": 5, "a": 70, "b": 80, "rows": 40, "few_rows": 7},
)


def used(case: Case, sizes: Sizes) -> Sizes:
    return {name: size for name, size in sizes.items() if any(name in shape for shape in case.shapes)}


def gradients(function: Callable[..., Any], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Of a sum of all outputs with weights, by the inputs."""
    inputs = tuple(t.detach().requires_grad_() for t in inputs)
    outputs = function(*inputs)
    outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
    weights = [torch.arange(1.0, o.numel() + 1).view(o.shape).cos() for o in outputs]
    return torch.autograd.grad(outputs, inputs, weights)


def check(actual: Any, expected: Any) -> None:
    actual, expected = (results if isinstance(results, tuple | list) else (results,) for results in (actual, expected))
    for a, e in zip(actual, expected, strict=True):
        assert_matches(a, e.double(), "result")


@pytest.mark.parametrize("name", CASES)
def test_sizes_vary(name: str) -> None:
    require("cpu")
    case = CASES[name]
    program = case.exported(used(case, TRACED)).module()
    for sizes in (TRACED, *OTHERS):
        inputs = case.inputs(used(case, sizes))
        with torch.no_grad():
            check(program(*inputs), case.function(*inputs))
        if case.has_gradients:
            check(gradients(program, inputs), gradients(case.function, inputs))


def test_parameters_of_an_exported_layer_learn() -> None:
    require("cpu")
    case = CASES["fusion"]
    program = case.exported(used(case, TRACED)).module()
    sum(out.square().sum() for out in program(*case.inputs(TRACED))).backward()
    assert all(p.grad is not None and p.grad.any() for p in program.parameters())


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.has_gradients])
def test_a_graph_without_gradients_says_so(name: str) -> None:
    require("cpu")
    program = CASES[name].exported(used(CASES[name], TRACED)).module()
    with pytest.raises(RuntimeError, match="export"):
        gradients(program, CASES[name].inputs(TRACED))


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
