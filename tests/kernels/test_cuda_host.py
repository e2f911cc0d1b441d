"""The host's stand-ins for GPU primitives report what is wrong with a kernel, and only that."""

from __future__ import annotations

from types import ModuleType

import pytest
from cuda_host import build


@pytest.fixture(scope="module")
def faults() -> ModuleType:
    return build.load(build.build("_faults", [build.HERE / "faults.cu"]), "_faults")


@pytest.mark.parametrize("kernel", ["none", "none_on_tensor_cores", "none_of_a_group", "grid_barriers"])
def test_a_kernel_without_fault_passes(faults: ModuleType, kernel: str) -> None:
    faults.run(kernel)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("divergent_barrier", "divergence: thread 0 waits at the barrier of line .*, thread 40 has ended"),
        ("different_barriers", "divergence: thread 0 waits at the barrier .*, thread 1 waits at the barrier"),
        ("divergent_shuffle", "divergence: thread 0 waits at the shuffle .*, thread 3 has ended"),
        ("divergent_product", "divergence: thread 0 waits at the warp's instruction .*, thread 3 has ended"),
        ("different_matrices", "divergence: thread 0 waits at the warp's instruction .*, thread 1 waits at the warp's"),
        ("product_not_shown", "race: a product reads what was not shown to products"),
        ("misaligned_product", "misaligned: rows of a product at float 32"),
        ("divergent_group", "divergence: threads of a group wait for different products"),
        ("product_overwritten", "race: a product reads what was not shown to products"),
        ("copy_not_awaited", "race: it touches float 0 of shared memory, to which thread 0 has a copy under way"),
        ("copy_after_read", "race: it writes float 0 of shared memory, which thread .* read"),
        ("divergent_blocks", "divergence: block 0 waits at the barrier of the grid .*, block 1 has ended"),
        ("grid_barrier_alone", "a barrier of the grid in a kernel that was not started by launch_together"),
        ("out_of_bounds", "out of bounds: float 63 of a shared array of 63"),
        ("uninitialised", "uninitialised: float 7 of a shared array is read"),
        ("misaligned", "misaligned: 4 floats at 2"),
        ("read_after_write", "race: it reads float 32 of shared memory, which thread 32 wrote"),
        ("shuffle_for_barrier", "race: it reads float 1 of shared memory, which thread 1 wrote"),
        ("write_after_read", "race: it writes float 0 of shared memory, which thread .* read"),
        ("write_after_write", "race: it writes float 0 of shared memory, which thread 0 wrote"),
    ],
)
def test_a_fault_is_reported(faults: ModuleType, fault: str, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        faults.run(fault)
    faults.run("none")  # and leaves nothing behind
