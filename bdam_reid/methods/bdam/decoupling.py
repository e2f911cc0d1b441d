"""Bidirectional decoupled alignment module: patch tokens become identity and clothing features."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from bdam_kernels import BidirectionalCrossAttention, bidirectional_cross_attention
from bdam_reid.methods.bdam.config import DecouplingConfig


class Disentangled(NamedTuple):
    """What the module makes of an image."""

    identity: Tensor
    """Gated identity feature f_id, (B, P)."""
    clothing: Tensor
    """Gated clothing feature f_clo, (B, P)."""
    pooled_clothing: Tensor
    """Clothing feature before the gate, (B, P)."""
    gate: Tensor | None
    """g in (0, 1), (B, P); None without a gate."""
    tokens: Tensor | None
    """Tokens of the identity stream before pooling and gate, (B, L, D); None where the last layer pools."""


class SelfAttentionLayer(nn.Module):
    """x -> LayerNorm(x + dropout(attention(x))), no feed-forward part.

    Attention weights are not dropped, so that the fused attention kernels apply.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def asked(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, L, D) -> queries, keys and values, (B, H, L, D / H) each."""
        return self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()

    def forward(self, x: Tensor, attended: Tensor) -> Tensor:
        """(B, L, D) and what its attention to itself gave, (B, H, L, D / H) -> (B, L, D)."""
        return self.norm(x + self.dropout(self.out(attended.transpose(1, 2).flatten(-2))))


def self_attention(
    layers: tuple[SelfAttentionLayer, SelfAttentionLayer], streams: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Two streams (B, L, D), each through its layer, in one call of the fused attention: there each stream reads the
    keys and values of the other, so that it is given its own as the other's."""
    (q_a, k_a, v_a), (q_b, k_b, v_b) = (layer.asked(x) for layer, x in zip(layers, streams, strict=True))
    attended_a, attended_b = bidirectional_cross_attention(q_a, k_b, v_b, q_b, k_a, v_a)
    return layers[0](streams[0], attended_a), layers[1](streams[1], attended_b)


class CrossAttentionLayer(nn.Module):
    """Each stream attends to the other's state before the layer, then residual and LayerNorm."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = BidirectionalCrossAttention(width, heads)
        self.dropout = nn.Dropout(dropout)
        self.identity_norm = nn.LayerNorm(width)
        self.clothing_norm = nn.LayerNorm(width)

    def forward(self, identity: Tensor, clothing: Tensor) -> tuple[Tensor, Tensor]:
        """Two (B, L, D) -> two (B, L, D)."""
        to_identity, to_clothing = self.attention(identity, clothing)
        return (
            self.identity_norm(identity + self.dropout(to_identity)),
            self.clothing_norm(clothing + self.dropout(to_clothing)),
        )


class PooledCrossAttentionLayer(nn.Module):
    """The mean over tokens of x + attention(LayerNorm(x)), each stream attending to the other's state.

    With the LayerNorm before the attention, all that follows is linear, and the mean is taken inside the attention.
    Dropout acts on the mean of the attention's outputs, with one mask for all tokens: a mask for each would need the
    output of each.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = BidirectionalCrossAttention(width, heads)
        self.dropout = nn.Dropout(dropout)
        self.identity_norm = nn.LayerNorm(width)
        self.clothing_norm = nn.LayerNorm(width)

    def forward(self, identity: Tensor, clothing: Tensor) -> tuple[Tensor, Tensor]:
        """Two (B, L, D) -> two (B, D)."""
        to_identity, to_clothing = self.attention.pooled(self.identity_norm(identity), self.clothing_norm(clothing))
        return (
            identity.mean(dim=1) + self.dropout(to_identity),
            clothing.mean(dim=1) + self.dropout(to_clothing),
        )


class Decoupling(nn.Module):
    """Two streams of self-attention, cross-attention between them, average pooling, and a gate.

    g = sigmoid(W [pooled_id; pooled_clo] + b), f_id = g pooled_id, f_clo = (1 - g) pooled_clo; without the
    gate (an ablation) both pooled features are given as they are. With `pooled_last` the last cross-attention does the
    pooling (a variant of this project's).
    Source: icme section III-B, long section 3.2.

    Args:
        width: D of the tokens.
        config: depths, heads, dropout, gate, form of the last layer.
        inner: width of the tokens in the layers; D unless a subclass gives another.
        features: width P of the pooled features; D unless a subclass pools otherwise.
    Raises: ValueError if the heads do not divide the width.
    """

    def __init__(
        self, width: int, config: DecouplingConfig, inner: int | None = None, features: int | None = None
    ) -> None:
        super().__init__()
        self.features, outer, width = features or width, width, inner or width
        if width % config.heads:
            raise ValueError(f"BDAM's heads must divide the width {width} of its tokens, got {config.heads} heads")
        self.projection = nn.Linear(outer, 2 * width)
        self.identity_layers = _self_attention(width, config)
        self.clothing_layers = _self_attention(width, config)
        kinds: list[type[nn.Module]] = [CrossAttentionLayer] * config.cross_layers
        if config.pooled_last:
            kinds[-1] = PooledCrossAttentionLayer
        self.cross_layers = nn.ModuleList(kind(width, config.heads, config.dropout) for kind in kinds)
        self.pooled_last = config.pooled_last
        self.gate = nn.Linear(2 * self.features, self.features) if config.gate else None

    def forward(self, tokens: Tensor) -> Disentangled:
        """tokens (B, L, D) -> features."""
        pooled_identity, pooled_clothing, last_tokens = self.pool(tokens)
        if self.gate is None:
            return Disentangled(pooled_identity, pooled_clothing, pooled_clothing, gate=None, tokens=last_tokens)
        gate = self.gate(torch.cat((pooled_identity, pooled_clothing), dim=-1)).sigmoid()
        return Disentangled(
            identity=gate * pooled_identity,
            clothing=(1 - gate) * pooled_clothing,
            pooled_clothing=pooled_clothing,
            gate=gate,
            tokens=last_tokens,
        )

    def pool(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """tokens (B, L, D) -> pooled features of identity and clothing, (B, P), and the tokens of the identity stream,
        None where the last layer pools."""
        identity, clothing = self.streams(tokens)
        if self.pooled_last:
            return identity, clothing, None
        return identity.mean(dim=1), clothing.mean(dim=1), identity

    def streams(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (B, L, D) -> the streams of identity and clothing after the last layer, (B, L, D) or (B, D)."""
        identity, clothing = self.projection(tokens).chunk(2, dim=-1)
        for own, other in zip(self.identity_layers, self.clothing_layers, strict=True):
            layers = cast(SelfAttentionLayer, own), cast(SelfAttentionLayer, other)
            identity, clothing = self_attention(layers, (identity, clothing))
        for layer in self.cross_layers:
            identity, clothing = layer(identity, clothing)
        return identity, clothing

    def shared_parameters(self) -> list[nn.Parameter]:
        """Weights of the last layer in which the streams meet, whose gradients cost least to compare.

        These are the output projections of the last cross-attention, or, where there is none, the dual
        projection.
        """
        if not len(self.cross_layers):
            return list(self.projection.parameters())
        attention = cast(CrossAttentionLayer | PooledCrossAttentionLayer, self.cross_layers[-1]).attention
        return [*attention.out_a.parameters(), *attention.out_b.parameters()]


def _self_attention(width: int, config: DecouplingConfig) -> nn.ModuleList:
    return nn.ModuleList(SelfAttentionLayer(width, config.heads, config.dropout) for _ in range(config.self_layers))
