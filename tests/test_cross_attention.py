"""bidirectional_cross_attention: every output and gradient against the reference in float64, on every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_cases import (
    BACKENDS,
    DTYPES,
    FORCED,
    FORCED_DTYPES,
    LAYOUTS,
    assert_all_match,
    make_inputs,
    on_device,
    padding,
    transposed_mask,
)
from helpers import assert_matches, device_of, require
from torch import Tensor

from bdam_kernels import BackendUnavailable, bidirectional_cross_attention, reference


def run(inputs: dict[str, Tensor], weights: tuple[Tensor, Tensor], **options: Any) -> dict[str, Tensor]:
    """Outputs and gradients by name, for the loss <out_a, weights[0]> + <out_b, weights[1]>."""
    backend = options.get("backend", "reference")
    leaves = {name: t.detach().requires_grad_() for name, t in on_device(inputs, backend).items()}
    torch.manual_seed(7)
    out_a, out_b = bidirectional_cross_attention(**leaves, **on_device(options, backend))
    torch.autograd.backward((out_a, out_b), tuple(w.to(out_a) for w in weights))
    grads = {f"grad_{name}": t.grad for name, t in leaves.items()}
    results = {"out_a": out_a.detach(), "out_b": out_b.detach(), **grads}
    return {name: t.cpu() for name, t in results.items()}  # type: ignore[union-attr]


def forward_only(inputs: dict[str, Tensor], backend: str) -> list[Tensor]:
    outputs = bidirectional_cross_attention(**on_device(inputs, backend), backend=backend)
    return [out.cpu() for out in outputs]


def check(inputs: dict[str, Tensor], backend: str, **options: Any) -> dict[str, Tensor]:
    """Compares with float64, where the reference serves; dropout draws the same seed on both sides."""
    q_a, q_b = inputs["q_a"], inputs["q_b"]
    weights = torch.randn(q_a.shape).to(q_a.dtype), torch.randn(q_b.shape).to(q_b.dtype)
    actual = run(inputs, weights, backend=backend, **options)
    expected = run({name: t.double() for name, t in inputs.items()}, weights, **options)
    assert_all_match(actual, expected, q_a.dtype)
    return actual


@FORCED
@DTYPES
@pytest.mark.parametrize(
    "lengths", [(1, 1), (1, 7), (2, 3), (13, 14), (15, 17), (31, 64), (97, 29), (196, 197)], ids=str
)
def test_lengths(backend: str, dtype: torch.dtype, lengths: tuple[int, int]) -> None:
    check(make_inputs(2, 3, *lengths, 64, dtype), require(backend))


@FORCED_DTYPES
@pytest.mark.parametrize("width", [1, 7, 32, 37, 48, 63, 96, 128, 192])
def test_widths(backend: str, dtype: torch.dtype, width: int) -> None:
    check(make_inputs(1, 2, 21, 38, width, dtype), require(backend))


@FORCED_DTYPES
@pytest.mark.parametrize("options", [{}, {"dropout_p": 0.3}], ids=["plain", "dropout"])
def test_keys_beyond_what_is_saved_and_queries_beyond_a_chunk(
    backend: str, dtype: torch.dtype, options: dict[str, Any]
) -> None:
    inputs = make_inputs(1, 2, 150, 701, 16, dtype)
    check(inputs, require(backend), key_padding_mask_b=padding(1, 701), **options)


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
@DTYPES
@pytest.mark.parametrize("dropout_p", [0.0, 0.2])
def test_many_heads(backend: str, dtype: torch.dtype, dropout_p: float) -> None:
    """CUDA's backward keeps heads whole where they are many, whatever their length."""
    inputs = make_inputs(1, 65, 97, 20, 32, dtype)
    check(inputs, require(backend), key_padding_mask_a=padding(1, 97), dropout_p=dropout_p)


@DTYPES
@pytest.mark.parametrize("width", [64, 37])
def test_outputs_past_the_caches(dtype: torch.dtype, width: int) -> None:
    """Large outputs leave the CPU's caches alone, where their rows are aligned."""
    check(make_inputs(4, 32, 260, 20, width, dtype), require("cpu"))


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_blocks_with_several_rounds(backend: str) -> None:
    """CUDA's forward loads keys once for many queries where there are blocks enough."""
    check(make_inputs(1, 700, 65, 5, 32, torch.bfloat16), require(backend))


@FORCED_DTYPES
@pytest.mark.parametrize("streams", ["a", "b", "ab"])
def test_masks(backend: str, dtype: torch.dtype, streams: str) -> None:
    inputs = make_inputs(3, 2, 18, 45, 32, dtype)
    masks = {f"key_padding_mask_{s}": padding(3, inputs[f"q_{s}"].shape[2]) for s in streams}
    check(inputs, require(backend), **masks)


@FORCED_DTYPES
@pytest.mark.parametrize("dropout_p", [0.0, 0.2])
def test_only_padding_gives_zero_and_no_gradient(backend: str, dtype: torch.dtype, dropout_p: float) -> None:
    mask = padding(3, 20)
    mask[1] = True
    inputs = make_inputs(3, 2, 9, 20, 32, dtype)
    result = check(inputs, require(backend), key_padding_mask_b=mask, dropout_p=dropout_p)
    for name in ("out_a", "grad_q_a", "grad_k_b", "grad_v_b"):
        assert result[name][1].count_nonzero() == 0, name


def test_padding_does_not_reach_the_result() -> None:
    inputs = make_inputs(2, 2, 9, 20, 32)
    mask = padding(2, 20)
    kept = bidirectional_cross_attention(**inputs, key_padding_mask_b=mask)[0]
    for name in ("k_b", "v_b"):
        inputs[name] = inputs[name].masked_fill(mask[:, None, :, None], 1e3)
    assert torch.equal(bidirectional_cross_attention(**inputs, key_padding_mask_b=mask)[0], kept)


@FORCED
@pytest.mark.parametrize("scale", [0.0, 1.0, -0.5])
def test_scale(backend: str, scale: float) -> None:
    check(make_inputs(2, 2, 11, 19, 8), require(backend), scale=scale)


@FORCED
@DTYPES
@pytest.mark.parametrize("queries", [15, 16])
def test_large_scores_pick_one_key(backend: str, dtype: torch.dtype, queries: int) -> None:
    inputs = make_inputs(1, 1, queries, 16, 16, dtype)
    inputs["q_a"] = (1e4 * torch.eye(16).flip(0)[None, None, :queries]).to(dtype)
    inputs["k_b"] = torch.eye(16)[None, None].to(dtype)
    if backend in ("triton", "cuda") and dtype == torch.float32:
        # Only the outputs: what backward subtracts from a gradient, which cancels here, is rounded on another way.
        result = dict(zip(("out_a", "out_b"), forward_only(inputs, require(backend)), strict=True))
    else:
        result = check(inputs, require(backend))
    # Three products in TensorFloat-32 are not all of a product in float32; Triton's interpreter takes one in float32.
    if (backend != "cuda" and device_of(backend).type == "cpu") or dtype != torch.float32:
        assert torch.equal(result["out_a"], inputs["v_b"].flip(2)[:, :, :queries])


@FORCED
def test_nan_stays_in_its_head(backend: str) -> None:
    inputs = make_inputs(1, 3, 9, 20, 32)
    inputs["k_b"][0, 1, 4] = torch.nan
    out, _ = forward_only(inputs, require(backend))
    assert out[0, 1].isnan().all()
    assert out[0, [0, 2]].isfinite().all()


@FORCED
def test_nan_stays_in_its_query(backend: str) -> None:
    inputs = make_inputs(1, 3, 9, 20, 32)
    inputs["q_a"][0, 1, 4] = torch.nan
    out, _ = forward_only(inputs, require(backend))
    isnan = torch.zeros_like(out, dtype=torch.bool)
    isnan[0, 1, 4] = True
    assert torch.equal(out.isnan(), isnan)


def test_philox_known_answers() -> None:
    """The published vectors of Random123 for Philox-4x32-10."""
    low = 0xFFFFFFFF
    for counter, seed, expected in (
        (0, 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (low, -1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ):
        words = reference._philox(*(torch.tensor([counter]) for _ in range(4)), torch.tensor(seed))
        assert tuple(int(w) for w in words) == expected


def test_dropout_keeps_the_right_share_independently() -> None:
    threshold = 19661
    keep = reference.dropout_keep((4, 8, 64, 200), 1, threshold, torch.tensor(-123456789)).double()
    share = 1 - threshold / 65536
    deviation = (share * (1 - share) / keep.numel()) ** 0.5
    assert abs(keep.mean() - share) < 5 * deviation
    centred = keep - share
    for dim in range(4):
        n = keep.shape[dim] - 1
        correlation = (centred.narrow(dim, 0, n) * centred.narrow(dim, 1, n)).mean() / (share * (1 - share))
        assert abs(correlation) < 5 / keep.numel() ** 0.5 * (keep.shape[dim] / n) ** 0.5
    other = reference.dropout_keep((4, 8, 64, 200), 0, threshold, torch.tensor(-123456789)).double()
    assert abs((centred * (other - share)).mean()) / (share * (1 - share)) < 5 / keep.numel() ** 0.5


@FORCED_DTYPES
@pytest.mark.parametrize("dropout_p", [0.1, 0.9])
@pytest.mark.parametrize("lengths", [(5, 300), (40, 33)], ids=str)
def test_dropout_draws_the_same_weights_everywhere(
    backend: str, dtype: torch.dtype, dropout_p: float, lengths: tuple[int, int]
) -> None:
    inputs = make_inputs(2, 2, *lengths, 32, dtype)
    check(inputs, require(backend), dropout_p=dropout_p, key_padding_mask_a=padding(2, lengths[0]))


@FORCED
def test_dropout_follows_the_default_generator(backend: str) -> None:
    inputs = on_device(make_inputs(1, 2, 9, 20, 8), backend)

    def draw(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return bidirectional_cross_attention(**inputs, dropout_p=0.5, backend=require(backend))[0]

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@FORCED_DTYPES
@LAYOUTS
def test_strides(backend: str, dtype: torch.dtype, layout: Callable[[Tensor], Tensor]) -> None:
    inputs = {name: layout(t) for name, t in make_inputs(2, 3, 17, 34, 16, dtype).items()}
    check(inputs, require(backend), key_padding_mask_b=transposed_mask(padding(2, 34)))


@FORCED
def test_expanded_and_absent_gradients(backend: str) -> None:
    inputs = {n: t.requires_grad_() for n, t in on_device(make_inputs(2, 2, 6, 11, 8), backend).items()}
    out_a, _ = bidirectional_cross_attention(**inputs, backend=require(backend))
    reached = (inputs["q_a"], inputs["k_b"], inputs["v_b"])
    expanded = torch.autograd.grad(out_a.sum(), reached, retain_graph=True)
    dense = torch.autograd.grad(out_a, reached, torch.ones_like(out_a), retain_graph=True)
    assert all(torch.equal(x, y) for x, y in zip(expanded, dense, strict=True))
    unreached = (inputs["q_b"], inputs["k_a"], inputs["v_a"])
    zeros = torch.autograd.grad(out_a.sum(), unreached, allow_unused=True)
    assert all(g is None or g.count_nonzero() == 0 for g in zeros)


def test_heads_merge_without_a_copy() -> None:
    require("cpu")
    inputs = {name: t.requires_grad_() for name, t in make_inputs(2, 3, 6, 11, 8).items()}
    outputs = bidirectional_cross_attention(**inputs, backend="cpu")
    grads = torch.autograd.grad(outputs, list(inputs.values()), tuple(map(torch.randn_like, outputs)))
    assert all(t.transpose(1, 2).is_contiguous() for t in (*outputs, *grads))


@FORCED
@pytest.mark.parametrize(
    "shape", [(0, 2, 5, 6, 8), (2, 0, 5, 6, 8), (2, 2, 0, 6, 8), (2, 2, 5, 0, 8), (2, 2, 5, 6, 0)], ids=str
)
def test_empty(backend: str, shape: tuple[int, int, int, int, int]) -> None:
    inputs = {name: t.requires_grad_() for name, t in on_device(make_inputs(*shape), backend).items()}
    outputs = bidirectional_cross_attention(**inputs, backend=require(backend))
    sum(out.sum() for out in outputs).backward()  # type: ignore[union-attr]
    for out, name in zip(outputs, ("q_a", "q_b"), strict=True):
        assert out.shape == inputs[name].shape and out.count_nonzero() == 0
    assert all(t.grad is not None and t.grad.shape == t.shape for t in inputs.values())


@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
def test_first_and_second_derivatives_in_float64(dropout_p: float) -> None:
    inputs = make_inputs(2, 1, 2, 3, 1, torch.float64)
    mask = torch.tensor([[True, False, False], [True] * 3])

    def run_once(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(3)
        return bidirectional_cross_attention(*tensors, key_padding_mask_b=mask, dropout_p=dropout_p)

    leaves = [t.requires_grad_() for t in inputs.values()]
    assert torch.autograd.gradcheck(run_once, leaves)
    assert torch.autograd.gradgradcheck(run_once, leaves)


@FORCED_DTYPES
@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
def test_second_derivative_with_a_constant_upstream_gradient(
    backend: str, dtype: torch.dtype, dropout_p: float
) -> None:
    inputs = make_inputs(1, 2, 6, 9, 8, dtype)
    weights = torch.randn(1, 2, 6, 8).to(dtype)

    def second(tensors: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
        leaves = {name: t.detach().requires_grad_() for name, t in tensors.items()}
        torch.manual_seed(3)
        out, _ = bidirectional_cross_attention(**leaves, dropout_p=dropout_p, **options)
        (first,) = torch.autograd.grad(out, leaves["k_b"], weights.to(out), create_graph=True)
        names = ("q_a", "k_b", "v_b")
        grads = torch.autograd.grad(first.double().square().sum(), [leaves[n] for n in names])
        return {f"grad_{name}": g.cpu() for name, g in zip(names, grads, strict=True)}

    actual = second(on_device(inputs, backend), backend=require(backend))
    for name, value in second({n: t.double() for n, t in inputs.items()}).items():
        assert_matches(actual[name], value, name)


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_bit_equal_twice(backend: str) -> None:
    inputs = make_inputs(1, 2, 70, 99, 32, torch.bfloat16)
    weights = torch.randn(1, 2, 70, 32), torch.randn(1, 2, 99, 32)
    first, second = (run(inputs, weights, backend=require(backend), dropout_p=0.1) for _ in range(2))
    assert all(torch.equal(second[name], value) for name, value in first.items())


@DTYPES
def test_bit_equal_twice_and_for_any_number_of_threads(dtype: torch.dtype) -> None:
    require("cpu")
    inputs = make_inputs(2, 3, 70, 99, 32, dtype)
    weights = torch.randn(2, 3, 70, 32), torch.randn(2, 3, 99, 32)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (threads, threads, 1, 3):
            torch.set_num_threads(count)
            results.append(run(inputs, weights, backend="cpu", dropout_p=0.1))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(other[name], value) for name, value in results[0].items())


@DTYPES
def test_saving_the_weights_does_not_change_the_result(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    require("cpu")
    inputs = make_inputs(2, 2, 21, 50, 32, dtype)
    weights = torch.randn(2, 2, 21, 32), torch.randn(2, 2, 50, 32)
    saved = run(inputs, weights, backend="cpu", dropout_p=0.1)
    monkeypatch.setattr("bdam_kernels.ops.cross_attention._SAVED_KEYS_PER_WIDTH", 0)
    again = run(inputs, weights, backend="cpu", dropout_p=0.1)
    assert all(torch.equal(again[name], value) for name, value in saved.items())


@FORCED
def test_without_gradients(backend: str) -> None:
    inputs = make_inputs(2, 2, 21, 50, 32)
    expected = bidirectional_cross_attention(**{n: t.clone().requires_grad_() for n, t in inputs.items()})
    with torch.no_grad():
        outputs = bidirectional_cross_attention(**on_device(inputs, backend), backend=require(backend))
    for out, other in zip(outputs, expected, strict=True):
        assert not out.requires_grad
        assert_matches(out.cpu(), other.detach().double(), "out")


@FORCED
def test_autocast(backend: str) -> None:
    inputs = on_device(make_inputs(2, 2, 10, 13, 16), backend)
    rounded = {name: t.bfloat16() for name, t in inputs.items()}
    expected = bidirectional_cross_attention(**rounded, backend=require(backend))
    inputs["q_a"] = rounded["q_a"]
    with torch.autocast(device_of(backend).type, torch.bfloat16):
        outputs = bidirectional_cross_attention(**inputs, backend=backend)
    assert all(torch.equal(out, other) for out, other in zip(outputs, expected, strict=True))


@FORCED
def test_compile(backend: str) -> None:
    inputs = {n: t.requires_grad_() for n, t in on_device(make_inputs(1, 2, 6, 11, 8), backend).items()}
    options = {"dropout_p": 0.3, "backend": require(backend), "key_padding_mask_b": padding(1, 11)}
    options = on_device(options, backend)

    def run_once(function: Callable[..., tuple[Tensor, Tensor]]) -> tuple[Tensor, ...]:
        torch.manual_seed(3)
        outputs = function(**inputs, **options)
        grads = torch.autograd.grad(outputs, list(inputs.values()), tuple(map(torch.ones_like, outputs)))
        return *outputs, *grads

    compiled = torch.compile(bidirectional_cross_attention, fullgraph=True, backend="aot_eager")
    for actual, expected in zip(run_once(compiled), run_once(bidirectional_cross_attention), strict=True):
        assert_matches(actual, expected.detach().double(), "compiled")


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [("cpu", torch.float32), ("cpu", torch.bfloat16), ("cpu", torch.float16), ("triton", torch.float32),
     ("cuda", torch.bfloat16)],
)  # fmt: skip
@pytest.mark.parametrize("save", [False, True])
def test_opcheck(backend: str, dtype: torch.dtype, save: bool) -> None:
    tensors = tuple(on_device(make_inputs(2, 2, 6, 11, 8, dtype), require(backend)).values())
    mask = padding(2, 11).to(device_of(backend))
    options = (0.5, 6554, torch.tensor(11))
    forward = torch.ops.bdam.cross_attention_forward.default
    torch.library.opcheck(forward, (*tensors, None, mask, *options, save, backend))
    if save:
        out_a, out_b, *saved = forward(*tensors, None, mask, *options, True, backend)
        backward = torch.ops.bdam.cross_attention_backward.default
        outs = (None, None) if backend == "cpu" else (out_a, out_b)
        torch.library.opcheck(backward, (*tensors, None, mask, *saved, *outs, out_a, out_b, *options, backend))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"q_a": torch.zeros(2, 5, 8)}, ValueError, r"q_a must be \(B, H, L, d\), got \(2, 5, 8\)"),
        ({"q_b": torch.zeros(2, 2, 6, 4)}, ValueError, r"q_b must have the B, H and d of q_a.*got \(2, 2, 6, 4\)"),
        ({"k_a": torch.zeros(2, 2, 6, 8)}, ValueError, r"k_a must be \(2, 2, 5, 8\).*got \(2, 2, 6, 8\)"),
        ({"v_b": torch.zeros(2, 2, 6, 4)}, ValueError, r"v_b must be \(2, 2, 6, 8\).*got \(2, 2, 6, 4\)"),
        ({"key_padding_mask_a": torch.zeros(2, 6, dtype=torch.bool)}, ValueError, r"must be \(2, 5\), got \(2, 6\)"),
        ({"key_padding_mask_b": torch.zeros(2, 6)}, TypeError, r"key_padding_mask_b must be bool.*got torch.float32"),
        ({"v_a": torch.zeros(2, 2, 5, 8, dtype=torch.int64)}, TypeError, "v_a must be floating point, got torch.int64"),
        ({"v_a": torch.zeros(2, 2, 5, 8).double()}, TypeError, "v_a must be torch.float32 like q_a, got torch.float64"),
        ({"v_a": torch.zeros(2, 2, 5, 8, device="meta")}, ValueError, "v_a must be on cpu like q_a, got meta"),
        ({"dropout_p": 1.0}, ValueError, "dropout_p must be at least 0 and below 1, got 1.0"),
        ({"dropout_p": -0.1}, ValueError, "dropout_p must be at least 0 and below 1, got -0.1"),
        ({"backend": "fast"}, ValueError, "backend must be one of .* got 'fast'"),
    ],
)
def test_errors(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        bidirectional_cross_attention(**{**make_inputs(2, 2, 5, 6, 8), **change})


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_kernel_refuses_float64(backend: str) -> None:
    inputs = on_device(make_inputs(1, 1, 2, 2, 2, torch.float64), require(backend))
    with pytest.raises(BackendUnavailable, match="float64"):
        bidirectional_cross_attention(**inputs, backend=backend)


@pytest.mark.parametrize(("backend", "widest"), [("triton", 256), ("cuda", 192)])
def test_gpu_kernels_refuse_wide_heads(backend: str, widest: int) -> None:
    inputs = on_device(make_inputs(1, 1, 2, 2, widest + 1), require(backend))
    with pytest.raises(BackendUnavailable, match=f"heads up to {widest} wide, got {widest + 1}"):
        bidirectional_cross_attention(**inputs, backend=backend)
