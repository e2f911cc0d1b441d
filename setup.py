"""Build of the native modules: CMake and Ninja over csrc/, once per instruction set, and CUDA where nvcc exists.

Without a working compiler the package installs without native modules and runs on the reference backend.
BDAM_STRICT_BUILD=1 makes a failed build an error.
"""

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeBuild(build_ext):
    """Builds every module of csrc/CMakeLists.txt: into the source tree for an editable install, else for a wheel."""

    def package_dir(self) -> Path:
        return (ROOT if self.inplace else Path(self.build_lib).resolve()) / "bdam_kernels"

    def run(self) -> None:
        build = Path(self.build_temp).resolve()
        configure = [
            "cmake", "-S", str(ROOT / "csrc"), "-B", str(build), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={self.package_dir()}", f"-DPython_EXECUTABLE={sys.executable}",
        ]  # fmt: skip
        try:
            subprocess.run(configure, check=True)
            subprocess.run(["cmake", "--build", str(build)], check=True)
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
