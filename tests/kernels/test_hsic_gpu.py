"""hsic's kernels for GPUs, wherever they run: on one, or on the CPU by way of the harness."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers import assert_matches, device_of, require
from hsic_cases import (
    ESTIMATORS,
    OPTIONS,
    check,
    features,
    oracle,
    value_and_gradients,
)
from torch import Tensor

from bdam_kernels import BackendUnavailable, hsic

pytestmark = pytest.mark.usefixtures("one_thread")

CASES = [("cuda", o) for o in OPTIONS if o["kernel"] == "linear"]
every_case = pytest.mark.parametrize(
    ("name", "options"), CASES, ids=["-".join(map(str, (name, *o.values()))) for name, o in CASES]
)
every_backend = pytest.mark.parametrize("name", ("cuda",))


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_matches_the_definition(name: str, dtype: torch.dtype, options: dict) -> None:
    check(*features(12, 40, 30, dtype), require(name), **options)


@every_backend
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    "shape",
    [
        *((4, 1, 1), (15, 3, 64), (16, 64, 1), (17, 65, 33), (64, 130, 20), (65, 16, 70), (130, 30, 5), (260, 3, 9)),
        *((6, 450, 70), (200, 400, 3), (6, 640, 192)),  # many parts, parts of several steps, wide tiles
    ],
    ids=str,
)
def test_sizes_of_linear_kernels(name: str, shape: tuple, estimator: str) -> None:
    check(*features(*shape), require(name), estimator=estimator)


@every_backend
def test_most_rows(name: str) -> None:
    check(*features(512, 2, 3), require(name))
    x = torch.zeros(513, 2, device=device_of(name))
    with pytest.raises(BackendUnavailable, match="up to 512 rows, got 513"):
        hsic(x, x, backend=name)


@every_case
def test_a_common_offset_costs_no_accuracy(name: str, options: dict) -> None:
    check(*(t - 3000 for t in features(18, 12, 9)), require(name), **options)


@every_case
def test_strides(name: str, options: dict) -> None:
    x, y = (t.to(device_of(require(name))) for t in features(18, 12, 9))
    expected = value_and_gradients(hsic, x, y, backend=name, **options)
    layouts = {
        "transposed": (x.T.contiguous().T, y.T.contiguous().T),
        "every other row and column": (
            x.repeat_interleave(2, 0).repeat_interleave(2, 1)[::2, ::2], y.repeat_interleave(2, 0)[::2]
        ),
    }  # fmt: skip
    for layout, (a, b) in layouts.items():
        actual = value_and_gradients(hsic, a, b, backend=name, **options)
        for key, value in actual.items():
            assert_matches(value, expected[key].double(), f"{layout}: {key}")


@every_case
def test_equal_rows(name: str, options: dict) -> None:
    y = features(18, 12, 9)[1].to(device_of(require(name)))
    actual = value_and_gradients(hsic, torch.full_like(y, 0.1), y, backend=name, **options)
    assert all(torch.equal(value, torch.zeros_like(value)) for value in actual.values())


@every_backend
def test_mixed_dtypes_take_the_wider(name: str) -> None:
    x, y = features(12, 7, 5, torch.bfloat16)
    check(x, y, require(name))
    device = device_of(name)
    mixed = value_and_gradients(hsic, x.to(device), y.float().to(device), backend=name)
    assert_matches(mixed["value"].cpu(), oracle(x, y), "value")
    assert mixed["grad_x"].dtype == torch.bfloat16


@every_case
def test_results_are_bit_equal(name: str, options: dict) -> None:
    x, y = (t.to(device_of(require(name))) for t in features(40, 20, 9))
    first, second = (value_and_gradients(hsic, x, y, backend=name, **options) for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


@every_case
def test_derivatives_up_to_the_third(name: str, options: dict) -> None:
    sigma = (2.0, 3.0) if options["kernel"] == "rbf" else None
    # Cubes, as rounding errors of float32 would else be most of a derivative that nearly vanishes.
    directions = [torch.randn(9, width, dtype=torch.float64) for width in (4, 3)]

    def derivatives(function: Any, x: Tensor, y: Tensor, **extra: Any) -> list[Tensor]:
        value, found = function(x, y, sigma=sigma, **options, **extra), []
        for _ in range(3):
            gradients = torch.autograd.grad(value, (x, y), create_graph=True)
            found.extend(g.detach() for g in gradients)
            value = sum((g * d.to(g)).sum() for g, d in zip(gradients, directions, strict=True))
        return found

    inputs = features(9, 4, 3)
    device = device_of(require(name))
    actual = derivatives(hsic, *(t.to(device).requires_grad_() for t in inputs), backend=name)
    expected = derivatives(oracle, *(t.double().requires_grad_() for t in inputs))
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert_matches(a.cpu(), e, f"derivative {i // 2 + 1}", dtype=torch.float32)


@every_case
@pytest.mark.parametrize("wanted", ["x", "y"])
def test_gradient_of_one_input(name: str, options: dict, wanted: str) -> None:
    x, y = (t.to(device_of(require(name))) for t in features(12, 7, 5))
    both = value_and_gradients(hsic, x, y, backend=name, **options)[f"grad_{wanted}"]
    leaf = (x if wanted == "x" else y).requires_grad_()
    (1.5 * hsic(x, y, backend=name, **options)).backward()
    assert torch.equal(leaf.grad, both)


@every_backend
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_same_tensor_twice(name: str, estimator: str) -> None:
    x = features(12, 7, 5)[0]
    leaf = x.to(device_of(require(name))).requires_grad_()
    (actual,) = torch.autograd.grad(hsic(leaf, leaf, estimator=estimator, backend=name), leaf)
    double = x.double().requires_grad_()
    (expected,) = torch.autograd.grad(oracle(double, double, estimator=estimator), double)
    assert_matches(actual.cpu(), expected, "gradient")


@every_case
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_show(name: str, options: dict, bad: float) -> None:
    x, y = features(12, 7, 5)
    x[1, 0] = bad
    device = device_of(require(name))
    actual = value_and_gradients(hsic, x.to(device), y.to(device), backend=name, **options)
    assert not actual["value"].isfinite() and not actual["grad_x"].isfinite().all()


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@every_case
def test_function_transforms(name: str, options: dict) -> None:
    device = device_of(require(name))

    def function(x: Tensor, y: Tensor) -> Tensor:
        return hsic(x, y, backend=name, **options)

    pairs = [features(9, 4, 3) for _ in range(2)]
    xs, ys = (torch.stack(t).to(device) for t in zip(*pairs, strict=True))
    grads = torch.func.vmap(torch.func.grad(function, argnums=(0, 1)))(xs, ys)
    for i, (x, y) in enumerate(pairs):
        expected = value_and_gradients(oracle, x.double(), y.double(), **options)
        for key, grad in zip(("grad_x", "grad_y"), grads, strict=True):
            assert_matches(1.5 * grad[i].cpu(), expected[key], key)


@every_case
def test_compile(name: str, options: dict) -> None:
    torch._dynamo.reset()
    inputs = features(9, 4, 3)
    x, y = (t.to(device_of(require(name))) for t in inputs)
    compiled = torch.compile(hsic, fullgraph=True, backend="aot_eager")
    actual = value_and_gradients(compiled, x, y, backend=name, **options)
    for key, expected in value_and_gradients(oracle, *(t.double() for t in inputs), **options).items():
        assert_matches(actual[key].cpu(), expected, key)


@every_backend
def test_no_features(name: str) -> None:
    device = device_of(require(name))
    x, y = torch.randn(5, 0, device=device), torch.randn(5, 3, device=device)
    actual = value_and_gradients(hsic, x, y, backend=name)
    assert actual["value"] == 0 and torch.equal(actual["grad_y"], torch.zeros_like(y))


@every_backend
def test_operators_keep_their_contracts(name: str) -> None:
    device = device_of(require(name))
    x, y = (t.to(device) for t in features(9, 4, 3))
    torch.library.opcheck(torch.ops.bdam.hsic_linear_forward.default, (x, y, True))
    value, saved = torch.ops.bdam.hsic_linear_forward(x, y, True)
    torch.library.opcheck(torch.ops.bdam.hsic_linear_backward.default, (value, saved, x, y, True))


def test_float64_has_no_kernel() -> None:
    x = torch.zeros(4, 2, dtype=torch.float64, device=device_of("cuda"))
    with pytest.raises(BackendUnavailable, match="cannot run this call"):
        hsic(x, x, backend="cuda")


def test_gaussian_kernels_have_none() -> None:
    x = torch.zeros(4, 2, device=device_of("cuda"))
    with pytest.raises(BackendUnavailable, match="cannot run this call"):
        hsic(x, x, kernel="rbf", backend="cuda")
