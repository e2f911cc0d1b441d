"""What tests and benchmarks share: the same random numbers every time, and the stand-in for a GPU."""

import pytest
import torch

from tests.cuda_host import build

# Before anything imports bdam_kernels, which looks for its backends then.
build.stand_in_for_a_gpu()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
