"""Fused operators for disentangled multimodal models, with kernels for CPUs and GPUs behind plain functions."""

from bdam_kernels.dispatch import BackendUnavailable, backends, use_backend
from bdam_kernels.modules import BidirectionalCrossAttention, HSICLoss, Mamba
from bdam_kernels.ops.causal_conv1d.op import causal_conv1d
from bdam_kernels.ops.cross_attention.op import bidirectional_cross_attention
from bdam_kernels.ops.cross_attention.pooled import pooled_bidirectional_cross_attention
from bdam_kernels.ops.hsic.cka import MinibatchCKA, cka_matrix, draw_cka
from bdam_kernels.ops.hsic.conditional import conditional_hsic
from bdam_kernels.ops.hsic.dhsic import dhsic, dhsic_test
from bdam_kernels.ops.hsic.independence import HSICTest, hsic_test
from bdam_kernels.ops.hsic.op import hsic
from bdam_kernels.ops.selective_scan.op import selective_scan

__version__ = "0.1.0"

__all__ = [
    "BackendUnavailable",
    "BidirectionalCrossAttention",
    "HSICLoss",
    "HSICTest",
    "Mamba",
    "MinibatchCKA",
    "backends",
    "bidirectional_cross_attention",
    "causal_conv1d",
    "cka_matrix",
    "conditional_hsic",
    "dhsic",
    "dhsic_test",
    "draw_cka",
    "hsic",
    "hsic_test",
    "pooled_bidirectional_cross_attention",
    "selective_scan",
    "use_backend",
]
