"""What only a GPU can show: graphs, streams, torch.compile with its own kernels, and large sizes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from helpers import assert_matches, require
from torch import Tensor

from bdam_kernels import (
    Mamba,
    bidirectional_cross_attention,
    hsic,
    pooled_bidirectional_cross_attention,
    selective_scan,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

GPU_BACKENDS = ("triton", "cuda")


def make_scan(backend: str, length: int = 70, batch: int = 2, channels: int = 96) -> Callable[[], list[Tensor]]:
    """A call that returns the scan's output and all gradients, of inputs that stay where they are."""
    u, delta, z, weight = torch.randn(4, batch, channels, length, device="cuda").unbind()
    B, C = torch.randn(2, batch, 16, length, device="cuda").unbind()
    A = -torch.rand(channels, 16, device="cuda")
    D, bias = torch.randn(2, channels, device="cuda").unbind()
    leaves = [t.detach().clone().requires_grad_() for t in (u, delta, A, B, C, D, z, bias)]

    def step() -> list[Tensor]:
        out = selective_scan(*leaves, delta_softplus=True, backend=backend)
        return [out.detach(), *torch.autograd.grad(out, leaves, weight)]

    return step


def make_attention(
    function: Callable[..., tuple[Tensor, Tensor]], backend: str, length: int = 70
) -> Callable[[], list[Tensor]]:
    """The same for attention, with queries, keys and values as views of one tensor."""
    packed = torch.randn(3, length, 6, 4, 64, device="cuda", dtype=torch.bfloat16).unbind(2)
    leaves = [t.transpose(1, 2).detach().requires_grad_() for t in packed]

    def step() -> list[Tensor]:
        outs = function(*leaves, backend=backend)
        grads = torch.autograd.grad(outs, leaves, [torch.ones_like(out) for out in outs])
        return [*(out.detach() for out in outs), *grads]

    return step


STEPS = pytest.mark.parametrize(
    "make",
    [
        make_scan,
        partial(make_attention, bidirectional_cross_attention),
        partial(make_attention, pooled_bidirectional_cross_attention),
    ],
    ids=["selective_scan", "cross_attention", "pooled_cross_attention"],
)
Make = Callable[..., Callable[[], list[Tensor]]]


def assert_equal(actual: list[Tensor], expected: list[Tensor]) -> None:
    for a, e in zip(actual, expected, strict=True):
        assert torch.equal(a, e)


def check_graph(step: Callable[[], list[Tensor]]) -> None:
    """A step that was captured in a graph gives the same when it is replayed."""
    expected = step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for t in captured:
        t.fill_(float("nan"))
    graph.replay()
    assert_equal(captured, expected)


def check_stream(step: Callable[[], list[Tensor]]) -> None:
    """A step gives the same on a stream of its own."""
    expected = step()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        actual = step()
    torch.cuda.current_stream().wait_stream(stream)
    assert_equal(actual, expected)


@STEPS
@pytest.mark.parametrize("backend", GPU_BACKENDS)
@pytest.mark.parametrize("length", [70, 600])
def test_graph(make: Make, backend: str, length: int) -> None:
    step = make(require(backend), length)
    check_graph(step)


@STEPS
@pytest.mark.parametrize("backend", GPU_BACKENDS)
def test_stream(make: Make, backend: str) -> None:
    step = make(require(backend))
    check_stream(step)


@pytest.mark.parametrize("backend", GPU_BACKENDS)
def test_compile_fullgraph(backend: str) -> None:
    step = make_scan(require(backend))
    leaf = torch.randn(2, 96, 70, device="cuda", requires_grad=True)
    others = torch.randn(2, 2, 16, 70, device="cuda").unbind()
    rates = -torch.rand(96, 16, device="cuda")

    def model(u: Tensor) -> Tensor:
        return selective_scan(u.sin(), u.abs(), rates, *others, backend=backend).cos().sum()

    expected = torch.autograd.grad(model(leaf), leaf)
    actual = torch.autograd.grad(torch.compile(model, fullgraph=True)(leaf), leaf)
    assert_matches(actual[0], expected[0].double(), "grad")
    assert_equal(step(), step())


@pytest.mark.parametrize("backend", GPU_BACKENDS)
@pytest.mark.parametrize("shape", [(2, 64, 4096), (1, 2048, 1024), (130, 512, 1)], ids=str)
def test_large(backend: str, shape: tuple[int, int, int]) -> None:
    batch, channels, length = shape
    u, delta, z = (torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    B, C = (torch.randn(batch, 16, length, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    A = -torch.rand(channels, 16, device="cuda")
    inputs = [t.requires_grad_() for t in (u, delta, A, B, C, z)]
    double = [t.detach().double().requires_grad_() for t in inputs]

    def run(leaves: list[Tensor], backend: str) -> list[Tensor]:
        *before, z = leaves
        out = selective_scan(*before, None, z, delta_softplus=True, backend=backend)
        return [out, *torch.autograd.grad(out.sum(), leaves)]

    names = ("out", "grad_u", "grad_delta", "grad_A", "grad_B", "grad_C", "grad_z")
    for name, a, e in zip(names, run(inputs, require(backend)), run(double, "reference"), strict=True):
        assert_matches(a, e, name, dtype=torch.bfloat16)


@pytest.mark.parametrize("backend", GPU_BACKENDS)
@pytest.mark.parametrize(
    "shape", [(128, 12, 196, 64), (64, 8, 49, 32), (2, 12, 577, 64), (128, 4, 197, 192), (1, 2, 4096, 128)], ids=str
)
def test_large_attention(backend: str, shape: tuple[int, int, int, int]) -> None:
    inputs = [torch.randn(shape, device="cuda", dtype=torch.bfloat16).requires_grad_() for _ in range(6)]
    weights = torch.randn(2, *shape, device="cuda", dtype=torch.bfloat16).unbind()

    def run(leaves: list[Tensor], backend: str) -> list[Tensor]:
        outs = bidirectional_cross_attention(*leaves, backend=backend)
        upstream = [w[: len(out)].to(out) for w, out in zip(weights, outs, strict=True)]
        return [*outs, *torch.autograd.grad(outs, leaves, upstream)]

    names = ("out_a", "out_b", *(f"grad_{name}_{stream}" for stream in "ab" for name in "qkv"))
    # Of all that the kernels give, the reference in float64 has room for the first of the batch.
    double = [t.detach()[:1].double().requires_grad_() for t in inputs]
    for name, a, e in zip(names, run(inputs, require(backend)), run(double, "reference"), strict=True):
        assert_matches(a[:1], e, name, dtype=torch.bfloat16)


def test_mamba_steps_are_the_whole() -> None:
    layer = Mamba(64).cuda()
    x = torch.randn(3, 9, 64, device="cuda")
    with torch.no_grad():
        whole = layer(x)
        states = layer.allocate_inference_cache(3)
        steps = [layer.step(x[:, t : t + 1], *states)[0] for t in range(9)]
    assert_matches(torch.cat(steps, 1), whole.double(), "out")


def make_hsic_step(backend: str, kernel: str, rows: int) -> Callable[[], list[Tensor]]:
    leaves = [torch.randn(rows, 768, device="cuda", requires_grad=True) for _ in range(2)]

    def step() -> list[Tensor]:
        value = hsic(*leaves, kernel=kernel, backend=backend)
        return [value.detach(), *torch.autograd.grad(value, leaves)]

    return step


HSIC_CASES = [("cuda", "linear", 256)]
every_hsic_case = pytest.mark.parametrize(("backend", "kernel", "rows"), HSIC_CASES)


@every_hsic_case
def test_hsic_in_a_graph_and_on_a_stream(backend: str, kernel: str, rows: int) -> None:
    step = make_hsic_step(require(backend), kernel, rows)
    check_stream(step)
    check_graph(step)


@every_hsic_case
def test_hsic_waits_for_nothing(backend: str, kernel: str, rows: int) -> None:
    step = make_hsic_step(require(backend), kernel, rows)
    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_hsic_of_many_rows(kernel: str) -> None:
    x, y = torch.randn(2, 3000, 96, device="cuda")
    wide = [t.double().requires_grad_() for t in (x, x + y)]
    narrow = [t.detach().float().requires_grad_() for t in wide]
    actual, expected = (hsic(*pair, kernel=kernel, sigma=10.0 if kernel == "rbf" else None) for pair in (narrow, wide))
    assert_matches(actual, expected, "value")
    grads = (torch.autograd.grad(v, pair) for v, pair in ((actual, narrow), (expected, wide)))
    for name, a, e in zip(("grad_x", "grad_y"), *grads, strict=True):
        assert_matches(a, e, name)
