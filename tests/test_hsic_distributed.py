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

RANKS = 2
SPLIT = (9, 5)


def run_rank(rank: int, folder: str, inputs: dict[str, tuple[Tensor, Tensor]]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    torch.set_num_threads(1)
    group, results = dist.group.WORLD, {}
    for name, (x, y) in inputs.items():
        mine = tuple(t.split(SPLIT)[rank] for t in (x, y))
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


def test_process_group(tmp_path: Path) -> None:
    """Every rank has the loss of all rows, and of its gradient the rows that are its own."""
    inputs = {"centred": features(sum(SPLIT), 7, 5), "far": tuple(t + 1000 for t in features(sum(SPLIT), 7, 5))}
    mp.spawn(run_rank, (str(tmp_path), inputs), nprocs=RANKS)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(RANKS)]
    for (name, index), first in ranks[0].items():
        options = {} if index == "reference" else OPTIONS[index]
        if (name, index) == ("far", "reference"):
            continue  # the textbook form loses its accuracy far from the origin
        expected = value_and_gradients(oracle, *(t.double() for t in inputs[name]), **options)
        second = ranks[1][name, index]
        assert torch.equal(first["value"], second["value"])
        assert_matches(first["value"], expected["value"], f"{name} {options}: value")
        for key in ("grad_x", "grad_y"):
            assert_matches(torch.cat([first[key], second[key]]), expected[key], f"{name} {options}: {key}")
