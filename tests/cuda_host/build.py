"""Builds CUDA kernels for the host: with primitives_host.h in place of the GPU's primitives."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
KERNELS = ROOT / "csrc" / "cuda"
FOLDER = ROOT / "build" / "cuda_host"
SANITIZERS = ("-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g1")


def build(name: str, sources: Iterable[Path], *flags: str) -> Path:
    """Compiles a module, but for what was compiled from the same before, and returns its path.

    Args:
        flags: for the compiler, besides the usual ones.
    """
    headers = sorted([*KERNELS.glob("*.*h"), *HERE.glob("*.h"), *(ROOT / "csrc").glob("*.h")])
    shared = "".join([*flags, *(path.read_text() for path in headers)])
    language = ["-std=c++17", "-DBDAM_CUDA_HOST", "-Wall", "-Wno-unknown-pragmas"]
    compiler = ["g++", *language, "-O1", "-fPIC", "-fvisibility=hidden", *flags]
    includes = [HERE, ROOT / "csrc", KERNELS, sysconfig.get_path("include")]

    def compile_one(source: Path) -> Path:
        made = _place(shared + source.read_text(), f"{source.stem}.o")
        command = [*compiler, *(f"-I{path}" for path in includes), "-x", "c++", "-c", str(source)]
        return made if made.exists() else _run([*command, "-o"], made)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sorted([*sources, HERE / "primitives_host.cpp"])))
    target = _place("".join(map(str, objects)), f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}")
    return target if target.exists() else _run([*compiler, "-shared", *map(str, objects), "-o"], target)


def _place(contents: str, name: str) -> Path:
    """Where a file lies that was made of something."""
    return FOLDER / hashlib.sha256(contents.encode()).hexdigest()[:16] / name


def _run(command: list[str], made: Path) -> Path:
    """Runs a command that writes the file it is told last; a killed one leaves nothing that looks whole."""
    made.parent.mkdir(parents=True, exist_ok=True)
    partial = made.with_name(f"{made.name}.{os.getpid()}")
    subprocess.run([*command, str(partial)], check=True)
    return partial.rename(made)


def build_kernels(*flags: str) -> Path:
    return build("_cuda", [*KERNELS.glob("*.cu"), KERNELS / "bindings.cpp"], *flags)


def load(path: Path, name: str) -> ModuleType:
    """Imports a built module from where it was built."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stands_in_for_a_gpu() -> bool:
    """Whether BDAM_CUDA_HOST asks for the kernels on this processor."""
    return bool(os.environ.get("BDAM_CUDA_HOST"))


def stand_in_for_a_gpu() -> None:
    """Where BDAM_CUDA_HOST is set, the kernels built for this processor become the backend "cuda" of CPU tensors;
    "sanitized" builds them with sanitizers. To be called before bdam_kernels is imported."""
    if stands_in_for_a_gpu() and "bdam_kernels._cuda" not in sys.modules:
        flags = SANITIZERS if os.environ["BDAM_CUDA_HOST"] == "sanitized" else ()
        sys.modules["bdam_kernels._cuda"] = load(build_kernels(*flags), "bdam_kernels._cuda")
