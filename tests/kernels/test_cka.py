"""cka_matrix: every pair against the definition in float64; over batches; drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import assert_matches
from hsic_cases import ESTIMATORS, features, oracle
from PIL import Image
from torch import Tensor

from bdam_kernels import MinibatchCKA, cka_matrix, draw_cka
from bdam_kernels.ops.hsic import cka

every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)
# Few samples of wide layers take Gram matrices, more of narrow ones x^T y.
every_form = pytest.mark.parametrize(
    ("n", "widths"), [(12, (40, 30, 25, 60)), (50, (3, 4, 5, 6))], ids=["wide", "narrow"]
)


def layers(n: int, widths: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], list[Tensor]]:
    a, b, c, d = widths
    pairs = [features(n, a, b, dtype), features(n, c, d, dtype)]
    return [pairs[0][0], pairs[1][0], pairs[0][1]], [pairs[0][1], pairs[1][1]]


def expected_matrix(xs: list[Tensor], ys: list[Tensor], estimator: str) -> Tensor:
    return torch.stack([torch.stack([oracle(x, y, "linear", estimator, True) for y in ys]) for x in xs])


@every_form
@every_estimator
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_matches_the_definition(n: int, widths: tuple, estimator: str, dtype: torch.dtype) -> None:
    xs, ys = layers(n, widths, dtype)
    actual = cka_matrix(xs, ys, estimator=estimator)
    assert actual.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_matches(actual, expected_matrix(xs, ys, estimator), "matrix", dtype=dtype)


@every_estimator
@pytest.mark.parametrize("stripe", [1, 100, 2**22])
def test_stripes(monkeypatch: pytest.MonkeyPatch, estimator: str, stripe: int) -> None:
    monkeypatch.setattr(cka, "_STRIPE", stripe)
    xs, ys = layers(12, (40, 30, 25, 60))
    assert_matches(cka_matrix(xs, ys, estimator=estimator), expected_matrix(xs, ys, estimator), "matrix")


@every_form
@every_estimator
def test_gradients(n: int, widths: tuple, estimator: str) -> None:
    xs, ys = layers(n, widths, torch.float64)
    leaves = [t.requires_grad_() for t in (xs[0], ys[0], ys[1])]
    xs, ys = leaves[:1], leaves[1:]
    weights = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    actual = torch.autograd.grad((cka_matrix(xs, ys, estimator=estimator) * weights).sum(), leaves)
    expected = torch.autograd.grad((expected_matrix(xs, ys, estimator) * weights).sum(), leaves)
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert_matches(a, e, f"gradient of leaf {i}")


@every_form
@every_estimator
def test_constant_layers(n: int, widths: tuple, estimator: str) -> None:
    xs, ys = layers(n, widths)
    xs[1] = torch.full_like(xs[1], 0.1).requires_grad_()
    actual = cka_matrix(xs, ys, estimator=estimator)
    assert torch.equal(actual[1], torch.zeros(2))
    assert torch.equal(torch.autograd.grad(actual.sum(), xs[1])[0], torch.zeros_like(xs[1]))


def test_a_layer_is_aligned_with_itself_scaled() -> None:
    x = torch.randn(30, 8)
    assert_matches(cka_matrix([x], [x, -3 * x + 100])[0], torch.ones(2, dtype=torch.float64), "matrix")


def test_batches_are_averaged_before_the_ratio() -> None:
    batches = [layers(n, (5, 7, 3, 4)) for n in (20, 20, 9)]
    accumulator = MinibatchCKA()
    for xs, ys in batches:
        accumulator.update(xs, ys)

    def mean(i: int, j: int, first: int, second: int) -> Tensor:
        return torch.stack([oracle(b[first][i], b[second][j], "linear", "unbiased") for b in batches]).mean()

    expected = torch.stack([
        torch.stack([mean(i, j, 0, 1) / (mean(i, i, 0, 0) * mean(j, j, 1, 1)).sqrt() for j in range(2)])
        for i in range(3)
    ])  # fmt: skip
    assert_matches(accumulator.compute(), expected, "matrix")


def test_batches_converge_to_the_whole() -> None:
    x, y = features(4096, 5, 7)
    accumulator = MinibatchCKA()
    batches = [([a], [b]) for a, b in zip(x.split(64), y.split(64), strict=True)]
    for a, b in batches:
        accumulator.update(a, b)
    # The mean of 64 independent batches differs from the whole by a tenth of what one of them does.
    whole = cka_matrix([x], [y], estimator="unbiased")
    single = torch.stack([cka_matrix(a, b, estimator="unbiased") for a, b in batches])
    assert (accumulator.compute() - whole).abs() < 0.5 * (single - whole).abs().max()


def test_no_batch_and_other_layers() -> None:
    accumulator = MinibatchCKA()
    with pytest.raises(RuntimeError, match="no batch was taken in"):
        accumulator.compute()
    x = torch.randn(5, 2)
    accumulator.update([x], [x])
    with pytest.raises(ValueError, match=r"layers of the first one, \(1, 1\), got \(1, 2\)"):
        accumulator.update([x], [x, x])


@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_heat_map(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"map.{suffix}"
    draw_cka(torch.rand(3, 5), path, names_x=list("abc"))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    if suffix == "png":
        with Image.open(path) as image:
            assert image.width > image.height > 100
    with pytest.raises(ValueError, match="names_y must be 5 names, one a layer, got 1"):
        draw_cka(torch.rand(3, 5), path, names_y=["a"])
    with pytest.raises(ValueError, match=r"matrix must be .*, got \(3,\)"):
        draw_cka(torch.rand(3), path)


@pytest.mark.parametrize(
    ("error", "message", "xs", "ys", "estimator"),
    [
        (ValueError, "both lists must have a layer at least, got 0 and 1", [], [(3, 2)], "biased"),
        (ValueError, r"list_y\[1\] must be .* N = 3 .*, got \(4, 2\)", [(3, 2)], [(3, 2), (4, 2)], "biased"),
        (ValueError, r"list_x\[0\] must be \(N, D\) .*, got \(3, 2, 2\)", [(3, 2, 2)], [(3, 2)], "biased"),
        (ValueError, "at least 2 rows are needed, got 1", [(1, 2)], [(1, 2)], "biased"),
        (ValueError, "at least 4 rows are needed, got 3", [(3, 2)], [(3, 2)], "unbiased"),
        (ValueError, "estimator must be .*, got 'best'", [(3, 2)], [(3, 2)], "best"),
    ],
)  # fmt: skip
def test_bad_arguments(error: type, message: str, xs: list, ys: list, estimator: str) -> None:
    with pytest.raises(error, match=message):
        cka_matrix([torch.zeros(s) for s in xs], [torch.zeros(s) for s in ys], estimator=estimator)


def test_bad_dtype() -> None:
    with pytest.raises(TypeError, match=r"list_y\[0\] must be floating point, got torch.int64"):
        cka_matrix([torch.zeros(3, 2)], [torch.zeros(3, 2, dtype=torch.int64)])
