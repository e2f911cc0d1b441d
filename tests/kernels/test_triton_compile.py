"""Triton kernels that calls may choose, compiled ahead of time for a chip: nothing spilled, and they fit."""

from __future__ import annotations

import importlib
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from cubins import CHIPS, Resources, cuobjdump, print_table, resources

LAUNCHES = {
    "selective_scan": "selective_scan.triton_launches",
    "causal_conv1d": "causal_conv1d.triton_launches",
    "steps": "steps.triton_kernels",
    "cross_attention": "cross_attention.triton_launches",
}
SHARED_MEMORY = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024}
"""Bytes of shared memory that a block may have."""
TESTED = [chip for chip in CHIPS if chip in SHARED_MEMORY]


def _launches(op: str) -> list:
    """All but float16's, which are bfloat16's but for the type, and would take a third of the time."""
    variants = importlib.import_module(f"bdam_kernels.ops.{LAUNCHES[op]}").variants()
    return [launch for launch in variants if "*fp16" not in launch.signature().values()]


def _compile(op: str, index: int, arch: str, folder: Path) -> tuple[Resources, int]:
    """What a variant needs of a chip, and its dynamic shared memory."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    launch = _launches(op)[index]
    capability = int(arch.removeprefix("sm_"))
    source = ASTSource(launch.kernel, launch.signature(), launch.constants_on(capability))
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options=launch.options())
    cubin = folder / f"{op}_{index}_{arch}.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    (found,) = resources(cuobjdump(), cubin)
    return found, compiled.metadata.shared


@pytest.fixture(scope="module")
def workers() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.mark.parametrize("op", LAUNCHES)
def test_nothing_is_spilled(
    op: str, workers: ProcessPoolExecutor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("triton")
    if importlib.import_module("bdam_kernels.ops.triton_common").INTERPRETED:
        pytest.skip("Triton's interpreter is on, whose kernels cannot be compiled")
    jobs = [(op, index, arch, tmp_path) for arch in TESTED for index in range(len(_launches(op)))]
    found = list(workers.map(_compile, *zip(*jobs, strict=True), chunksize=4))
    with capsys.disabled():
        print_table(f"Triton kernels of {op}", [r for r, _ in found])
    assert not [r for r, _ in found if r.stack]
    assert all(shared <= SHARED_MEMORY[arch] for (_, shared), (_, _, arch, _) in zip(found, jobs, strict=True))
