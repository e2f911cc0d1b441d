"""Outlines and colours: what a painter is given to draw.

An outline is written as text, "x,y x,y ...", as an SVG polygon writes its points, where a number may be measured on the
body: "hips*.9+.006,.4" is a point 0.006 outside of nine tenths of the hips.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache

from bdam_reid.synthetic.people import Rgb

Point = tuple[float, float]
Outline = Sequence[Point]
_TERM = r"([+-]?)(?:([a-z]+)(?:\*([\d.]+))?|([\d.]+))"


def tone(rgb: Rgb, factor: float) -> Rgb:
    """A darker (factor < 1) or lighter colour of the same hue."""
    red, green, blue = (min(255, max(0, round(c * factor))) for c in rgb)
    return red, green, blue


def blend(a: Rgb, b: Rgb, share: float) -> Rgb:
    """The mixture of two colours with a share of the second."""
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def points(text: str, measures: Mapping[str, float]) -> list[Point]:
    """The points of an outline that is written as text, with the values of the measures in it."""
    numbers = [sum((measures[name] if name else 1.0) * factor for name, factor in terms) for terms in _parsed(text)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


@cache
def _parsed(text: str) -> tuple[tuple[tuple[str, float], ...], ...]:
    return tuple(_terms(number) for number in text.replace(",", " ").split())


def _terms(number: str) -> tuple[tuple[str, float], ...]:
    """A number as the sum of its terms, each a measure (or none) and a factor."""
    if not re.fullmatch(f"({_TERM})+", number):
        raise ValueError(f'expected a number such as "-hips*.5+.006", got "{number}"')
    terms = re.findall(_TERM, number)
    return tuple((name, float(f"{sign}{factor or constant or 1}")) for sign, name, factor, constant in terms)


def mirrored(half: Outline) -> list[Point]:
    """A symmetric polygon from its right half, given from top to bottom."""
    return [*half, *((-x, y) for x, y in reversed(half))]


def smooth(outline: Outline, rounds: int) -> Outline:
    """A closed curve through a polygon's edges (Chaikin's corner cutting)."""
    for _ in range(rounds):
        edges = zip(outline, [*outline[1:], outline[0]], strict=True)
        outline = [(ax * (1 - s) + bx * s, ay * (1 - s) + by * s) for (ax, ay), (bx, by) in edges for s in (0.25, 0.75)]
    return outline


def between(a: Point, b: Point, share: float) -> Point:
    """The point at a share of the way from one to another."""
    return a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share


def ellipse(x: float, y: float, rx: float, ry: float, steps: int = 16) -> list[Point]:
    """An ellipse as a polygon."""
    turns = [2 * math.pi * i / steps for i in range(steps)]
    return [(x + rx * math.cos(t), y + ry * math.sin(t)) for t in turns]


def capsule(a: Point, b: Point, ra: float, rb: float) -> list[Point]:
    """The outline of two discs of radii ra and rb, joined."""
    angle = math.atan2(b[1] - a[1], b[0] - a[0])
    arc = [angle + math.pi * (0.5 + i / 6) for i in range(7)]
    start = [(a[0] + ra * math.cos(t), a[1] + ra * math.sin(t)) for t in arc]
    end = [(b[0] + rb * math.cos(t + math.pi), b[1] + rb * math.sin(t + math.pi)) for t in arc]
    return start + end
