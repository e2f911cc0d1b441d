"""What a figure was taken on, without the names of the host or of its user."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bdam_kernels import dispatch

PACKAGES = ("torch", "triton", "mamba-ssm", "causal-conv1d", "mambapy", "ggml-python", "transformers", "pykeops")


def describe() -> dict[str, Any]:
    """Device, instruction set, threads and versions: figures of two files with the same description compare."""
    runs = not dispatch.backends()["cpu"]
    cpu = {"instruction_set": dispatch.cpu_isa() if runs else None, "threads": torch.get_num_threads()}
    software = {
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in PACKAGES if _version(package)},
    }
    if not torch.cuda.is_available():
        return {"device": _processor(), **cpu, **software}
    fields = "clocks.max.sm,clocks.max.mem,driver_version"
    query = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True).stdout.strip().split("\n")[0].split(", ")
    clocks = dict(zip(fields.split(","), found, strict=False))
    name = torch.cuda.get_device_name()
    return {"device": name, "cuda": torch.version.cuda, **clocks, "processor": _processor(), **cpu, **software}


def file_name() -> str:
    """The name of this machine's results file: the device and, of processors, whose names say little, the instruction
    set and the cores in use."""
    here = describe()
    name = here["device"]
    if not torch.cuda.is_available():
        name += f" {here['instruction_set']} {here['threads']} cores"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") + ".json"


def contradictions(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What two descriptions say differently; a package that only one of them has is no contradiction."""
    a, b = ({**description, **description.get("versions", {})} for description in (one, other))
    shared = (a.keys() & b.keys()) - {"versions", "results"}
    return {key: (a[key], b[key]) for key in sorted(shared) if a[key] != b[key]}


def commit() -> str:
    """The commit of the source tree, with -dirty where files differ from it; BDAM_COMMIT where that says it, for trees
    that were copied without their history."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip()
    except FileNotFoundError:
        found = ""
    return os.environ.get("BDAM_COMMIT") or found or "unknown"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            return re.sub(r"\((R|TM)\)", "", line.split(":", 1)[1]).strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    print(file_name())
