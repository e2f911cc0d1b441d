"""Draws hair: what falls behind the shoulders, and what covers the head.

In this module and in `head.py` a head is one unit high: (0, 0) is the crown, (0, 1) the chin, x as in `body.py`.
"""

from __future__ import annotations

from random import Random

from bdam_reid.synthetic.body import CHIN_Y
from bdam_reid.synthetic.painter import Painter
from bdam_reid.synthetic.people import Person, Rgb
from bdam_reid.synthetic.shapes import SIDES, Outline, Point, blend, ellipse, mirrored, placed, points, smooth, tone

# How far down loose hair falls.
FALL = {"bob": 1.02, "shoulder-length": 1.42, "long": 2.25}
_RIBBON = (196, 60, 90)
_SHINE = {"front": "-0.14,0.1 0.05,0.08", "back": "-0.16,0.14 0.04,0.1", "side": "-0.1,0.09 0.1,0.08"}
_CROPPED = {
    "front": mirrored(points("0,-0.02 0.28,0.04 0.4,0.24 0.4,0.44 0.35,0.34 0.26,0.2 0,0.17")),
    "back": mirrored(points("0.1,-0.04 0.33,0.05 0.415,0.34 0.38,0.62 0.24,0.78 0.1,0.8")),
    "side": points("0.3,0.14 0.1,-0.04 -0.24,0 -0.43,0.3 -0.4,0.66 -0.26,0.8 -0.12,0.6 0.06,0.5 0.14,0.26"),
}
_CURLS = {
    "front": "-0.36,0.2 0.36,0.2 -0.26,0.04 0.26,0.04 -0.1,-0.06 0.1,-0.06 -0.16,0.14 0,0.1 0.16,0.14",
    "back": "-0.2,-0.06 0,-0.06 0.2,-0.06  -0.38,0.14 -0.14,0.14 0.12,0.14 0.38,0.14 "
    "-0.46,0.38 -0.2,0.38 0.06,0.38 0.3,0.38 0.46,0.38  -0.42,0.6 -0.16,0.6 0.1,0.6 0.42,0.6 "
    "-0.28,0.78 0,0.78 0.28,0.78",
    "side": "0.2,0.06 0.02,-0.06 -0.18,-0.04 -0.36,0.1 -0.46,0.3 -0.44,0.52 -0.36,0.72 -0.2,0.5 "
    "-0.16,0.24 0.06,0.16 -0.02,0.36 -0.26,0.36",
    "behind": "-0.42,0.2 -0.42,0.42 -0.42,0.64 0.42,0.2 0.42,0.42 0.42,0.64",
}
_CURL_SIZES = {"front": 0.17, "back": 0.2, "side": 0.18, "behind": 0.19}


class HeadFrame:
    """A painter in units of a head."""

    def __init__(self, painter: Painter, size: float, x: float):
        self._painter, self._size, self._x = painter, size, x

    def _at(self, outline: Outline) -> list[Point]:
        return [(self._x + x * self._size, CHIN_Y + (y - 1) * self._size) for x, y in outline]

    def shape(self, outline: Outline, rgb: Rgb, *, relief: float = 0.14, depth: float = 1.0, rounds: int = 2) -> None:
        """A shape as `Painter.shape` draws it, with its corners cut in so many rounds."""
        self._painter.shape(self._at(smooth(outline, rounds)), rgb, relief=relief, depth=depth)

    def fill(self, outline: Outline, rgb: Rgb) -> None:
        """A flat shape."""
        self._painter.fill(self._at(outline), rgb)

    def line(self, path: Outline, rgb: Rgb, width: float) -> None:
        """A line of colour."""
        self._painter.line(self._at(path), rgb, width * self._size)

    def crease(self, path: Outline, value: float, width: float) -> None:
        """A line of light or shade."""
        self._painter.crease(self._at(path), value, width * self._size)


class Hair:
    """The hair of one person, seen from "front", "back" or "side"."""

    def __init__(self, frame: HeadFrame, person: Person, view: str, rng: Random):
        self._frame, self._view, self._rng = frame, view, rng
        self._style, self._rgb = person.hairstyle, person.hair_rgb
        self._stubble = blend(person.hair_rgb, person.skin_rgb, 0.12)
        self._parting = 0.1 if person.sex == "male" else -0.08

    def draw_behind(self) -> None:
        """Hair that falls behind the shoulders, or stands off the head."""
        if self._view == "front":
            self._draw_behind_face()
        elif self._view == "side" and self._style in FALL:
            end = FALL[self._style]
            fall = [*points("0.1,0 -0.4,0.1 -0.56,0.5"), (-0.58, end), (-0.16, end), (0.0, 0.6)]
            self._frame.shape(fall, tone(self._rgb, 0.9))

    def _draw_behind_face(self) -> None:
        if self._style in FALL:
            end = min(FALL[self._style], 1.7)
            fall = mirrored([*points("0.2,0 0.44,0.3 0.47,0.8"), (0.44, end), (0.2, end)])
            self._frame.shape(fall, tone(self._rgb, 0.72))
        elif self._style == "ponytail":
            tail = points("0.3,0.2 0.56,0.28 0.66,0.8 0.56,1.35 0.42,1.3 0.46,0.7")
            self._frame.shape(tail, tone(self._rgb, 0.85))
        elif self._style == "bun":
            self._frame.shape(ellipse(0.0, -0.12, 0.23, 0.2), tone(self._rgb, 0.9), relief=0.25)
        elif self._style == "curly":
            self._draw_curls("behind")

    def draw(self) -> None:
        """Hair on the head, to be drawn over the face or skull."""
        if self._style == "bald":
            self._frame.crease(points(_SHINE[self._view]), 1.25 if self._view == "back" else 1.28, 0.06)
        elif self._style == "cropped":
            depth = 0.5 if self._view == "front" else 0.6
            self._frame.shape(_CROPPED[self._view], self._stubble, depth=depth)
        elif self._style == "curly":
            self._draw_curls(self._view)
        elif self._view == "front":
            self._draw_front()
        elif self._view == "back":
            self._draw_back()
        else:
            self._draw_side()

    def _draw_curls(self, where: str) -> None:
        for x, y in points(_CURLS[where]):
            radius = _CURL_SIZES[where] * self._rng.uniform(0.85, 1.15)
            self._frame.shape(ellipse(x, y, radius, radius, 10), self._rgb, relief=0.3, depth=0.8, rounds=0)

    def _draw_strands(self, left: float, right: float, top: float, bottom: float, count: int) -> None:
        for _ in range(count):
            x = self._rng.uniform(left, right)
            path = [(x, top), (x * 1.05 + self._rng.uniform(-0.04, 0.04), bottom)]
            self._frame.crease(path, self._rng.choice((0.8, 0.86, 1.14, 1.2)), 0.03)

    def _draw_front(self) -> None:
        side, parting = 0.5 if self._style in ("short", "ponytail", "bun") else 0.62, self._parting
        crown = points("-0.45,0.26 -0.3,-0.04 0,-0.1 0.3,-0.04 0.45,0.26")
        fringe = [(parting + 0.04, 0.15), (parting - 0.12, 0.24)]
        right, left = points("0.345,0.42 0.3,0.26"), points("-0.31,0.3 -0.345,0.42")
        self._frame.shape([(-0.4, side), *crown, (0.4, side), *right, *fringe, *left], self._rgb, relief=0.1)
        self._draw_strands(-0.3, 0.3, -0.05, 0.2, 7)
        if self._style in FALL:
            end, wide = FALL[self._style], 0.47 if self._style == "bob" else 0.5
            outside = [(0.36, 0.2), (0.46, 0.34), (wide, 0.9), (wide - 0.02, end)]
            lock = [*outside, (0.3, end + 0.02), (0.31, 0.9), (0.345, 0.5)]
            for sign in SIDES:
                self._frame.shape(placed(lock, width=sign), self._rgb, relief=0.2)
                self._draw_strands(sign * 0.36, sign * 0.44, 0.5, end - 0.1, 3)

    def _draw_back(self) -> None:
        if self._style in FALL:
            end = FALL[self._style]
            tips = [(0.48, end - 0.1), (0.3, end + 0.03), (0.08, end + 0.05)]
            fall = mirrored([*points("0.1,-0.1 0.36,0.02 0.46,0.36 0.5,0.9"), *tips])
            self._frame.shape(fall, self._rgb, relief=0.12)
            self._draw_strands(-0.4, 0.4, 0.1, end - 0.05, 14)
            return
        cap = mirrored(points("0.1,-0.1 0.36,0.02 0.45,0.34 0.41,0.68 0.28,0.86 0.1,0.9"))
        self._frame.shape(cap, self._rgb, relief=0.12)
        self._draw_strands(-0.32, 0.32, 0.0, 0.8, 9)
        if self._style == "ponytail":
            tail = mirrored(points("0.06,0.28 0.16,0.5 0.18,1 0.13,1.6 0.03,1.75"))
            self._frame.shape(tail, tone(self._rgb, 0.94), relief=0.3)
            self._draw_strands(-0.1, 0.1, 0.5, 1.6, 4)
            self._frame.line([(-0.1, 0.36), (0.1, 0.36)], _RIBBON, 0.07)
        elif self._style == "bun":
            self._frame.shape(ellipse(0.0, 0.14, 0.24, 0.22), tone(self._rgb, 0.94), relief=0.3)
            self._frame.crease(ellipse(0.0, 0.14, 0.13, 0.11), 0.76, 0.035)

    def _draw_side(self) -> None:
        crown = points("0.35,0.24 0.3,0.02 0.06,-0.1 -0.26,-0.05 -0.47,0.26 -0.45,0.62")
        nape = points("-0.3,0.88 -0.14,0.66 0.06,0.58 0.1,0.36 0.2,0.22")
        self._frame.shape([*crown, *nape], self._rgb, relief=0.12)
        self._draw_strands(-0.36, 0.2, -0.02, 0.34, 7)
        if self._style in FALL:
            end = FALL[self._style]
            tips = [(0.04, end - 0.1), (-0.2, end), (-0.5, end - 0.04)]
            fall = [*points("0.08,0.2 0.13,0.5 0.06,0.9"), *tips, *points("-0.54,0.8 -0.48,0.3 -0.2,0")]
            self._frame.shape(fall, self._rgb, relief=0.16)
            self._draw_strands(-0.42, 0.0, 0.4, end - 0.08, 8)
        elif self._style == "ponytail":
            tail = points("-0.36,0.2 -0.6,0.16 -0.82,0.5 -0.8,1.1 -0.68,1.4 -0.62,1 -0.6,0.6 -0.4,0.42")
            self._frame.shape(tail, tone(self._rgb, 0.94), relief=0.25)
            self._frame.line([(-0.46, 0.22), (-0.46, 0.38)], _RIBBON, 0.07)
        elif self._style == "bun":
            self._frame.shape(ellipse(-0.5, 0.12, 0.21, 0.21), tone(self._rgb, 0.94), relief=0.3)
