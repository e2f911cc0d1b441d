"""Lets code written for mamba_ssm and causal_conv1d find these operators, on any device.

    import bdam_kernels.compat
    bdam_kernels.compat.install()
    from mamba_ssm import Mamba
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    from causal_conv1d import causal_conv1d_fn

transformers' Mamba models (5.23 and later look functions up by these package names) use them too. What is Mamba-1's is
here; of Mamba-2, single steps and the convolution, while transformers keeps its own scan over time.
"""

from bdam_kernels.compat.causal_conv1d import causal_conv1d_fn, causal_conv1d_update, causal_conv1d_varlen_states
from bdam_kernels.compat.installation import install
from bdam_kernels.compat.mamba_ssm import mamba_inner_fn, selective_scan_fn, selective_state_update
from bdam_kernels.compat.models import Block, MambaLMHeadModel

__all__ = [
    "Block",
    "MambaLMHeadModel",
    "causal_conv1d_fn",
    "causal_conv1d_update",
    "causal_conv1d_varlen_states",
    "install",
    "mamba_inner_fn",
    "selective_scan_fn",
    "selective_state_update",
]
