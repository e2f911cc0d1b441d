"""Build of the native modules: CMake and Ninja over csrc/, once per instruction set, and CUDA where nvcc exists.

Without a working compiler the package installs without native modules and runs on the reference backend.
BDAM_STRICT_BUILD=1 makes a failed build an error, and a CUDA module that is missing although it was asked for: by
BDAM_CUDA_ARCHITECTURES, which names chips as CMake does, or by a GPU at hand.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
# Kept between installs, so that the next one compiles only what has changed.
BUILD = ROOT / "build" / f"cmake-{sysconfig.get_platform()}-{sysconfig.get_config_var('SOABI')}"


def cuda_is_useless() -> bool:
    """Whether torch is installed and cannot load a CUDA module; read from a file, since build isolation hides torch."""
    version = Path(sysconfig.get_path("purelib"), "torch", "version.py")
    return version.exists() and re.search(r"^cuda\b.*= None$", version.read_text(), re.MULTILINE) is not None


class CMakeBuild(build_ext):
    """Builds every module of csrc/CMakeLists.txt: into the source tree for an editable install, else for a wheel."""

    def package_dir(self) -> Path:
        return (ROOT if self.inplace else Path(self.build_lib).resolve()) / "bdam_kernels"

    def run(self) -> None:
        with_cuda = "BDAM_CUDA_ARCHITECTURES" in os.environ or not cuda_is_useless()
        configure = [
            "cmake", "-S", str(ROOT / "csrc"), "-B", str(BUILD), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={self.package_dir()}", f"-DPython_EXECUTABLE={sys.executable}",
            f"-DBDAM_CUDA={'ON' if with_cuda else 'OFF'}", f"-DBDAM_THIS_MACHINE={'ON' if self.inplace else 'OFF'}",
        ]  # fmt: skip
        # What CMake found the last time may be gone, or found now: a compiler, nvcc, the Ninja of an isolated build.
        (BUILD / "CMakeCache.txt").unlink(missing_ok=True)
        for findings in BUILD.glob("CMakeFiles/[0-9]*"):
            shutil.rmtree(findings)
        try:
            subprocess.run(configure, check=True)
            # Modules that compile are there even if another does not.
            subprocess.run(["cmake", "--build", str(BUILD), "--", "-k", "0"], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            if os.environ.get("BDAM_STRICT_BUILD") == "1":
                raise SystemExit(f"BDAM_STRICT_BUILD=1: the native kernels were not built: {error}") from None
            self.warn(
                f"the native kernels were not built ({error}); every operator will run on the slower reference "
                "backend. Install a C++17 compiler and install again, or set BDAM_STRICT_BUILD=1 to make this an error."
            )

    def get_outputs(self) -> list[str]:
        return [str(path) for path in self.package_dir().glob("_c*.so")]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


# The extension has no sources of its own: it only tells setuptools that wheels are for one platform.
setup(ext_modules=[Extension("bdam_kernels.native", sources=[])], cmdclass={"build_ext": CMakeBuild})
