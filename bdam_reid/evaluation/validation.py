"""Validates a method while it is trained: what chooses its checkpoint, and the weights of parts for each question."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import fmean

import torch

from bdam_reid.data.records import CLOTHES, Clothes, Dataset
from bdam_reid.engine.trainer import Validation
from bdam_reid.evaluation.metrics import Metrics
from bdam_reid.evaluation.ranking import Embedder, choose_weights
from bdam_reid.evaluation.tables import CLOTHES_WORDS, RATES, weights_text
from bdam_reid.methods.method import Method

_PREFIXES: Mapping[Clothes, str] = {"same": "", "other": "other_"}
"""Of the names of a question's rates."""


def validator(
    dataset: Dataset, device: torch.device, precision: str, allow_missing: bool
) -> Callable[[Method], Validation] | None:
    """What the trainer is handed: the mean over the protocols of the split "val" of R-1, then mAP, each at the best
    weights of the parts; None for a set without such a protocol."""
    protocols = {protocol.clothes: protocol for protocol in dataset.protocols.values() if protocol.split == "val"}
    if not protocols:
        return None

    def validate(method: Method) -> Validation:
        embedder = Embedder(method, device, precision, allow_missing=allow_missing)
        weights = method.default_weights()
        rated: dict[Clothes, Metrics] = {}
        for clothes in CLOTHES:
            if clothes in protocols:
                ranking = embedder.rank(protocols[clothes])
                weights[clothes], rated[clothes] = choose_weights(ranking, method.weight_choices())
        figures = {
            _PREFIXES[clothes] + name: getattr(rates, name) for clothes, rates in rated.items() for name in RATES
        }
        score = (fmean(rates.r1 for rates in rated.values()), fmean(rates.map for rates in rated.values()))
        return Validation(score, figures, weights, _words(rated, weights))

    return validate


def _words(rated: Mapping[Clothes, Metrics], weights: Mapping[Clothes, Mapping[str, float]]) -> str:
    questions = [
        f"{CLOTHES_WORDS[clothes]}: R-1 {metrics.r1:.2f}, mAP {metrics.map:.2f} ({weights_text(weights[clothes])})"
        for clothes, metrics in rated.items()
    ]
    return f"validation  {'; '.join(questions)}"
