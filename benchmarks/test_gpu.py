"""The operators on a GPU, forward and forward plus backward: our backends side by side, and the peers that are
installed there.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from bdam_kernels import Mamba, backends, bidirectional_cross_attention, causal_conv1d, hsic, selective_scan
from benchmarks.measure import Contender, Outputs
from benchmarks.peers import textbook_hsic, textbook_rbf_hsic, torch_causal_conv1d, two_sdpa_calls, two_sdpa_calls_by

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

Contest = Callable[..., None]
Function = Callable[..., Outputs]
Shrink = Callable[[Sequence[int]], tuple[int, ...]]
Compiled = Callable[[Function], Function]

SCANS = {
    (128, 512, 1): 2, (128, 512, 16): 2, (128, 512, 64): 2, (64, 512, 197): 2,
    (16, 1536, 1024): 1.3, (8, 1536, 2048): 1.3, (1, 2048, 16384): 1.3,
}  # fmt: skip
"""(B, D, L), and how many times faster than mamba-ssm the best of ours should be."""

ATTENTIONS = [
    (128, 12, 196, 64), (128, 12, 197, 64), (64, 8, 49, 32), (64, 12, 64, 64), (64, 12, 577, 64), (128, 4, 197, 192),
]  # fmt: skip
"""(B, H, L, d)."""

SDPA = {
    "two SDPA calls, cuDNN": SDPBackend.CUDNN_ATTENTION,
    "two SDPA calls, flash": SDPBackend.FLASH_ATTENTION,
    "two SDPA calls, efficient": SDPBackend.EFFICIENT_ATTENTION,
}
STATES = 16


def scan_inputs(batch: int, channels: int, length: int) -> list[Tensor]:
    def stream(*shape: int) -> Tensor:
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)

    u, delta, z = (stream(batch, channels, length) for _ in range(3))
    B, C = (stream(batch, STATES, length) for _ in range(2))
    A = -torch.arange(1.0, STATES + 1, device="cuda").repeat(channels, 1)
    D, bias = torch.randn(2, channels, device="cuda").unbind()
    return [t.detach().requires_grad_() for t in (u, delta - 4, A, B, C, D, z, bias)]


def those_that_run(candidates: Mapping[str, Function], inputs: list[Tensor]) -> dict[str, Function]:
    """The functions that take these inputs on this GPU."""
    running = {}
    for name, function in candidates.items():
        with suppress(RuntimeError):
            function(*inputs)
            running[name] = function
    return running


def our_backends(op: Function) -> dict[str, Function]:
    """Our backends that run on this GPU."""
    return {
        name: lambda *inputs, _name=name: op(*inputs, backend=_name)
        for name in ("cuda", "triton")
        if not backends()[name]
    }


def scan(*inputs: Tensor, backend: str) -> Tensor:
    return selective_scan(*inputs, delta_softplus=True, backend=backend)


def compete(contest: Contest, functions: Mapping[str, Function], inputs: list[Tensor], **labels: Any) -> None:
    """A contest of functions of the same inputs, each held against the first in float32."""
    wide = [t.detach().float().requires_grad_() for t in inputs]
    oracle = next(iter(functions.values()))
    contest(
        {name: Contender(lambda f=f: f(*inputs), inputs) for name, f in functions.items()},
        expected=Contender(lambda: oracle(*wide), wide).train(),
        **labels,
    )


@cache
def copy_bandwidth() -> float:
    """Bytes read and written in a second by a large copy."""
    from triton.testing import do_bench

    source = torch.randn(2**28, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / (1e-3 * do_bench(lambda: target.copy_(source), return_mode="median"))


@cache
def exp_rate() -> float:
    """Exponentials in a second: 16 in a cycle on each multiprocessor, at the highest clock."""
    query = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
    clock = float(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0])
    return 16 * torch.cuda.get_device_properties(0).multi_processor_count * clock * 1e6


def scan_floor_ms(batch: int, channels: int, length: int) -> float:
    """The least time of forward and backward: every tensor moved once each way, and an exponential a state each way."""
    elements = batch * channels * length
    moved = 2 * (11 * elements + 6 * batch * STATES * length)
    return 1e3 * max(moved / copy_bandwidth(), 2 * STATES * elements / exp_rate())


@pytest.mark.parametrize("shape", SCANS, ids=lambda s: "-".join(map(str, s)))
def test_selective_scan_gpu(contest: Contest, shrink: Shrink, shape: tuple[int, int, int]) -> None:
    functions = our_backends(scan)
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError:
        pass
    else:
        functions["mamba-ssm"] = lambda *inputs: selective_scan_fn(*inputs, delta_softplus=True)
    compete(
        contest, functions, scan_inputs(*shrink(shape)),
        op="selective_scan", size=f"(B, D, L) = {shape}, N = 16, bf16",
        peer="mamba-ssm", target=SCANS[shape], floor_ms=round(scan_floor_ms(*shape), 4),
    )  # fmt: skip


@pytest.mark.parametrize("shape", ATTENTIONS, ids=lambda s: "-".join(map(str, s)))
def test_cross_attention_gpu(contest: Contest, shrink: Shrink, shape: tuple[int, int, int, int]) -> None:
    """SDPA's backends one by one, those that take the shape; "two SDPA calls" is what SDPA picks itself."""
    inputs = [torch.randn(shrink(shape), device="cuda", dtype=torch.bfloat16).requires_grad_() for _ in range(6)]
    ours = our_backends(bidirectional_cross_attention)
    peers = {name: two_sdpa_calls_by(backend) for name, backend in SDPA.items()} | {"two SDPA calls": two_sdpa_calls}
    compete(
        contest, those_that_run(ours | peers, inputs), inputs,
        op="bidirectional_cross_attention", size=f"(B, H, L, d) = {shape}, bf16", peer="two SDPA calls",
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(64, 512, 197), (8, 1536, 2048)], ids=lambda s: "-".join(map(str, s)))
def test_causal_conv1d_gpu(contest: Contest, shrink: Shrink, shape: tuple[int, int, int]) -> None:
    batch, channels, length = shrink(shape)
    shapes = (batch, channels, length), (channels, 4), (channels,)
    inputs = [torch.randn(shape, device="cuda", dtype=torch.bfloat16).requires_grad_() for shape in shapes]

    def convolve(*inputs: Tensor, backend: str) -> Tensor:
        return causal_conv1d(*inputs, activation="silu", backend=backend)

    candidates = our_backends(convolve) | {"PyTorch's conv1d": torch_causal_conv1d}
    try:
        from causal_conv1d import causal_conv1d_fn
    except ImportError:
        pass
    else:
        candidates["causal-conv1d"] = lambda *inputs: causal_conv1d_fn(*inputs, activation="silu")
    compete(
        contest, those_that_run(candidates, inputs), inputs,
        op="causal_conv1d", size=f"(B, D, L) = {shape}, W = 4, bf16", peer="causal-conv1d",
    )  # fmt: skip


@pytest.mark.parametrize(("rows", "target"), [(64, 10), (128, 10), (256, 10), (1024, None), (4096, 20)])
def test_hsic_gpu(contest: Contest, shrink: Shrink, compiled: Compiled, rows: int, target: float | None) -> None:
    inputs = [torch.randn(shrink((rows, 768)), device="cuda").requires_grad_() for _ in range(2)]
    functions: dict[str, Function] = {
        "ours": hsic, "the textbook form": textbook_hsic, "the textbook form, compiled": compiled(textbook_hsic)
    }  # fmt: skip
    compete(
        contest, functions, inputs, op="hsic", size=f"N = {rows}, D = 768", peer="the textbook form",
        **({"target": target} if target else {}),
    )  # fmt: skip


def test_hsic_rbf_gpu(contest: Contest, shrink: Shrink) -> None:
    x = torch.randn(shrink((4096, 768)), device="cuda")
    inputs = [x.requires_grad_(), (x + 0.5 * torch.randn_like(x)).detach().requires_grad_()]
    functions: dict[str, Function] = {
        "ours": lambda x, y: hsic(x, y, kernel="rbf", sigma=28.0),
        "the textbook form": lambda x, y: textbook_rbf_hsic(x, y, 28.0),
    }
    compete(
        contest, functions, inputs,
        op="hsic, Gaussian kernels", size="N = 4096, D = 768", peer="the textbook form", target=3,
    )  # fmt: skip


def test_mamba_layer_gpu(contest: Contest, shrink: Shrink) -> None:
    x = torch.randn(*shrink((128, 264)), 256, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    layers: dict[str, torch.nn.Module] = {"ours": Mamba(256, device="cuda")}
    try:
        from mamba_ssm import Mamba as PeerMamba
    except ImportError:
        pass
    else:
        layers["mamba-ssm"] = PeerMamba(256, device="cuda")
        layers["mamba-ssm"].load_state_dict(layers["ours"].state_dict())

    def contender(layer: torch.nn.Module) -> Contender:
        parameters = dict(sorted(layer.named_parameters()))

        def forward() -> Tensor:
            with torch.autocast("cuda", torch.bfloat16):
                return layer(x)

        return Contender(forward, [x, *parameters.values()])

    contest(
        {name: contender(layer) for name, layer in layers.items()},
        expected=contender(layers["ours"]).train(),
        op="Mamba(256)", size="(B, L) = (128, 264), bf16", peer="mamba-ssm", target=1.2,
    )  # fmt: skip
