"""pooled_bidirectional_cross_attention: against the reference in float64, and against the mean of the unpooled form."""

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

from bdam_kernels import (
    BackendUnavailable,
    bidirectional_cross_attention,
    pooled_bidirectional_cross_attention,
)


def mean_of_the_unpooled(*args: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    out_a, out_b = bidirectional_cross_attention(*args, **options)
    return out_a.mean(2), out_b.mean(2)


def run(
    inputs: dict[str, Tensor],
    weights: tuple[Tensor, Tensor],
    function: Callable[..., tuple[Tensor, Tensor]] = pooled_bidirectional_cross_attention,
    **options: Any,
) -> dict[str, Tensor]:
    """Outputs and gradients by name, for the loss <pooled_a, weights[0]> + <pooled_b, weights[1]>."""
    backend = options.get("backend", "reference")
    leaves = {name: t.detach().requires_grad_() for name, t in on_device(inputs, backend).items()}
    torch.manual_seed(7)
    pooled_a, pooled_b = function(**leaves, **on_device(options, backend))
    torch.autograd.backward((pooled_a, pooled_b), tuple(w.to(pooled_a) for w in weights))
    grads = {f"grad_{name}": t.grad for name, t in leaves.items()}
    results = {"pooled_a": pooled_a.detach(), "pooled_b": pooled_b.detach(), **grads}
    return {name: t.cpu() for name, t in results.items()}  # type: ignore[union-attr]


def forward_only(inputs: dict[str, Tensor], backend: str, **options: Any) -> tuple[Tensor, ...]:
    options = on_device({**options, "backend": backend}, backend)
    return tuple(out.cpu() for out in pooled_bidirectional_cross_attention(**on_device(inputs, backend), **options))


def make_weights(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    batch, heads, _, width = inputs["q_a"].shape
    dtype = inputs["q_a"].dtype
    return torch.randn(batch, heads, width).to(dtype), torch.randn(batch, heads, width).to(dtype)


def check(inputs: dict[str, Tensor], backend: str, **options: Any) -> dict[str, Tensor]:
    """Compares with the unpooled form and its mean in float64; dropout draws the same seed on both sides."""
    weights, dtype = make_weights(inputs), inputs["q_a"].dtype
    actual = run(inputs, weights, backend=backend, **options)
    expected = run({n: t.double() for n, t in inputs.items()}, weights, mean_of_the_unpooled, **options)
    assert_all_match(actual, expected, dtype)
    return actual


@FORCED_DTYPES
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


@FORCED
@DTYPES
def test_two_parts_of_a_tile(backend: str, dtype: torch.dtype) -> None:
    check(make_inputs(1, 1, 21, 38, 96, dtype), require(backend))


@DTYPES
@pytest.mark.parametrize("width", [64, 37])
def test_outputs_past_the_caches(dtype: torch.dtype, width: int) -> None:
    """Large gradients leave the CPU's caches alone, where their rows are aligned."""
    check(make_inputs(4, 32, 260, 20, width, dtype), require("cpu"))


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
    for name in ("pooled_a", "grad_q_a", "grad_k_b", "grad_v_b"):
        assert result[name][1].count_nonzero() == 0, name


@FORCED
def test_padding_does_not_reach_the_result(backend: str) -> None:
    inputs = make_inputs(2, 2, 9, 20, 32)
    mask = padding(2, 20)
    kept = forward_only(inputs, require(backend), key_padding_mask_b=mask)[0]
    for name in ("k_b", "v_b"):
        inputs[name] = inputs[name].masked_fill(mask[:, None, :, None], 1e3)
    assert torch.equal(forward_only(inputs, backend, key_padding_mask_b=mask)[0], kept)


@FORCED
@pytest.mark.parametrize("scale", [0.0, 1.0, -0.5])
def test_scale(backend: str, scale: float) -> None:
    check(make_inputs(2, 2, 11, 19, 8), require(backend), scale=scale)


@FORCED
@DTYPES
@pytest.mark.parametrize("queries", [15, 16])
def test_large_scores_pick_one_key(backend: str, dtype: torch.dtype, queries: int) -> None:
    inputs = make_inputs(1, 1, queries, 16, 16, dtype)
    inputs["q_a"] = (1e4 * torch.eye(16)[:queries][None, None]).to(dtype)
    inputs["k_b"] = torch.eye(16)[None, None].to(dtype)
    if require(backend) in ("triton", "cuda") and dtype == torch.float32:
        # Only the outputs: gradients cancel here, and products in TensorFloat-32 round queries and keys on two ways.
        result = dict(zip(("pooled_a", "pooled_b"), forward_only(inputs, backend), strict=True))
    else:
        result = check(inputs, backend)
    assert_matches(result["pooled_a"], inputs["v_b"][:, :, :queries].double().mean(2), "pooled_a")


@FORCED
def test_nan_stays_in_its_head(backend: str) -> None:
    inputs = make_inputs(1, 3, 9, 20, 32)
    inputs["k_b"][0, 1, 4] = torch.nan
    pooled, _ = forward_only(inputs, require(backend))
    assert pooled[0, 1].isnan().all()
    assert pooled[0, [0, 2]].isfinite().all()


@FORCED_DTYPES
@pytest.mark.parametrize("dropout_p", [0.1, 0.9])
@pytest.mark.parametrize("lengths", [(5, 300), (40, 33)], ids=str)
def test_dropout_draws_the_weights_of_the_unpooled_form(
    backend: str, dtype: torch.dtype, dropout_p: float, lengths: tuple[int, int]
) -> None:
    inputs = make_inputs(2, 2, *lengths, 32, dtype)
    check(inputs, require(backend), dropout_p=dropout_p, key_padding_mask_a=padding(2, lengths[0]))


@FORCED
@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
def test_equals_the_mean_of_the_unpooled_form_on_the_same_backend(backend: str, dropout_p: float) -> None:
    inputs = make_inputs(2, 3, 33, 50, 32)
    options = {"backend": require(backend), "dropout_p": dropout_p, "key_padding_mask_b": padding(2, 50)}
    weights = make_weights(inputs)
    expected = run(inputs, weights, mean_of_the_unpooled, **options)
    for name, value in run(inputs, weights, **options).items():
        assert_matches(value, expected[name].double(), name)


@FORCED_DTYPES
@LAYOUTS
def test_strides(backend: str, dtype: torch.dtype, layout: Callable[[Tensor], Tensor]) -> None:
    inputs = {name: layout(t) for name, t in make_inputs(2, 3, 17, 34, 16, dtype).items()}
    check(inputs, require(backend), key_padding_mask_b=transposed_mask(padding(2, 34)))


@FORCED
def test_expanded_and_absent_gradients(backend: str) -> None:
    inputs = {n: t.requires_grad_() for n, t in on_device(make_inputs(2, 2, 6, 11, 8), backend).items()}
    pooled_a, _ = pooled_bidirectional_cross_attention(**inputs, backend=require(backend))
    reached = (inputs["q_a"], inputs["k_b"], inputs["v_b"])
    expanded = torch.autograd.grad(pooled_a.sum(), reached, retain_graph=True)
    dense = torch.autograd.grad(pooled_a, reached, torch.ones_like(pooled_a), retain_graph=True)
    assert all(torch.equal(x, y) for x, y in zip(expanded, dense, strict=True))
    unreached = (inputs["q_b"], inputs["k_a"], inputs["v_a"])
    zeros = torch.autograd.grad(pooled_a.sum(), unreached, allow_unused=True)
    assert all(g is None or g.count_nonzero() == 0 for g in zeros)


def test_heads_merge_without_a_copy() -> None:
    require("cpu")
    inputs = {name: t.requires_grad_() for name, t in make_inputs(2, 3, 6, 11, 8).items()}
    outputs = pooled_bidirectional_cross_attention(**inputs, backend="cpu")
    grads = torch.autograd.grad(outputs, list(inputs.values()), tuple(map(torch.randn_like, outputs)))
    assert all(t.is_contiguous() for t in outputs)
    assert all(t.transpose(1, 2).is_contiguous() for t in grads)


@FORCED
@pytest.mark.parametrize(
    "shape", [(0, 2, 5, 6, 8), (2, 0, 5, 6, 8), (2, 2, 0, 6, 8), (2, 2, 5, 0, 8), (2, 2, 5, 6, 0)], ids=str
)
def test_empty(backend: str, shape: tuple[int, int, int, int, int]) -> None:
    inputs = {name: t.requires_grad_() for name, t in on_device(make_inputs(*shape), backend).items()}
    outputs = pooled_bidirectional_cross_attention(**inputs, backend=require(backend))
    sum(out.sum() for out in outputs).backward()  # type: ignore[union-attr]
    for out in outputs:
        assert out.shape == (shape[0], shape[1], shape[4]) and out.count_nonzero() == 0
    for t in inputs.values():
        assert t.grad is not None and t.grad.shape == t.shape and t.grad.count_nonzero() == 0


@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
def test_first_and_second_derivatives_in_float64(dropout_p: float) -> None:
    inputs = make_inputs(2, 1, 2, 3, 1, torch.float64)
    mask = torch.tensor([[True, False, False], [True] * 3])

    def run_once(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(3)
        return pooled_bidirectional_cross_attention(*tensors, key_padding_mask_b=mask, dropout_p=dropout_p)

    leaves = [t.requires_grad_() for t in inputs.values()]
    assert torch.autograd.gradcheck(run_once, leaves)
    assert torch.autograd.gradgradcheck(run_once, leaves)


@FORCED_DTYPES
@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
def test_second_derivative_with_a_constant_upstream_gradient(
    backend: str, dtype: torch.dtype, dropout_p: float
) -> None:
    inputs = make_inputs(1, 2, 6, 9, 8, dtype)
    weights = torch.randn(1, 2, 8).to(dtype)

    def second(tensors: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
        leaves = {name: t.detach().requires_grad_() for name, t in tensors.items()}
        torch.manual_seed(3)
        pooled, _ = pooled_bidirectional_cross_attention(**leaves, dropout_p=dropout_p, **options)
        (first,) = torch.autograd.grad(pooled, leaves["k_b"], weights.to(pooled), create_graph=True)
        names = ("q_a", "k_b", "v_b")
        grads = torch.autograd.grad(first.double().square().sum(), [leaves[n] for n in names])
        return {f"grad_{name}": g.cpu() for name, g in zip(names, grads, strict=True)}

    actual = second(on_device(inputs, backend), backend=require(backend))
    for name, value in second({n: t.double() for n, t in inputs.items()}).items():
        assert_matches(actual[name], value, name)


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_bit_equal_twice(backend: str) -> None:
    inputs = make_inputs(1, 2, 70, 99, 32, torch.bfloat16)
    weights = make_weights(inputs)
    first, second = (run(inputs, weights, backend=require(backend), dropout_p=0.1) for _ in range(2))
    assert all(torch.equal(second[name], value) for name, value in first.items())


@DTYPES
def test_bit_equal_twice_and_for_any_number_of_threads(dtype: torch.dtype) -> None:
    require("cpu")
    inputs = make_inputs(2, 3, 70, 99, 32, dtype)
    weights = make_weights(inputs)
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
    weights = make_weights(inputs)
    saved = run(inputs, weights, backend="cpu", dropout_p=0.1)
    monkeypatch.setattr("bdam_kernels.ops.cross_attention._SAVED_KEYS_PER_WIDTH", 0)
    again = run(inputs, weights, backend="cpu", dropout_p=0.1)
    assert all(torch.equal(again[name], value) for name, value in saved.items())
    with torch.no_grad():
        torch.manual_seed(7)
        outputs = pooled_bidirectional_cross_attention(**inputs, backend="cpu", dropout_p=0.1)
    for out, name in zip(outputs, ("pooled_a", "pooled_b"), strict=True):
        assert not out.requires_grad
        assert torch.equal(out, saved[name])


@FORCED
def test_autocast(backend: str) -> None:
    inputs = on_device(make_inputs(2, 2, 10, 13, 16), backend)
    rounded = {name: t.bfloat16() for name, t in inputs.items()}
    expected = pooled_bidirectional_cross_attention(**rounded, backend=require(backend))
    inputs["q_a"] = rounded["q_a"]
    with torch.autocast(device_of(backend).type, torch.bfloat16):
        outputs = pooled_bidirectional_cross_attention(**inputs, backend=backend)
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

    compiled = torch.compile(pooled_bidirectional_cross_attention, fullgraph=True, backend="aot_eager")
    for actual, expected in zip(run_once(compiled), run_once(pooled_bidirectional_cross_attention), strict=True):
        assert_matches(actual, expected.detach().double(), "compiled")


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [("cpu", torch.float32), ("cpu", torch.bfloat16), ("cpu", torch.float16), ("triton", torch.float32)],
)
@pytest.mark.parametrize("save", [False, True])
def test_opcheck(backend: str, dtype: torch.dtype, save: bool) -> None:
    tensors = tuple(on_device(make_inputs(2, 2, 6, 11, 8, dtype), require(backend)).values())
    mask = padding(2, 11).to(device_of(backend))
    options = (0.5, 6554, torch.tensor(11))
    forward = torch.ops.bdam.pooled_cross_attention_forward.default
    torch.library.opcheck(forward, (*tensors, None, mask, *options, save, backend))
    if save:
        pooled_a, pooled_b, *saved = forward(*tensors, None, mask, *options, True, backend)
        backward = torch.ops.bdam.pooled_cross_attention_backward.default
        torch.library.opcheck(backward, (*tensors, None, mask, *saved, pooled_a, pooled_b, *options, backend))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"q_a": torch.zeros(2, 5, 8)}, ValueError, r"q_a must be \(B, H, L, d\), got \(2, 5, 8\)"),
        ({"q_b": torch.zeros(2, 2, 6, 4)}, ValueError, r"q_b must have the B, H and d of q_a.*got \(2, 2, 6, 4\)"),
        ({"k_a": torch.zeros(2, 2, 6, 8)}, ValueError, r"k_a must be \(2, 2, 5, 8\).*got \(2, 2, 6, 8\)"),
        ({"key_padding_mask_a": torch.zeros(2, 6, dtype=torch.bool)}, ValueError, r"must be \(2, 5\), got \(2, 6\)"),
        ({"key_padding_mask_b": torch.zeros(2, 6)}, TypeError, r"key_padding_mask_b must be bool.*got torch.float32"),
        ({"v_a": torch.zeros(2, 2, 5, 8, dtype=torch.int64)}, TypeError, "v_a must be floating point, got torch.int64"),
        ({"v_a": torch.zeros(2, 2, 5, 8).double()}, TypeError, "v_a must be torch.float32 like q_a, got torch.float64"),
        ({"v_a": torch.zeros(2, 2, 5, 8, device="meta")}, ValueError, "v_a must be on cpu like q_a, got meta"),
        ({"dropout_p": 1.0}, ValueError, "dropout_p must be at least 0 and below 1, got 1.0"),
        ({"backend": "fast"}, ValueError, "backend must be one of .* got 'fast'"),
    ],
)
def test_errors(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pooled_bidirectional_cross_attention(**{**make_inputs(2, 2, 5, 6, 8), **change})


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_kernel_refuses_float64(backend: str) -> None:
    with pytest.raises(BackendUnavailable, match="float64"):
        forward_only(make_inputs(1, 1, 2, 2, 2, torch.float64), require(backend))


@pytest.mark.parametrize(("backend", "widest"), [("triton", 256), ("cuda", 192)])
def test_gpu_kernels_refuse_wide_heads(backend: str, widest: int) -> None:
    with pytest.raises(BackendUnavailable, match=f"heads up to {widest} wide, got {widest + 1}"):
        forward_only(make_inputs(1, 1, 2, 2, widest + 1), require(backend))
