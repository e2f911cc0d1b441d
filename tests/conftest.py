import os
import sys

import pytest
import torch
from cuda_host import build

if os.environ.get("BDAM_CUDA_HOST") == "1":
    # The kernels that run on GPUs, compiled for this processor: they become the backend "cuda" of CPU tensors.
    sys.modules["bdam_kernels._cuda"] = build.load(build.build_kernels(), "bdam_kernels._cuda")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
