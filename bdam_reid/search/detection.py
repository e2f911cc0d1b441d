"""Persons in pictures of whole scenes, by OpenCV's detector: histograms of oriented gradients and a linear classifier
(Dalal and Triggs, 2005). It is old, and misses most who are small, cut off, or stand before each other; it comes with
its weights, and needs no network."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bdam_reid.config import ConfigError
from bdam_reid.search.names import Box

SIDE = 1024
"""Pixels of the longer side of what is looked at; a larger picture is made smaller. Persons of fewer than some 100 are
not found."""
STEP = 8
"""Pixels from one place to the next that is looked at."""
GROWTH = 1.05
"""Of the sizes that are looked for."""
MARGIN = (0.1, 0.07)
"""Of a box's width and height, which the detector leaves around a person on each side."""


def check_detector() -> None:
    """Raise ConfigError unless OpenCV with this detector is installed."""
    try:
        found = hasattr(import_module("cv2"), "HOGDescriptor")
    except ImportError:
        found = False
    if not found:
        raise ConfigError(
            "--detect needs OpenCV of a version below 5, which later ones have no such detector: pip install -e "
            "'.[detect]'"
        )


def persons(picture: Image.Image) -> list[Box]:
    """Boxes of the persons found in an RGB picture, the surest first. Raises: ConfigError as `check_detector`."""
    scale = min(1.0, SIDE / max(picture.size))
    small = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    # It wants blue first.
    pixels = np.ascontiguousarray(np.asarray(small)[..., ::-1])
    found, sureness = _detector().detectMultiScale(pixels, winStride=(STEP, STEP), padding=(16, 16), scale=GROWTH)
    order = np.argsort(-np.ravel(sureness), kind="stable")
    boxes = [_box(np.asarray(found[place]) / scale, picture.size) for place in order]
    return [box for box in boxes if box.right > box.left and box.bottom > box.top]


def _box(window: NDArray[np.float64], size: tuple[int, int]) -> Box:
    """A window, its left, top, width and height, without the margins, and within the picture."""
    left, top, width, height = window.tolist()
    aside, above = MARGIN[0] * width, MARGIN[1] * height
    return Box(
        max(0, round(left + aside)),
        max(0, round(top + above)),
        min(size[0], round(left + width - aside)),
        min(size[1], round(top + height - above)),
    )


@cache
def _detector() -> Any:
    check_detector()
    import cv2

    detector: Any = cv2.HOGDescriptor()
    detector.setSVMDetector(cv2.HOGDescriptor.getDefaultPeopleDetector())
    return detector
