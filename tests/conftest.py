import os
import sys
from collections.abc import Iterator

import pytest
import torch
from cuda_host import build

if flags := os.environ.get("BDAM_CUDA_HOST"):
    # The kernels that run on GPUs, compiled for this processor: they become the backend "cuda" of CPU tensors.
    module = build.build_kernels(*build.SANITIZERS) if flags == "sanitized" else build.build_kernels()
    sys.modules["bdam_kernels._cuda"] = build.load(module, "bdam_kernels._cuda")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For small problems, which cost less than waking another thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
