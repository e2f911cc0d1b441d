"""Which combinations of parameters a test runs on a backend: all of them, or fewer in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations, product
from typing import Any

import pytest
from helpers import device_of


def pairwise(*axes: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Combinations, few, in one of which every two values of different axes meet."""
    found = []
    rest = list(product(*(range(len(axis)) for axis in axes)))
    unmet = {pair for case in rest for pair in _pairs(case)}
    while unmet:
        best = max(rest, key=lambda case: len(unmet & _pairs(case)))
        unmet -= _pairs(best)
        found.append(tuple(axis[i] for axis, i in zip(axes, best, strict=True)))
    return found


def _pairs(case: tuple[int, ...]) -> set[tuple[tuple[int, int], ...]]:
    return set(combinations(enumerate(case), min(2, len(case))))


def every(
    backends: Iterable[str], *, in_interpreter: dict[str, Sequence[Any]] | None = None, **axes: Sequence[Any]
) -> pytest.MarkDecorator:
    """Parametrises a test with each backend and every combination of the axes.

    Triton's interpreter, which takes seconds for a call, has every pair of values, of the axes in `in_interpreter`.
    """
    few = pairwise(*(axes | (in_interpreter or {})).values())
    return pytest.mark.parametrize(
        ("backend", *axes),
        [
            (backend, *values)
            for backend in backends
            for values in (few if is_interpreted(backend) else product(*axes.values()))
        ],
        ids=lambda value: getattr(value, "__name__", str(value)).removeprefix("torch."),
    )


def fewer(backend: str, number: int) -> int:
    """So many batches or heads; in Triton's interpreter, which takes as long for each, one. That kernels tell several
    apart show tests of strides, masks and optional arguments."""
    return 1 if is_interpreted(backend) else number


def is_interpreted(backend: str) -> bool:
    return backend == "triton" and device_of(backend).type == "cpu"
