"""Installing without a compiler, with a strict build; what the built modules ask of a processor; imports."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import require

import bdam_kernels
from bdam_kernels.dispatch import INSTRUCTION_SETS

ROOT = Path(__file__).parents[1]
MODULES = Path(bdam_kernels.__file__).parent


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is needed to install, without anything built."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy)
    for name in ("csrc", "bdam_kernels", "bdam_reid"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return copy


def install(source: Path, target: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "install", "--verbose", "--no-deps", "--no-build-isolation"]
    return subprocess.run(
        [*command, "--target", str(target), str(source)],
        env={**os.environ, "CXX": "/bin/false", **environment},
        capture_output=True,
        text=True,
    )


def test_without_a_compiler_everything_runs_on_the_reference(source: Path, tmp_path: Path) -> None:
    result = install(source, tmp_path, BDAM_STRICT_BUILD="0")
    assert result.returncode == 0, result.stderr
    assert "the native kernels were not built" in result.stdout + result.stderr
    # An editable install of the checkout would lend its native modules to the copy.
    program = (
        "import sys; sys.meta_path = [f for f in sys.meta_path if 'Editable' not in repr(f)];"
        "import torch, bdam_kernels as k; assert 'cannot be loaded' in k.backends()['cpu'];"
        "x = torch.randn(2, 3, 4, requires_grad=True); w = torch.randn(3, 4);"
        "k.causal_conv1d(x, w).sum().backward(); k.Mamba(8)(torch.randn(2, 3, 8)).sum().backward();"
        "a, b = k.BidirectionalCrossAttention(8, 2)(torch.randn(2, 5, 8), torch.randn(2, 3, 8));"
        "print(k.hsic(a.flatten(0, 1)[:6], b.flatten(0, 1)).item())"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr

    assert not {"tests", "benchmarks", "csrc"} & {path.name for path in tmp_path.iterdir()}
    assert all((tmp_path / package / "py.typed").exists() for package in ("bdam_kernels", "bdam_reid"))


def test_strict_build_makes_a_failing_compiler_an_error(source: Path, tmp_path: Path) -> None:
    result = install(source, tmp_path, BDAM_STRICT_BUILD="1")
    assert result.returncode != 0
    assert "BDAM_STRICT_BUILD=1" in result.stdout + result.stderr


def test_strict_build_makes_a_missing_nvcc_an_error_if_a_chip_is_named(source: Path, tmp_path: Path) -> None:
    environment = {"CXX": os.environ.get("CXX", "g++"), "CUDACXX": "/bin/false", "BDAM_CUDA_ARCHITECTURES": "90"}
    result = install(source, tmp_path, BDAM_STRICT_BUILD="1", **environment)
    assert result.returncode != 0
    assert "nvcc was not found" in result.stdout + result.stderr


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="instruction sets of x86-64")
def test_every_instruction_set_compiles(tmp_path: Path) -> None:
    """An editable install leaves out what its processor has not: here the compiler reads that at least."""
    require("cpu")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    configure = ["cmake", "-S", str(ROOT / "csrc"), "-B", str(tmp_path), "-G", "Ninja", "-DBDAM_CUDA=OFF"]
    configure += ["-DCMAKE_EXPORT_COMPILE_COMMANDS=ON", f"-DPython_EXECUTABLE={sys.executable}"]
    subprocess.run(configure, env={**os.environ, "PATH": path}, check=True, capture_output=True)
    compiled = json.loads((tmp_path / "compile_commands.json").read_text())
    for isa in INSTRUCTION_SETS:
        if list(MODULES.glob(f"_cpu_{isa}.*.so")):
            continue
        commands = [c["command"] for c in compiled if f"_cpu_{isa}.dir" in c["command"]]
        assert commands
        for command in commands:
            read = subprocess.run(f"{command} -fsyntax-only", shell=True, cwd=tmp_path, capture_output=True, text=True)
            assert read.returncode == 0, read.stderr


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="instruction sets of x86-64")
@pytest.mark.parametrize(("isa", "forbidden"), [("baseline", "%ymm"), ("avx2", "%zmm")])
def test_modules_keep_to_their_instruction_set(isa: str, forbidden: str) -> None:
    """A wheel must start on a processor without the wider sets, whatever the machine that built it has."""
    require("cpu")
    (module,) = MODULES.glob(f"_cpu_{isa}.*.so")
    assembly = subprocess.run(["objdump", "-d", str(module)], capture_output=True, text=True, check=True).stdout
    assert "%xmm" in assembly
    assert forbidden not in assembly


@pytest.mark.parametrize("isa", ["baseline", "nonsense"])
def test_isa_can_be_forced(isa: str) -> None:
    require("cpu")
    program = "import bdam_kernels.dispatch as b; print(b.backends()['cpu'] or b.cpu_isa())"
    environment = {**os.environ, "BDAM_CPU_ISA": isa}
    printed = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert printed.startswith(isa if isa == "baseline" else "BDAM_CPU_ISA must be one of baseline")


def test_backend_of_a_whole_process() -> None:
    program = (
        "import torch, bdam_kernels as k\n"
        "x, w = torch.randn(1, 2, 3), torch.randn(2, 2)\n"
        "try: k.causal_conv1d(x, w)\n"
        "except k.BackendUnavailable as error: print(error)"
    )
    environment = {**os.environ, "BDAM_BACKEND": "cuda"}
    printed = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert printed.startswith("backend 'cuda' cannot run this call: ")


def test_main_names_every_backend() -> None:
    printed = subprocess.run([sys.executable, "-m", "bdam_kernels"], capture_output=True, text=True, check=True).stdout
    for name, reason in bdam_kernels.backends().items():
        assert name in printed and reason in printed
    assert "threads" in printed


def test_import_takes_nothing_heavy_along() -> None:
    program = "import sys, torch; before = set(sys.modules); import bdam_kernels; print(*set(sys.modules) - before)"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert {name.split(".")[0] for name in printed.split()} == {"bdam_kernels"}


@pytest.mark.parametrize(
    "command",
    [f"bdam_reid.{name}" for name in ("train", "evaluate", "captions", "data", "synthetic", "studies")],
)
def test_help_does_not_wait_for_torch(command: str) -> None:
    program = (
        "import runpy, sys; sys.argv[1:] = ['--help']\n"
        f"try: runpy.run_module({command!r}, run_name='__main__', alter_sys=True)\n"
        "finally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--help" in done.stdout and done.stdout.endswith("False\n")
