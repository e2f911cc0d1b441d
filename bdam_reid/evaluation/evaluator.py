"""Validates a method, and evaluates it: `evaluate` is the one writer of metrics.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bdam_reid.config import ConfigError
from bdam_reid.data.records import Dataset, Record
from bdam_reid.engine.checkpoint import write_json
from bdam_reid.engine.trainer import Validation
from bdam_reid.evaluation.probes import GROUPS, Probed, above_chance, attribute_columns, probe_attributes
from bdam_reid.evaluation.ranking import Embedder, Ranking, alone, choose_weights
from bdam_reid.evaluation.tables import RATES, weights_text
from bdam_reid.methods.method import Method


class Evaluation(NamedTuple):
    """What an evaluation found."""

    metrics: dict[str, Any]
    """The content of metrics.json."""
    rankings: Mapping[str, Ranking]
    """By protocol."""
    gates: Mapping[str, Mapping[str, Tensor]]
    """What `Method.analyse` gave."""


def validator(
    dataset: Dataset, device: torch.device, precision: str, allow_missing: bool
) -> Callable[[Method], Validation] | None:
    """What the trainer is handed: the protocol "val", scored by R-1, then mAP, at the best weights of the parts; None
    for a set without that protocol."""
    if "val" not in dataset.protocols:
        return None

    def validate(method: Method) -> Validation:
        ranking = Embedder(method, device, precision, allow_missing=allow_missing).rank(dataset.protocols["val"])
        weights, metrics = choose_weights(ranking, method.weight_choices())
        figures = {name: getattr(metrics, name) for name in RATES}
        return Validation((metrics.r1, metrics.map), figures, weights)

    return validate


def evaluate(
    embedder: Embedder,
    dataset: Dataset,
    weights: Mapping[str, float],
    output: Path,
    protocols: Sequence[str] = (),
) -> Evaluation:
    """Rank every protocol but "val", measure gates and disentanglement, and write OUTPUT/metrics.json.

    Args:
        embedder: of the method, which has the weights to evaluate.
        dataset: whose protocols are ranked.
        weights: of the parts of an embedding; a part that is not named has none.
        output: folder of metrics.json.
        protocols: names of those to rank; none stands for all but "val".
    Raises: ConfigError for a protocol or part that there is not; DatasetError for images that cannot be read, unless
        `embedder` may leave them out.
    """
    method = embedder.method
    chosen = list(protocols) or [name for name in dataset.protocols if name != "val"]
    _check_known("--split", chosen, dataset.protocols)
    _check_known("--weights", weights, method.parts)
    if not all(map(isfinite, weights.values())):
        raise ConfigError(f"--weights must be finite, got {weights_text(weights)}")
    weights = {part: weights.get(part, 0.0) for part in method.parts}
    rankings = {name: embedder.rank(dataset.protocols[name]) for name in chosen}
    metrics = measure(rankings, weights, next(iter(method.parts)))
    gates = embedder.analyse(dataset.protocols[chosen[0]].gallery)
    if gates:
        metrics["gates"] = {
            group: {name: {"mean": float(x.mean()), "std": float(x.std())} for name, x in series.items()}
            for group, series in gates.items()
        }
    if probes := probe(embedder, dataset, rankings):
        metrics["probes"] = probes
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "metrics.json", metrics)
    return Evaluation(metrics, rankings, gates)


def measure(rankings: Mapping[str, Ranking], weights: Mapping[str, float], first: str) -> dict[str, Any]:
    """What metrics.json says of rankings: each at `weights`, and R-1 of a random ranking; where there are several
    parts, also with the part `first` alone. What of the protocol could not be ranked stands beside the rates."""
    result: dict[str, Any] = {"weights": dict(weights)}
    for name, ranking in rankings.items():
        lost = {name: getattr(ranking, name) for name in ("missing_images", "queries_without_image")}
        result[name] = {**asdict(ranking.metrics(weights)), **lost}
        if len(ranking.similarity) > 1:
            result[f"{name}_{first}"] = {**asdict(ranking.metrics(alone(first))), **lost}
        result[f"{name}_chance_r1"] = ranking.chance()
    return result


def probe(embedder: Embedder, dataset: Dataset, rankings: Mapping[str, Ranking]) -> dict[str, Any]:
    """What linear probes, learnt on the training split, tell of everybody else; empty without ground truth to learn.

    No person is on both sides: the loader does not accept splits that share one.
    """
    if not any(record.attributes for record in dataset.train):
        return {}
    known = embedder.probed(dataset.train)
    unseen = [protocol.gallery for name, protocol in dataset.protocols.items() if name == "val"]
    unseen += [ranking.gallery for name, ranking in rankings.items() if name != "val"]
    others = [embedder.probed(records) for records in unseen]
    result: dict[str, Any] = {}
    for group in GROUPS:
        scores = probe_attributes(_columns([known], group), _columns(others, group))
        result[group] = {name: score.as_dict() for name, score in scores.items()}
        result[f"{group}_above_chance"] = {feature: above_chance(scores, feature) for feature in known[1]}
    return result if any(result[group] for group in GROUPS) else {}


_Images = tuple[tuple[Record, ...], dict[str, Tensor]]
"""Records and their features by name."""


def _columns(images: Sequence[_Images], group: str) -> Probed:
    truth = [record.attributes or {} for records, _ in images for record in records]
    return Probed(
        features={name: torch.cat([features[name] for _, features in images]).numpy() for name in images[0][1]},
        columns=attribute_columns(truth)[group],
    )


def _check_known(option: str, names: Sequence[str] | Mapping[str, Any], known: Mapping[str, Any]) -> None:
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"{option} must be of {', '.join(known)}, got {', '.join(unknown)}")
