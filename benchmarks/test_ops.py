"""Each operator on the CPU, forward and forward plus backward, against what a user would pick instead.

Targets are the project's own and are shown beside the ratios; a missed one does not fail the run, a wrong result does.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bdam_kernels import (
    Mamba,
    bidirectional_cross_attention,
    causal_conv1d,
    hsic,
    pooled_bidirectional_cross_attention,
    selective_scan,
)
from benchmarks.ggml_scan import ggml_selective_scan
from benchmarks.measure import Contender, Outputs
from benchmarks.peers import (
    keops_rbf_hsic,
    mamba_ssm_formula,
    mambapy_selective_scan,
    softmax_attention,
    textbook_hsic,
    textbook_rbf_hsic,
    torch_causal_conv1d,
    transformers_mixer,
    two_sdpa_calls,
)

Contest = Callable[..., None]
Shrink = Callable[[Sequence[int]], tuple[int, ...]]
Function = Callable[..., Outputs]
Compiled = Callable[[Function], Function]
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
OURS = ("cpu", "reference")


def scan_inputs(batch: int, channels: int, length: int, states: int = 16) -> list[Tensor]:
    return [
        torch.randn(batch, channels, length),
        torch.rand(batch, channels, length) - 4,
        -torch.arange(1.0, states + 1).repeat(channels, 1),
        torch.randn(batch, states, length),
        torch.randn(batch, states, length),
        torch.randn(channels),
        torch.randn(batch, channels, length),
        torch.randn(channels),
    ]


def scan(*inputs: Tensor, backend: str | None = None) -> Tensor:
    return selective_scan(*inputs, delta_softplus=True, backend=backend)


def our_backends(op: Function) -> dict[str, Function]:
    return {name: lambda *inputs, _name=name: op(*inputs, backend=_name) for name in OURS}


def compete(
    contest: Contest, functions: Mapping[str, Function], oracle: Function, inputs: Sequence[Tensor], **labels: Any
) -> None:
    """A contest of functions of the same inputs; the oracle gets them in float64."""
    leaves = [t.detach().requires_grad_() for t in inputs]
    wide = [t.detach().double().requires_grad_() for t in inputs]
    contenders = {name: Contender(lambda f=f: f(*leaves), leaves) for name, f in functions.items()}
    contest(contenders, expected=Contender(lambda: oracle(*wide), wide).train, **labels)


def scan_oracle(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, delta_bias: Tensor
) -> Tensor:
    """The recurrence over unbound steps, so that backward takes time linear in L."""
    delta = F.softplus(delta + delta_bias[:, None])
    decay = torch.exp(delta[..., None] * A[:, None])
    drive = (delta * u)[..., None] * B.mT[:, None]
    state, states = u.new_zeros(()), []
    for decay_t, drive_t in zip(decay.unbind(2), drive.unbind(2), strict=True):
        state = decay_t * state + drive_t
        states.append(state)
    y = (torch.stack(states, 2) * C.mT[:, None]).sum(3)
    return (y + D[:, None] * u) * F.silu(z)


@pytest.mark.parametrize(
    ("shape", "target"),
    [((16, 512, 197), 50), ((4, 512, 1024), 50), ((64, 512, 8), 25), ((1, 512, 4096), 50)],
    ids=["16-512-197", "4-512-1024", "64-512-8", "1-512-4096"],
)
def test_selective_scan(contest: Contest, shrink: Shrink, shape: tuple[int, int, int], target: float) -> None:
    inputs = scan_inputs(*shrink(shape))
    functions = our_backends(scan) | {"mambapy": mambapy_selective_scan, "mamba-ssm's formula": mamba_ssm_formula}
    if find_spec("ggml"):
        functions["ggml"] = ggml_selective_scan(*inputs)
    # Where every step takes a slice, the time of backward is quadratic in L: minutes. ggml has none.
    forward_only = ["ggml"] + ["mamba-ssm's formula"] * (shape[2] > 8) + ["reference"] * (shape[2] > 200)
    compete(
        contest, functions, scan_oracle, inputs, forward_only=forward_only,
        op="selective_scan", size=f"(B, D, L) = {shape}, N = 16", peer="mambapy", target=target,
    )  # fmt: skip


@pytest.mark.parametrize(("dtype", "target"), [("f32", 2.2), ("bf16", 4)])
@pytest.mark.parametrize("length", [196, 197])
def test_cross_attention(
    contest: Contest, shrink: Shrink, compiled: Compiled, length: int, dtype: str, target: float
) -> None:
    shape = (8, 12, length, 64)
    functions = our_backends(bidirectional_cross_attention) | {
        "two SDPA calls": two_sdpa_calls,
        "softmax, compiled": compiled(softmax_attention),
    }
    compete(
        contest, functions, two_sdpa_calls, [torch.randn(shrink(shape)).to(DTYPES[dtype]) for _ in range(6)],
        op="bidirectional_cross_attention", size=f"(B, H, L, d) = {shape}, {dtype}",
        peer="two SDPA calls", target=target,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_pooled_cross_attention(contest: Contest, shrink: Shrink, dtype: str) -> None:
    shape = (8, 12, 196, 64)

    def pooled_after(attention: Function) -> Function:
        return lambda *inputs: tuple(out.mean(2) for out in attention(*inputs))

    functions = our_backends(pooled_bidirectional_cross_attention) | {
        "the unpooled form and its mean": pooled_after(bidirectional_cross_attention),
        "two SDPA calls and their means": pooled_after(two_sdpa_calls),
    }
    compete(
        contest, functions, pooled_after(two_sdpa_calls),
        [torch.randn(shrink(shape)).to(DTYPES[dtype]) for _ in range(6)],
        op="pooled_bidirectional_cross_attention", size=f"(B, H, L, d) = {shape}, {dtype}",
        peer="the unpooled form and its mean", target=1.5,
    )  # fmt: skip


HSIC_TARGETS: dict[int, dict[str, float]] = {
    64: {"target": 1.5}, 128: {"target": 2}, 256: {}, 1024: {"target": 6}, 4096: {"target": 50}
}  # fmt: skip


def centred_hsic(x: Tensor, y: Tensor) -> Tensor:
    """Linear HSIC as the squared norm of the cross-covariance."""
    return ((x - x.mean(0)).T @ (y - y.mean(0))).square().sum() / (len(x) - 1) ** 2


@pytest.mark.parametrize("rows", HSIC_TARGETS)
def test_hsic(contest: Contest, shrink: Shrink, compiled: Compiled, rows: int) -> None:
    functions: dict[str, Function] = {"cpu": hsic, "the textbook form": textbook_hsic}
    if rows <= 1024:
        functions["the textbook form, compiled"] = compiled(textbook_hsic)
    compete(
        contest, functions, centred_hsic, [torch.randn(shrink((rows, 768))) for _ in range(2)],
        op="hsic", size=f"N = {rows}, D = 768", peer="the textbook form", **HSIC_TARGETS[rows],
    )  # fmt: skip


def test_hsic_rbf(contest: Contest, shrink: Shrink) -> None:
    """Features of few factors, both of the same: of independent ones centring would leave rounding errors only."""
    sigma = 28.0
    rows, width = shrink((4096, 768))
    factors = torch.randn(rows, 8)
    inputs = [factors @ torch.randn(8, width) / 8**0.5 for _ in range(2)]

    def oracle(x: Tensor, y: Tensor) -> Tensor:
        """The matrices are centred by their means."""
        K, L = (torch.exp(-torch.cdist(t, t).square() / (2 * sigma**2)) for t in (x, y))
        return ((K - K.mean(0) - K.mean(1)[:, None] + K.mean()) * L).sum() / (len(x) - 1) ** 2

    functions: dict[str, Function] = {
        "cpu": lambda x, y: hsic(x, y, kernel="rbf", sigma=sigma),
        "the textbook form": lambda x, y: textbook_rbf_hsic(x, y, sigma),
    }
    if find_spec("pykeops"):
        functions["KeOps"] = lambda x, y: keops_rbf_hsic(x, y, sigma)
    # Of this width KeOps takes most of a minute for the value on a CPU, and minutes for the gradients.
    compete(
        contest, functions, oracle, inputs, forward_only=["KeOps"],
        op="hsic, Gaussian kernels", size="N = 4096, D = 768", peer="the textbook form", target=2,
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(16, 512, 197), (64, 512, 8)], ids=["16-512-197", "64-512-8"])
def test_causal_conv1d(contest: Contest, shrink: Shrink, compiled: Compiled, shape: tuple[int, int, int]) -> None:
    batch, channels, length = shrink(shape)
    inputs = [torch.randn(batch, channels, length), torch.randn(channels, 4), torch.randn(channels)]

    def convolve(*inputs: Tensor, backend: str | None = None) -> Tensor:
        return causal_conv1d(*inputs, activation="silu", backend=backend)

    functions = our_backends(convolve) | {
        "PyTorch's conv1d": torch_causal_conv1d,
        "PyTorch's conv1d, compiled": compiled(torch_causal_conv1d),
    }
    compete(
        contest, functions, torch_causal_conv1d, inputs,
        op="causal_conv1d", size=f"(B, D, L) = {shape}, W = 4", peer="PyTorch's conv1d",
    )  # fmt: skip


def test_mamba_layer(contest: Contest, shrink: Shrink) -> None:
    peer, ours = transformers_mixer(256), Mamba(256)
    ours.load_state_dict(peer.state_dict())
    oracle = transformers_mixer(256).double()
    oracle.load_state_dict(peer.state_dict())
    # Each layer lists its parameters in an order of its own.
    names = [name for name, _ in ours.named_parameters()]
    x = torch.randn(*shrink((16, 197)), 256)

    def contender(layer: torch.nn.Module, x: Tensor) -> Contender:
        parameters = dict(layer.named_parameters())
        leaf = x.detach().requires_grad_()
        return Contender(lambda: layer(leaf), [leaf, *(parameters[name] for name in names)])

    contest(
        {"cpu": contender(ours, x), "transformers' MambaMixer": contender(peer, x)},
        expected=contender(oracle, x.double()).train,
        op="Mamba(256)", size="(B, L) = (16, 197)", peer="transformers' MambaMixer", target=15,
    )  # fmt: skip


RESIDENT = """
import re, sys
from pathlib import Path
from benchmarks.test_ops import mambapy_selective_scan, scan, scan_inputs

def run(*shape):
    inputs = [t.requires_grad_() for t in scan_inputs(*shape)]
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak restarts from here
    (scan if sys.argv[1] == "cpu" else mambapy_selective_scan)(*inputs).sum().backward()
    return resident("VmHWM") - before

def resident(field):
    return int(re.search(field + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

run(1, int(sys.argv[2]), 1)
print(run(1, int(sys.argv[2]), int(sys.argv[3])))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux' /proc")
def test_resident_memory(benchmark: Any, shrink: Shrink) -> None:
    """Growth of the resident set's peak over forward and backward of the scan, a fresh process each, in MiB."""
    shape = (1, 512, 4096)
    extents = [str(extent) for extent in shrink(shape)[1:]]

    def growth(contender: str) -> float:
        command = [sys.executable, "-c", RESIDENT, contender, *extents]
        run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
        return round(float(json.loads(run.stdout)), 1)

    benchmark.extra_info.update(
        op="selective_scan", size=f"(B, D, L) = {shape}, N = 16",
        contenders={name: {"train": {"resident_mib": growth(name)}} for name in ("cpu", "mambapy")},
    )  # fmt: skip
    benchmark.pedantic(lambda: None, rounds=1)
