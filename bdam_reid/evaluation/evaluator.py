"""Evaluates a method: `evaluate` is the one writer of metrics.json."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from bdam_reid.config import ConfigError
from bdam_reid.data.records import Clothes, Dataset, Protocol, QueryError, Record, has_attributes, without_attributes
from bdam_reid.engine.checkpoint import write_json
from bdam_reid.engine.run import log
from bdam_reid.evaluation.disentanglement import probe
from bdam_reid.evaluation.k_reciprocal import K1, K2, LAMBDA, by_image, check_k_reciprocal, k_reciprocal
from bdam_reid.evaluation.metrics import Metrics, mean
from bdam_reid.evaluation.ranking import Embedder, Ranking
from bdam_reid.evaluation.reranking import rerank
from bdam_reid.evaluation.tables import weights_text
from bdam_reid.methods.method import first_alone


class Evaluation(NamedTuple):
    """What an evaluation found."""

    metrics: dict[str, Any]
    """The content of metrics.json."""
    rankings: Mapping[str, Ranking]
    """By protocol."""
    gates: Mapping[str, Mapping[str, Tensor]]
    """What `Method.analyse` gave."""


def evaluate(
    embedder: Embedder,
    dataset: Dataset,
    weights: Mapping[Clothes, Mapping[str, float]],
    output: Path,
    protocols: Sequence[str] = (),
    reranks: Collection[Clothes] = (),
    trained_on: str = "",
    by_neighbours: bool = False,
    learnt: Sequence[Record] | None = None,
) -> Evaluation:
    """Rank every protocol of the test split, measure gates and disentanglement, and write OUTPUT/metrics.json.

    Args:
        embedder: of the method, which has the weights to evaluate.
        dataset: whose protocols are ranked.
        weights: of the parts of an embedding, for each question; a part that is not named has none.
        output: folder of metrics.json.
        protocols: names of those to rank; none stands for all of the test split.
        reranks: the questions for which validation preferred re-ranking.
        trained_on: the data set that the method was trained on, if it is another, to be named beside this one.
        by_neighbours: whether k-reciprocal re-ranking is reported too, of the protocols whose queries are images.
        learnt: training images that probes learn from; those of the data set if there are no others.
    Raises: ConfigError for a protocol or part that there is not; DatasetError for images that cannot be read, unless
        `embedder` may leave them out.
    """
    method = embedder.method
    chosen = list(protocols) or [name for name, protocol in dataset.protocols.items() if protocol.split == "test"]
    _check_known("--split", chosen, dataset.protocols)
    for given in weights.values():
        _check_known("--weights", given, method.parts)
        if not all(map(isfinite, given.values())):
            raise ConfigError(f"--weights must be finite, got {weights_text(given)}")
        if not any(given.values()):
            raise ConfigError(f"one of --weights must not be 0, or nothing is ranked, got {weights_text(given)}")
    weights = {clothes: {part: given.get(part, 0.0) for part in method.parts} for clothes, given in weights.items()}
    neighbours = _by_neighbours(dataset, chosen, weights) if by_neighbours else []
    rankings = {name: embedder.rank(dataset.protocols[name]) for name in chosen}
    sets = {"trained_on": trained_on, "evaluated_on": str(dataset)} if trained_on else {}
    metrics: dict[str, Any] = {
        **sets,
        "weights": weights,
        "protocols": {
            name: {**_asked(dataset.protocols[name]), **measure(ranking, weights)} for name, ranking in rankings.items()
        },
    }
    for name in chosen:
        if method.oracle and has_attributes(dataset.protocols[name]):
            found, bare = metrics["protocols"][name], embedder.rank(without_attributes(dataset.protocols[name]))
            found["attributes"] = "oracle"
            found["results"]["without_attributes"] = asdict(bare.metrics(weights[found["clothes"]]))
    if method.reranks:
        for name, ranking in rankings.items():
            try:
                add_reranked(metrics["protocols"][name], embedder, ranking, weights, reranks)
            except QueryError as error:
                log.info(f"{name} is not re-ranked: {error}")
    for name in neighbours:
        found = metrics["protocols"][name]
        found["results"]["k_reciprocal"] = asdict(k_reciprocal(rankings[name], weights[found["clothes"]]))
        found["k_reciprocal"] = {"k1": K1, "k2": K2, "lambda": LAMBDA}
    own_names = {name: dataset.own_name(dataset.protocols[name]) for name in chosen}
    if dataset.several:
        metrics["domains"] = {domain.name: str(domain) for domain in dataset.domains}
        metrics["means"] = _means(metrics["protocols"], own_names)
    alike = [name for name, own_name in own_names.items() if own_name == own_names[chosen[0]]]
    gates = embedder.analyse([record for name in alike for record in dataset.protocols[name].gallery])
    if gates:
        metrics["gates"] = {
            group: {name: {"mean": float(x.mean()), "std": float(x.std())} for name, x in series.items()}
            for group, series in gates.items()
        }
    unseen: dict[str, list[Record]] = {"val": [], "test": []}
    for name, protocol in dataset.protocols.items():
        if protocol.split == "val" or name in rankings:
            unseen[protocol.split] += protocol.gallery
    if probes := probe(embedder, dataset.train if learnt is None else learnt, unseen):
        metrics["probes"] = probes
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "metrics.json", metrics)
    return Evaluation(metrics, rankings, gates)


def _asked(protocol: Protocol) -> dict[str, Any]:
    """What metrics.json says of a protocol itself: whom it asks for, and how well they could be found, if known."""
    return {"clothes": protocol.clothes, **({"ceiling": protocol.ceiling} if protocol.ceiling else {})}


def measure(ranking: Ranking, weights: Mapping[Clothes, Mapping[str, float]]) -> dict[str, Any]:
    """What metrics.json says of a ranking: R-1 of a random one, what of the protocol could not be ranked, and the
    results at the weights for each question and with the first part alone, by its name."""
    first = first_alone(ranking.parts)
    settings = {**{str(clothes): of for clothes, of in weights.items()}, next(iter(first)): first}
    distinct = {tuple(setting.values()): setting for setting in settings.values()}
    rated = dict(zip(distinct, map(asdict, ranking.metrics_at(list(distinct.values()))), strict=True))
    return {
        "chance_r1": ranking.chance(),
        "missing_images": ranking.missing_images,
        "queries_without_image": ranking.queries_without_image,
        "results": {name: rated[tuple(setting.values())] for name, setting in settings.items()},
    }


def add_reranked(
    found: dict[str, Any],
    embedder: Embedder,
    ranking: Ranking,
    weights: Mapping[Clothes, Mapping[str, float]],
    reranks: Collection[Clothes],
) -> None:
    """Add to what metrics.json says of a ranking that which re-ranking makes of it at the weights for its own question,
    what it costs, and whether validation preferred it."""
    clothes = found["clothes"]
    reranked = rerank(embedder, ranking, weights[clothes], clothes)
    found["results"]["reranked"] = asdict(reranked.metrics)
    found["rerank"] = {
        "top": embedder.method.reranks,
        "pair_ms": reranked.pair_ms,
        "query_ms": reranked.query_ms,
        "preferred": clothes in reranks,
    }


def _means(found: Mapping[str, Mapping[str, Any]], own_names: Mapping[str, str]) -> dict[str, Any]:
    """The means of what metrics.json says of protocols over those that have one name in their own sets, by that name.

    Args:
        found: of the protocols, by name.
        own_names: by name, that which each has in its own set.
    """
    means = {}
    for own_name in dict.fromkeys(own_names.values()):
        alike = {name: of for name, of in found.items() if own_names[name] == own_name}
        first, *others = alike.values()
        if others:
            settings = [how for how in first["results"] if all(how in of["results"] for of in others)]
            rows = {how: [Metrics(**of["results"][how]) for of in alike.values()] for how in settings}
            means[own_name] = {
                "protocols": list(alike),
                "clothes": first["clothes"],
                "results": {how: asdict(mean(of)) for how, of in rows.items()},
            }
    return means


def _by_neighbours(
    dataset: Dataset, chosen: Sequence[str], weights: Mapping[Clothes, Mapping[str, float]]
) -> list[str]:
    """The protocols that k-reciprocal re-ranking is for, which must be some; the log names the others."""
    protocols = {name: dataset.protocols[name] for name in chosen}
    others = [name for name, protocol in protocols.items() if not by_image(protocol.queries)]
    for name, protocol in protocols.items():
        if name not in others or len(others) == len(protocols):
            check_k_reciprocal(protocol.queries, protocol.gallery, weights[protocol.clothes])
    if others:
        log.info(f"not re-ranked by k-reciprocal neighbours, as queries are not images alone: {', '.join(others)}")
    return [name for name in chosen if name not in others]


def _check_known(option: str, names: Sequence[str] | Mapping[str, Any], known: Mapping[str, Any]) -> None:
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"{option} must be of {', '.join(known)}, got {', '.join(unknown)}")
