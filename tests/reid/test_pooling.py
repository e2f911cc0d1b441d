"""Pooling by attention and by position against direct transcriptions in float64."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from naive import HEADS, WIDTH, close, linear, naive_streams, norm, random
from torch import Tensor, nn

from bdam_reid.encoders.pooling import HEAD_QUERIES, AttentionPooling
from bdam_reid.methods.bdam.config import DecouplingConfig
from bdam_reid.methods.bdam.pooling import PositionalDecoupling, PositionPooling, neighbourhoods


def naive_attention(pooling: AttentionPooling, tokens: Tensor) -> Tensor:
    """One text's or image's tokens (L, D) -> a weighted mean for each query, side by side."""
    means = []
    for query, bias in zip(pooling.scores.weight, pooling.scores.bias, strict=True):
        weights = torch.stack([(query @ token + bias).exp() for token in tokens])
        means.append(sum(w * token for w, token in zip(weights, tokens, strict=True)) / weights.sum())
    return torch.cat(means)


@pytest.mark.parametrize("queries", [1, 3])
def test_attention_pooling(queries: int) -> None:
    torch.manual_seed(0)
    pooling, tokens = AttentionPooling(WIDTH, queries).double(), random(4, 7, WIDTH)
    mask = torch.tensor([[1] * 7, [1, 1, 0, 0, 0, 0, 0], [0, 1, 0, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0, 1]]).bool()
    assert pooling(tokens).shape == (4, queries * WIDTH)
    for row, seen, whole, masked in zip(tokens, mask, pooling(tokens), pooling(tokens, mask), strict=True):
        close(whole, naive_attention(pooling, row))
        close(masked, naive_attention(pooling, row[seen]))


def test_attention_pooling_has_no_gradients_through_what_is_masked() -> None:
    pooling, tokens = AttentionPooling(WIDTH, 2).double(), random(2, 5, WIDTH).requires_grad_()
    mask = torch.arange(5) < torch.tensor([[5], [2]])
    (gradient,) = torch.autograd.grad(pooling(tokens, mask).square().sum(), tokens)
    assert gradient[mask].all() and not gradient[~mask].any()
    assert torch.autograd.gradcheck(lambda x: pooling(x, mask), (tokens,))


GRIDS = [((4, 2),), ((5, 3),), ((1, 1),), ((5, 3), (3, 2)), ((4, 4), (2, 5))]


@pytest.mark.parametrize("side", [1, 2, 3])
@pytest.mark.parametrize("grids", GRIDS, ids=str)
def test_neighbourhoods(grids: Any, side: int) -> None:
    """Each square of each grid in reading order has the next number, and its tokens have it."""
    expected, number = [], 0
    for rows, columns in grids:
        grid = torch.full((rows, columns), -1)
        for top, left in product(range(0, rows, side), range(0, columns, side)):
            grid[top : top + side, left : left + side] = number
            number += 1
        expected += grid.flatten().tolist()
    assert neighbourhoods(grids, side).tolist() == expected


def test_neighbourhoods_of_two_grids_by_hand() -> None:
    assert neighbourhoods(((3, 3), (1, 2)), 2).tolist() == [0, 0, 1, 0, 0, 1, 2, 2, 3, 4, 4]


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / 2**0.5)) / 2


def naive_pooling(pooling: PositionPooling, tokens: Tensor, mixed: Tensor, numbers: list[int], head: int) -> Tensor:
    """One image's tokens (L, D), of which those from `head` on are the head's, and the squares of a stream."""
    own_norm, own = pooling.own
    slots = [
        gelu(linear(own, norm(own_norm, token)) + linear(pooling.mixed, mixed[number]))
        for token, number in zip(tokens, numbers, strict=True)
    ]
    if pooling.attention is not None:
        slots.append(naive_attention(pooling.attention, tokens[head:]))
    out_norm, out, _ = pooling.out
    return gelu(linear(out, norm(out_norm, torch.cat(slots))))


CONFIG = DecouplingConfig(self_layers=1, cross_layers=1, heads=HEADS, pooling="position", merge=2, slots=4, features=10)
TWO, ONE = ((5, 3), (3, 2)), ((5, 3),)


def decoupling(grids: Any, **changes: Any) -> PositionalDecoupling:
    torch.manual_seed(0)
    module = PositionalDecoupling(WIDTH, DecouplingConfig(**{**vars(CONFIG), **changes}), grids).double().eval()
    # A third or a ninth in float32 is none in float64.
    module.means /= module.means.sum(dim=1, keepdim=True)
    for layer in module.modules():
        if isinstance(layer, nn.LayerNorm):
            nn.init.normal_(layer.weight, 1, 0.3)
            nn.init.normal_(layer.bias, 0, 0.3)
    return module


def naive_positional(module: PositionalDecoupling, tokens: Tensor, grids: Any, merge: int) -> dict[str, Tensor]:
    numbers = neighbourhoods(grids, merge).tolist()
    squares = [[t for t, n in zip(tokens, numbers, strict=True) if n == number] for number in range(max(numbers) + 1)]
    identity, clothing = naive_streams(module, torch.stack([sum(s) / len(s) for s in squares]))
    head = grids[0][0] * grids[0][1]
    pooled_id = naive_pooling(module.identity_pooling, tokens, identity, numbers, head)
    pooled_clo = naive_pooling(module.clothing_pooling, tokens, clothing, numbers, head)
    if module.gate is None:
        return {"identity": pooled_id, "clothing": pooled_clo, "pooled_clothing": pooled_clo, "tokens": tokens}
    g = 1 / (1 + (-linear(module.gate, torch.cat((pooled_id, pooled_clo)))).exp())
    gated = {"identity": g * pooled_id, "clothing": (1 - g) * pooled_clo}
    return gated | {"pooled_clothing": pooled_clo, "gate": g, "tokens": tokens}


@pytest.mark.parametrize("grids", [ONE, TWO], ids=["image", "image-and-head"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"width": 2 * HEADS},
        {"width": 2 * HEADS, "self_layers": 2, "cross_layers": 2, "merge": 3},
        {"merge": 1, "gate": False},
        {"self_layers": 0},
        {"cross_layers": 0},
        {"self_layers": 0, "cross_layers": 0},
        {"self_layers": 0, "cross_layers": 0, "width": 2 * HEADS, "gate": False},
    ],
    ids=["plain", "narrow", "deep", "no-gate", "no-self", "no-cross", "no-layers", "projection-alone"],
)
def test_positional_decoupling(changes: dict[str, Any], grids: Any) -> None:
    module = decoupling(grids, **changes)
    tokens = random(2, sum(rows * columns for rows, columns in grids), WIDTH)
    actual = module(tokens)._asdict()
    assert actual["identity"].shape == actual["clothing"].shape == (2, module.features) == (2, 10)
    if not changes.get("gate", True):
        assert actual.pop("gate") is None
    for i, image in enumerate(tokens):
        expected = naive_positional(module, image, grids, changes.get("merge", 2))
        assert expected.keys() == actual.keys()
        for name, value in expected.items():
            close(actual[name][i], value)


def test_layers_have_their_own_width() -> None:
    assert decoupling(TWO).projection.weight.shape == (2 * WIDTH, WIDTH)
    narrow = decoupling(TWO, width=2 * HEADS)
    assert narrow.projection.weight.shape == (2 * 2 * HEADS, WIDTH)
    assert narrow.cross_layers[0].attention.out_a.weight.shape == (2 * HEADS, 2 * HEADS)
    assert narrow.identity_pooling.mixed.weight.shape == (4, 2 * HEADS)
    with pytest.raises(ValueError, match="must divide the width 8 of its tokens, got 3 heads"):
        decoupling(TWO, width=8)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_squares_of_one_token_are_the_tokens_to_the_bit(precision: torch.dtype) -> None:
    grids = ((5, 3), (3, 2))
    module = decoupling(grids, merge=1).float()
    assert not module.merges
    results = []
    for merges in (True, False):
        module.merges = module.identity_pooling.merges = module.clothing_pooling.merges = merges
        tokens = random(2, 21, WIDTH).float().requires_grad_()
        module.zero_grad()
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            parts = module(tokens)
        (parts.identity.square().sum() + parts.clothing.sum()).backward()
        results.append([parts.identity, parts.clothing, tokens.grad, *(p.grad for p in module.parameters())])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


@pytest.mark.parametrize("merge", [1, 2])
def test_where_a_token_lies_matters(merge: int) -> None:
    """Tokens of one square are one mean to the layers, and yet not one to the pooling."""
    module, tokens = decoupling(ONE, merge=merge), random(1, 15, WIDTH)
    order = list(range(15))
    order[0], order[4] = 4, 0
    assert neighbourhoods(ONE, 2)[[0, 4]].unique().tolist() == [0]
    before, after = module(tokens), module(tokens[:, order])
    for name in ("identity", "clothing"):
        assert (getattr(before, name) - getattr(after, name)).abs().max() > 1e-3


def test_attention_reads_the_tokens_of_the_head_and_for_identity_alone() -> None:
    module, tokens = decoupling(TWO), random(2, 21, WIDTH)
    seen: list[Tensor] = []
    attention = module.identity_pooling.attention
    assert attention is not None and module.clothing_pooling.attention is None
    attention.register_forward_hook(lambda _, inputs, output: seen.extend(inputs))
    module(tokens)
    (read,) = seen
    assert torch.equal(read, tokens[:, 15:])
    assert attention.scores.out_features == HEAD_QUERIES
    assert module.identity_pooling.out[1].in_features == 21 * 4 + HEAD_QUERIES * WIDTH
    assert decoupling(ONE).identity_pooling.attention is None


@pytest.mark.parametrize("cross_layers", [0, 1])
def test_both_features_reach_every_weight_of_their_stream(cross_layers: int) -> None:
    module = decoupling(TWO, cross_layers=cross_layers)
    result = module(random(3, 21, WIDTH))
    (result.identity.square().sum() + result.clothing.square().sum()).backward()
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()] == []
    for parameter in module.shared_parameters():
        assert parameter.grad is not None


def test_what_follows_from_the_grids_is_in_no_checkpoint() -> None:
    module = decoupling(TWO)
    assert module.state_dict().keys() == dict(module.named_parameters()).keys()
    close(module.means.sum(dim=1), torch.ones(len(module.means)).double())
