"""Every row of the drafts' ablations is a config whose part is really gone."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from naive import WIDTH, close, linear, norm, random
from test_bdam import BEST, CONFIG, make_batch, make_model
from test_losses import BATCH, TAU, features
from torch import Tensor, nn

from bdam_reid.config import ConfigError, check_config, parse_config
from bdam_reid.losses.info_nce import info_nce
from bdam_reid.methods import PRESETS
from bdam_reid.methods.bdam.config import BDAMConfig, DecouplingConfig, FusionConfig, LossConfig, RerankConfig
from bdam_reid.methods.bdam.entangled import Entangled
from bdam_reid.methods.bdam.fusion import Fusion
from bdam_reid.methods.bdam.gradnorm import GradNorm
from bdam_reid.methods.bdam.losses import (
    Temperatures,
    clothing_adversary,
    clothing_alignment,
    task_names,
    total_loss,
    unweighted_losses,
    weighted_losses,
)
from bdam_reid.methods.bdam.matcher import Matcher, Words

SELF_ATTENTION = 4 * WIDTH * (WIDTH + 1) + 2 * WIDTH
"""Parameters of a layer: queries, keys, values, output and a norm."""
CROSS_ATTENTION = 2 * SELF_ATTENTION
TEXT = 10
"""Width of the text features of CONFIG."""


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def without(**decoupling: Any) -> BDAMConfig:
    return replace(CONFIG, decoupling=replace(CONFIG.decoupling, **decoupling))


@pytest.mark.parametrize(
    ("config", "fewer"),
    [
        (without(cross_layers=0), 2 * CROSS_ATTENTION),
        (without(gate=False), WIDTH * (2 * WIDTH + 1)),
        (without(self_layers=0), 2 * SELF_ATTENTION),
        (
            without(kind="none"),
            2 * CROSS_ATTENTION + WIDTH * (2 * WIDTH + 1) + 2 * SELF_ATTENTION + WIDTH * (WIDTH + 1),
        ),
    ],
    ids=["cross-attention", "gate", "self-attention", "BDAM"],
)
def test_parameters_without_a_part_of_bdam(config: BDAMConfig, fewer: int) -> None:
    assert parameters(make_model()) - parameters(make_model(config)) == fewer


def test_the_baseline_has_one_feature_which_the_mean_of_the_tokens_makes() -> None:
    torch.manual_seed(0)
    module, tokens = Entangled(WIDTH, DecouplingConfig(kind="none"), [(4, 2)]).double(), random(3, 8, WIDTH)
    found = module(tokens)
    close(found.identity, linear(module.projection, tokens.mean(1)))
    assert found.identity is found.clothing is found.pooled_clothing
    assert found.gate is None
    close(found.tokens.mean(1), found.identity)


@pytest.mark.parametrize("config", [CONFIG, BEST], ids=["mean", "position"])
def test_every_loss_of_the_baseline_trains_it(config: BDAMConfig) -> None:
    loss = replace(config.loss, decouple_weight=0.0)
    config = replace(config, decoupling=replace(config.decoupling, kind="none"), loss=loss)
    model, batch = make_model(config), make_batch()
    features = model.features(batch)
    losses = unweighted_losses(loss, *features[:3], batch, Temperatures(loss))
    assert "gate" not in losses and "decouple" not in losses
    for value in losses.values():
        slopes = torch.autograd.grad(value, model.shared_parameters(), retain_graph=True)
        assert all(slope.abs().sum() > 0 for slope in slopes)


# Fusion


def fusion(**options: Any) -> Fusion:
    torch.manual_seed(0)
    return Fusion(FusionConfig(width=16, **options), 6, 5, out_width=7).double().eval()


def test_fusion_without_mamba_gate_and_alignment() -> None:
    image, text = random(3, 6), random(3, 5, seed=1)
    module = fusion(kind="sum", gate=False, alignment=False)
    fused, weights = module(image, text)
    assert weights is None
    aligned = linear(module.align_image[0], image), linear(module.align_text[0], text)
    close(fused, linear(module.out, sum(aligned) / 2))
    whole = parameters(fusion())
    mlp = 2 * 16 * 17
    assert whole - parameters(fusion(alignment=False)) == mlp
    assert whole - parameters(fusion(gate=False)) == 2 * (2 * 16 + 1)
    assert whole - parameters(fusion(kind="sum")) == parameters(fusion().mixer)
    assert fusion(kind="sum")(image, text)[1].shape == (3, 2)
    with pytest.raises(ValueError, match="kind 'sum' reads 'pooled' tokens only, got 'pair'"):
        fusion(kind="sum", tokens="pair")


def matcher(**options: Any) -> Matcher:
    torch.manual_seed(0)
    made = Matcher(RerankConfig(width=16, **options), image_width=6, places=4, text_width=5).double().eval()
    nn.init.normal_(made.out.weight)
    return made


@pytest.mark.parametrize("gate", [True, False])
def test_a_matcher_without_mamba_sums_the_weighted_means(gate: bool) -> None:
    module = matcher(kind="sum", gate=gate, alignment=False)
    patches, tokens = random(2, 3, 4, 6), random(2, 5, 5, seed=1)
    found = module(patches, Words(tokens, torch.arange(5) < torch.tensor([[5], [3]])))
    for query, length in enumerate((5, 3)):
        for candidate in range(3):
            image = linear(module.align_image[0], patches[query, candidate] + module.places).mean(0)
            text = linear(module.align_text[0], tokens[query, :length]).mean(0)
            if gate:
                scores = linear(module.gate, torch.cat((image, text))).exp()
                image, text = scores[0] / scores.sum() * image, scores[1] / scores.sum() * text
            close(found[query, candidate], (module.out.weight @ norm(module.norm, image + text))[0])


def test_the_gate_of_a_matcher_weighs_what_mamba_reads() -> None:
    module, words = matcher(kind="mamba", gate=True), Words(random(1, 5, 5), torch.ones(1, 5, dtype=torch.bool))
    patches = random(1, 1, 4, 6, seed=1)
    image, text = module.align_image(patches[0] + module.places), module.align_text(words.tokens)
    scores = linear(module.gate, torch.cat((image.mean(1), text.mean(1)), dim=1)).exp()
    weights = (scores / scores.sum())[0]
    mixed = module.mixer(torch.cat((weights[0] * image, weights[1] * text), dim=1), None)[:, 4:].mean(1)
    close(module(patches, words)[0], (norm(module.norm, mixed) @ module.out.weight.T)[0])
    assert parameters(module) - parameters(matcher(kind="mamba")) == 2 * (2 * 16 + 1)


# Losses


def losses(config: LossConfig) -> dict[str, Tensor]:
    return unweighted_losses(config, *features(), BATCH, Temperatures(config))


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("info_weight", "info"),
        ("triplet_weight", "triplet"),
        ("clothing_weight", "clothing"),
        ("decouple_weight", "decouple"),
        ("gate_weight", "gate"),
    ],
)
def test_a_loss_of_weight_0_is_in_no_sum(field: str, name: str) -> None:
    config = replace(LossConfig(), **{field: 0.0})
    whole, found = losses(LossConfig()), losses(config)
    assert found.keys() == whole.keys() - {name}
    gradnorm = GradNorm(task_names(config), config)
    weights = {**dict.fromkeys(whole, 1.0), "gate": 0.01, name: 0.0}
    expected = sum(weights[loss] * value for loss, value in whole.items())
    close(total_loss(weighted_losses(config, found), gradnorm), expected)


def test_the_weight_of_info_nce() -> None:
    config = replace(LossConfig(), info_weight=3.0)
    image, text, _ = features()
    info = info_nce(image.identity_embedding, text.identity_embedding, BATCH.identities, TAU)
    close(weighted_losses(config, losses(config))["info"], 3 * info)


def test_both_clothing_losses_are_added() -> None:
    image, text, _ = features()
    pair = image.clothing_embedding, text.clothing_embedding
    differ = BATCH.identities[:, None] != BATCH.identities
    aligned, there = clothing_alignment(*pair, TAU, differ), clothing_alignment(*pair[::-1], TAU, differ)
    adversary = clothing_adversary(*pair, TAU)
    close(losses(LossConfig(clothing="both"))["clothing"], aligned + adversary)
    symmetric = losses(LossConfig(clothing="both", symmetric=True))["clothing"]
    close(symmetric, (aligned + there) / 2 + adversary)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("demo-icme --method.decoupling.kind none", "use --method.loss.decouple-weight 0, got 1.0"),
        (
            "demo-icme --method.decoupling.kind none --method.decoupling.pooled-last True",
            "--method.decoupling.pooled-last needs --method.decoupling.kind bdam, got none",
        ),
        ("demo --method.loss.info-weight -1", "--method.loss.info-weight must be at least 0, got -1.0"),
        (
            "demo --method.loss.info-weight 0 --method.loss.clothing-weight 0 --method.loss.decouple-weight 0",
            "one of --method.loss.info-weight, triplet-weight, clothing-weight and decouple-weight must be above 0",
        ),
    ],
)
def test_impossible_ablations_are_named(arguments: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        check_config(parse_config(PRESETS, arguments.split()))
