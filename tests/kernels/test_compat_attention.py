"""The attention of encoders by the fused kernel, against PyTorch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

from bdam_kernels.compat import attention
from bdam_kernels.compat.attention import FUSED

SIZES: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
}  # fmt: skip
DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def encoder(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "bert":
        return BertModel(BertConfig(**SIZES, **DROPOUT, vocab_size=30, max_position_embeddings=9), False)
    if kind == "clip text":
        return CLIPTextModel(CLIPTextConfig(**SIZES, vocab_size=30, max_position_embeddings=9, eos_token_id=29))
    return CLIPVisionModel(CLIPVisionConfig(**SIZES, image_size=12, patch_size=4))


def inputs(kind: str, batch: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    if kind == "clip image":
        return {"pixel_values": torch.randn(batch, 3, 12, 12, generator=generator, dtype=torch.float64)}
    mask = torch.arange(9) < torch.randint(1, 10, (batch, 1), generator=generator)
    return {"input_ids": torch.randint(30, (batch, 9), generator=generator), "attention_mask": mask}


@pytest.mark.parametrize("batch", [1, 2, 5, 6])
@pytest.mark.parametrize("kind", ["bert", "clip text", "clip image"])
def test_outputs_and_gradients_are_those_of_pytorch(kind: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    honest = attention.bidirectional_cross_attention

    def counted(*tensors: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        return honest(*tensors, **options)

    monkeypatch.setattr(attention, "bidirectional_cross_attention", counted)
    model, given = encoder(kind).double().train(), inputs(kind, batch)
    found = {}
    for name in ("sdpa", FUSED):
        model.set_attn_implementation(name)
        model.zero_grad()
        output = model(**given).last_hidden_state
        seen = given.get("attention_mask", torch.ones(output.shape[:2], dtype=torch.bool))
        output = output * seen[..., None]
        (output**3).sum().backward()
        found[name] = [output.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]
    assert calls == (2 if batch % 2 == 0 and kind != "clip text" else 0), "a causal mask, an odd batch are PyTorch's"
    assert len(found["sdpa"]) == len(found[FUSED]) > 10
    for ours, theirs in zip(found[FUSED], found["sdpa"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_in_inference_it_is_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "bidirectional_cross_attention", None)
    model, given = encoder("bert").double().eval(), inputs("bert", 4)
    model.set_attn_implementation(FUSED)
    with torch.no_grad():
        ours = model(**given).last_hidden_state
        model.set_attn_implementation("sdpa")
        assert torch.equal(ours, model(**given).last_hidden_state)
