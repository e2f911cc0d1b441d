"""Probes: how well an attribute can be read from a feature, the measure of disentanglement.

Each attribute is read by a linear probe and by a small network, since what no line divides may still be there. They
weigh all values of an attribute alike, and so do accuracies: always to say the most frequent one is to read nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from threadpoolctl import threadpool_limits

from bdam_reid.cores import cores
from bdam_reid.evaluation.attributes import Columns

TRAIN_IMAGES = 4000
"""That probes learn from at most."""
Row: TypeAlias = dict[str, Any]
"""{"chance", "images", a probe: {a feature: accuracy}, ...} of some images of unseen persons, in percent: balanced
accuracies, the mean over the values of the share of each one's images that is read right, and what guessing gives."""


@dataclass(frozen=True)
class Probed:
    """Features of N images as probes read them, and what is true of the images."""

    features: Mapping[str, np.ndarray]
    """By name, (N, D)."""
    columns: Columns


@dataclass(frozen=True)
class Answers:
    """What probes say of one attribute of N images of persons that they have not learnt from."""

    known: np.ndarray
    """Whether an image has the attribute, (N,) bool."""
    truth: np.ndarray
    """Its value, (N,) texts."""
    said: Mapping[str, Mapping[str, np.ndarray]]
    """What a probe of a feature says, (N,) texts."""

    def row(self, among: np.ndarray | None = None) -> Row:
        """Accuracies over the images that have the attribute, among those of a mask (N,); no accuracies if there are
        none."""
        chosen = self.known if among is None else self.known & among
        if not chosen.any():
            return {"images": 0}
        truth = self.truth[chosen]
        return {
            "chance": 100 / len(set(truth)),
            **{
                probe: {feature: _balanced(truth, said[chosen]) for feature, said in features.items()}
                for probe, features in self.said.items()
            },
            "images": int(chosen.sum()),
        }


def probe_attributes(train: Probed, unseen: Mapping[str, Probed]) -> dict[str, dict[str, Answers]]:
    """Learn to tell each attribute from each feature of some images, and try it on images of other persons.

    Args:
        train: images to learn from.
        unseen: the others, by the name of their group.
    Returns: group -> attribute -> answers. Left out are attributes that fewer than half of the images to learn from or
        of the group have, and those of which only one value is learnt.
    """
    # A probe is too small to divide: the threads of BLAS would wait for each other longer than they compute.
    with warnings.catch_warnings(), threadpool_limits(1), ThreadPoolExecutor(cores()) as threads:
        warnings.simplefilter("ignore", ConvergenceWarning)  # 60 epochs are enough for a comparison
        found = threads.map(partial(_probe_attribute, train, unseen), train.columns)
        by_attribute = dict(zip(train.columns, found, strict=True))
    return {
        name: {attribute: answers[name] for attribute, answers in by_attribute.items() if name in answers}
        for name in unseen
    }


def _probe_attribute(train: Probed, unseen: Mapping[str, Probed], attribute: str) -> dict[str, Answers]:
    """What `probe_attributes` finds of one of them: group -> answers."""
    column = train.columns[attribute]
    learnt = _known(column)
    labels = np.array(column)[learnt].astype(str)
    groups = {
        name: group
        for name, group in unseen.items()
        if attribute in group.columns and _known(group.columns[attribute]).mean() >= 0.5
    }
    if learnt.mean() < 0.5 or len(set(labels)) < 2 or not groups:
        return {}
    read = {
        probe: {feature: learn(values[learnt], labels) for feature, values in train.features.items()}
        for probe, learn in PROBES.items()
    }
    return {
        name: Answers(
            known=_known(group.columns[attribute]),
            truth=np.array(group.columns[attribute]).astype(str),
            said={
                probe: {feature: tell(group.features[feature]) for feature, tell in features.items()}
                for probe, features in read.items()
            },
        )
        for name, group in groups.items()
    }


def above_chance(rows: Mapping[str, Row], probe: str, feature: str) -> float | None:
    """Mean over attributes of (accuracy - chance) / (100 - chance) in percent: 0 is chance, 100 perfect."""
    gains = [
        100 * (row[probe][feature] - row["chance"]) / (100 - row["chance"])
        for row in rows.values()
        if row["images"] and row["chance"] < 100
    ]
    return float(np.mean(gains)) if gains else None


_Learn = Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]
"""Features (N, D) and labels (N,) -> what tells the labels of other features."""


def _learn_linear(features: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    probe = LogisticRegression(C=0.1, max_iter=1000, class_weight="balanced")
    return make_pipeline(StandardScaler(), probe).fit(features, labels).predict


def _learn_network(features: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """One hidden layer, stopped early by a tenth of the images; by nothing where these cannot have every class."""
    _, counts = np.unique(labels, return_counts=True)
    divisible = bool(counts.min() > 1 and len(labels) >= 10 * len(counts))
    network = MLPClassifier(
        (64,), learning_rate_init=1e-2, max_iter=60, early_stopping=divisible, n_iter_no_change=5, random_state=0
    )
    weights = compute_sample_weight("balanced", labels)
    return make_pipeline(StandardScaler(), network).fit(features, labels, mlpclassifier__sample_weight=weights).predict


PROBES: Mapping[str, _Learn] = {"linear": _learn_linear, "mlp": _learn_network}


def _known(values: Sequence[str | None]) -> np.ndarray:
    return np.array([value is not None for value in values])


def _balanced(truth: np.ndarray, said: np.ndarray) -> float:
    return float(100 * np.mean([(said[truth == value] == value).mean() for value in np.unique(truth)]))
