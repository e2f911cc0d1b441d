"""What an operator costs beside its kernel: calls on tensors so small that a kernel takes no time.

The yardstick is two calls of PyTorch's attention, which are C++ throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

from bdam_kernels import (
    bidirectional_cross_attention,
    causal_conv1d,
    hsic,
    pooled_bidirectional_cross_attention,
    selective_scan,
)
from benchmarks.measure import Contender, Outputs
from benchmarks.peers import two_sdpa_calls

STREAMS = [(1, 1, 4, 8)] * 6
PEER = "two SDPA calls"


def scan(*inputs: Tensor) -> Tensor:
    return selective_scan(*inputs, delta_softplus=True)


def gaussian_hsic(x: Tensor, y: Tensor) -> Tensor:
    return hsic(x, y, kernel="rbf", sigma=1.0)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Waking another one costs more than these kernels."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def contender(function: Callable[..., Outputs], shapes: Sequence[tuple[int, ...]]) -> Contender:
    leaves = [torch.randn(shape, requires_grad=True) for shape in shapes]
    return Contender(lambda: function(*leaves), leaves)


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (scan, [(1, 4, 4), (1, 4, 4), (4, 4), (1, 4, 4), (1, 4, 4), (4,), (1, 4, 4), (4,)]),
        (causal_conv1d, [(1, 4, 4), (4, 4), (4,)]),
        (bidirectional_cross_attention, STREAMS),
        (pooled_bidirectional_cross_attention, STREAMS),
        (hsic, [(8, 16), (8, 16)]),
        (gaussian_hsic, [(8, 16), (8, 16)]),
    ],
)
def test_host_cost(contest: Callable[..., None], function: Callable[..., Outputs], shapes: list) -> None:
    contest(
        {"cpu": contender(function, shapes), PEER: contender(two_sdpa_calls, STREAMS)},
        op="host cost", size=f"{function.__name__} of tiny tensors", peer=PEER, target=round(1 / 1.3, 2),
    )  # fmt: skip
