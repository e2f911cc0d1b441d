"""The body below the clothes: its measures, and where its limbs are in a step.

All lengths are fractions of the body height; y counts down from the crown (0) to the floor (1). Seen from
the front or from behind, x grows to the right of the picture; seen from the side, to where the person
walks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from bdam_reid.synthetic.painter import Point
from bdam_reid.synthetic.people import Person

SHOULDER_Y, WAIST_Y, HIP_Y, CROTCH_Y = 0.2, 0.39, 0.485, 0.525
CHIN_Y = 0.152
AVERAGE_STATURE = 0.84


@dataclass(frozen=True)
class Body:
    """Half widths from the front (shoulder to hips), half depths from the side (bust to seat), and radii of
    limbs.
    """

    shoulder: float
    chest: float
    waist: float
    hips: float
    bust: float
    belly: float
    back: float
    seat: float
    arm: float
    forearm: float
    thigh: float
    knee: float
    ankle: float
    head: float
    neck: float

    @classmethod
    def of(cls, person: Person) -> Body:
        """The measures of a person: sex sets the silhouette, build the girth, and tall people have
        relatively smaller heads.
        """
        female = person.sex == "female"
        frame, girth, middle, limbs = {
            "slim": (0.9, 0.79, 0.72, 0.74),
            "average": (1.0, 1.0, 1.0, 1.0),
            "heavy": (1.12, 1.33, 1.66, 1.34),
        }[person.build]
        shoulder, chest, waist, hips = (0.106, 0.09, 0.07, 0.1) if female else (0.13, 0.107, 0.089, 0.09)
        return cls(
            shoulder=shoulder * frame,
            chest=chest * girth,
            waist=waist * middle,
            hips=hips * girth,
            bust=(0.078 if female else 0.062) * girth,
            belly=0.048 * middle ** (1.5 if middle > 1 else 1.0),
            back=0.06 * girth,
            seat=(0.075 if female else 0.066) * girth,
            arm=(0.026 if female else 0.031) * limbs,
            forearm=(0.021 if female else 0.025) * limbs,
            thigh=(0.052 if female else 0.048) * girth,
            knee=0.034 * limbs,
            ankle=0.023 * limbs,
            head=0.165 * AVERAGE_STATURE / person.stature,
            neck=(0.026 if female else 0.033) * (1.2 if person.build == "heavy" else 1.0),
        )


@dataclass(frozen=True)
class Limb:
    """Three joints: shoulder, elbow, wrist, or hip, knee, ankle; `side` is the person's own, `turn` the
    angle of the foot.
    """

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


def walking_pose(body: Body, view: str, rng: Random) -> Pose:
    """A moment of a walk, seen from a viewpoint."""
    return _from_side(view, rng) if view in ("left", "right") else _from_front(body, view, rng)


def _from_front(body: Body, view: str, rng: Random) -> Pose:
    stride = rng.uniform(0.35, 1.0) * rng.choice((-1, 1))
    # From the front the person's left is on the right of the picture.
    left = 1 if view == "front" else -1
    arms, legs = {}, {}
    for side, sign in (("left", left), ("right", -left)):
        forward = stride * sign * (1 if view == "front" else -1)
        elbow = max(body.shoulder + 0.014, body.waist + body.arm + 0.012)
        wrist = max(elbow + 0.004, body.hips + 0.034)
        swing = 0.016 * forward
        arms[side] = Limb(
            side,
            (
                (sign * (body.shoulder - body.arm * 0.8), 0.186 + body.arm),
                (sign * elbow, 0.345),
                (sign * (wrist - abs(swing)), 0.462 + swing),
            ),
        )
        hip = body.hips - body.thigh
        knee = (sign * (hip + 0.004), 0.735 - (0.008 if forward > 0 else 0.0))
        lift = 0.018 * forward if forward > 0 else 0.05 * forward
        legs[side] = Limb(side, ((sign * hip, 0.49), knee, (sign * (hip * 0.92 + 0.004), 0.938 + lift)), turn=forward)
    # From the front the leg that is behind is drawn first; from behind it is the one in front.
    order = sorted(legs, key=lambda side: legs[side].joints[2][1])
    return Pose(view, (arms["left"], arms["right"]), (legs[order[0]], legs[order[1]]))


def _from_side(view: str, rng: Random) -> Pose:
    stride = rng.uniform(0.2, 0.44)
    near, far = view, "left" if view == "right" else "right"
    if rng.random() < 0.5:
        near_leg, far_leg = _leg_ahead(near, stride), _leg_behind(far, stride)
        near_arm, far_arm = _swung_arm(near, -stride * 0.8), _swung_arm(far, stride)
    else:
        near_leg, far_leg = _leg_behind(near, stride), _leg_ahead(far, stride)
        near_arm, far_arm = _swung_arm(near, stride * 0.9), _swung_arm(far, -stride)
    return Pose(view, (far_arm, near_arm), (far_leg, near_leg))


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
