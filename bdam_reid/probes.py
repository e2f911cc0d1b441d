"""Linear probes: how well an attribute can be read from a feature, the measure of disentanglement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

FOLDS = 5


@dataclass(frozen=True)
class ProbeScore:
    """Accuracy in percent of predicting one attribute of unseen persons."""

    chance: float
    """Of always saying the class that is most frequent among the other persons."""
    identity: float
    """From the identity feature."""
    clothing: float
    """From the clothing feature."""
    images: int


def attribute_columns(images: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[str | None]]]:
    """The ground truth of images as columns to probe, by group: "identity" and "outfit".

    Of an outfit these are the kind, colour and pattern of each item. An item that is not worn has the kind
    "none", and no colour or pattern. "top" is what shows above: the outer garment, else the upper one.

    Args:
        images: entries of attributes.json.
    """
    people = [image.get("identity", {}) for image in images]
    outfits = [_shown(image.get("outfit", {})) for image in images]
    columns: dict[str, dict[str, list[str | None]]] = {"identity": {}, "outfit": {}}
    for name in _keys(people):
        columns["identity"][name] = [_label(person.get(name)) for person in people]
    for item in _keys(outfits):
        kinds = [_label(outfit.get(item, {}).get("kind", "none")) for outfit in outfits]
        columns["outfit"][f"{item} kind"] = kinds
        for name in ("colour", "pattern"):
            columns["outfit"][f"{item} {name}"] = [
                _label(outfit.get(item, {}).get(name)) for outfit in outfits
            ]
    return columns


def _shown(outfit: Mapping[str, Any]) -> dict[str, Any]:
    items = {name: item for name, item in outfit.items() if name not in ("outer", "upper")}
    top = outfit.get("outer") or outfit.get("upper")
    return {"top": top, **items} if top else items


def _keys(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for entry in entries for name in entry))


def _label(value: Any) -> str | None:
    return None if value is None else str(value)


def probe_attributes(
    identity: np.ndarray,
    clothing: np.ndarray,
    persons: Sequence[int],
    attributes: Mapping[str, Sequence[str | None]],
) -> dict[str, ProbeScore]:
    """Probe both features for every attribute, cross-validated over persons: none is in both parts.

    Args:
        identity: gated identity features, (N, D).
        clothing: gated clothing features, (N, D).
        persons: who is on each image, N.
        attributes: name -> N values; None where the image has none. Left out are attributes that fewer than
            half of the images have, and those of one value only.
    Returns: name -> score.
    """
    scores = {}
    groups = np.asarray(persons)
    for name, values in attributes.items():
        known = np.array([value is not None for value in values])
        labels = np.array([str(value) for value in values])[known]
        if 2 * len(labels) < len(values) or len(set(labels)) < 2 or len(set(groups[known])) < FOLDS:
            continue
        scores[name] = ProbeScore(
            chance=_accuracy(
                DummyClassifier(strategy="most_frequent"), identity[known], labels, groups[known]
            ),
            identity=_accuracy(_probe(), identity[known], labels, groups[known]),
            clothing=_accuracy(_probe(), clothing[known], labels, groups[known]),
            images=len(labels),
        )
    return scores


def above_chance(scores: Mapping[str, ProbeScore], feature: str) -> float | None:
    """Mean over attributes of (accuracy - chance) / (100 - chance) in percent: 0 is chance, 100 perfect."""
    gains = [
        100 * (getattr(score, feature) - score.chance) / (100 - score.chance)
        for score in scores.values()
        if score.chance < 100
    ]
    return float(np.mean(gains)) if gains else None


def _probe() -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))


def _accuracy(
    classifier: Pipeline | DummyClassifier, features: np.ndarray, labels: np.ndarray, groups: np.ndarray
) -> float:
    right = 0
    for train, test in GroupKFold(FOLDS, shuffle=True, random_state=0).split(features, labels, groups):
        if len(set(labels[train])) > 1:
            predicted = classifier.fit(features[train], labels[train]).predict(features[test])
        else:
            predicted = labels[train[:1]]
        right += (predicted == labels[test]).sum()
    return 100 * right / len(labels)
