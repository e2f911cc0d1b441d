"""Both forms of cross-attention: every output and gradient against float64, on every backend, and what else both do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_cases import (
    ALL_DTYPES,
    BACKENDS,
    DTYPES,
    FORCED,
    FORCED_DTYPES,
    Form,
    check,
    forward_only,
    make_inputs,
    on_device,
    padding,
    run,
)
from combinations import every, fewer, is_interpreted
from helpers import assert_matches, device_of, require
from torch import Tensor

from bdam_kernels import (
    BackendUnavailable,
    bidirectional_cross_attention,
    pooled_bidirectional_cross_attention,
)

FORMS = {"unpooled": bidirectional_cross_attention, "pooled": pooled_bidirectional_cross_attention}


@pytest.fixture(params=FORMS.values(), ids=FORMS)
def form(request: pytest.FixtureRequest) -> Form:
    return request.param  # type: ignore[no-any-return]


def _output_shape(form: Form, query: Tensor) -> torch.Size:
    return query.shape if form is bidirectional_cross_attention else query.shape[:2] + query.shape[3:]


def _merged(t: Tensor) -> Tensor:
    """Heads beside each other in memory, as a projection leaves them, with other columns in between."""
    batch, heads, length, width = t.shape
    packed = torch.randn(batch, length, 3, heads, width).to(t.dtype)
    packed[:, :, 1] = t.transpose(1, 2)
    return packed[:, :, 1].transpose(1, 2)


def _transposed(t: Tensor) -> Tensor:
    return t.transpose(2, 3).contiguous().transpose(2, 3)


def _every_second(t: Tensor) -> Tensor:
    return t.repeat_interleave(2, dim=2)[:, :, ::2]


def _unaligned(t: Tensor) -> Tensor:
    return torch.cat([t[..., :1], t], -1)[..., 1:]


LAYOUTS = pytest.mark.parametrize("layout", [_merged, _transposed, _every_second, _unaligned], ids=lambda f: f.__name__)


@every(
    BACKENDS,
    dtype=ALL_DTYPES,
    lengths=[(1, 1), (1, 7), (2, 3), (13, 14), (15, 17), (31, 64), (97, 29), (196, 197)],
    in_interpreter={"lengths": [(1, 7), (31, 64), (97, 29)]},
)
def test_lengths(form: Form, backend: str, dtype: torch.dtype, lengths: tuple[int, int]) -> None:
    check(form, make_inputs(fewer(backend, 2), fewer(backend, 3), *lengths, 64, dtype), require(backend))


@every(
    BACKENDS,
    dtype=ALL_DTYPES,
    width=[1, 7, 32, 37, 48, 63, 96, 128, 192],
    in_interpreter={"dtype": [torch.float32, torch.bfloat16], "width": [7, 37, 96, 128, 192, 256]},
)
def test_widths(form: Form, backend: str, dtype: torch.dtype, width: int) -> None:
    check(form, make_inputs(1, fewer(backend, 2), 21, 38, width, dtype), require(backend))


@FORCED_DTYPES
@pytest.mark.parametrize("options", [{}, {"dropout_p": 0.3}], ids=["plain", "dropout"])
def test_keys_beyond_what_is_saved_and_queries_beyond_a_chunk(
    form: Form, backend: str, dtype: torch.dtype, options: dict[str, Any]
) -> None:
    heads, queries, keys = (1, 70, 330) if is_interpreted(backend) else (2, 150, 701)
    inputs = make_inputs(1, heads, queries, keys, 16, dtype)
    check(form, inputs, require(backend), key_padding_mask_b=padding(1, keys), **options)


@DTYPES
def test_many_keys_far_apart(form: Form, dtype: torch.dtype) -> None:
    """The CPU brings them together."""
    inputs = make_inputs(1, 2, 20, 141, 64, dtype)
    check(form, {name: _merged(t) for name, t in inputs.items()}, require("cpu"))


@DTYPES
@pytest.mark.parametrize("width", [64, 37])
def test_outputs_past_the_caches(form: Form, dtype: torch.dtype, width: int) -> None:
    """Large outputs leave the CPU's caches alone, where their rows are aligned."""
    check(form, make_inputs(4, 32, 260, 20, width, dtype), require("cpu"))


@FORCED_DTYPES
@pytest.mark.parametrize("streams", ["a", "b", "ab"])
def test_masks(form: Form, backend: str, dtype: torch.dtype, streams: str) -> None:
    inputs = make_inputs(3, fewer(backend, 2), 18, 45, 32, dtype)
    masks = {f"key_padding_mask_{s}": padding(3, inputs[f"q_{s}"].shape[2]) for s in streams}
    check(form, inputs, require(backend), **masks)


@FORCED_DTYPES
@pytest.mark.parametrize("dropout_p", [0.0, 0.2])
def test_only_padding_gives_zero_and_no_gradient(
    form: Form, backend: str, dtype: torch.dtype, dropout_p: float
) -> None:
    mask = padding(3, 20)
    mask[1] = True
    inputs = make_inputs(3, fewer(backend, 2), 9, 20, 32, dtype)
    result = check(form, inputs, require(backend), key_padding_mask_b=mask, dropout_p=dropout_p)
    for name in ("out_a", "grad_q_a", "grad_k_b", "grad_v_b"):
        assert result[name][1].count_nonzero() == 0, name


@FORCED
def test_padding_does_not_reach_the_result(form: Form, backend: str) -> None:
    inputs = make_inputs(2, 2, 9, 20, 32)
    mask = padding(2, 20)
    kept = forward_only(form, inputs, require(backend), key_padding_mask_b=mask)[0]
    for name in ("k_b", "v_b"):
        inputs[name] = inputs[name].masked_fill(mask[:, None, :, None], 1e3)
    assert torch.equal(forward_only(form, inputs, backend, key_padding_mask_b=mask)[0], kept)


@FORCED
@pytest.mark.parametrize("scale", [0.0, 1.0, -0.5])
def test_scale(form: Form, backend: str, scale: float) -> None:
    check(form, make_inputs(1, fewer(backend, 2), 11, 19, 8), require(backend), scale=scale)


@FORCED
def test_nan_stays_in_its_head(form: Form, backend: str) -> None:
    inputs = make_inputs(1, 3, 9, 20, 32)
    inputs["k_b"][0, 1, 4] = torch.nan
    out, _ = forward_only(form, inputs, require(backend))
    assert out[0, 1].isnan().all()
    assert out[0, [0, 2]].isfinite().all()


@every(
    BACKENDS,
    dtype=ALL_DTYPES,
    dropout_p=[0.1, 0.9],
    lengths=[(5, 300), (40, 33)],
    in_interpreter={"dtype": [torch.float32], "lengths": [(5, 150), (40, 33)]},
)
def test_dropout_draws_the_same_weights_everywhere(
    form: Form, backend: str, dtype: torch.dtype, dropout_p: float, lengths: tuple[int, int]
) -> None:
    inputs = make_inputs(2, fewer(backend, 2), *lengths, 32, dtype)
    check(form, inputs, require(backend), dropout_p=dropout_p, key_padding_mask_a=padding(2, lengths[0]))


@pytest.mark.parametrize("backend", ["triton"])
@pytest.mark.parametrize("width", [32, 96])
def test_dropout_in_blocks_of_a_gpu(form: Form, backend: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which have fewer keys than those in Triton's interpreter."""
    require(backend)
    monkeypatch.setattr("bdam_kernels.ops.cross_attention.triton_launches.INTERPRETED", False)
    check(form, make_inputs(1, 1, 20, 70, width), backend, dropout_p=0.3)


@FORCED_DTYPES
@LAYOUTS
def test_strides(form: Form, backend: str, dtype: torch.dtype, layout: Callable[[Tensor], Tensor]) -> None:
    heads = 2 if is_interpreted(backend) else 3
    inputs = {name: layout(t) for name, t in make_inputs(2, heads, 17, 34, 16, dtype).items()}
    check(form, inputs, require(backend), key_padding_mask_b=padding(2, 34).T.contiguous().T)


@FORCED
def test_expanded_and_absent_gradients(form: Form, backend: str) -> None:
    inputs = {n: t.requires_grad_() for n, t in on_device(make_inputs(1, 2, 6, 11, 8), backend).items()}
    out_a, _ = form(**inputs, backend=require(backend))
    reached = (inputs["q_a"], inputs["k_b"], inputs["v_b"])
    expanded = torch.autograd.grad(out_a.sum(), reached, retain_graph=True)
    dense = torch.autograd.grad(out_a, reached, torch.ones_like(out_a), retain_graph=True)
    assert all(torch.equal(x, y) for x, y in zip(expanded, dense, strict=True))
    unreached = (inputs["q_b"], inputs["k_a"], inputs["v_a"])
    zeros = torch.autograd.grad(out_a.sum(), unreached, allow_unused=True)
    assert all(g is None or g.count_nonzero() == 0 for g in zeros)


@FORCED
@pytest.mark.parametrize(
    "shape", [(0, 2, 5, 6, 8), (2, 0, 5, 6, 8), (2, 2, 0, 6, 8), (2, 2, 5, 0, 8), (2, 2, 5, 6, 0)], ids=str
)
def test_empty(form: Form, backend: str, shape: tuple[int, int, int, int, int]) -> None:
    inputs = {name: t.requires_grad_() for name, t in on_device(make_inputs(*shape), backend).items()}
    outputs = form(**inputs, backend=require(backend))
    sum(out.sum() for out in outputs).backward()  # type: ignore[union-attr]
    for out, name in zip(outputs, ("q_a", "q_b"), strict=True):
        assert out.shape == _output_shape(form, inputs[name]) and out.count_nonzero() == 0
    assert all(t.grad is not None and t.grad.shape == t.shape and not t.grad.any() for t in inputs.values())


@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
def test_first_and_second_derivatives_in_float64(form: Form, dropout_p: float) -> None:
    inputs = make_inputs(2, 1, 2, 3, 1, torch.float64)
    mask = torch.tensor([[True, False, False], [True] * 3])

    def run_once(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(3)
        return form(*tensors, key_padding_mask_b=mask, dropout_p=dropout_p)

    leaves = [t.requires_grad_() for t in inputs.values()]
    assert torch.autograd.gradcheck(run_once, leaves)
    assert torch.autograd.gradgradcheck(run_once, leaves)


@FORCED_DTYPES
@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
def test_second_derivative_with_a_constant_upstream_gradient(
    form: Form, backend: str, dtype: torch.dtype, dropout_p: float
) -> None:
    inputs = make_inputs(1, 2, 6, 9, 8, dtype)
    weights = torch.randn(_output_shape(form, inputs["q_a"])).to(dtype)

    def second(tensors: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
        leaves = {name: t.detach().requires_grad_() for name, t in tensors.items()}
        torch.manual_seed(3)
        out, _ = form(**leaves, dropout_p=dropout_p, **options)
        (first,) = torch.autograd.grad(out, leaves["k_b"], weights.to(out), create_graph=True)
        names = ("q_a", "k_b", "v_b")
        grads = torch.autograd.grad(first.double().square().sum(), [leaves[n] for n in names])
        return {f"grad_{name}": g.cpu() for name, g in zip(names, grads, strict=True)}

    actual = second(on_device(inputs, backend), backend=require(backend))
    for name, value in second({n: t.double() for n, t in inputs.items()}).items():
        assert_matches(actual[name], value, name)


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_bit_equal_twice(form: Form, backend: str) -> None:
    inputs = make_inputs(1, fewer(backend, 2), 70, 99, 32, torch.bfloat16)
    first, second = (run(form, inputs, backend=require(backend), dropout_p=0.1) for _ in range(2))
    assert all(torch.equal(second[name], value) for name, value in first.items())


@DTYPES
def test_bit_equal_twice_and_for_any_number_of_threads(form: Form, dtype: torch.dtype) -> None:
    require("cpu")
    inputs = make_inputs(2, 3, 70, 99, 32, dtype)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (threads, threads, 1, 3):
            torch.set_num_threads(count)
            results.append(run(form, inputs, backend="cpu", dropout_p=0.1))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(other[name], value) for name, value in results[0].items())


@DTYPES
def test_saving_the_weights_does_not_change_the_result(
    form: Form, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    require("cpu")
    inputs = make_inputs(2, 2, 21, 50, 32, dtype)
    saved = run(form, inputs, backend="cpu", dropout_p=0.1)
    monkeypatch.setattr("bdam_kernels.ops.cross_attention.saved._SAVED_KEYS_PER_WIDTH", 0)
    again = run(form, inputs, backend="cpu", dropout_p=0.1)
    assert all(torch.equal(again[name], value) for name, value in saved.items())
    with torch.no_grad():
        torch.manual_seed(7)
        outputs = form(**inputs, backend="cpu", dropout_p=0.1)
    assert all(torch.equal(out, saved[name]) for name, out in zip(("out_a", "out_b"), outputs, strict=True))


@FORCED
def test_without_gradients(form: Form, backend: str) -> None:
    inputs = make_inputs(2, 2, 21, 50, 32)
    expected = form(**{n: t.clone().requires_grad_() for n, t in inputs.items()})
    with torch.no_grad():
        outputs = form(**on_device(inputs, backend), backend=require(backend))
    for out, other in zip(outputs, expected, strict=True):
        assert not out.requires_grad
        assert_matches(out.cpu(), other.detach().double(), "out")


@FORCED
def test_autocast(form: Form, backend: str) -> None:
    inputs = on_device(make_inputs(2, 2, 10, 13, 16), backend)
    rounded = {name: t.bfloat16() for name, t in inputs.items()}
    expected = form(**rounded, backend=require(backend))
    inputs["q_a"] = rounded["q_a"]
    with torch.autocast(device_of(backend).type, torch.bfloat16):
        outputs = form(**inputs, backend=backend)
    assert all(torch.equal(out, other) for out, other in zip(outputs, expected, strict=True))


@FORCED
def test_compile(form: Form, backend: str) -> None:
    inputs = {n: t.requires_grad_() for n, t in on_device(make_inputs(1, 1, 6, 11, 8), backend).items()}
    options = {"dropout_p": 0.3, "backend": require(backend), "key_padding_mask_b": padding(1, 11)}
    options = on_device(options, backend)

    def run_once(function: Callable[..., tuple[Tensor, Tensor]]) -> tuple[Tensor, ...]:
        torch.manual_seed(3)
        outputs = function(**inputs, **options)
        grads = torch.autograd.grad(outputs, list(inputs.values()), tuple(map(torch.ones_like, outputs)))
        return *outputs, *grads

    compiled = torch.compile(form, fullgraph=True, backend="aot_eager")
    for actual, expected in zip(run_once(compiled), run_once(form), strict=True):
        assert_matches(actual, expected.detach().double(), "compiled")


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [("cpu", torch.float32), ("cpu", torch.bfloat16), ("cpu", torch.float16), ("triton", torch.float32),
     ("cuda", torch.bfloat16)],
)  # fmt: skip
@pytest.mark.parametrize("save", [False, True])
def test_opcheck(form: Form, backend: str, dtype: torch.dtype, save: bool) -> None:
    is_pooled = form is pooled_bidirectional_cross_attention
    if is_pooled and backend != "cpu":
        pytest.skip("the pooled form's operators are the CPU's")
    batch = fewer(require(backend), 2)
    tensors = tuple(on_device(make_inputs(batch, batch, 6, 11, 8, dtype), backend).values())
    mask = padding(batch, 11).to(device_of(backend))
    options, chosen = (0.5, 6554, torch.tensor(11)), () if is_pooled else (backend,)
    name = form.__name__.replace("bidirectional_", "")
    forward = getattr(torch.ops.bdam, f"{name}_forward").default
    torch.library.opcheck(forward, (*tensors, None, mask, *options, save, *chosen))
    if save:
        out_a, out_b, *saved = forward(*tensors, None, mask, *options, True, *chosen)
        backward = getattr(torch.ops.bdam, f"{name}_backward").default
        outs = (None, None) if backend == "cpu" else (out_a, out_b)
        wanted = saved if is_pooled else (*saved, *outs)
        torch.library.opcheck(backward, (*tensors, None, mask, *wanted, out_a, out_b, *options, *chosen))


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
def test_errors(form: Form, change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        form(**{**make_inputs(2, 2, 5, 6, 8), **change})


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_kernel_refuses_float64(form: Form, backend: str) -> None:
    inputs = on_device(make_inputs(1, 1, 2, 2, 2, torch.float64), require(backend))
    with pytest.raises(BackendUnavailable, match="float64"):
        form(**inputs, backend=backend)


@pytest.mark.parametrize(("backend", "widest"), [("triton", 256), ("cuda", 192)])
def test_gpu_kernels_refuse_wide_heads(form: Form, backend: str, widest: int) -> None:
    inputs = on_device(make_inputs(1, 1, 2, 2, widest + 1), require(backend))
    with pytest.raises(BackendUnavailable, match=f"heads up to {widest} wide, got {widest + 1}"):
        form(**inputs, backend=backend)
