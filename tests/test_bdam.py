"""BDAM against a direct transcription in float64."""

from __future__ import annotations

import pytest
import torch
from naive import HEADS, WIDTH, attention, close, linear, norm, random
from torch import Tensor

from bdam_kernels import BidirectionalCrossAttention
from bdam_reid.config import BDAMConfig
from bdam_reid.models import BDAM
from bdam_reid.models.bdam import CrossAttentionLayer, SelfAttentionLayer


def test_self_attention_layer() -> None:
    layer, x = SelfAttentionLayer(WIDTH, HEADS, dropout=0.5).double().eval(), random(2, 7, WIDTH)
    for actual, tokens in zip(layer(x), x, strict=True):
        attended = attention(*linear(layer.qkv, tokens).chunk(3, dim=-1))
        close(actual, norm(layer.norm, tokens + linear(layer.out, attended)))


def naive_bdam(bdam: BDAM, tokens: Tensor) -> dict[str, Tensor]:
    """One image's tokens (L, D) -> features, equation by equation."""
    identity, clothing = linear(bdam.projection, tokens).split(WIDTH, dim=-1)
    for layer in bdam.identity_layers:
        attended = attention(*linear(layer.qkv, identity).chunk(3, dim=-1))
        identity = norm(layer.norm, identity + linear(layer.out, attended))
    for layer in bdam.clothing_layers:
        attended = attention(*linear(layer.qkv, clothing).chunk(3, dim=-1))
        clothing = norm(layer.norm, clothing + linear(layer.out, attended))
    for layer in bdam.cross_layers:
        from_clothing, from_identity = naive_cross_attention(layer.attention, identity, clothing)
        identity, clothing = (
            norm(layer.identity_norm, identity + from_clothing),
            norm(layer.clothing_norm, clothing + from_identity),
        )
    pooled_id, pooled_clo = identity.sum(0) / len(tokens), clothing.sum(0) / len(tokens)
    if bdam.gate is None:
        pooled = {"identity": pooled_id, "clothing": pooled_clo, "pooled_clothing": pooled_clo}
        return pooled | {"tokens": identity}
    g = 1 / (1 + (-linear(bdam.gate, torch.cat((pooled_id, pooled_clo)))).exp())
    return {
        "identity": g * pooled_id,
        "clothing": (1 - g) * pooled_clo,
        "pooled_clothing": pooled_clo,
        "gate": g,
        "tokens": identity,
    }


def naive_cross_attention(module: BidirectionalCrossAttention, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """out_a = softmax(q_a k_b^T / sqrt d) v_b and the other way, of two streams (L, D)."""
    q_a, k_a, v_a = linear(module.qkv_a, a).split(WIDTH, dim=-1)
    q_b, k_b, v_b = linear(module.qkv_b, b).split(WIDTH, dim=-1)
    return linear(module.out_a, attention(q_a, k_b, v_b)), linear(module.out_b, attention(q_b, k_a, v_a))


@pytest.mark.parametrize(
    "config",
    [
        BDAMConfig(heads=HEADS),
        BDAMConfig(self_layers=2, cross_layers=2, heads=HEADS, gate=False),
        BDAMConfig(self_layers=0, cross_layers=1, heads=HEADS),
        BDAMConfig(self_layers=1, cross_layers=0, heads=HEADS),
    ],
    ids=["paper", "no-gate", "no-self", "no-cross"],
)
def test_bdam(config: BDAMConfig) -> None:
    torch.manual_seed(0)
    bdam, tokens = BDAM(WIDTH, config).double().eval(), random(2, 7, WIDTH)
    actual = bdam(tokens)._asdict()
    if not config.gate:
        assert actual.pop("gate") is None
    for i, image in enumerate(tokens):
        expected = naive_bdam(bdam, image)
        assert expected.keys() == actual.keys()
        for name, value in expected.items():
            close(actual[name][i], value)


def test_both_streams_update_from_the_previous_state_of_the_other() -> None:
    layer = CrossAttentionLayer(WIDTH, HEADS, dropout=0.0).double()
    identity, clothing = random(5, WIDTH), random(5, WIDTH, seed=1)
    new_identity, new_clothing = (x[0] for x in layer(identity[None], clothing[None]))
    from_clothing, from_identity = naive_cross_attention(layer.attention, identity, clothing)
    close(new_identity, norm(layer.identity_norm, identity + from_clothing))
    close(new_clothing, norm(layer.clothing_norm, clothing + from_identity))
    _, from_new_identity = naive_cross_attention(layer.attention, new_identity, clothing)
    assert (from_new_identity - from_identity).abs().max() > 1e-3


def test_gate_splits_each_dimension_between_the_branches() -> None:
    bdam = BDAM(WIDTH, BDAMConfig(self_layers=1, cross_layers=1, heads=HEADS)).double().eval()
    result = bdam(random(3, 7, WIDTH))
    assert result.gate is not None
    assert ((result.gate > 0) & (result.gate < 1)).all()
    close(result.clothing / result.pooled_clothing, 1 - result.gate)
    close(result.identity / result.gate, result.tokens.mean(1))


def test_dropout_acts_in_training_only_and_from_the_seed() -> None:
    bdam, tokens = BDAM(WIDTH, BDAMConfig(heads=HEADS)).train(), random(2, 7, WIDTH).float()

    def run() -> Tensor:
        torch.manual_seed(1)
        return bdam(tokens).identity

    first = run()
    assert torch.equal(first, run())
    assert not torch.equal(first, bdam(tokens).identity)
    bdam.eval()
    assert torch.equal(bdam(tokens).identity, bdam(tokens).identity)


def test_branches_have_their_own_weights() -> None:
    result = BDAM(WIDTH, BDAMConfig(heads=HEADS, gate=False)).eval()(random(2, 7, WIDTH).float())
    assert (result.identity - result.clothing).abs().max() > 0.1


def test_shared_parameters() -> None:
    deep = BDAM(WIDTH, BDAMConfig(heads=HEADS))
    last = deep.cross_layers[2].attention
    assert deep.shared_parameters() == [
        last.out_a.weight,
        last.out_a.bias,
        last.out_b.weight,
        last.out_b.bias,
    ]
    flat = BDAM(WIDTH, BDAMConfig(heads=HEADS, cross_layers=0))
    assert flat.shared_parameters() == [flat.projection.weight, flat.projection.bias]


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="must divide the image width 12, got 5 heads"):
        BDAM(WIDTH, BDAMConfig(heads=5))
