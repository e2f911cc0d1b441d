"""What every part of a figure is drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from bdam_reid.synthetic.body import Body, Pose
from bdam_reid.synthetic.fabric import Paint
from bdam_reid.synthetic.painter import Painter
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
            rgb=item.rgb,
            pattern="plain" if item.pattern == "printed" else item.pattern,
            second=COLOURS[item.second] if item.second else item.rgb,
            seed=f"{seed}/{name}",
        )
        for name, item in outfit.items().items()
    }
