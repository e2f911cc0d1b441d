"""The efficiency study: parameters, FLOPs, memory and time of the fusion modules and of the whole model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import pytest
from torch import Tensor, nn

from benchmarks.efficiency.fusions import (
    VARIANTS,
    Size,
    flops,
    fusion,
    fusion_inputs,
    fusions,
    parameters,
    trained,
    whole_model,
    whole_model_parts,
)

Contest = Callable[..., None]
LENGTHS = [2**exponent for exponent in range(6, 15)]


def measure(contest: Contest, modules: Mapping[str, tuple[nn.Module, list[Tensor]]], **labels: Any) -> None:
    """A contest of modules, each with its own inputs."""
    facts = {
        name: {"parameters": parameters(module), **flops(module, inputs)} for name, (module, inputs) in modules.items()
    }
    contest({name: trained(*part) for name, part in modules.items()}, facts=facts, **labels)


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("tokens", ["pooled", "pair", "sequence"])
def test_fusion(contest: Contest, small: bool, tokens: Literal["pooled", "pair", "sequence"], batch: int) -> None:
    """The drafts' sizes; the simple fusion reads pooled features whatever the others read."""
    size = Size(batch, 5, 3) if small else Size(batch)
    modules = {kind: (fusion(config), fusion_inputs(config, size)) for kind, config in fusions(tokens).items()}
    measure(contest, modules, op="fusion", size=f"{tokens}, B = {batch}", tokens=tokens, batch=batch)


@pytest.mark.parametrize("length", LENGTHS)
def test_fusion_length(contest: Contest, small: bool, length: int) -> None:
    """Three patches for each word. Without dropout: with it attention over 16,384 tokens fits no machine at hand."""
    size = Size(1, 5, 3) if small else Size(1, 3 * length // 4, length // 4)
    configs = {kind: replace(fusions("sequence")[kind], dropout=0.0) for kind in ("mamba", "transformer")}
    modules = {kind: (fusion(config), fusion_inputs(config, size)) for kind, config in configs.items()}
    measure(contest, modules, op="fusion of a length", size=f"L = {length}, B = 1", length=length)


def test_fusion_variants(contest: Contest) -> None:
    inputs = fusion_inputs(fusions("pooled")["mamba"], Size(16))
    modules = {name: (fusion(config), inputs) for name, config in VARIANTS.items()}
    measure(contest, modules, op="fusion variants", size="pooled, B = 16")


def test_whole_model(contest: Contest, small: bool) -> None:
    parts = whole_model_parts(whole_model(small), 1 if small else 2)
    measure(contest, parts, op="whole model", size="2 images with two texts each", batch=2)
