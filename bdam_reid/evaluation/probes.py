"""Linear probes: how well an attribute can be read from a feature, the measure of disentanglement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bdam_reid.data.printable import printable

GROUPS = ("identity", "outfit")
"""Of attributes: what belongs to the person, and what is worn."""
Columns = dict[str, list[str | None]]
"""Attribute -> its value on each image; None where an image has none."""


@dataclass(frozen=True)
class Probed:
    """Features of N images as probes read them, and what is true of the images."""

    features: Mapping[str, np.ndarray]
    """By name, (N, D)."""
    columns: Columns


@dataclass(frozen=True)
class ProbeScore:
    """Accuracy in percent of telling one attribute of unseen persons."""

    chance: float
    """Of always saying the most frequent class of the images that the probe learnt from."""
    accuracy: Mapping[str, float]
    """From each feature."""
    images: int
    """On which it was tested."""

    def as_dict(self) -> dict[str, float]:
        """As metrics.json has it."""
        return {"chance": self.chance, **self.accuracy, "images": self.images}


def attribute_columns(images: Sequence[Mapping[str, Any]]) -> dict[str, Columns]:
    """The ground truth of images as columns to probe, by group: "identity" and "outfit".

    Of an outfit these are the kind, colour and pattern of each item. An item that is not worn has the kind
    "none", and no colour or pattern. "top" is what shows above: the outer garment, else the upper one.

    Args:
        images: entries of attributes.json.
    """
    people = [image.get("identity", {}) for image in images]
    outfits = [_shown(image.get("outfit", {})) for image in images]
    columns: dict[str, Columns] = {"identity": {}, "outfit": {}}
    for name in _keys(people):
        columns["identity"][printable(name)] = [_label(person.get(name)) for person in people]
    for item in _keys(outfits):
        kinds = [_label(outfit.get(item, {}).get("kind", "none")) for outfit in outfits]
        columns["outfit"][printable(f"{item} kind")] = kinds
        for name in ("colour", "pattern"):
            columns["outfit"][printable(f"{item} {name}")] = [
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


def probe_attributes(train: Probed, test: Probed) -> dict[str, ProbeScore]:
    """Learn to tell each attribute from a feature of some images, and try it on others.

    Args:
        train: images to learn from.
        test: images of other persons.
    Returns: attribute -> score. Left out are attributes that fewer than half of the images have on either
        side, and those of which only one value is learnt.
    """
    scores = {}
    for name in train.columns.keys() & test.columns.keys():
        learnt, tried = (_known(images.columns[name]) for images in (train, test))
        labels = np.array(train.columns[name])[learnt].astype(str)
        truth = np.array(test.columns[name])[tried].astype(str)
        if min(learnt.mean(), tried.mean()) < 0.5 or len(set(labels)) < 2:
            continue
        classes, counts = np.unique(labels, return_counts=True)
        scores[name] = ProbeScore(
            chance=_percent(truth == classes[counts.argmax()]),
            accuracy={
                feature: _accuracy(values[learnt], labels, test.features[feature][tried], truth)
                for feature, values in train.features.items()
            },
            images=len(truth),
        )
    return {name: scores[name] for name in train.columns if name in scores}


def above_chance(scores: Mapping[str, ProbeScore], feature: str) -> float | None:
    """Mean over attributes of (accuracy - chance) / (100 - chance) in percent: 0 is chance, 100 perfect."""
    gains = [
        100 * (score.accuracy[feature] - score.chance) / (100 - score.chance)
        for score in scores.values()
        if score.chance < 100
    ]
    return float(np.mean(gains)) if gains else None


def _known(values: Sequence[str | None]) -> np.ndarray:
    return np.array([value is not None for value in values])


def _accuracy(features: np.ndarray, labels: np.ndarray, others: np.ndarray, truth: np.ndarray) -> float:
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    return _percent(probe.fit(features, labels).predict(others) == truth)


def _percent(right: np.ndarray) -> float:
    return float(100 * right.mean())
