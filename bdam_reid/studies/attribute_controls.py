"""What labels do without a model, and a model without true labels: the controls of the study of attributes.

Labels that are known at test time give away who is shown: those of Market-1501 tell half of the test persons from all
others. How much of a result is that, the paper does not say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bdam_reid.data.attributes import Labels, labels_of
from bdam_reid.data.records import Record
from bdam_reid.evaluation.probes import PROBES, TRAIN_IMAGES
from bdam_reid.evaluation.ranking import Embedder
from bdam_reid.methods.mosaic.router import UNKNOWN
from bdam_reid.studies.attribute_truth import shown
from bdam_reid.studies.switched import Switched

CONTROLS = {
    "labels alone": "images are ranked by the number of attributes that are labelled alike, without any model",
    "labels of others": "every person has the labels of another one, the same on all images",
    "labels at random": "every image has the labels of another one",
    "predicted labels": "labels are read by linear heads from the features of the image itself, without experts; the "
    "heads have learnt from the training images",
}


def run_control(
    name: str, switched: Switched, embedder: Embedder, train: Sequence[Record], seed: int
) -> dict[str, Any]:
    """The metrics of a control with all attributes switched on, and for predicted labels the share that is right, and
    the bits of them that are shown.

    Args:
        name: of CONTROLS.
        switched: the images, and the model.
        embedder: of the model.
        train: training records.
        seed: of what is shuffled and drawn.
    Raises: DatasetError if training images cannot be read.
    """
    router, rng = switched.method.router, Random(f"{seed}/{name}")
    router.switch(router.names)
    if name == "labels alone":
        return {"metrics": asdict(switched.metrics(agreement(switched.states)))}
    if name == "predicted labels":
        said = predicted(switched, embedder, train, rng)
        states = router.read(said)
        metrics = asdict(switched.metrics(switched.embed(states)))
        return {"metrics": metrics, "right": right(switched.labels, said), "shown": shown(switched.labels, said)}
    people = sorted({person for person, of in zip(switched.persons, switched.labels, strict=True) if of})
    if name == "labels of others":
        labels, order = dict(zip(switched.persons, switched.states, strict=True)), rng.sample(people, len(people))
        other = dict(zip(order, [*order[1:], *order[:1]], strict=True))
        states = torch.stack([labels[other.get(person, person)] for person in switched.persons])
    else:
        states = switched.states[rng.sample(range(len(switched.paths)), len(switched.paths))]
    return {"metrics": asdict(switched.metrics(switched.embed(states)))}


def agreement(states: Tensor) -> Tensor:
    """States of attributes (N, A) -> vectors (N, any width) whose inner products are the numbers of attributes that
    are known of both, and the same."""
    return F.one_hot(states - UNKNOWN, int(states.max()) - UNKNOWN + 1)[:, :, 1:].flatten(1).float()


def predicted(switched: Switched, embedder: Embedder, train: Sequence[Record], rng: Random) -> list[Labels]:
    """The labels of all images by a linear head for each attribute; an attribute with one state in training has it
    everywhere, and one without any is not labelled."""
    known = [record for record in train if labels_of(record)]
    if len(known) > TRAIN_IMAGES:
        known = [known[at] for at in sorted(rng.sample(range(len(known)), TRAIN_IMAGES))]
    readable, features = embedder.probed(known)
    learnt, (seen,) = [labels_of(record) for record in readable], [values.numpy() for values in features.values()]
    unseen = switched.embed(torch.full_like(switched.states, UNKNOWN)).numpy()
    said: list[dict[str, str | None]] = [{} for _ in switched.paths]
    for attribute in switched.method.router.names:
        column = [of.get(attribute) for of in learnt]
        rows = [row for row, label in enumerate(column) if label is not None]
        names = np.array([column[row] for row in rows], dtype=str)
        if len(set(names)) > 1:
            answers = PROBES["linear"](seen[rows], names)(unseen).tolist()
        else:
            answers = [names[0] if len(names) else None] * len(unseen)
        for of, answer in zip(said, answers, strict=True):
            of[attribute] = None if answer is None else str(answer)
    return list(said)


def right(truth: Sequence[Labels], said: Sequence[Labels]) -> Mapping[str, float]:
    """Attribute -> the share, in percent, of the images with a label that are said to have it."""
    found: dict[str, list[bool]] = {}
    for true, guess in zip(truth, said, strict=True):
        for attribute, label in true.items():
            if label is not None:
                found.setdefault(attribute, []).append(guess.get(attribute) == label)
    return {attribute: 100 * sum(hits) / len(hits) for attribute, hits in found.items()}
