"""Builds CUDA kernels for the host: with primitives_host.h in place of the GPU's primitives."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sysconfig
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pybind11

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
KERNELS = ROOT / "csrc" / "cuda"
FOLDER = ROOT / "build" / "cuda_host"
SANITIZERS = ("-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g1")


def build(name: str, sources: Iterable[Path], *flags: str) -> Path:
    """Compiles a module from .cu files, unless it was built from the same before, and returns its path.

    Args:
        flags: for the compiler, besides the usual ones.
    """
    sources = sorted([*sources, HERE / "primitives_host.cpp"])
    headers = sorted([*KERNELS.glob("*.*h"), *HERE.glob("*.h"), *(ROOT / "csrc").glob("*.h")])
    text = "".join([*flags, *(path.read_text() for path in [*sources, *headers])])
    target = FOLDER / hashlib.sha256(text.encode()).hexdigest()[:16] / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    compiler = ["g++", "-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wno-unknown-pragmas", *flags]
    includes = [HERE, ROOT / "csrc", KERNELS, pybind11.get_include(), sysconfig.get_path("include")]

    def compile_one(source: Path) -> str:
        made = str(target.parent / f"{source.stem}.o")
        command = [*compiler, *(f"-I{path}" for path in includes), "-x", "c++", "-c", str(source), "-o", made]
        subprocess.run(command, check=True)
        return made

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources))
    linked = target.with_suffix(".partial")
    subprocess.run([*compiler, "-shared", *objects, "-o", str(linked)], check=True)
    return linked.rename(target)


def build_kernels(*flags: str) -> Path:
    return build("_cuda", KERNELS.glob("*.cu"), *flags)


def load(path: Path, name: str) -> ModuleType:
    """Imports a built module from where it was built."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
