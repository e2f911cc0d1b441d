"""The attributes of drawn persons as Market-1501 labels them, and the file that holds them.

What the labels have no name for is not labelled, as in the published file: clothes that are beige or orange, above the
waist also pink or brown ones. Nobody is a teenager.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from scipy.io import savemat

from bdam_reid.data.attributes import MARKET, NO_YES, PERSONS, Labels
from bdam_reid.synthetic.clothes import CUTS
from bdam_reid.synthetic.people import Outfit, Person

_AGES = {"young": "young", "middle-aged": "adult", "elderly": "old"}
_COLOURS = {"burgundy": "red", "light blue": "blue", "navy": "blue", "olive": "green", "teal": "green"}
"""The labels' names of colours that have others here."""
_LONG_HAIR = ("long", "shoulder-length", "ponytail")
_SHORT_BELOW = ("shorts", "skirt")
_HEADER = 116
"""Bytes of text with which a file begins; scipy writes the time there, and the same seed must give the same bytes."""


def labels(person: Person, outfit: Outfit) -> Labels:
    """Attribute -> the name of its state; None where that has no name."""
    above, below = outfit.outer or outfit.upper, outfit.lower or outfit.upper
    bag = outfit.bag.kind if outfit.bag else ""
    dress = outfit.lower is None or "skirt" in outfit.lower.kind
    short = outfit.lower is None or outfit.lower.kind in _SHORT_BELOW
    return {
        "gender": person.sex,
        "age": _AGES[person.age],
        "hair": "long" if person.hairstyle in _LONG_HAIR else "short",
        "up": "long" if CUTS[above.kind].sleeve == "long" else "short",
        "down": "short" if short else "long",
        "clothes": "dress" if dress else "pants",
        "hat": NO_YES[outfit.hat is not None],
        "backpack": NO_YES[bag == "backpack"],
        "handbag": NO_YES[bag == "handbag"],
        "bag": NO_YES[bag not in ("", "backpack", "handbag")],
        "upcolour": _colour("up", above.colour),
        "downcolour": _colour("down", below.colour),
    }


def _colour(prefix: str, colour: str) -> str | None:
    name = _COLOURS.get(colour, colour)
    return name if name in MARKET.colours[prefix] else None


def write_labels(path: Path, train: Mapping[int, Labels], test: Mapping[int, Labels]) -> None:
    """Write market_attribute.mat, whose fields have another order in each of its parts, as in the published one."""
    buffer = BytesIO()
    savemat(buffer, {MARKET.struct: {"test": _columns(test, reverse=True), "train": _columns(train, reverse=False)}})
    text = "MATLAB 5.0 MAT-file, written by bdam_reid.synthetic"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.ljust(_HEADER).encode() + buffer.getvalue()[_HEADER:])


def _columns(people: Mapping[int, Labels], *, reverse: bool) -> dict[str, np.ndarray]:
    columns = {
        PERSONS: np.array([f"{identity:04d}" for identity in people], dtype=object),
        **{
            name: np.array([1.0 + states.index(of[name] or "") for of in people.values()])
            for name, states in MARKET.single.items()
        },
        **{
            f"{prefix}{name}": np.array([1.0 + (of[f"{prefix}colour"] == name) for of in people.values()])
            for prefix, names in MARKET.colours.items()
            for name in names
        },
    }
    return dict(sorted(columns.items(), reverse=reverse))
