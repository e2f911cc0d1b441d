"""Encoders of transformers in training on a CPU: their attention by the fused kernel, by SDPA, and written out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

from bdam_kernels.compat.attention import FUSED
from benchmarks.measure import ON_GPU, Contender

pytestmark = pytest.mark.skipif(ON_GPU, reason="on a GPU the attention is SDPA")
Contest = Callable[..., None]
LAYERS = 2
"""Of twelve that are alike."""
HEADS = {128: 4, 192: 3, 768: 12}
"""By width: as in the demonstration, in ViT-Ti, and in the base size of both kinds."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def bert(width: int, small: bool) -> tuple[BertConfig, Mapping[str, Tensor]]:
    """Sixteen texts of half to all of the length of a caption."""
    batch, length, sizes = (2, 8, _sizes(32, 1)) if small else (16, 64, _sizes(width, HEADS[width]))
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(length) < torch.randint(length // 2, length + 1, (batch, 1), generator=generator)
    ids = torch.randint(1000, (batch, length), generator=generator)
    return BertConfig(**sizes, vocab_size=1000), {"input_ids": ids, "attention_mask": mask}


def vit(width: int, small: bool) -> tuple[ViTConfig, Mapping[str, Tensor]]:
    batch, side, sizes = (2, 32, _sizes(32, 1)) if small else (8, 224, _sizes(width, HEADS[width]))
    images = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    return ViTConfig(**sizes, image_size=side, patch_size=16), {"pixel_values": images}


def _sizes(width: int, heads: int) -> dict[str, Any]:
    return {
        "hidden_size": width, "num_hidden_layers": LAYERS, "num_attention_heads": heads,
        "intermediate_size": 4 * width, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip


def encoder(config: BertConfig | ViTConfig, attention: str) -> nn.Module:
    torch.manual_seed(0)
    kind: Any = BertModel if isinstance(config, BertConfig) else ViTModel
    model = kind(deepcopy(config), add_pooling_layer=False)  # The attention is a field of it.
    model.set_attn_implementation(attention)
    return model


def contender(model: nn.Module, inputs: Mapping[str, Tensor], dtype: torch.dtype) -> Contender:
    def tokens() -> Tensor:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return model(**inputs).last_hidden_state

    return Contender(tokens, list(model.parameters()), model)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("inputs", "width", "size"),
    [
        (bert, 128, "BERT 128 wide, 16 texts of 64 words"),
        (bert, 768, "BERT-base, 16 texts of 64 words"),
        (vit, 192, "ViT-Ti/16, 8 images of 224 x 224"),
        (vit, 768, "ViT-B/16, 8 images of 224 x 224"),
    ],
)
def test_attention_of_encoders(contest: Contest, small: bool, inputs: Any, width: int, size: str, dtype: str) -> None:
    config, given = inputs(width, small)
    attentions = {"ours": FUSED, "SDPA": "sdpa", "written out": "eager"}
    contenders = {name: contender(encoder(config, kind), given, DTYPES[dtype]) for name, kind in attentions.items()}
    contest(
        contenders, op=f"training {LAYERS} layers of an encoder, {dtype}", size=size, peer="SDPA", modes=("train",)
    )  # fmt: skip
