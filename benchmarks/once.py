"""`python -m benchmarks.once`: each operator of ours that CUDA serves once forward and backward, at the sizes that its
benchmarks begin with: what a profiler of kernels should look at."""

from __future__ import annotations

import torch

from bdam_kernels import bidirectional_cross_attention, hsic
from benchmarks.test_gpu import scan, scan_inputs, tensor

SCANS = [(64, 512, 197), (16, 1536, 1024), (8, 1536, 2048), (1, 2048, 16384)]
ATTENTIONS = [(128, 12, 196, 64), (64, 12, 64, 64)]
ROWS = [64, 256, 512]


def main() -> None:
    """The command line."""
    calls = [
        *((scan, scan_inputs(*shape)) for shape in SCANS),
        *((bidirectional_cross_attention, list(tensor(6, *shape).unbind())) for shape in ATTENTIONS),
        *((hsic, list(tensor(2, rows, 768, dtype=torch.float32).unbind())) for rows in ROWS),
    ]
    for function, inputs in calls:
        leaves = [t.detach().requires_grad_() for t in inputs]
        outputs = function(*leaves, backend="cuda")
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        torch.autograd.grad(outputs, leaves, [torch.ones_like(out) for out in outputs])
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
