"""The semantic grouping adapter (SGA): patch tokens, sharpened group by group of their channels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

EPSILON = 1e-5
FIRST_SCALE = 1e-4
"""With which an adapter begins: what it adds to the tokens is next to nothing."""
REDUCTION = 16
"""Channels for each hidden one of the global stream."""


class Grouped(NamedTuple):
    """What the adapter makes of B images of N patches with C channels, in G groups."""

    tokens: Tensor
    """(B, N, C)."""
    maps: Tensor
    """How much of each group is kept where, in (0, 1), (B, G, N)."""
    channels: Tensor
    """How much of each channel is kept, in (0, 1), (B, C)."""


class SemanticGrouping(nn.Module):
    """Y = X + s (w1 local(X) + w2 global(X)), w = softmax of two learnt scalars, s a learnt scale of each channel.

    local: in each group, how alike a patch is to the mean of all, d = mean_n x_n, m_n = d . x_n, standardised over the
    image, scaled and shifted by learnt gamma and beta of the group, and through a sigmoid, is what the patch is
    multiplied with; then group normalisation. global: the mean of all patches, through C -> C / 16 -> C, rectified and
    then through a sigmoid, is what the channels are multiplied with.
    Source: the description of MTA-CLIP, which names the two streams, their fusion and the residual connection; the
    local one is spatial group-wise enhancement (Li, Hu and Yang 2019), the global one squeeze and excitation (Hu et
    al., CVPR 2018), s that of CaiT (Touvron et al., ICCV 2021).

    Args:
        width: C.
        groups: G.
    Raises: ValueError if G does not divide C.
    """

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        if width % groups:
            raise ValueError(f"the groups of the adapter must divide the width {width} of the tokens, got {groups}")
        self.groups = groups
        self.gamma, self.beta = nn.Parameter(torch.zeros(groups)), nn.Parameter(torch.ones(groups))
        self.norm = nn.GroupNorm(groups, width, EPSILON)
        hidden = max(1, width // REDUCTION)
        self.excite = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width), nn.Sigmoid())
        self.mixture = nn.Parameter(torch.zeros(2))
        self.scale = nn.Parameter(torch.full((width,), FIRST_SCALE))

    def forward(self, tokens: Tensor) -> Tensor:
        """Patch tokens (B, N, C) -> the same shape."""
        return self.grouped(tokens).tokens

    def grouped(self, tokens: Tensor) -> Grouped:
        """Patch tokens (B, N, C) -> the adapted ones, and what they were multiplied with."""
        maps, channels = self._maps(tokens), self.excite(tokens.mean(dim=1))
        local = tokens.unflatten(2, (self.groups, -1)) * maps.transpose(1, 2)[..., None]
        local = self.norm(local.flatten(2).transpose(1, 2)).transpose(1, 2)
        weights = self.mixture.softmax(dim=0)
        mixed = weights[0] * local + weights[1] * (tokens * channels[:, None])
        return Grouped(tokens + self.scale * mixed, maps, channels)

    def _maps(self, tokens: Tensor) -> Tensor:
        grouped = tokens.unflatten(2, (self.groups, -1))
        alike = torch.einsum("bgc,bngc->bgn", grouped.mean(dim=1), grouped)
        variance, mean = torch.var_mean(alike, dim=2, correction=0, keepdim=True)
        standard = (alike - mean) * (variance + EPSILON).rsqrt()
        return (self.gamma[:, None] * standard + self.beta[:, None]).sigmoid()
