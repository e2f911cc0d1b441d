"""What compiled GPU kernels need of a chip, read from their binaries."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

CHIPS = os.environ.get("BDAM_CHIPS", "sm_90").split()
"""The chips to compile for: one in every run of the tests, all of them in `make test-chips`."""


class Resources(NamedTuple):
    kernel: str
    arch: str
    registers: int
    stack: int
    """Bytes of local memory a thread: spilled registers, or arrays that are indexed at run time."""
    shared: int
    """Bytes of static shared memory a block."""


def cuobjdump() -> str | None:
    """The CUDA toolkit's program that reads binaries, or the one that Triton's wheel carries."""
    try:
        import triton
    except ImportError:
        return shutil.which("cuobjdump")
    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump")


def resources(program: str, binary: Path) -> list[Resources]:
    """Of every kernel in a cubin, object file or library, for every architecture in it."""
    printed = subprocess.run(
        [program, "--dump-resource-usage", str(binary)], capture_output=True, text=True, check=True
    ).stdout
    found = []
    arch, kernel = "", ""
    for line in printed.splitlines():
        if match := re.search(r"arch = (sm_\w+)", line):
            arch = match[1]
        elif match := re.search(r"Function (\S+):", line):
            kernel = match[1]
        elif match := re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            registers, stack, shared, local = map(int, match.groups())
            found.append(Resources(kernel, arch, registers, stack + local, shared))
    return found


def print_table(title: str, found: list[Resources]) -> None:
    """A line for every kernel: its variants, and over them and the architectures the most that one needs."""
    print(f"\n{title}: of how many binaries, and the most registers, stack and static shared memory (bytes) of one")
    for name in sorted({short_name(r.kernel) for r in found}):
        of_kernel = [r for r in found if short_name(r.kernel) == name]
        registers, stack, shared = (max(getattr(r, f) for r in of_kernel) for f in ("registers", "stack", "shared"))
        print(f"  {name:40} {len(of_kernel):4} {registers:6} {stack:6} {shared:8}")


def short_name(kernel: str) -> str:
    """A kernel's name in the source: C++ compilers mangle it, Triton does not."""
    return re.findall(r"[a-z_]+_kernel", kernel)[-1] if kernel.startswith("_ZN") else kernel
