"""FLOPs of the operators and of the fusion modules, against counts by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from helpers import require
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, flop_registry

import bdam_kernels.flops  # noqa: F401
from bdam_kernels import (
    bidirectional_cross_attention,
    causal_conv1d,
    hsic,
    pooled_bidirectional_cross_attention,
    selective_scan,
)
from benchmarks.efficiency.fusions import WIDTH, Size, flops, fusion, fusion_inputs, fusions

B, D, L, N = 2, 3, 5, 4
HEADS, QUERIES, KEYS, DEPTH = 3, 7, 5, 8


@pytest.fixture(autouse=True)
def _kernels() -> None:
    require("cpu")


def counted(function: Callable[..., Any], *shapes: Sequence[int]) -> tuple[int, int]:
    """FLOPs of forward and of backward, of the operators' own only."""
    inputs = [torch.randn(*shape, requires_grad=True) for shape in shapes]
    with FlopCounterMode(display=False) as counter:
        outputs = function(*inputs)
        forward = own(counter)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
    return forward, own(counter) - forward


def own(counter: FlopCounterMode) -> int:
    return sum(count for op, count in counter.get_flop_counts()["Global"].items() if str(op).startswith("bdam."))


def scan(*inputs: Tensor) -> Tensor:
    return selective_scan(*inputs, delta_softplus=True, backend="cpu")


SCAN = [(B, D, L), (B, D, L), (D, N), (B, N, L), (B, N, L)]


def test_scan_without_skip_and_gate() -> None:
    steps = B * D * L
    forward, backward = counted(scan, *SCAN)
    # delta A, exp, decay h, drive B, sum; C h and its sum: of every state. The drive of every step.
    assert forward == steps * (N * (5 + 2) + 1)
    # h again; C g, decay dh, sum; five products that are summed, and dh h decay: of every state.
    assert backward == steps * (N * (5 + 3 + 5 * 2 + 2) + 5)


def test_scan_with_skip_and_gate() -> None:
    forward, backward = counted(scan, *SCAN, (D,), (B, D, L))
    plain_forward, plain_backward = counted(scan, *SCAN)
    # D u added to y, and the product with the gate.
    assert forward - plain_forward == B * D * L * 3
    # y again with D u, and two products of the gate; D g in du and u g in dD.
    assert backward - plain_backward == B * D * L * (2 * N + 2 + 2 + 4)


@pytest.mark.parametrize(("activation", "passes"), [(None, 2), ("silu", 3)])
def test_convolution(activation: str | None, passes: int) -> None:
    multiply_adds = B * D * L * 4
    forward, backward = counted(
        lambda x, weight: causal_conv1d(x, weight, activation=activation, backend="cpu"), (B, D, L), (D, 4)
    )
    assert (forward, backward) == (2 * multiply_adds, passes * 2 * multiply_adds)


STREAMS = [(B, HEADS, QUERIES, DEPTH)] * 3 + [(B, HEADS, KEYS, DEPTH)] * 3


def test_cross_attention() -> None:
    product = 2 * B * HEADS * QUERIES * KEYS * DEPTH
    # Scores and values each way; dP, dV, dQ and dK each way.
    assert counted(lambda *x: bidirectional_cross_attention(*x, backend="cpu"), *STREAMS) == (4 * product, 8 * product)


def test_cross_attention_computes_weights_again_that_it_did_not_save() -> None:
    shapes = [(1, 1, 2, DEPTH)] * 3 + [(1, 1, 8 * DEPTH + 1, DEPTH)] * 3
    product = 2 * 2 * (8 * DEPTH + 1) * DEPTH
    _, backward = counted(lambda *x: bidirectional_cross_attention(*x, backend="cpu"), *shapes)
    # Of the few queries with many keys, scores too.
    assert backward == (5 + 4) * product


def test_pooled_cross_attention() -> None:
    weights = B * HEADS * QUERIES * KEYS
    features = B * HEADS * DEPTH * (QUERIES + KEYS)
    forward, backward = counted(lambda *x: pooled_bidirectional_cross_attention(*x, backend="cpu"), *STREAMS)
    # Scores each way, every weight added once, and the means' product with the values.
    assert forward == 2 * 2 * weights * DEPTH + 2 * weights + 2 * features
    # dQ and dK each way; <V, dO> and w dO of every value.
    assert backward == 2 * 2 * 2 * weights * DEPTH + (2 + 1) * features


def test_hsic_of_few_samples() -> None:
    n, width = 8, 64
    # Two Gram matrices and their inner product; two products of N x N weights with features.
    assert counted(hsic, (n, width), (n, width)) == (2 * (2 * n * n * width) + 2 * n * n, 2 * (2 * n * n * width))


def test_hsic_with_gaussian_kernels() -> None:
    n, width = 8, 64
    gram = 2 * n * n * width
    # Two Gram matrices and three inner products; both again, and two products of N x N weights with features.
    expected = 2 * gram + 3 * 2 * n * n, 4 * gram
    assert counted(lambda *x: hsic(*x, kernel="rbf", sigma=1.0), (n, width), (n, width)) == expected


def test_hsic_of_few_samples_in_cuda() -> None:
    n, x_width, y_width = 8, 64, 48
    x, y, scalar = torch.empty(n, x_width), torch.empty(n, y_width), torch.empty(())
    products = 2 * n * n * (x_width + y_width)
    forward = flop_registry[torch.ops.bdam.hsic_linear_forward](x, y, False, out_val=(scalar, scalar))
    # Two Gram matrices and their inner product; two products of N x N weights with features.
    assert forward == products + 2 * n * n
    backward = flop_registry[torch.ops.bdam.hsic_linear_backward](scalar, scalar, x, y, False, out_val=(x, y))
    assert backward == products


def test_fusion_at_the_drafts_sizes() -> None:
    config = fusions("pooled")["mamba"]
    align = 2 * (WIDTH * 256 + 256 * 256)
    inner, rank, states = 512, 16, 16
    projections = 256 * 2 * inner + inner * (rank + 2 * states) + rank * inner + inner * 256
    layer = 2 * projections + 2 * 4 * inner + inner * (7 * states + 1 + 2 + 1)
    gate, out = 2 * (2 * 256) * 2, 2 * 256 * WIDTH
    expected = 2 * align + gate + 2 * layer + out
    assert flops(fusion(config), fusion_inputs(config, Size(1)))["forward_flops"] == expected


def test_transformer_over_a_sequence() -> None:
    config = fusions("sequence")["transformer"]
    tokens, width = 8, 256
    align = 2 * (WIDTH * width + width * width) * tokens
    layer = tokens * 2 * (4 + 8) * width * width + 4 * tokens * tokens * width
    gate, out = 2 * (2 * width) * 2, 2 * width * WIDTH
    measured = flops(fusion(config), fusion_inputs(config, Size(1, 5, 3)))["forward_flops"]
    # The masked means of the words and of all tokens are products, too.
    assert measured == align + gate + 4 * layer + out + 2 * width * (3 + tokens)
