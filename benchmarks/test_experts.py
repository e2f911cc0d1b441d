"""All experts of a layer in one product: against a loop over them, and against one adapter of peft."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bdam_reid.methods.mosaic.experts import ExpertLinear, weighted
from bdam_reid.methods.mosaic.router import shares
from benchmarks.measure import Contender

Contest = Callable[..., None]
Shrink = Callable[[Sequence[int]], tuple[int, ...]]
ATTRIBUTES, RANK = 12, 16
SHAPE = (16, 129, 768, 35)
SIZE = f"(B, L, D) = {SHAPE[:3]}, {SHAPE[3]} experts, rank {RANK}"


def layer_of(width: int, experts: int) -> ExpertLinear:
    """With experts that have learnt something."""
    layer = ExpertLinear(nn.Linear(width, width), experts, RANK)
    layer.linear.requires_grad_(False)
    nn.init.normal_(layer.up, std=0.02)
    return layer


def loop(layer: ExpertLinear, x: Tensor, weights: Tensor) -> Tensor:
    """One expert after the other."""
    y = layer.linear(x)
    for e, weight in enumerate(weights.unbind(1)):
        own = slice(e * RANK, (e + 1) * RANK)
        y = y + weight.to(x.dtype)[:, None, None] * (x @ layer.down[own].T @ layer.up[:, own].T)
    return y


def contender(
    function: Callable[[ExpertLinear, Tensor, Tensor], Tensor], layer: ExpertLinear, x: Tensor, weights: Tensor
) -> Contender:
    leaf = x.detach().requires_grad_()
    return Contender(lambda: function(layer, leaf, weights), [leaf, layer.down, layer.up])


def batched(layer: ExpertLinear, x: Tensor, weights: Tensor) -> Tensor:
    with weighted(weights):
        return layer(x)


def inputs(shape: Sequence[int]) -> tuple[ExpertLinear, Tensor, Tensor]:
    """A layer, tokens of images, and the weights of experts, of which about as many as attributes read an image."""
    batch, length, width, experts = shape
    return (
        layer_of(width, experts),
        torch.randn(batch, length, width),
        shares(torch.rand(batch, experts) < ATTRIBUTES / experts, 1.0),
    )


def test_experts(contest: Contest, shrink: Shrink) -> None:
    layer, x, weights = inputs(shrink(SHAPE))
    wide = ExpertLinear(nn.Linear(x.shape[2], x.shape[2]), weights.shape[1], RANK)
    wide.load_state_dict(layer.state_dict())
    contenders = {
        "ours": contender(batched, layer, x, weights),
        "a loop over experts": contender(loop, layer, x, weights),
    }
    contest(
        contenders, expected=contender(loop, wide.double(), x.double(), weights).train,
        op="experts of a linear layer", size=SIZE, peer="a loop over experts",
    )  # fmt: skip


def test_experts_beside_one_adapter(contest: Contest, shrink: Shrink) -> None:
    """Of the rank of one expert, which every image has: what 35 cost more."""
    from peft import LoraConfig, inject_adapter_in_model

    layer, x, weights = inputs(shrink(SHAPE))
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["0"], init_lora_weights=False)
    adapted = inject_adapter_in_model(config, nn.Sequential(nn.Linear(x.shape[2], x.shape[2])))
    leaf = x.detach().requires_grad_()
    adapter = [p for name, p in adapted.named_parameters() if "lora_" in name]
    one = Contender(lambda: adapted(leaf), [leaf, *adapter])
    contest(
        {"ours": contender(batched, layer, x, weights), "peft, one adapter": one},
        op="experts of a linear layer, beside one adapter", size=SIZE, peer="peft, one adapter",
    )  # fmt: skip
