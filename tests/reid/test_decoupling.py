"""BDAM against a direct transcription in float64."""

from __future__ import annotations

import pytest
import torch
from helpers import assert_matches
from naive import HEADS, WIDTH, attention, close, linear, naive_cross_attention, naive_streams, norm, random
from torch import Tensor

from bdam_reid.methods.bdam.config import DecouplingConfig
from bdam_reid.methods.bdam.decoupling import (
    CrossAttentionLayer,
    Decoupling,
    PooledCrossAttentionLayer,
    SelfAttentionLayer,
    self_attention,
)


def test_self_attention_of_two_streams() -> None:
    layers = (
        SelfAttentionLayer(WIDTH, HEADS, 0.5).double().eval(),
        SelfAttentionLayer(WIDTH, HEADS, 0.5).double().eval(),
    )
    streams = random(2, 7, WIDTH), random(2, 7, WIDTH)
    for layer, x, found in zip(layers, streams, self_attention(layers, streams), strict=True):
        for actual, tokens in zip(found, x, strict=True):
            attended = attention(*linear(layer.qkv, tokens).chunk(3, dim=-1))
            close(actual, norm(layer.norm, tokens + linear(layer.out, attended)))


def naive_bdam(bdam: Decoupling, tokens: Tensor) -> dict[str, Tensor]:
    """One image's tokens (L, D) -> features, equation by equation."""
    identity, clothing = naive_streams(bdam, tokens)
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


@pytest.mark.parametrize(
    "config",
    [
        DecouplingConfig(heads=HEADS),
        DecouplingConfig(self_layers=2, cross_layers=2, heads=HEADS, gate=False),
        DecouplingConfig(self_layers=0, cross_layers=1, heads=HEADS),
        DecouplingConfig(self_layers=1, cross_layers=0, heads=HEADS),
        DecouplingConfig(heads=HEADS, pooled_last=True),
        DecouplingConfig(self_layers=1, cross_layers=1, heads=HEADS, gate=False, pooled_last=True),
    ],
    ids=["paper", "no-gate", "no-self", "no-cross", "pooled-last", "pooled-only"],
)
def test_bdam(config: DecouplingConfig) -> None:
    torch.manual_seed(0)
    bdam, tokens = Decoupling(WIDTH, config).double().eval(), random(2, 7, WIDTH)
    actual = bdam(tokens)._asdict()
    if not config.gate:
        assert actual.pop("gate") is None
    if config.pooled_last:
        assert actual.pop("tokens") is None
    for i, image in enumerate(tokens):
        expected = naive_bdam(bdam, image)
        if config.pooled_last:
            del expected["tokens"]
        assert expected.keys() == actual.keys()
        for name, value in expected.items():
            close(actual[name][i], value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_pooled_layer_is_the_mean_of_its_tokens(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = PooledCrossAttentionLayer(WIDTH, HEADS, dropout=0.0).to(dtype)
    streams = [random(3, 17, WIDTH, seed=seed).to(dtype).requires_grad_() for seed in range(2)]
    weights = [random(3, WIDTH, seed=seed).to(dtype) for seed in range(2, 4)]
    pooled = layer(*streams)
    outputs = layer.attention(layer.identity_norm(streams[0]), layer.clothing_norm(streams[1]))
    unpooled = [(x + out).mean(1) for x, out in zip(streams, outputs, strict=True)]
    for actual, expected in zip(pooled, unpooled, strict=True):
        assert_matches(actual, expected.double(), "pooled")
    leaves = {"identity": streams[0], "clothing": streams[1], **dict(layer.named_parameters())}
    actual_grads, expected_grads = (
        torch.autograd.grad(results, list(leaves.values()), weights) for results in (pooled, unpooled)
    )
    for name, actual, expected in zip(leaves, actual_grads, expected_grads, strict=True):
        assert_matches(actual, expected.double(), f"grad of {name}")


def test_pooled_layer_drops_whole_features() -> None:
    layer = PooledCrossAttentionLayer(WIDTH, HEADS, dropout=0.5).double()
    streams = random(2, 7, WIDTH), random(2, 7, WIDTH, seed=1)
    kept = [x - stream.mean(1) for x, stream in zip(layer.eval()(*streams), streams, strict=True)]
    for x, stream, all_of_it in zip(layer.train()(*streams), streams, kept, strict=True):
        factor = (x - stream.mean(1)) / all_of_it
        assert set(factor.round(decimals=6).abs().unique().tolist()) == {0.0, 2.0}


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
    bdam = Decoupling(WIDTH, DecouplingConfig(self_layers=1, cross_layers=1, heads=HEADS)).double().eval()
    result = bdam(random(3, 7, WIDTH))
    assert result.gate is not None
    assert ((result.gate > 0) & (result.gate < 1)).all()
    close(result.clothing / result.pooled_clothing, 1 - result.gate)
    close(result.identity / result.gate, result.tokens.mean(1))


def test_dropout_acts_in_training_only_and_from_the_seed() -> None:
    bdam, tokens = Decoupling(WIDTH, DecouplingConfig(heads=HEADS)).train(), random(2, 7, WIDTH).float()

    def run() -> Tensor:
        torch.manual_seed(1)
        return bdam(tokens).identity

    first = run()
    assert torch.equal(first, run())
    assert not torch.equal(first, bdam(tokens).identity)
    bdam.eval()
    assert torch.equal(bdam(tokens).identity, bdam(tokens).identity)


def test_branches_have_their_own_weights() -> None:
    result = Decoupling(WIDTH, DecouplingConfig(heads=HEADS, gate=False)).eval()(random(2, 7, WIDTH).float())
    assert (result.identity - result.clothing).abs().max() > 0.1


def test_shared_parameters() -> None:
    deep = Decoupling(WIDTH, DecouplingConfig(heads=HEADS))
    last = deep.cross_layers[2].attention
    assert deep.shared_parameters() == [
        last.out_a.weight,
        last.out_a.bias,
        last.out_b.weight,
        last.out_b.bias,
    ]
    flat = Decoupling(WIDTH, DecouplingConfig(heads=HEADS, cross_layers=0))
    assert flat.shared_parameters() == [flat.projection.weight, flat.projection.bias]


def test_shared_parameters_of_a_pooled_last_layer() -> None:
    bdam = Decoupling(WIDTH, DecouplingConfig(heads=HEADS, pooled_last=True))
    assert isinstance(bdam.cross_layers[2], PooledCrossAttentionLayer)
    last = bdam.cross_layers[2].attention
    assert bdam.shared_parameters() == [*last.out_a.parameters(), *last.out_b.parameters()]


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="must divide the width 12 of its tokens, got 5 heads"):
        Decoupling(WIDTH, DecouplingConfig(heads=5))
