"""What the parts of an embedding tell of a person and of the clothes, as metrics.json has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from bdam_reid.data.records import Record
from bdam_reid.evaluation.attributes import GROUPS, attribute_columns, views, visible_columns
from bdam_reid.evaluation.probes import PROBES, TRAIN_IMAGES, Answers, Probed, Row, above_chance, probe_attributes
from bdam_reid.evaluation.ranking import Embedder

Embedded: TypeAlias = tuple[Sequence[Record], Mapping[str, Tensor]]
"""Images that could be read, and features of them by name, (N, D) each."""
COLOURS = ("top colour", "lower colour")
"""Of clothes, that an identity should not tell."""


def probe(embedder: Embedder, train: Sequence[Record], unseen: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    """What probes, learnt on training persons, tell of others; empty without ground truth to learn.

    No person is in two of the groups: the loader does not accept splits that share one.

    Args:
        embedder: of the method.
        train: training images, of which TRAIN_IMAGES are drawn if there are more.
        unseen: images of other persons, by split.
    Returns: "images": how many were learnt from; "persons": split -> group of attributes -> attribute -> row, with the
        row "visible" of the images where it can be seen, if that is known; "above_chance": split -> group -> probe ->
        feature; "views": attribute of the identity -> viewpoint of test persons -> row; "leak": what the first feature
        tells of the colours of clothes to probes that learn from all "images", "persons": split -> colour -> row.
    """
    if not any(group in (record.attributes or {}) for record in train for group in GROUPS):
        return {}
    known = embedder.probed(train)
    splits = {split: embedder.probed(records) for split, records in unseen.items() if records}
    some = _some_of(known)
    result: dict[str, Any] = {
        "images": len(some[0]),
        "persons": {s: {} for s in splits},
        "above_chance": {s: {} for s in splits},
        "views": {},
        "leak": _leak(known, splits),
    }
    truth = {split: _truth(records) for split, (records, _) in splits.items()}
    for group in GROUPS:
        of_train = _probed(some, group)
        answers = probe_attributes(of_train, {s: _probed(splits[s], group) for s in splits})
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


def _some_of(images: Embedded) -> Embedded:
    """TRAIN_IMAGES of them, drawn, if there are more."""
    records, features = images
    if len(records) <= TRAIN_IMAGES:
        return images
    drawn = sorted(Random(0).sample(range(len(records)), TRAIN_IMAGES))
    return [records[at] for at in drawn], {name: values[drawn] for name, values in features.items()}


def _leak(known: Embedded, splits: Mapping[str, Embedded]) -> dict[str, Any]:
    """What all training images teach of the colours of clothes in the first feature: the more, the more is read."""

    def colours(images: Embedded) -> Probed:
        probed = _probed(images, "outfit")
        first = next(iter(probed.features))
        columns = {name: column for name, column in probed.columns.items() if name in COLOURS}
        return Probed({first: probed.features[first]}, columns)

    answers = probe_attributes(colours(known), {split: colours(images) for split, images in splits.items()})
    rows = {split: {name: found.row() for name, found in of.items()} for split, of in answers.items()}
    return {"images": len(known[0]), "persons": rows}


def _truth(records: Sequence[Record]) -> list[Mapping[str, Any]]:
    return [record.attributes or {} for record in records]


def _probed(images: Embedded, group: str) -> Probed:
    records, features = images
    columns = attribute_columns(_truth(records))[group]
    return Probed({name: values.numpy() for name, values in features.items()}, columns)


def _row(found: Answers, visible: np.ndarray | None) -> Row:
    return found.row() if visible is None else {**found.row(), "visible": found.row(visible)}


def _by_view(answers: Mapping[str, Answers], seen_from: np.ndarray) -> dict[str, dict[str, Row]]:
    names = sorted({str(name) for name in seen_from} - {""})
    return {
        attribute: {name: found.row(seen_from == name) for name in names}
        for attribute, found in answers.items()
        if names
    }
