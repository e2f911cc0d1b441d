"""The optimizer that methods share: its config, and the stage that it makes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from bdam_reid.config import Range
from bdam_reid.methods.schedules import warm_up_and_anneal

if TYPE_CHECKING:
    from torch.nn import Module, Parameter

    from bdam_reid.data.training import Source
    from bdam_reid.encoders.config import EncoderConfig
    from bdam_reid.methods.method import Stage


@dataclass(frozen=True)
class OptimConfig:
    """Adam with cosine annealing (icme section IV-A, long section 4.2)."""

    lr: float = 1e-4
    new_factor: float = 1.0
    """Times `lr` is the rate of what has no published weights."""
    weight_decay: float = 1e-3
    decoupled_decay: bool = False
    """AdamW: the decay is a step of its own, and spares biases and norms."""
    epochs: int = 60
    warmup_steps: Annotated[int, Range(0)] = 0
    clip_norm: float = 0.0
    """Gradient norm limit; 0 is none."""


def parameter_groups(
    config: OptimConfig, trained: Iterable[Parameter], published: Iterable[Parameter] = ()
) -> list[dict[str, Any]]:
    """The groups of a stage that trains `trained`, of which those in `published` began with published weights. A
    decoupled decay spares what has one dimension or none."""
    trained, known = list(trained), set(map(id, published))
    rates: list[tuple[list[Parameter], dict[str, Any]]] = [(trained, {})]
    if config.new_factor != 1:
        new = [p for p in trained if id(p) not in known]
        rates = [([p for p in trained if id(p) in known], {}), (new, {"factor": config.new_factor})]
    if not config.decoupled_decay:
        return [{"params": parameters, **rate} for parameters, rate in rates if parameters]
    groups = []
    for parameters, rate in rates:
        groups.append({"params": [p for p in parameters if p.ndim > 1], **rate})
        groups.append({"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0, **rate})
    return [group for group in groups if group["params"]]


def published_parameters(*encoders: tuple[Module, EncoderConfig]) -> list[Parameter]:
    """Those of encoders that begin with published weights."""
    return [p for encoder, config in encoders if config.pretrained for p in encoder.parameters()]


def main_stage(config: OptimConfig, groups: list[dict[str, Any]], batches: Source) -> Stage:
    """The stage that trains all of a method at once."""
    from torch.optim import Adam, AdamW

    from bdam_reid.methods.method import Stage

    kind = AdamW if config.decoupled_decay else Adam
    return Stage(
        name="all",
        groups=groups,
        epochs=config.epochs,
        optimizer=partial(kind, lr=config.lr, weight_decay=config.weight_decay, fused=True),
        learning_rate=partial(warm_up_and_anneal, rate=config.lr, warmup_steps=config.warmup_steps),
        batches=batches,
        clip_norm=config.clip_norm,
    )
