"""What tests and benchmarks share: the same random numbers every time, and stand-ins for other hardware."""

import pytest
import torch

from tests.cpu_server import client
from tests.cuda_host import build

# Before anything imports bdam_kernels, which looks for its backends then.
build.stand_in_for_a_gpu()
client.stand_in_for_the_cpu()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
