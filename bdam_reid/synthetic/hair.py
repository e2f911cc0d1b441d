"""Draws hair: what falls behind the shoulders, and what covers the head.

In this module and in `head.py` a head is one unit high: (0, 0) is the crown, (0, 1) the chin.
"""

from __future__ import annotations

from random import Random

from bdam_reid.synthetic.painter import Painter
from bdam_reid.synthetic.people import Person
from bdam_reid.synthetic.shapes import blend, ellipse, points, tone

# How far down loose hair falls.
FALL = {"bob": 1.02, "shoulder-length": 1.42, "long": 2.25}
_RIBBON = (196, 60, 90)
# By view: the shine of a bald head and its brightness; the outline and relief of cropped hair; the size and places of
# curls, "behind" those of a front view that stand off the head.
_BALD = {
    "front": ("-0.14,0.1 0.05,0.08", 1.28),
    "back": ("-0.16,0.14 0.04,0.1", 1.25),
    "side": ("-0.1,0.09 0.1,0.08", 1.28),
}
_CROPPED = {
    "front": ("0,-0.02 0.28,0.04 0.4,0.24 0.4,0.44 0.35,0.34 0.26,0.2 0,0.17", 0.5),
    "back": ("0.1,-0.04 0.33,0.05 0.415,0.34 0.38,0.62 0.24,0.78 0.1,0.8", 0.6),
    "side": ("0.3,0.14 0.1,-0.04 -0.24,0 -0.43,0.3 -0.4,0.66 -0.26,0.8 -0.12,0.6 0.06,0.5 0.14,0.26", 0.6),
}
_CURLS = {
    "front": (0.17, "-.36,.2 .36,.2 -.26,.04 .26,.04 -.1,-.06 .1,-.06 -.16,.14 0,.1 .16,.14"),
    "back": (
        0.2,
        "-.2,-.06 0,-.06 .2,-.06 -.38,.14 -.14,.14 .12,.14 .38,.14 -.46,.38 -.2,.38 .06,.38 .3,.38 .46,.38 "
        "-.42,.6 -.16,.6 .1,.6 .42,.6 -.28,.78 0,.78 .28,.78",
    ),
    "side": (
        0.18,
        ".2,.06 .02,-.06 -.18,-.04 -.36,.1 -.46,.3 -.44,.52 -.36,.72 -.2,.5 -.16,.24 .06,.16 -.02,.36 -.26,.36",
    ),
    "behind": (0.19, "-.42,.2 -.42,.42 -.42,.64 .42,.2 .42,.42 .42,.64"),
}


class Hair:
    """The hair of one person, seen from "front", "back" or "side"."""

    def __init__(self, painter: Painter, person: Person, view: str, rng: Random):
        end, parting = FALL.get(person.hairstyle, 0.0), 0.1 if person.sex == "male" else -0.08
        self._painter = painter.at(end=end, behind=min(end, 1.7), wide=0.5 if end > 1.2 else 0.47, part=parting)
        self._style, self._view, self._rng = person.hairstyle, view, rng
        self._falls, self._end = person.hairstyle in FALL, end
        self._rgb, self._stubble = person.hair_rgb, blend(person.hair_rgb, person.skin_rgb, 0.12)

    def draw_behind(self) -> None:
        """Hair that falls behind the shoulders, or stands off the head."""
        painter, rgb, front = self._painter, self._rgb, self._view == "front"
        if self._falls and front:
            painter.shape("0.2,0 0.44,0.3 0.47,0.8 0.44,behind 0.2,behind", tone(rgb, 0.72), half=True, rounds=2)
        elif self._falls and self._view == "side":
            painter.shape("0.1,0 -0.4,0.1 -0.56,0.5 -0.58,end -0.16,end 0,0.6", tone(rgb, 0.9), rounds=2)
        elif self._style == "ponytail" and front:
            painter.shape("0.3,0.2 0.56,0.28 0.66,0.8 0.56,1.35 0.42,1.3 0.46,0.7", tone(rgb, 0.85), rounds=2)
        elif self._style == "bun" and front:
            painter.shape(ellipse(0.0, -0.12, 0.23, 0.2), tone(rgb, 0.9), rounds=2, relief=0.25)
        elif self._style == "curly" and front:
            self._draw_curls("behind")

    def draw(self) -> None:
        """Hair on the head, to be drawn over the face or skull."""
        if self._style == "bald":
            shine, value = _BALD[self._view]
            self._painter.crease(shine, value, 0.06)
        elif self._style == "cropped":
            outline, depth = _CROPPED[self._view]
            self._painter.shape(outline, self._stubble, half=self._view != "side", rounds=2, depth=depth)
        elif self._style == "curly":
            self._draw_curls(self._view)
        else:
            {"front": self._draw_front, "back": self._draw_back, "side": self._draw_side}[self._view]()

    def _draw_curls(self, where: str) -> None:
        size, places = _CURLS[where]
        for x, y in points(places, {}):
            radius = size * self._rng.uniform(0.85, 1.15)
            self._painter.shape(ellipse(x, y, radius, radius, 10), self._rgb, relief=0.3, depth=0.8)

    def _draw_strands(self, left: float, right: float, top: float, bottom: float, count: int) -> None:
        for _ in range(count):
            x = self._rng.uniform(left, right)
            path = [(x, top), (x * 1.05 + self._rng.uniform(-0.04, 0.04), bottom)]
            self._painter.crease(path, self._rng.choice((0.8, 0.86, 1.14, 1.2)), 0.03)

    def _draw_front(self) -> None:
        ear = 0.5 if self._style in ("short", "ponytail", "bun") else 0.62
        crown = "-0.4,ear -0.45,0.26 -0.3,-0.04 0,-0.1 0.3,-0.04 0.45,0.26 0.4,ear"
        fringe = "0.345,0.42 0.3,0.26 part+0.04,0.15 part-0.12,0.24 -0.31,0.3 -0.345,0.42"
        self._painter.at(ear=ear).shape(f"{crown} {fringe}", self._rgb, rounds=2, relief=0.1)
        self._draw_strands(-0.3, 0.3, -0.05, 0.2, 7)
        if self._falls:
            lock = "0.36,0.2 0.46,0.34 wide,0.9 wide-0.02,end 0.3,end+0.02 0.31,0.9 0.345,0.5"
            for sign in (-1, 1):
                self._painter.at(side=sign).shape(lock, self._rgb, rounds=2, relief=0.2)
                self._draw_strands(sign * 0.36, sign * 0.44, 0.5, self._end - 0.1, 3)

    def _draw_back(self) -> None:
        painter, rgb = self._painter, self._rgb
        if self._falls:
            fall = "0.1,-0.1 0.36,0.02 0.46,0.36 0.5,0.9 0.48,end-0.1 0.3,end+0.03 0.08,end+0.05"
            painter.shape(fall, rgb, half=True, rounds=2, relief=0.12)
            self._draw_strands(-0.4, 0.4, 0.1, self._end - 0.05, 14)
            return
        cap = "0.1,-0.1 0.36,0.02 0.45,0.34 0.41,0.68 0.28,0.86 0.1,0.9"
        painter.shape(cap, rgb, half=True, rounds=2, relief=0.12)
        self._draw_strands(-0.32, 0.32, 0.0, 0.8, 9)
        if self._style == "ponytail":
            tail = "0.06,0.28 0.16,0.5 0.18,1 0.13,1.6 0.03,1.75"
            painter.shape(tail, tone(rgb, 0.94), half=True, rounds=2, relief=0.3)
            self._draw_strands(-0.1, 0.1, 0.5, 1.6, 4)
            painter.line("-0.1,0.36 0.1,0.36", _RIBBON, 0.07)
        elif self._style == "bun":
            painter.shape(ellipse(0.0, 0.14, 0.24, 0.22), tone(rgb, 0.94), rounds=2, relief=0.3)
            painter.crease(ellipse(0.0, 0.14, 0.13, 0.11), 0.76, 0.035)

    def _draw_side(self) -> None:
        painter, rgb = self._painter, self._rgb
        crown = "0.35,0.24 0.3,0.02 0.06,-0.1 -0.26,-0.05 -0.47,0.26 -0.45,0.62"
        painter.shape(f"{crown} -0.3,0.88 -0.14,0.66 0.06,0.58 0.1,0.36 0.2,0.22", rgb, rounds=2, relief=0.12)
        self._draw_strands(-0.36, 0.2, -0.02, 0.34, 7)
        if self._falls:
            tips = "0.04,end-0.1 -0.2,end -0.5,end-0.04"
            fall = f"0.08,0.2 0.13,0.5 0.06,0.9 {tips} -0.54,0.8 -0.48,0.3 -0.2,0"
            painter.shape(fall, rgb, rounds=2, relief=0.16)
            self._draw_strands(-0.42, 0.0, 0.4, self._end - 0.08, 8)
        elif self._style == "ponytail":
            tail = "-0.36,0.2 -0.6,0.16 -0.82,0.5 -0.8,1.1 -0.68,1.4 -0.62,1 -0.6,0.6 -0.4,0.42"
            painter.shape(tail, tone(rgb, 0.94), rounds=2, relief=0.25)
            painter.line("-0.46,0.22 -0.46,0.38", _RIBBON, 0.07)
        elif self._style == "bun":
            painter.shape(ellipse(-0.5, 0.12, 0.21, 0.21), tone(rgb, 0.94), rounds=2, relief=0.3)
