"""The operators on a GPU, forward and forward plus backward, each as it is called and as its CUDA graph is replayed:
our backends side by side, and the peers that are installed there.

With BDAM_CUDA_HOST and TRITON_INTERPRET set, and --small, the same runs without a GPU, for correctness only.
"""

from __future__ import annotations

import importlib
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from bdam_kernels import (
    Mamba,
    backends,
    bidirectional_cross_attention,
    causal_conv1d,
    hsic,
    selective_scan,
)
from benchmarks.measure import DEVICE, ON_GPU, Contender, Outputs
from benchmarks.peers import (
    textbook_hsic,
    textbook_rbf_hsic,
    torch_causal_conv1d,
    transformers_mixer,
    two_sdpa_calls,
    two_sdpa_calls_by,
)
from tests.cuda_host import build

pytestmark = pytest.mark.skipif(not (ON_GPU or build.stands_in_for_a_gpu()), reason="needs a GPU")

Contest = Callable[..., None]
Function = Callable[..., Outputs]
Shrink = Callable[[Sequence[int]], tuple[int, ...]]
Compiled = Callable[[Function], Function]

SCANS = {
    (64, 512, 197): 2, (16, 1536, 1024): 1.3, (8, 1536, 2048): 1.3, (128, 512, 16): 1.5, (1, 2048, 16384): 1.3,
    (128, 512, 1): None, (128, 512, 64): None,
}  # fmt: skip
"""(B, D, L), and how many times faster than mamba-ssm the best of ours should be, (128, 512, 16) in a graph only."""

ATTENTIONS = {
    (128, 12, 196, 64): 1.5, (64, 12, 64, 64): 2, (64, 12, 577, 64): 1.1, (64, 8, 49, 32): None,
    (128, 4, 197, 192): None, (128, 12, 33, 24): None,
}  # fmt: skip
"""(B, H, L, d), and how many times faster than the best two SDPA calls the best of ours should be."""

SDPA = {
    "two SDPA calls, cuDNN": SDPBackend.CUDNN_ATTENTION,
    "two SDPA calls, flash": SDPBackend.FLASH_ATTENTION,
    "two SDPA calls, efficient": SDPBackend.EFFICIENT_ATTENTION,
}
STATES = 16


def shapes(cases: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("shape", cases, ids=lambda s: "-".join(map(str, s)))


def targets(eager: float | None, in_a_graph: float | None) -> dict[str, float]:
    found = {"target": eager, "graph_target": in_a_graph}
    return {name: value for name, value in found.items() if value is not None}


def tensor(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    # Not of the default generator: a peer whose capture into a graph fails leaves that useless.
    generator = torch.Generator(DEVICE).manual_seed(sum(shape))
    return torch.randn(*shape, device=DEVICE, dtype=dtype, generator=generator)


def installed(module: str, name: str) -> Function | None:
    """A peer's function, where it can be imported."""
    try:
        return getattr(importlib.import_module(module), name)
    except Exception:  # of what kind is the peer's business
        return None


def our_backends(op: Function, names: Sequence[str] = ("cuda", "triton")) -> dict[str, Function]:
    """Our backends that run here."""
    return {name: lambda *inputs, _name=name: op(*inputs, backend=_name) for name in names if not backends()[name]}


def compete(contest: Contest, functions: Mapping[str, Function], inputs: list[Tensor], **labels: Any) -> None:
    """A contest of functions of the same inputs, each held against the first in float32."""
    leaves = [t.detach().requires_grad_() for t in inputs]
    wide = [t.detach().float().requires_grad_() for t in inputs]
    oracle = next(iter(functions.values()))
    contest(
        {name: Contender(lambda f=f: f(*leaves), leaves) for name, f in functions.items()},
        expected=Contender(lambda: oracle(*wide), wide).train,
        **labels,
    )


@cache
def copy_bandwidth() -> float:
    """Bytes read and written in a second by a large copy."""
    from triton.testing import do_bench

    source = torch.randn(2**28, device=DEVICE)
    copy = torch.empty_like(source)
    return 2 * source.nbytes / (1e-3 * do_bench(lambda: copy.copy_(source), return_mode="median"))


@cache
def exp_rate() -> float:
    """Exponentials in a second: 16 in a cycle on each multiprocessor, at the highest clock."""
    query = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
    clock = float(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0])
    return 16 * torch.cuda.get_device_properties(0).multi_processor_count * clock * 1e6


def scan_floor(batch: int, channels: int, length: int) -> dict[str, float]:
    """The least time of forward and backward: every tensor moved once each way, and an exponential a state each way."""
    if not ON_GPU:
        return {}
    elements = batch * channels * length
    moved = 2 * (11 * elements + 6 * batch * STATES * length)
    return {"floor_ms": round(1e3 * max(moved / copy_bandwidth(), 2 * STATES * elements / exp_rate()), 4)}


def scan_inputs(batch: int, channels: int, length: int) -> list[Tensor]:
    u, delta, z = tensor(3, batch, channels, length).unbind()
    B, C = tensor(2, batch, STATES, length).unbind()
    A = -torch.arange(1.0, STATES + 1, device=DEVICE).repeat(channels, 1)
    D, bias = tensor(2, channels, dtype=torch.float32).unbind()
    return [u, delta - 4, A, B, C, D, z, bias]


def scan(*inputs: Tensor, backend: str) -> Tensor:
    return selective_scan(*inputs, delta_softplus=True, backend=backend)


@shapes(SCANS)
def test_selective_scan_gpu(contest: Contest, shrink: Shrink, shape: tuple[int, int, int]) -> None:
    functions = our_backends(scan)
    if peer := installed("mamba_ssm.ops.selective_scan_interface", "selective_scan_fn"):
        functions["mamba-ssm"] = lambda *inputs: peer(*inputs, delta_softplus=True)
    compete(
        contest, functions, scan_inputs(*shrink(shape)),
        op="selective_scan", size=f"(B, D, L) = {shape}, N = 16, bf16",
        peer="mamba-ssm", **targets(None if shape[2] == 16 else SCANS[shape], SCANS[shape]), **scan_floor(*shape),
    )  # fmt: skip


@shapes(ATTENTIONS)
def test_cross_attention_gpu(contest: Contest, shrink: Shrink, shape: tuple[int, int, int, int]) -> None:
    """SDPA's backends one by one; "two SDPA calls" is what SDPA picks itself."""
    peers = {name: two_sdpa_calls_by(backend) for name, backend in SDPA.items()} | {"two SDPA calls": two_sdpa_calls}
    compete(
        contest, our_backends(bidirectional_cross_attention) | peers, list(tensor(6, *shrink(shape)).unbind()),
        op="bidirectional_cross_attention", size=f"(B, H, L, d) = {shape}, bf16", peer="two SDPA calls",
        **targets(ATTENTIONS[shape], ATTENTIONS[shape]),
    )  # fmt: skip


@shapes([(64, 512, 197), (8, 1536, 2048)])
def test_causal_conv1d_gpu(contest: Contest, shrink: Shrink, shape: tuple[int, int, int]) -> None:
    batch, channels, length = shrink(shape)

    def convolve(*inputs: Tensor, backend: str) -> Tensor:
        return causal_conv1d(*inputs, activation="silu", backend=backend)

    functions = our_backends(convolve, ["triton"]) | {"PyTorch's conv1d": torch_causal_conv1d}
    if peer := installed("causal_conv1d", "causal_conv1d_fn"):
        functions["causal-conv1d"] = lambda *inputs: peer(*inputs, activation="silu")
    compete(
        contest, functions, [tensor(batch, channels, length), tensor(channels, 4), tensor(channels)],
        op="causal_conv1d", size=f"(B, D, L) = {shape}, W = 4, bf16", peer="causal-conv1d",
    )  # fmt: skip


@pytest.mark.parametrize("rows", [64, 128, 256, 512, 4096, 1024])
def test_hsic_gpu(contest: Contest, shrink: Shrink, compiled: Compiled, rows: int) -> None:
    functions: dict[str, Function] = our_backends(hsic, ["cuda"]) if rows <= 512 else {"ours": hsic}
    functions |= {"the textbook form": textbook_hsic}
    if rows in (64, 256):
        functions["the textbook form, compiled"] = compiled(textbook_hsic)
    inputs = list(tensor(2, *shrink((rows, 768)), dtype=torch.float32).unbind())
    compete(
        contest, functions, inputs,
        op="hsic", size=f"N = {rows}, D = 768", peer="the textbook form",
        **(targets(3, 7) if rows <= 512 else targets(20, 20) if rows == 4096 else {}),
    )  # fmt: skip


def test_hsic_rbf_gpu(contest: Contest, shrink: Shrink) -> None:
    x, noise = tensor(2, *shrink((4096, 768)), dtype=torch.float32).unbind()

    functions: dict[str, Function] = {
        "ours": lambda x, y: hsic(x, y, kernel="rbf", sigma=28.0),
        "the textbook form": lambda x, y: textbook_rbf_hsic(x, y, 28.0),
    }
    compete(
        contest, functions, [x, x + 0.5 * noise],
        op="hsic, Gaussian kernels", size="N = 4096, D = 768", peer="the textbook form", target=3,
    )  # fmt: skip


class Midpoint(torch.autograd.Function):
    """(x + y) / 2 by one kernel each way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        return torch.lerp(x, y, 0.5)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        half = gradient / 2
        return half, half


def test_autograd_gpu(contest: Contest, shrink: Shrink) -> None:
    """What the host spends on any operator with a backward in Python: the floor of what small shapes take eagerly."""
    functions: dict[str, Function] = {
        "an autograd.Function": Midpoint.apply,  # type: ignore[dict-item]
        "PyTorch's own operator": lambda x, y: torch.lerp(x, y, 0.5),
    }
    compete(
        contest, functions, list(tensor(2, *shrink((64, 768)), dtype=torch.float32).unbind()),
        op="the least operator", size="one kernel each way of two inputs",
    )  # fmt: skip


def test_mamba_layer_gpu(contest: Contest, shrink: Shrink) -> None:
    x = tensor(*shrink((128, 264)), 256).requires_grad_()
    layers: dict[str, torch.nn.Module] = {"ours": Mamba(256, device=DEVICE)}
    if peer := installed("mamba_ssm.modules.mamba_simple", "Mamba"):
        layers["mamba-ssm"] = peer(256, device=DEVICE)  # type: ignore[assignment]
        layers["mamba-ssm"].load_state_dict(layers["ours"].state_dict())

    def contender(layer: torch.nn.Module) -> Contender:
        parameters = dict(sorted(layer.named_parameters()))

        def forward() -> Tensor:
            with torch.autocast(DEVICE, torch.bfloat16):
                return layer(x)

        return Contender(forward, [x, *parameters.values()])

    contest(
        {name: contender(layer) for name, layer in layers.items()},
        expected=contender(layers["ours"]).train,
        op="Mamba(256)", size="(B, L) = (128, 264), bf16", peer="mamba-ssm", target=1.2,
    )  # fmt: skip


def test_decoding_step_gpu(contest: Contest, small: bool) -> None:
    """A token of every sequence of a batch through one layer, its states updated."""
    batch, width = (2, 32) if small else (64, 768)
    x = tensor(batch, 1, width)
    ours = Mamba(width, device=DEVICE, dtype=torch.bfloat16)
    states = ours.allocate_inference_cache(batch)
    contenders = {"ours": Contender(lambda: ours.step(x, *states)[0], [])}
    if peer := installed("mamba_ssm.modules.mamba_simple", "Mamba"):
        layer: Any = peer(width, device=DEVICE, dtype=torch.bfloat16)
        its_states = layer.allocate_inference_cache(batch, 1)
        contenders["mamba-ssm"] = Contender(lambda: layer.step(x, *its_states)[0], [])
    mixer = transformers_mixer(width).to(DEVICE, torch.bfloat16)
    cache = installed("transformers.cache_utils", "DynamicCache")(config=mixer.config)  # type: ignore[attr-defined, misc]
    with torch.no_grad():
        mixer(torch.cat([x] * 4, 1), cache_params=cache)
    contenders["transformers' MambaMixer"] = Contender(lambda: mixer(x, cache_params=cache), [])
    contest(
        contenders, modes=["forward"],
        op="Mamba's decoding step", size=f"B = {batch}, width {width}, bf16", peer="transformers' MambaMixer", target=2,
    )  # fmt: skip
