"""The attention of published encoders, by the fused kernel where PyTorch's own is slow: in training on a CPU.

There the backward pass of `scaled_dot_product_attention` in bfloat16 takes four to six times as long as that of the two
products and the softmax written out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from bdam_kernels import bidirectional_cross_attention

FUSED = "bdam"
"""What transformers knows it by, as `attn_implementation`."""


def fused_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """query, key and value (B, H, L, D), mask (B, 1, L, L) bool, True = seen, or none -> (B, L, H, D), as transformers
    asks of an attention function.

    The two streams of the kernel are the halves of the batch. What they cannot be, a batch of an odd size, queries that
    see different keys, goes to `scaled_dot_product_attention`, and so does all that is not trained on a CPU.
    """
    # First of all, as a graph has no size of a batch, and tensors of other types, which trace, have no values.
    here = type(query) is Tensor and query.device.type == "cpu" and not torch.compiler.is_compiling()
    if not (here and query.requires_grad and _halves(query, key) and _alike(module, attention_mask, options)):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )  # fmt: skip
    half = len(query) // 2
    (q_a, q_b), (k_b, k_a), (v_b, v_a) = (x.split(half) for x in (query, key, value))
    padding: tuple[Tensor | None, ...] = (None, None)
    if attention_mask is not None:
        padding = (~attention_mask[:, 0, 0]).expand(len(query), -1).split(half)
    attended = bidirectional_cross_attention(
        q_a, k_a, v_a, q_b, k_b, v_b,
        key_padding_mask_a=padding[1], key_padding_mask_b=padding[0], dropout_p=dropout, scale=scaling,
    )  # fmt: skip
    return torch.cat(attended).transpose(1, 2).contiguous(), None


def _halves(query: Tensor, key: Tensor) -> bool:
    """Whether the halves of a batch can be the streams of the kernel."""
    return query.shape == key.shape and len(query) > 0 and len(query) % 2 == 0


def _alike(module: nn.Module, mask: Tensor | None, options: Mapping[str, Any]) -> bool:
    """Whether all queries of a batch's entry see the same keys."""
    if mask is not None:
        return mask.dtype == torch.bool and mask.shape[1] == 1 and bool((mask == mask[:, :, :1]).all())
    causal = options.get("is_causal")
    return not (getattr(module, "is_causal", True) if causal is None else causal)


AttentionInterface.register(FUSED, fused_attention)
AttentionMaskInterface.register(FUSED, sdpa_mask)
