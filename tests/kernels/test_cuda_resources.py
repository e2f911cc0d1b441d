"""The CUDA kernels as compiled for a chip, whether one is at hand or not: they link, load, and spill nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cubins import CHIPS, cuobjdump, print_table, resources

ROOT = Path(__file__).parents[2]
LOAD = """
import importlib.util, sys, torch
spec = importlib.util.spec_from_file_location("_cuda", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.device)
"""


def build(chip: str) -> Path:
    """The CUDA module for a chip, as an install makes it, with what was compiled the last time."""
    folder = ROOT / "build" / chip
    commands = (
        ["-S", str(ROOT / "csrc"), "-B", str(folder), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
         f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={folder}", f"-DPython_EXECUTABLE={sys.executable}"],
        ["--build", str(folder), "--target", "_cuda"],
    )  # fmt: skip
    environment = {
        **os.environ,
        "BDAM_CUDA_ARCHITECTURES": f"{chip.removeprefix('sm_')}-real",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # CMake and Ninja of this environment
    }
    for command in commands:
        done = subprocess.run(["cmake", *command], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    (module,) = folder.glob("_cuda*.so")
    return module


@pytest.mark.parametrize("chip", CHIPS)
def test_nothing_is_spilled(chip: str, capsys: pytest.CaptureFixture[str]) -> None:
    program = cuobjdump()
    if shutil.which("nvcc") is None or program is None:
        pytest.skip("nvcc was not found" if program else "cuobjdump was not found")
    module = build(chip)
    loaded = subprocess.run([sys.executable, "-c", LOAD, str(module)], capture_output=True, text=True)
    assert loaded.stdout == "cuda\n", loaded.stderr
    found = resources(program, module)
    with capsys.disabled():
        print_table(f"CUDA kernels for {chip}", found)
    assert {r.arch for r in found} == {chip, "sm_90a"}  # the latter's kernels are Hopper's own
    assert not [r for r in found if r.stack]
