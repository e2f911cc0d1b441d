"""What the parts of an embedding tell of a person and of the clothes, as metrics.json has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import numpy as np

from bdam_reid.data.records import Record
from bdam_reid.evaluation.attributes import GROUPS, attribute_columns, views, visible_columns
from bdam_reid.evaluation.probes import PROBES, TRAIN_IMAGES, Answers, Probed, Row, above_chance, probe_attributes
from bdam_reid.evaluation.ranking import Embedder


def probe(embedder: Embedder, train: Sequence[Record], unseen: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    """What probes, learnt on training persons, tell of others; empty without ground truth to learn.

    No person is in two of the groups: the loader does not accept splits that share one.

    Args:
        embedder: of the method.
        train: training images, of which TRAIN_IMAGES are drawn if there are more.
        unseen: images of other persons, by split.
    Returns: "persons": split -> group of attributes -> attribute -> row, with the row "visible" of the images where it
        can be seen, if that is known; "above_chance": split -> group -> probe -> feature; "views": attribute of the
        identity -> viewpoint of test persons -> row.
    """
    if not any(group in (record.attributes or {}) for record in train for group in GROUPS):
        return {}
    if len(train) > TRAIN_IMAGES:
        train = [train[at] for at in sorted(Random(0).sample(range(len(train)), TRAIN_IMAGES))]
    known, *others = (embedder.probed(records) for records in (train, *(x for x in unseen.values() if x)))
    splits = dict(zip([split for split, records in unseen.items() if records], others, strict=True))
    truth = {split: [record.attributes or {} for record in records] for split, (records, _) in splits.items()}
    learnt = [record.attributes or {} for record in known[0]]
    result: dict[str, Any] = {"persons": {s: {} for s in splits}, "above_chance": {s: {} for s in splits}, "views": {}}
    for group in GROUPS:
        of_train = _probed(known, learnt, group)
        answers = probe_attributes(of_train, {s: _probed(splits[s], truth[s], group) for s in splits})
        for split, by_attribute in answers.items():
            visible = visible_columns(truth[split]) if group == "identity" else {}
            rows = {name: _row(found, visible.get(name)) for name, found in by_attribute.items()}
            result["persons"][split][group] = rows
            result["above_chance"][split][group] = {
                name: {feature: above_chance(rows, name, feature) for feature in of_train.features} for name in PROBES
            }
        if group == "identity" and "test" in answers:
            result["views"] = _by_view(answers["test"], views(truth["test"]))
    return result if any(rows for groups in result["persons"].values() for rows in groups.values()) else {}


def _probed(images: Any, truth: Sequence[Mapping[str, Any]], group: str) -> Probed:
    _, features = images
    return Probed({name: values.numpy() for name, values in features.items()}, attribute_columns(truth)[group])


def _row(found: Answers, visible: np.ndarray | None) -> Row:
    return found.row() if visible is None else {**found.row(), "visible": found.row(visible)}


def _by_view(answers: Mapping[str, Answers], seen_from: np.ndarray) -> dict[str, dict[str, Row]]:
    names = sorted({str(name) for name in seen_from} - {""})
    return {
        attribute: {name: found.row(seen_from == name) for name in names}
        for attribute, found in answers.items()
        if names
    }
