"""The CUDA kernels as compiled: nothing spilled; without a GPU at hand, for every chip that the build names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cubins import cuobjdump, print_table, resources

import bdam_kernels

ARCHITECTURES = {"sm_80", "sm_90", "sm_100", "sm_120"}


def test_nothing_is_spilled(capsys: pytest.CaptureFixture[str]) -> None:
    modules = list(Path(bdam_kernels.__file__).parent.glob("_cuda*.so"))
    program = cuobjdump()
    if not modules or program is None:
        pytest.skip("the CUDA module was not built: nvcc was not found" if program else "cuobjdump was not found")
    found = resources(program, modules[0])
    with capsys.disabled():
        print_table("CUDA kernels", found)
    if not torch.cuda.is_available():
        assert {r.arch for r in found} == ARCHITECTURES
    assert not [r for r in found if r.stack]
