"""What every part of a figure is drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from bdam_reid.synthetic.body import Body, Pose
from bdam_reid.synthetic.painter import Paint, Painter, tone
from bdam_reid.synthetic.people import COLOURS, Outfit, Person


@dataclass(frozen=True)
class Figure:
    """A person in an outfit and a pose, and its painter; `cloth` has the paint of every item."""

    painter: Painter
    body: Body
    pose: Pose
    person: Person
    outfit: Outfit
    cloth: dict[str, Paint]
    rng: Random


def paints(outfit: Outfit, seed: str) -> dict[str, Paint]:
    """The paint of every item of an outfit. A print sits on the chest and is not part of the fabric."""
    return {
        name: Paint(
            item.rgb,
            "plain" if item.pattern == "printed" else item.pattern,
            COLOURS[item.second] if item.second else item.rgb,
            f"{seed}/{name}",
        )
        for name, item in outfit.items().items()
    }


def shaded(paint: Paint, factor: float) -> Paint:
    """The same fabric, darker or lighter."""
    return Paint(tone(paint.rgb, factor), paint.pattern, tone(paint.second, factor), paint.seed)
