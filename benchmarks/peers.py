"""What a user would install or write instead of each operator, with the operator's arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

Attention = Callable[..., tuple[Tensor, Tensor]]


def mambapy_selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, delta_bias: Tensor
) -> Tensor:
    """mambapy's parallel scan, as its MambaBlock calls it: (B, L, D) layout, softplus, D and gate around pscan."""
    from mambapy.pscan import pscan

    x = u.transpose(1, 2)
    delta = F.softplus(delta.transpose(1, 2) + delta_bias)
    decay = torch.exp(delta.unsqueeze(-1) * A)
    drive = delta.unsqueeze(-1) * B.transpose(1, 2).unsqueeze(2) * x.unsqueeze(-1)
    states = pscan(decay, drive)
    y = (states @ C.transpose(1, 2).unsqueeze(-1)).squeeze(3) + D * x
    return (y * F.silu(z.transpose(1, 2))).transpose(1, 2)


def mamba_ssm_formula(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, delta_bias: Tensor
) -> Tensor:
    """What mamba_ssm computes where its CUDA kernel cannot: decay and drive of all steps, (B, D, L, N), then a loop.

    Each step takes a slice of both, whose gradient is as large as the whole: training takes time quadratic in L.
    """
    delta = F.softplus(delta + delta_bias[:, None])
    decay = torch.exp(torch.einsum("bdl,dn->bdln", delta, A))
    drive = torch.einsum("bdl,bnl,bdl->bdln", delta, B, u)
    state = u.new_zeros(u.shape[0], *A.shape)
    outputs = []
    for t in range(u.shape[2]):
        state = decay[:, :, t] * state + drive[:, :, t]
        outputs.append(torch.einsum("bdn,bn->bd", state, C[:, :, t]))
    return (torch.stack(outputs, dim=2) + D[:, None] * u) * F.silu(z)


def torch_causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """PyTorch's convolution, padded on both sides and cut, as Mamba layers without causal_conv1d have it."""
    channels, width = weight.shape
    out = F.conv1d(x, weight[:, None], bias, padding=width - 1, groups=channels)
    return F.silu(out[..., : x.shape[2]])


def two_sdpa_calls(
    q_a: Tensor, k_a: Tensor, v_a: Tensor, q_b: Tensor, k_b: Tensor, v_b: Tensor
) -> tuple[Tensor, Tensor]:
    return F.scaled_dot_product_attention(q_a, k_b, v_b), F.scaled_dot_product_attention(q_b, k_a, v_a)


def two_sdpa_calls_by(backend: SDPBackend) -> Attention:
    """Two calls that one of SDPA's backends must serve."""

    def attend(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        with sdpa_kernel(backend):
            return two_sdpa_calls(*inputs)

    return attend


def softmax_attention(
    q_a: Tensor, k_a: Tensor, v_a: Tensor, q_b: Tensor, k_b: Tensor, v_b: Tensor
) -> tuple[Tensor, Tensor]:
    """Both directions written down, to be compiled."""
    scale = q_a.shape[3] ** -0.5
    return (
        torch.softmax(scale * q_a @ k_b.mT, -1) @ v_b,
        torch.softmax(scale * q_b @ k_a.mT, -1) @ v_a,
    )


def textbook_hsic(x: Tensor, y: Tensor) -> Tensor:
    """tr(K H L H) / (N-1)^2 with the N x N matrices."""
    return _trace(x @ x.T, y @ y.T)


def textbook_rbf_hsic(x: Tensor, y: Tensor, sigma: float) -> Tensor:
    """The same of Gaussian kernels."""
    K, L = (torch.exp(-torch.cdist(t, t).square() / (2 * sigma**2)) for t in (x, y))
    return _trace(K, L)


def centred_alignment(x: Tensor, y: Tensor) -> Tensor:
    """HSIC over the root of that of each with itself, from Gram matrices of centred rows."""
    K, L = (t @ t.T for t in (x - x.mean(0), y - y.mean(0)))
    return (K * L).sum() / (K.square().sum() * L.square().sum()).sqrt()


def keops_rbf_hsic(x: Tensor, y: Tensor, sigma: float) -> Tensor:
    """The same from KeOps' reductions over lazy N x N matrices: <K, L> and the row sums of both."""
    from pykeops.torch import LazyTensor

    def gram(t: Tensor) -> Any:
        rows, columns = LazyTensor(t[:, None]), LazyTensor(t[None])
        return (-((rows - columns) ** 2).sum(-1) / (2 * sigma**2)).exp()

    n = len(x)
    K, L = gram(x), gram(y)
    K_rows, L_rows = K.sum(1), L.sum(1)
    centred = (K * L).sum(1).sum() - 2 / n * (K_rows * L_rows).sum() + K_rows.sum() * L_rows.sum() / n**2
    return centred / (n - 1) ** 2


def _trace(K: Tensor, L: Tensor) -> Tensor:
    n = K.shape[0]
    centering = torch.eye(n, device=K.device) - 1.0 / n
    # torch.trace's backward cannot be captured into a CUDA graph.
    return (K @ centering @ L @ centering).diagonal().sum() / (n - 1) ** 2


def transformers_mixer(width: int) -> nn.Module:
    """A Mamba layer of transformers with random weights, on its PyTorch path."""
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    return MambaMixer(MambaConfig(hidden_size=width, state_size=16, conv_kernel=4, expand=2), layer_idx=0)
