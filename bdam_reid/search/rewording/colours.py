"""Words for colours by what they look like: the 954 names of the xkcd colour survey (CC0), as matplotlib has them."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

import numpy as np
from matplotlib.colors import XKCD_COLORS, to_rgb
from numpy.typing import NDArray

_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
"""From linear sRGB under D65 (IEC 61966-2-1)."""
_WHITE = _XYZ.sum(1)


def nearest_colour(word: str, known: Collection[str]) -> str | None:
    """The known word for the colour that looks most like that of `word`; None if this is no colour, or none is known.

    Args:
        word: in lower case, such as "aubergine".
        known: words, of which some are colours.
    """
    lab = _survey()
    names = sorted(name for name in known if name in lab)
    if word not in lab or not names:
        return None
    return min(names, key=lambda name: float(np.linalg.norm(lab[name] - lab[word])))


@cache
def _survey() -> dict[str, NDArray[np.float64]]:
    """Names and their places in CIELAB, where distances are differences that are seen."""
    return {name.removeprefix("xkcd:"): _lab(np.array(to_rgb(value))) for name, value in XKCD_COLORS.items()}


def _lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    ratio = _XYZ @ linear / _WHITE
    x, y, z = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])
