"""hsic over a process group: the loss and gradients of the rows of all ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from helpers import assert_matches
from hsic_cases import OPTIONS, features, oracle, value_and_gradients
from torch import Tensor

from bdam_kernels import hsic

SPLITS = [(9, 5), (4, 1, 7, 2)]
"""Rows of each rank."""


def run_rank(rank: int, folder: str, split: tuple[int, ...], inputs: dict[str, tuple[Tensor, Tensor]]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=len(split))
    torch.set_num_threads(1)
    group, results = dist.group.WORLD, {}
    for name, (x, y) in inputs.items():
        mine = tuple(t.split(split)[rank] for t in (x, y))
        for index, options in enumerate(OPTIONS):
            results[name, index] = value_and_gradients(hsic, *mine, process_group=group, **options)
        results[name, "reference"] = value_and_gradients(hsic, *mine, process_group=group, backend="reference")
    x = mine[0].requires_grad_()
    with pytest.raises(RuntimeError, match="process_group has no second derivative"):
        torch.autograd.grad(hsic(x, mine[1], process_group=group), x, create_graph=True)
    with pytest.raises(ValueError, match="at least 2 rows, got 0"):
        hsic(x[:0], mine[1][:0], process_group=group)
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("split", SPLITS, ids=lambda s: f"{len(s)} processes")
def test_process_group(tmp_path: Path, split: tuple[int, ...]) -> None:
    """Every rank has the loss of all rows, and of its gradient the rows that are its own."""
    rows = sum(split)
    inputs = {"centred": features(rows, 7, 5), "far": tuple(t + 1000 for t in features(rows, 7, 5))}
    mp.spawn(run_rank, (str(tmp_path), split, inputs), nprocs=len(split))
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(len(split))]
    for (name, index), first in ranks[0].items():
        options = {} if index == "reference" else OPTIONS[index]
        if (name, index) == ("far", "reference"):
            continue  # the textbook form loses its accuracy far from the origin
        expected = value_and_gradients(oracle, *(t.double() for t in inputs[name]), **options)
        others = [rank[name, index] for rank in ranks]
        assert all(torch.equal(first["value"], other["value"]) for other in others)
        assert_matches(first["value"], expected["value"], f"{name} {options}: value")
        for key in ("grad_x", "grad_y"):
            assert_matches(torch.cat([other[key] for other in others]), expected[key], f"{name} {options}: {key}")
