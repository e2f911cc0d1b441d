"""selective_scan: every output and gradient against the reference in float64, on every backend."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest
import torch
from combinations import every, fewer, is_interpreted
from helpers import assert_matches, device_of, require
from torch import Tensor

from bdam_kernels import BackendUnavailable, selective_scan
from bdam_kernels.ops.selective_scan import plan

BACKENDS = ("reference", "cpu", "triton", "cuda")
GPU_BACKENDS = ("triton", "cuda")
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")


def make_inputs(
    batch: int,
    channels: int,
    length: int,
    states: int,
    *,
    dtype: torch.dtype = torch.float32,
    groups: int | None = None,
    constant: str = "",
    absent: str = "",
) -> dict[str, Tensor | None]:
    """Random inputs by name; `constant` and `absent` list names separated by blanks."""
    coefficients = (batch, states, length) if groups is None else (batch, groups, states, length)

    def coefficient(name: str) -> Tensor:
        if name in constant.split():
            return torch.randn(channels, states)
        return torch.randn(coefficients).to(dtype)

    inputs: dict[str, Tensor | None] = {
        "u": torch.randn(batch, channels, length).to(dtype),
        "delta": (0.5 * torch.rand(batch, channels, length) - 1).to(dtype),
        "A": -torch.rand(channels, states) * states,
        "B": coefficient("B"),
        "C": coefficient("C"),
        "D": torch.randn(channels),
        "z": torch.randn(batch, channels, length).to(dtype),
        "delta_bias": 0.5 * torch.rand(channels),
        "initial_state": torch.randn(batch, channels, states),
    }
    for name in absent.split():
        inputs[name] = None
    return inputs


def on_device(inputs: dict[str, Tensor | None], backend: str) -> dict[str, Tensor | None]:
    return {name: None if t is None else t.detach().to(device_of(backend)) for name, t in inputs.items()}


def run(inputs: dict[str, Tensor | None], weights: tuple[Tensor, Tensor], **options: object) -> dict[str, Tensor]:
    """Outputs and gradients by name, for the loss <out, weights[0]> + <last_state, weights[1]>, on the CPU."""
    moved = on_device(inputs, str(options.get("backend", "reference")))
    leaves = {name: None if t is None else t.requires_grad_() for name, t in moved.items()}
    out, last = selective_scan(**leaves, delta_softplus=True, return_last_state=True, **options)
    torch.autograd.backward((out, last), (weights[0].to(out), weights[1].to(last)))
    grads = {f"grad_{name}": t.grad for name, t in leaves.items() if t is not None}
    return {name: t.detach().cpu() for name, t in {"out": out, "last_state": last, **grads}.items()}


def check(inputs: dict[str, Tensor | None], backend: str, **options: object) -> None:
    u, A = inputs["u"], inputs["A"]
    assert u is not None and A is not None
    weights = torch.randn(u.shape).to(u.dtype), torch.randn(u.shape[0], *A.shape)
    actual = run(inputs, weights, backend=backend, **options)
    double = {name: None if t is None else t.double() for name, t in inputs.items()}
    expected = run(double, weights, **options)
    for name, value in expected.items():
        assert_matches(actual[name], value, name, dtype=u.dtype)


@every(
    BACKENDS,
    reverse=[False, True],
    length=[1, 2, 15, 16, 17, 31, 32, 33, 64, 97, 129],
    in_interpreter={"length": [1, 4, 33, 64]},
)
def test_lengths_around_tile_edges(backend: str, reverse: bool, length: int) -> None:
    check(make_inputs(fewer(backend, 2), 19, length, 5), require(backend), reverse=reverse)


@every(
    BACKENDS,
    sizes=[*itertools.product([1, 7, 8, 9, 16, 17, 33], [1, 16, 35])],
    in_interpreter={"sizes": [(1, 35), (8, 1), (9, 35), (16, 16), (17, 35), (33, 1)]},
)
def test_states_and_channels(backend: str, sizes: tuple[int, int]) -> None:
    states, channels = sizes
    check(make_inputs(2, channels, 6 if is_interpreted(backend) else 37, states), require(backend))


@pytest.mark.parametrize("constant", ["", "B C"])
@pytest.mark.parametrize("batch", [2, 20])
def test_few_steps_of_many_channels(batch: int, constant: str) -> None:
    """Gradients that elements of a batch share are summed by parts of it: here by one and by two."""
    check(make_inputs(batch, 301, 2, 5, constant=constant), require("cpu"))


@pytest.mark.parametrize("constant", ["B", "C"])
@pytest.mark.parametrize("states", [17, 24, 40])
def test_states_between_vectors_with_one_constant(states: int, constant: str) -> None:
    """Blocks of 8 states then, of which the last is half a vector of 16."""
    check(make_inputs(2, 19, 35, states, constant=constant), require("cpu"))


@every(GPU_BACKENDS, states=[63, 64, 65, 200, 256], in_interpreter={"states": [63, 65, 256]})
def test_many_states(backend: str, states: int) -> None:
    check(make_inputs(1, 6, 6 if is_interpreted(backend) else 35, states), require(backend))


@pytest.fixture
def shortest(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], int]:
    """The fewest steps that are cut into two segments; in Triton's interpreter fewer, as there segments are shorter."""

    def length(backend: str) -> int:
        if is_interpreted(backend):
            monkeypatch.setattr(plan, "SEGMENT_CHUNKS", 1)
        return (2 * plan.SEGMENT_CHUNKS - 1) * plan.CHUNK + 1

    return length


@every(GPU_BACKENDS, reverse=[False, True], absent=["", "z", "initial_state"], constant=["", "B C"])
def test_time_in_segments(
    shortest: Callable[[str], int], backend: str, reverse: bool, absent: str, constant: str
) -> None:
    """Long enough, and with few enough channels, that time is cut into segments, the last one shorter."""
    inputs = make_inputs(1, 3, shortest(backend) + 34, 5, absent=absent, constant=constant)
    check(inputs, require(backend), reverse=reverse)


@pytest.mark.parametrize("backend", GPU_BACKENDS)
@pytest.mark.parametrize("states", [8, 16, 32, 64, 256])
def test_segments_of_every_layout(shortest: Callable[[str], int], backend: str, states: int) -> None:
    check(make_inputs(1, 2, shortest(backend), states, dtype=torch.bfloat16), require(backend))


@pytest.mark.parametrize("backend", ["cuda"])
def test_blocks_of_twice_as_many_channels(backend: str) -> None:
    """Which a call has whose blocks are enough for all multiprocessors, of which the host has three."""
    check(make_inputs(5, 100, 36, 16, dtype=torch.bfloat16), require(backend))


@pytest.mark.parametrize("backend", GPU_BACKENDS)
@pytest.mark.parametrize("constant", ["", "B"])
@pytest.mark.parametrize("groups", [1, 2])
def test_launches_that_add_up(backend: str, constant: str, groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """More blocks than one launch of backward takes."""
    monkeypatch.setitem(plan.BLOCKS, backend, 1)
    monkeypatch.setattr(plan, "_multiprocessors", lambda device: 1)
    channels, length = (130, 6) if is_interpreted(backend) else (300, 20)
    check(make_inputs(1, channels, length, 16, constant=constant, groups=groups), require(backend))


ABSENT = ("", "D", "z", "delta_bias", "initial_state", "D z delta_bias initial_state")


@every(
    BACKENDS,
    groups=[None, 1, 3],
    constant=["", "B", "C", "B C"],
    absent=ABSENT,
    in_interpreter={"absent": ["", "D", "z delta_bias", "initial_state"]},
)
def test_optional_arguments(backend: str, groups: int | None, constant: str, absent: str) -> None:
    length = 6 if is_interpreted(backend) else 35
    check(make_inputs(2, 21, length, 9, groups=groups, constant=constant, absent=absent), require(backend))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_half_precision(backend: str, dtype: torch.dtype, reverse: bool) -> None:
    length = 6 if is_interpreted(backend) else 45
    check(make_inputs(2, 20, length, 16, dtype=dtype), require(backend), reverse=reverse)


def _channels_last(t: Tensor) -> Tensor:
    return t.transpose(1, 2).contiguous().transpose(1, 2)


def _every_second(t: Tensor) -> Tensor:
    return t.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)[:, ::2, ::2]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("layout", [_channels_last, _every_second], ids=["channels_last", "every_second"])
def test_strides(backend: str, reverse: bool, layout) -> None:  # type: ignore[no-untyped-def]
    inputs = make_inputs(2, 18, 6 if is_interpreted(backend) else 40, 6)
    for name in ("u", "delta", "z", "B", "C"):
        inputs[name] = layout(inputs[name])
    check(inputs, require(backend), reverse=reverse)


@pytest.mark.parametrize("backend", BACKENDS)
def test_expanded_gradient(backend: str) -> None:
    inputs = on_device(make_inputs(2, 5, 9, 4), backend)
    leaf = inputs["u"].requires_grad_()
    selective_scan(**inputs, backend=require(backend)).sum().backward()
    double = {name: None if t is None else t.detach().double() for name, t in inputs.items()}
    expected = double["u"].requires_grad_()
    selective_scan(**double).sum().backward()
    assert_matches(leaf.grad, expected.grad, "grad_u")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 4, 5, 3), (2, 0, 5, 3), (2, 4, 0, 3), (2, 4, 5, 0)], ids=str)
def test_empty(backend: str, shape: tuple[int, int, int, int]) -> None:
    inputs = on_device(make_inputs(*shape), backend)
    leaf = inputs["u"].requires_grad_()
    out, last = selective_scan(**inputs, return_last_state=True, backend=require(backend))
    assert out.shape == shape[:3] and last.shape == (shape[0], shape[1], shape[3])
    out.sum().backward()
    assert leaf.grad.shape == leaf.shape


@every(
    BACKENDS,
    reverse=[False, True],
    cuts=[(0, 1, 20, 50), range(51)],
    in_interpreter={"cuts": [(0, 1, 20, 34), range(6)]},
)
def test_scan_of_pieces_is_the_scan(backend: str, reverse: bool, cuts: Sequence[int]) -> None:
    inputs = on_device(make_inputs(2, 10, cuts[-1], 4, absent="initial_state"), backend)
    whole, whole_last = selective_scan(
        **inputs, delta_softplus=True, return_last_state=True, reverse=reverse, backend=require(backend)
    )
    pieces, state = [], None
    splits = list(itertools.starmap(slice, itertools.pairwise(cuts)))
    for piece in reversed(splits) if reverse else splits:
        part = {n: t[..., piece] if n in ("u", "delta", "z", "B", "C") else t for n, t in inputs.items()}
        out, state = selective_scan(
            **{**part, "initial_state": state},
            delta_softplus=True,
            return_last_state=True,
            reverse=reverse,
            backend=backend,
        )
        pieces.append(out)
    assert_matches(torch.cat(pieces[::-1] if reverse else pieces, -1), whole.double(), "out")
    assert_matches(state, whole_last.double(), "last_state")


@pytest.mark.parametrize("backend", BACKENDS)
def test_reverse_is_flip_scan_flip(backend: str) -> None:
    inputs = on_device(make_inputs(2, 7, 41, 4), backend)
    flipped = {n: t.flip(-1) if n in ("u", "delta", "z", "B", "C") else t for n, t in inputs.items()}
    reversed_scan = selective_scan(**inputs, delta_softplus=True, reverse=True, backend=require(backend))
    expected = selective_scan(**flipped, delta_softplus=True, backend=backend).flip(-1)
    assert_matches(reversed_scan, expected.double(), "out")


@pytest.mark.parametrize("backend", BACKENDS)
def test_bit_equal_twice_and_for_any_thread_count(backend: str) -> None:
    shape = (1, 40, 9) if is_interpreted(backend) else (3, 50, 70)
    inputs = make_inputs(*shape, 16)
    weights = torch.randn(shape), torch.randn(*shape[:2], 16)
    first = run(inputs, weights, backend=require(backend))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        second = run(inputs, weights, backend=backend)
    finally:
        torch.set_num_threads(threads)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("variable", [False, True], ids=["constant", "variable"])
def test_complex(variable: bool) -> None:
    """The complex scan against a direct sum over all pairs of times."""
    batch, channels, length, states = 2, 3, 6, 4
    u, delta = torch.randn(2, batch, channels, length, dtype=torch.float64).unbind()
    delta = delta.abs()
    A = torch.complex(-torch.rand(channels, states).double(), torch.randn(channels, states).double())
    if variable:
        B, C = torch.randn(2, batch, states, length, 2, dtype=torch.float64).unbind()
        B_t, C_t = (torch.view_as_complex(m)[:, None] for m in (B, C))
        B, C = B.flatten(-2), C.flatten(-2)
    else:
        B, C = torch.randn(2, channels, states, dtype=torch.complex128).unbind()
        B_t, C_t = (m[None, :, :, None].expand(batch, -1, -1, length) for m in (B, C))
    out = selective_scan(u, delta, A, B, C)
    total = delta.cumsum(-1)
    for t in range(length):
        expected = torch.zeros(batch, channels, dtype=torch.float64)
        for s in range(t + 1):
            decay = torch.exp((total[..., t] - total[..., s])[..., None] * A)
            drive = (delta * u)[..., s, None] * B_t[..., s]
            expected += 2 * (C_t[..., t] * decay * drive).sum(-1).real
        assert_matches(out[..., t], expected, f"out at {t}")


def test_gradcheck_and_second_derivative() -> None:
    inputs = make_inputs(1, 2, 3, 2)
    leaves = [inputs[name].double().requires_grad_() for name in NAMES]

    def scan(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        named = dict(zip(NAMES, tensors, strict=True))
        return selective_scan(**named, delta_softplus=True, return_last_state=True)

    assert torch.autograd.gradcheck(scan, leaves)
    assert torch.autograd.gradgradcheck(scan, leaves)


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain_grad_output", "grad_output_with_graph"])
def test_second_derivative_of_the_kernel(backend: str, weighted: bool) -> None:
    require(backend)

    def second(dtype: torch.dtype, **options: str) -> list[Tensor]:
        torch.manual_seed(0)
        inputs = on_device(make_inputs(2, 5, 6, 3), backend)
        leaves = {n: t.to(dtype).requires_grad_() for n, t in inputs.items()}
        out = selective_scan(**leaves, delta_softplus=True, **options)
        weight = torch.randn(out.shape).to(out).requires_grad_(weighted)
        grads = torch.autograd.grad(out, list(leaves.values()), weight, create_graph=True)
        return list(torch.autograd.grad(sum(g.square().sum() for g in grads), list(leaves.values())))

    actual, expected = second(torch.float32, backend=backend), second(torch.float64)
    for name, a, e in zip(NAMES, actual, expected, strict=True):
        assert_matches(a, e, name)


def test_mixed_dtypes_and_autocast() -> None:
    inputs = make_inputs(2, 5, 9, 4)
    inputs["u"] = inputs["u"].bfloat16()
    out = selective_scan(**inputs)
    assert out.dtype == torch.bfloat16
    double = {n: None if t is None else t.double() for n, t in inputs.items()}
    assert_matches(out, selective_scan(**double), "out")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(selective_scan(**inputs), out)


@pytest.mark.parametrize("backend", BACKENDS)
def test_compile(backend: str) -> None:
    inputs = on_device(make_inputs(1, 6, 5, 4), backend)
    leaf = inputs["u"].requires_grad_()
    expected = selective_scan(**inputs, delta_softplus=True, backend=require(backend))
    (expected_grad,) = torch.autograd.grad(expected.sum(), leaf)
    compiled = torch.compile(selective_scan, fullgraph=True, backend="aot_eager")
    out = compiled(**inputs, delta_softplus=True, backend=backend)
    (grad,) = torch.autograd.grad(out.sum(), leaf)
    assert_matches(out, expected.double(), "out")
    assert_matches(grad, expected_grad.double(), "grad_u")


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_opcheck(backend: str) -> None:
    batch = fewer(require(backend), 2)
    inputs = on_device(make_inputs(batch, 6, 40, 4, groups=1), backend)
    tensors = [*(inputs[name] for name in NAMES), None]
    options = (True, False, backend)
    forward = torch.ops.bdam.selective_scan_forward.default
    torch.library.opcheck(forward, (*tensors, True, *options))
    checkpoints = forward(*tensors, True, *options)[2]
    grads = torch.randn(batch, 6, 40, device=checkpoints.device), torch.randn(batch, 6, 4, device=checkpoints.device)
    backward = torch.ops.bdam.selective_scan_backward.default
    torch.library.opcheck(backward, (*tensors, checkpoints, *grads, *options))


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_stays_in_its_channel(backend: str) -> None:
    inputs = on_device(make_inputs(1, 3, 8, 4, absent="initial_state z"), backend)
    inputs["u"][0, 1, 3] = float("nan")
    out = selective_scan(**inputs, backend=require(backend))
    assert out[0, 1, 3:].isnan().all()
    assert out[0, [0, 2]].isfinite().all() and out[0, 1, :3].isfinite().all()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("u", torch.zeros(2, 3), r"u must be \(B, D, L\), got \(2, 3\)"),
        ("A", torch.zeros(4, 2), r"A must be \(D, N\) with D = 6, got \(4, 2\)"),
        ("delta", torch.zeros(2, 6, 4), r"delta must be \(2, 6, 5\), got \(2, 6, 4\)"),
        ("B", torch.zeros(2, 4, 3, 5), r"B must be .* with G dividing 6, got \(2, 4, 3, 5\)"),
        ("C", torch.zeros(6), r"C must be .* got \(6,\)"),
        ("D", torch.zeros(5), r"D must be \(6,\), got \(5,\)"),
        ("initial_state", torch.zeros(2, 6, 2), r"initial_state must be \(2, 6, 3\), got \(2, 6, 2\)"),
    ],
)
def test_wrong_shapes(name: str, value: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        selective_scan(**{**make_inputs(2, 6, 5, 3), name: value})


def test_wrong_dtype_and_backend() -> None:
    inputs = make_inputs(2, 6, 5, 3)
    with pytest.raises(TypeError, match=r"u must be floating point, got torch\.int64"):
        selective_scan(**{**inputs, "u": torch.zeros(2, 6, 5, dtype=torch.int64)})
    with pytest.raises(ValueError, match="backend must be one of"):
        selective_scan(**inputs, backend="cpuu")
    with pytest.raises(BackendUnavailable, match="cuda"):
        selective_scan(**inputs, backend="cuda")
    require("cpu")
    with pytest.raises(BackendUnavailable, match="float64"):
        selective_scan(**{n: t.double() for n, t in inputs.items()}, backend="cpu")
