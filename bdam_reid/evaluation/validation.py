"""Validates a method while it is trained: what chooses its checkpoint, and the weights of parts for each question."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from statistics import fmean
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bdam_kernels import hsic
from bdam_reid.data.records import CLOTHES, Clothes, Dataset, Protocol
from bdam_reid.engine.errors import TrainingError
from bdam_reid.engine.trainer import Validation
from bdam_reid.evaluation.metrics import Metrics, mean
from bdam_reid.evaluation.ranking import Embedder, Ranking, choose_weights
from bdam_reid.evaluation.reranking import rerank
from bdam_reid.evaluation.tables import CLOTHES_WORDS, ORACLE_WORDS, RATES, weights_text
from bdam_reid.methods.method import Method

_PREFIXES: Mapping[Clothes, str] = {"same": "", "other": "other_"}
"""Of the names of a question's rates."""
MIN_IMAGES = 4
"""That the unbiased estimator of HSIC takes."""


class Rated(NamedTuple):
    """What a method does on a question, in the mean over the sets that ask it."""

    plain: Metrics
    reranked: Metrics | None
    """None if the method does not re-rank."""
    domains: Mapping[str, Metrics]
    """`plain` of each of several sets by name; empty for one."""

    @property
    def reranking_pays(self) -> bool:
        """Whether re-ranking betters R-1, or leaves it and betters mAP."""
        plain, again = self.plain, self.reranked
        return again is not None and (again.r1, again.map) > (plain.r1, plain.map)

    @property
    def best(self) -> Metrics:
        """The better of the two."""
        return self.reranked if self.reranked and self.reranking_pays else self.plain

    def rates(self) -> dict[str, float]:
        """All rates by name."""
        rates = {name: getattr(self.plain, name) for name in RATES}
        if self.reranked:
            rates |= {f"reranked_{name}": getattr(self.reranked, name) for name in ("r1", "map")}
        for domain, of in self.domains.items():
            rates |= {f"{domain}/{name}": getattr(of, name) for name in RATES}
        return rates


def validator(
    dataset: Dataset, device: torch.device, precision: str, allow_missing: bool
) -> Callable[[Method], Validation] | None:
    """What the trainer is handed: the mean over the questions that protocols of the split "val" ask of R-1, then mAP,
    each at the weights of the parts that `choose_weights` takes, and re-ranked where that is better; None for a set
    without such a protocol. On several sets a question's rates are the means over those that ask it."""
    protocols: dict[Clothes, list[Protocol]] = defaultdict(list)
    for protocol in dataset.protocols.values():
        if protocol.split == "val":
            protocols[protocol.clothes].append(protocol)
    if not protocols:
        return None

    def validate(method: Method) -> Validation:
        embedder = Embedder(method, device, precision, allow_missing=allow_missing)
        weights = method.default_weights()
        rated: dict[Clothes, Rated] = {}
        shared: dict[str, float] = {}
        for clothes in CLOTHES:
            if asked := protocols.get(clothes):
                galleries = [embedder.gallery(protocol.gallery) for protocol in asked]
                rankings = list(map(embedder.rank, asked, galleries))
                _check_numbers(rankings)
                weights[clothes], plain = choose_weights(rankings, method.weight_choices())
                names = [dataset.domains[protocol.domain].name for protocol in asked] if dataset.several else []
                again = (rerank(embedder, ranking, weights[clothes], clothes).metrics for ranking in rankings)
                rated[clothes] = Rated(
                    mean(plain), mean(list(again)) if method.reranks else None, dict(zip(names, plain, strict=False))
                )
                shared = shared or dependence(method.parts, galleries[0][1])
        figures = {
            _PREFIXES[clothes] + name: rate for clothes, of in rated.items() for name, rate in of.rates().items()
        }
        score = (fmean(of.best.r1 for of in rated.values()), fmean(of.best.map for of in rated.values()))
        reranks = [clothes for clothes, of in rated.items() if of.reranking_pays]
        words = _words(rated, weights, shared) + ORACLE_WORDS * method.oracle
        return Validation(score, {**figures, **shared}, weights, words, reranks)

    return validate


def _check_numbers(rankings: Sequence[Ranking]) -> None:
    """Raise TrainingError for embeddings that cannot be ranked: weights that are numbers can be too great."""
    if not all(ranking.asked.isfinite().all() and ranking.embeddings.isfinite().all() for ranking in rankings):
        raise TrainingError(
            "the embeddings of validation are no numbers, and nothing is saved: the last checkpoint is the one before. "
            "Lower the learning rate or limit the gradient norm, with a new --output"
        )


def dependence(parts: Mapping[str, slice], embeddings: Tensor) -> dict[str, float]:
    """How much the first part of embeddings (N, E) has in common with the others: normalised HSIC, which with linear
    kernels is linear CKA, as "cka_linear" and "cka_rbf". 0 is independent, 1 the most. The estimator has no bias, so
    that few images of wide embeddings are not alike by chance, and may be negative; what it cannot tell is left out.
    """
    first, *others = (embeddings[:, part] for part in parts.values())
    if not others or len(embeddings) < MIN_IMAGES:
        return {}
    rest = torch.cat(others, dim=1)
    kernels: tuple[Literal["linear", "rbf"], ...] = ("linear", "rbf")
    found = {
        f"cka_{kernel}": float(hsic(first, rest, kernel=kernel, estimator="unbiased", normalize=True))
        for kernel in kernels
    }
    return {name: value for name, value in found.items() if isfinite(value)}


def _words(
    rated: Mapping[Clothes, Rated], weights: Mapping[Clothes, Mapping[str, float]], shared: Mapping[str, float]
) -> str:
    questions = [
        f"{CLOTHES_WORDS[clothes]}: {_rates(of.plain)}"
        + (f", the mean of {', '.join(f'{n} {_rates(each)}' for n, each in of.domains.items())}" if of.domains else "")
        + f" ({weights_text(weights[clothes])})"
        + (f", re-ranked {_rates(of.reranked)}" if of.reranked else "")
        for clothes, of in rated.items()
    ]
    return f"validation  {'; '.join([*questions, *(f'{name} {value:.2f}' for name, value in shared.items())])}"


def _rates(metrics: Metrics) -> str:
    return f"R-1 {metrics.r1:.2f}, mAP {metrics.map:.2f}"
