"""hsic: value and gradients against the definitions in float64, of both kernels, on the CPU."""

from __future__ import annotations

import inspect
import itertools
import math
from typing import Any

import pytest
import torch
from combinations import pairwise
from helpers import assert_matches, require
from hsic_cases import (
    ESTIMATORS,
    KERNELS,
    OPTIONS,
    SHAPES,
    check,
    every_option,
    every_shape,
    features,
    gram,
    oracle,
    value_and_gradients,
)
from torch import Tensor

from bdam_kernels import BackendUnavailable, dispatch, hsic
from bdam_kernels.ops.hsic import reference

BACKENDS = ("reference", "cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", BACKENDS)
@every_shape
@every_option
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_matches_the_definition(name: str, dtype: torch.dtype, options: dict, shape: tuple) -> None:
    check(*features(*shape, dtype), require(name), **options)


@pytest.mark.parametrize("width", [1, 15, 16, 47, 49, 97, 400])
@pytest.mark.parametrize("rows", [2, 3, 5, 16, 25, 51])
def test_sizes_of_the_linear_kernels(rows: int, width: int) -> None:
    check(*features(rows, width, max(1, width - 3)), require("cpu"))


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("widths", [(3, 2), (20, 30)], ids=str)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("rows", "estimator"), [(2, "biased"), (4, "unbiased")])
def test_fewest_rows(name: str, rows: int, widths: tuple, kernel: str, estimator: str) -> None:
    check(*features(rows, *widths), require(name), kernel=kernel, estimator=estimator)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_any_number_of_threads(threads: int) -> None:
    torch.set_num_threads(threads)
    check(*features(30, 700, 300), require("cpu"))


@pytest.mark.parametrize("kernel", KERNELS)
def test_unbiased_is_the_mean_over_distinct_samples(kernel: str) -> None:
    x, y = features(6, 3, 2, torch.float64)
    K, L = gram(x, kernel, 1.5), gram(y, kernel, 0.7)
    terms = [K[i, j] * (L[i, j] + L[q, r] - 2 * L[i, q]) for i, j, q, r in itertools.permutations(range(6), 4)]
    sigma = None if kernel == "linear" else (1.5, 0.7)
    actual = hsic(x, y, kernel=kernel, sigma=sigma, estimator="unbiased")
    assert_matches(actual, torch.stack(terms).mean(), "value")


@pytest.mark.parametrize("shape", [(5, 8, 9), (7, 2, 3)], ids=str)
@every_option
def test_first_and_second_derivatives(options: dict, shape: tuple) -> None:
    x, y = (t.requires_grad_() for t in features(*shape, torch.float64))
    sigma = (1.2, 0.9) if options["kernel"] == "rbf" else None

    def function(x: Tensor, y: Tensor) -> Tensor:
        return hsic(x, y, sigma=sigma, **options)

    assert torch.autograd.gradcheck(function, (x, y), fast_mode=True)
    assert torch.autograd.gradgradcheck(function, (x, y), fast_mode=True)


@every_shape
@every_option
def test_derivatives_up_to_the_third(options: dict, shape: tuple) -> None:
    """With a gradient of the value that does not require one itself, as loss.backward(create_graph=True) has it."""
    sigma = (2.0, 3.0) if options["kernel"] == "rbf" else None

    def derivatives(function: Any, x: Tensor, y: Tensor) -> list[Tensor]:
        value, found = function(x, y, sigma=sigma, **options), []
        for _ in range(3):
            gradients = torch.autograd.grad(value, (x, y), create_graph=True)
            found.extend(g.detach() for g in gradients)
            value = sum(g.square().sum() for g in gradients)
        return found

    x, y = (t.requires_grad_() for t in features(*shape, torch.float64))
    for i, (actual, expected) in enumerate(zip(derivatives(hsic, x, y), derivatives(oracle, x, y), strict=True)):
        # Rounding errors grow with the order; float32's bound is enough to tell a wrong formula.
        assert_matches(actual, expected, f"derivative {i // 2 + 1}", dtype=torch.float32)


@every_option
def test_second_derivative_in_single_precision(options: dict) -> None:
    inputs = features(12, 40, 30)
    directions = [torch.randn(t.shape) for t in inputs]

    def product(function: Any, dtype: torch.dtype) -> tuple[Tensor, ...]:
        x, y = (t.to(dtype).requires_grad_() for t in inputs)
        gradients = torch.autograd.grad(function(x, y, **options), (x, y), create_graph=True)
        along = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
        return torch.autograd.grad(along, (x, y))

    for actual, expected in zip(product(hsic, torch.float32), product(oracle, torch.float64), strict=True):
        assert_matches(actual, expected, "Hessian times direction")


@every_shape
@pytest.mark.parametrize("wanted", ["x", "y"])
@every_option
def test_gradient_of_one_input(options: dict, wanted: str, shape: tuple) -> None:
    x, y = features(*shape)
    both = value_and_gradients(hsic, x, y, **options)[f"grad_{wanted}"]
    leaf = (x if wanted == "x" else y).requires_grad_()
    hsic(x, y, **options).backward()
    assert_matches(leaf.grad / 1, both.double() / 1.5, "gradient")


@every_shape
@every_option
def test_the_same_tensor_twice(options: dict, shape: tuple) -> None:
    x = features(*shape)[0].requires_grad_()
    (actual,) = torch.autograd.grad(hsic(x, x, **{**options, "normalize": False}), x)
    double = x.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(oracle(double, double, **{**options, "normalize": False}), double)
    assert_matches(actual, expected, "gradient")


@every_shape
@every_option
def test_strides(options: dict, shape: tuple) -> None:
    x, y = features(*shape)
    expected = value_and_gradients(hsic, x, y, **options)
    layouts = {
        "transposed": (x.T.contiguous().T, y.T.contiguous().T),
        "columns of a wider matrix": (torch.cat([x, x], 1)[:, : shape[1]], torch.cat([y, y], 1)[:, : shape[2]]),
        "every other row and column": (
            x.repeat_interleave(2, 0).repeat_interleave(2, 1)[::2, ::2],
            y.repeat_interleave(2, 0).repeat_interleave(2, 1)[::2, ::2],
        ),
    }
    for name, (a, b) in layouts.items():
        for key, value in value_and_gradients(hsic, a, b, **options).items():
            assert_matches(value, expected[key].double(), f"{name}: {key}")


@pytest.mark.parametrize("name", BACKENDS)
def test_mixed_dtypes_take_the_wider(name: str) -> None:
    x, y = features(12, 40, 30)
    assert hsic(x.half(), y.bfloat16(), backend=require(name)).dtype == torch.float32
    mixed = hsic(x, y.double(), backend=name)
    assert mixed.dtype == torch.float64
    assert_matches(mixed, oracle(x, y), "value")


@every_shape
@every_option
def test_autocast_has_no_say(options: dict, shape: tuple) -> None:
    x, y = features(*shape)
    expected = value_and_gradients(hsic, x, y, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = value_and_gradients(hsic, x, y, **options)
    for key, value in actual.items():
        assert torch.equal(value, expected[key]), key


@every_shape
@every_option
def test_determinism(options: dict, shape: tuple) -> None:
    x, y = features(*shape)
    first, second = (value_and_gradients(hsic, x, y, **options) for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("offset", [100.0, -3000.0])
@every_shape
@every_option
def test_a_common_offset_costs_no_accuracy(options: dict, shape: tuple, offset: float) -> None:
    check(*(t + offset for t in features(*shape)), None, **options)


@every_shape
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_constant_features(kernel: str, estimator: str, shape: tuple) -> None:
    x, y = features(*shape)
    constant = torch.full_like(x, 0.1)
    for normalize in (False, True):
        actual = value_and_gradients(hsic, constant, y, kernel=kernel, estimator=estimator, normalize=normalize)
        assert actual["value"] == 0
        assert torch.equal(actual["grad_x"], torch.zeros_like(x))
        assert torch.equal(actual["grad_y"], torch.zeros_like(y))


@every_shape
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_alignment_of_features_too_large_for_float32_shows(estimator: str, shape: tuple) -> None:
    x, y = features(*shape)
    assert hsic(1e11 * x, y, estimator=estimator, normalize=True).isnan()


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@every_shape
@every_option
def test_values_that_are_not_finite_show(name: str, options: dict, bad: float, shape: tuple) -> None:
    x, y = features(*shape)
    x[1, 0] = bad
    actual = value_and_gradients(hsic, x, y, backend=require(name), **options)
    assert not actual["value"].isfinite() and not actual["grad_x"].isfinite().all()


@pytest.mark.parametrize("options", OPTIONS[::2], ids=str)
def test_no_features(options: dict) -> None:
    actual = value_and_gradients(hsic, torch.randn(5, 0), torch.randn(5, 3), **options)
    assert actual["value"] == 0 and torch.equal(actual["grad_y"], torch.zeros(5, 3))


@pytest.mark.parametrize(
    ("error", "message", "x", "y", "options"),
    [
        (ValueError, r"x must be \(N, D\), got \(3,\)", (3,), (3, 2), {}),
        (ValueError, r"y must be \(N, D\), got \(3, 2, 1\)", (3, 2), (3, 2, 1), {}),
        (ValueError, "one row for each sample, got 3 and 4", (3, 2), (4, 2), {}),
        (ValueError, "at least 2 rows, got 1", (1, 2), (1, 2), {}),
        (ValueError, "at least 2 rows, got 0", (0, 2), (0, 2), {"kernel": "rbf"}),
        (ValueError, "at least 4 rows, got 3", (3, 2), (3, 2), {"estimator": "unbiased"}),
        (ValueError, "kernel must be .*, got 'poly'", (3, 2), (3, 2), {"kernel": "poly"}),
        (ValueError, "estimator must be .*, got 'best'", (3, 2), (3, 2), {"estimator": "best"}),
        (ValueError, "sigma .* got 0", (3, 2), (3, 2), {"kernel": "rbf", "sigma": 0}),
        (ValueError, "sigma .* got -1.0", (3, 2), (3, 2), {"kernel": "rbf", "sigma": -1.0}),
        (ValueError, "sigma .* got nan", (3, 2), (3, 2), {"kernel": "rbf", "sigma": math.nan}),
        (ValueError, "sigma .* got 'wide'", (3, 2), (3, 2), {"kernel": "rbf", "sigma": "wide"}),
        (ValueError, r"sigma .* got \(1.0, 2.0, 3.0\)", (3, 2), (3, 2), {"kernel": "rbf", "sigma": (1.0, 2.0, 3.0)}),
        (ValueError, "sigma .* None for kernel 'linear', got 1.0", (3, 2), (3, 2), {"sigma": 1.0}),
        (ValueError, "backend must be one of .*, got 'fpga'", (3, 2), (3, 2), {"backend": "fpga"}),
    ],
)
def test_bad_arguments(error: type, message: str, x: tuple, y: tuple, options: dict) -> None:
    with pytest.raises(error, match=message):
        hsic(torch.zeros(x), torch.zeros(y), **options)


def test_bad_dtypes_and_devices() -> None:
    with pytest.raises(TypeError, match=r"y must be floating point, got torch.int64"):
        hsic(torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="y must be on cpu like x, got meta"):
        hsic(torch.zeros(3, 2), torch.zeros(3, 2, device="meta"))


def test_closed_forms_need_no_native_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(dispatch._REASONS, "cpu", "it was not built")
    monkeypatch.setattr(dispatch, "_best", inspect.unwrap(dispatch._best))
    monkeypatch.delattr(reference, "linear_hsic")
    check(*features(12, 40, 30), None)
    with pytest.raises(BackendUnavailable, match="it was not built"):
        hsic(*features(12, 40, 30), backend="cpu")


@every_shape
@every_option
def test_meta_tensors(options: dict, shape: tuple) -> None:
    x, y = (t.to("meta").requires_grad_() for t in features(*shape))
    value = hsic(x, y, **options)
    value.backward()
    assert value.shape == () and value.dtype == torch.float32 and x.grad.shape == x.shape


def test_operators_keep_their_contracts() -> None:
    require("cpu")
    x, y = features(12, 40, 30)
    torch.library.opcheck(torch.ops.bdam.hsic_forward.default, (x, y))
    weights = torch.randn(2, 12, 12)
    torch.library.opcheck(torch.ops.bdam.hsic_backward.default, (torch.tensor(0.5), *weights, x, y, 0.1))
    kernels, terms = torch.tensor([[1.0, -0.5, 0.6]] * 2), torch.randn(2, 12)
    torch.library.opcheck(torch.ops.bdam.hsic_gaussian_forward.default, (x, y, kernels))
    arguments = (x, y, kernels, torch.randn(2, 2), terms)
    torch.library.opcheck(torch.ops.bdam.hsic_gaussian_backward.default, arguments)


@pytest.mark.parametrize(
    ("kernel", "estimator", "normalize", "shape"), pairwise(KERNELS, ESTIMATORS, (False, True), SHAPES), ids=str
)
def test_compile(kernel: str, estimator: str, normalize: bool, shape: tuple) -> None:
    torch._dynamo.reset()
    options = {"kernel": kernel, "estimator": estimator, "normalize": normalize}
    x, y = features(*shape)
    compiled = torch.compile(hsic, fullgraph=True, backend="aot_eager")
    actual = value_and_gradients(compiled, x, y, **options)
    for key, expected in value_and_gradients(oracle, x.double(), y.double(), **options).items():
        assert_matches(actual[key], expected, key)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@every_shape
@every_option
def test_function_transforms(options: dict, shape: tuple) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        return hsic(x, y, **options)

    pairs = [features(*shape) for _ in range(3)]
    xs, ys = (torch.stack(t) for t in zip(*pairs, strict=True))
    grads = torch.func.vmap(torch.func.grad(function, argnums=(0, 1)))(xs, ys)
    for i, (x, y) in enumerate(pairs):
        expected = value_and_gradients(oracle, x.double(), y.double(), **options)
        for key, grad in zip(("grad_x", "grad_y"), grads, strict=True):
            assert_matches(1.5 * grad[i], expected[key], key)
