"""The figure that is drawn: the measures of a body, where its limbs are in a step, and what it wears.

All lengths are fractions of the body height; y counts down from the crown (0) to the floor (1). Seen from the front or
from behind, x grows to the right of the picture; seen from the side, to where the person walks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from bdam_reid.synthetic.fabric import Paint
from bdam_reid.synthetic.painter import Painter
from bdam_reid.synthetic.people import COLOURS, Outfit, Person
from bdam_reid.synthetic.shapes import Point

# Half widths from the front (shoulder to hips), half depths from the side (bust to seat), and radii: of a man, of a
# woman, and times what for somebody slim and somebody heavy.
_MEASURES = {
    "shoulder": (0.134, 0.104, 0.85, 1.15),
    "chest": (0.109, 0.09, 0.72, 1.4),
    "waist": (0.091, 0.068, 0.64, 1.74),
    "hips": (0.088, 0.102, 0.72, 1.4),
    "bust": (0.06, 0.086, 0.72, 1.4),
    "belly": (0.05, 0.046, 0.66, 2.3),
    "back": (0.064, 0.056, 0.74, 1.4),
    "seat": (0.062, 0.084, 0.72, 1.4),
    "arm": (0.032, 0.026, 0.68, 1.38),
    "forearm": (0.026, 0.021, 0.68, 1.38),
    "thigh": (0.048, 0.052, 0.72, 1.4),
    "knee": (0.034, 0.034, 0.68, 1.4),
    "ankle": (0.023, 0.023, 0.72, 1.4),
    "neck": (0.036, 0.025, 0.88, 1.3),
}


def measures(person: Person) -> dict[str, float]:
    """The measures of a body by name; heads are of about one size, whatever the stature."""
    body = {"head": 0.165 * 0.84 / person.stature}
    for name, (man, woman, slim, heavy) in _MEASURES.items():
        factor = {"slim": slim, "average": 1.0, "heavy": heavy}[person.build]
        body[name] = (woman if person.sex == "female" else man) * factor
    return body


@dataclass(frozen=True)
class Limb:
    """Shoulder, elbow and wrist, or hip, knee and ankle; `side` is the person's own, `turn` the angle of the foot."""

    side: str
    joints: tuple[Point, Point, Point]
    turn: float = 0.0


@dataclass(frozen=True)
class Pose:
    """The limbs in the order in which they are drawn: the farther first."""

    view: str
    arms: tuple[Limb, Limb]
    legs: tuple[Limb, Limb]

    @property
    def side_view(self) -> bool:
        """Whether the person is seen from the left or the right."""
        return self.view in ("left", "right")

    def arm(self, side: str) -> Limb:
        """The person's left or right arm."""
        return next(limb for limb in self.arms if limb.side == side)

    def sign(self, side: str) -> int:
        """On which side of a front or back picture the person's own side is: 1 is the right of the picture."""
        return 1 if (side == "left") == (self.view == "front") else -1


@dataclass(frozen=True)
class Figure:
    """A person in an outfit and a pose, and its painter; `cloth` has the paint of every item."""

    painter: Painter
    body: dict[str, float]
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


def walking_pose(body: dict[str, float], view: str, rng: Random) -> Pose:
    """A moment of a walk, seen from a viewpoint."""
    return _from_side(view, rng) if view in ("left", "right") else _from_front(body, view, rng)


def _from_front(body: dict[str, float], view: str, rng: Random) -> Pose:
    stride = rng.uniform(0.35, 1.0) * rng.choice((-1, 1))
    left = 1 if view == "front" else -1
    arms = (_hanging_arm(body, "left", left, stride), _hanging_arm(body, "right", -left, -stride))
    legs = (_stepping_leg(body, "left", left, stride), _stepping_leg(body, "right", -left, -stride))
    # From the front the leg that is behind is drawn first; from behind it is the one in front.
    behind, ahead = sorted(legs, key=lambda leg: leg.joints[2][1])
    return Pose(view, arms, (behind, ahead))


def _hanging_arm(body: dict[str, float], side: str, sign: int, forward: float) -> Limb:
    elbow = max(body["shoulder"] + 0.014, body["waist"] + body["arm"] + 0.012)
    wrist = max(elbow + 0.004, body["hips"] + 0.034)
    swing = 0.016 * forward
    shoulder = (sign * (body["shoulder"] - body["arm"] * 0.8), 0.186 + body["arm"])
    return Limb(side, (shoulder, (sign * elbow, 0.345), (sign * (wrist - abs(swing)), 0.462 + swing)))


def _stepping_leg(body: dict[str, float], side: str, sign: int, forward: float) -> Limb:
    hip = body["hips"] - body["thigh"]
    lift, bend = (0.018 * forward, 0.008) if forward > 0 else (0.05 * forward, 0.0)
    knee, ankle = (sign * (hip + 0.004), 0.735 - bend), (sign * (hip * 0.92 + 0.004), 0.938 + lift)
    return Limb(side, ((sign * hip, 0.49), knee, ankle), turn=forward)


def _from_side(view: str, rng: Random) -> Pose:
    stride = rng.uniform(0.2, 0.44)
    near, far = view, "left" if view == "right" else "right"
    if rng.random() < 0.5:
        legs = _leg_behind(far, stride), _leg_ahead(near, stride)
        arms = _swung_arm(far, stride), _swung_arm(near, -stride * 0.8)
    else:
        legs = _leg_ahead(far, stride), _leg_behind(near, stride)
        arms = _swung_arm(far, -stride), _swung_arm(near, stride * 0.9)
    return Pose(view, arms, legs)


def _along(start: Point, length: float, angle: float) -> Point:
    """The end of a segment that hangs down at angle 0 and swings forward with a positive angle."""
    return start[0] + length * math.sin(angle), start[1] + length * math.cos(angle)


def _leg_ahead(side: str, stride: float) -> Limb:
    hip = (0.004, 0.49)
    knee = _along(hip, 0.237, stride)
    return Limb(side, (hip, knee, _along(knee, 0.215, stride * 0.55)), turn=-0.25 * stride)


def _leg_behind(side: str, stride: float) -> Limb:
    hip = (-0.004, 0.49)
    knee = _along(hip, 0.237, -stride * 0.45)
    return Limb(side, (hip, knee, _along(knee, 0.21, -stride * 1.55)), turn=stride * 1.3)


def _swung_arm(side: str, angle: float) -> Limb:
    shoulder = (-0.008, 0.205)
    elbow = _along(shoulder, 0.145, angle * 0.9)
    return Limb(side, (shoulder, elbow, _along(elbow, 0.13, angle * 0.9 + 0.3)))
