"""The ground truth of images, as columns that probes learn and are tried on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bdam_reid.data.printable import printable

GROUPS = ("identity", "outfit")
"""Of attributes: what belongs to the person, and what is worn."""
Columns = dict[str, list[str | None]]
"""Attribute -> its value on each image; None where an image has none."""


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


def visible_columns(images: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Where identity attributes can be seen, (N,) bool by name, of images that have the list "visible"; empty if none
    has it."""
    seen = [set(map(str, image["visible"])) if isinstance(image.get("visible"), list) else None for image in images]
    if all(names is None for names in seen):
        return {}
    names = _keys([image.get("identity", {}) for image in images])
    return {
        printable(name): np.array([names_of is not None and name in names_of for names_of in seen]) for name in names
    }


def views(images: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The viewpoint of each image, (N,) texts, "" where it is not known."""
    return np.array([_label(image.get("viewpoint")) or "" for image in images])


def _shown(outfit: Mapping[str, Any]) -> dict[str, Any]:
    items = {name: item for name, item in outfit.items() if name not in ("outer", "upper")}
    top = outfit.get("outer") or outfit.get("upper")
    return {"top": top, **items} if top else items


def _keys(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for entry in entries for name in entry))


def _label(value: Any) -> str | None:
    return None if value is None else str(value)
