"""Draws hair: what falls behind the shoulders, and what covers the head.

Inside this module and `head.py` a head is one unit high: (0, 0) is the crown, (0, 1) the chin, x as in
`body.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from bdam_reid.synthetic.body import CHIN_Y
from bdam_reid.synthetic.painter import Painter, Point, blend, ellipse, mirrored, points, smooth, tone
from bdam_reid.synthetic.people import Person, Rgb

# How far down loose hair falls.
FALL = {"bob": 1.02, "shoulder-length": 1.42, "long": 2.25}
_RIBBON = (196, 60, 90)


class HeadFrame:
    """A painter in units of a head."""

    def __init__(self, painter: Painter, size: float, x: float):
        self._painter, self._size, self._x = painter, size, x

    def _at(self, outline: Sequence[Point]) -> list[Point]:
        return [(self._x + x * self._size, CHIN_Y + (y - 1) * self._size) for x, y in outline]

    def shape(
        self, outline: Sequence[Point], rgb: Rgb, *, relief: float = 0.14, depth: float = 1.0, rounds: int = 2
    ) -> None:
        """A shape as `Painter.shape` draws it, with its corners cut in so many rounds."""
        self._painter.shape(self._at(smooth(outline, rounds)), rgb, relief=relief, depth=depth)

    def fill(self, outline: Sequence[Point], rgb: Rgb) -> None:
        """A flat shape."""
        self._painter.fill([self._at(outline)], rgb)

    def line(self, path: Sequence[Point], rgb: Rgb, width: float) -> None:
        """A line of colour."""
        self._painter.line(self._at(path), rgb, width * self._size)

    def crease(self, path: Sequence[Point], value: float, width: float) -> None:
        """A line of light or shade."""
        self._painter.crease(self._at(path), value, width * self._size)


class Hair:
    """The hair of one person, seen from "front", "back" or "side"."""

    def __init__(self, frame: HeadFrame, person: Person, view: str, rng: Random):
        self._frame, self._view, self._rng = frame, view, rng
        self._style, self._hair, self._skin = person.hairstyle, person.hair_rgb, person.skin_rgb
        self._parting = 0.1 if person.sex == "male" else -0.08

    def _strands(self, left: float, right: float, top: float, bottom: float, count: int = 7) -> None:
        for _ in range(count):
            x = self._rng.uniform(left, right)
            path = [(x, top), (x * 1.05 + self._rng.uniform(-0.04, 0.04), bottom)]
            self._frame.crease(path, self._rng.choice((0.8, 0.86, 1.14, 1.2)), 0.03)

    def _curls(self, centres: Sequence[Point], radius: float) -> None:
        for x, y in centres:
            r = radius * self._rng.uniform(0.85, 1.15)
            self._frame.shape(ellipse(x, y, r, r, 10), self._hair, relief=0.3, depth=0.8, rounds=0)

    def draw_behind(self) -> None:
        """Hair that falls behind the shoulders, or stands off the head."""
        style = self._style
        if self._view == "front":
            if style in FALL:
                end = min(FALL[style], 1.7)
                self._frame.shape(
                    mirrored([(0.2, 0.0), (0.44, 0.3), (0.47, 0.8), (0.44, end), (0.2, end)]),
                    tone(self._hair, 0.72),
                )
            elif style == "ponytail":
                self._frame.shape(
                    points("0.3,0.2 0.56,0.28 0.66,0.8 0.56,1.35 0.42,1.3 0.46,0.7"), tone(self._hair, 0.85)
                )
            elif style == "bun":
                self._frame.shape(ellipse(0.0, -0.12, 0.23, 0.2), tone(self._hair, 0.9), relief=0.25)
            elif style == "curly":
                self._curls([(x, y) for x in (-0.42, 0.42) for y in (0.2, 0.42, 0.64)], 0.19)
        elif self._view == "side" and style in FALL:
            end = FALL[style]
            self._frame.shape(
                [(0.1, 0.0), (-0.4, 0.1), (-0.56, 0.5), (-0.58, end), (-0.16, end), (0.0, 0.6)],
                tone(self._hair, 0.9),
            )

    def draw(self) -> None:
        """Hair on the head, to be drawn over the face or skull."""
        {"front": self._draw_front, "back": self._draw_back, "side": self._draw_side}[self._view]()

    def _draw_front(self) -> None:
        style, hair = self._style, self._hair
        if style == "bald":
            self._frame.crease([(-0.14, 0.1), (0.05, 0.08)], 1.28, 0.06)
            return
        if style == "cropped":
            self._frame.shape(
                mirrored(points("0.0,-0.02 0.28,0.04 0.4,0.24 0.4,0.44 0.35,0.34 0.26,0.2 0.0,0.17")),
                blend(hair, self._skin, 0.12),
                depth=0.5,
            )
            return
        if style == "curly":
            self._curls(
                points("-0.36,0.2 0.36,0.2 -0.26,0.04 0.26,0.04 -0.1,-0.06 0.1,-0.06 -0.16,0.14 0.0,0.1 0.16,0.14"),
                0.17,
            )
            return
        side = 0.5 if style in ("short", "ponytail", "bun") else 0.62
        crown = [
            (-0.4, side),
            (-0.45, 0.26),
            (-0.3, -0.04),
            (0.0, -0.1),
            (0.3, -0.04),
            (0.45, 0.26),
            (0.4, side),
        ]
        fringe = [
            (0.345, 0.42),
            (0.3, 0.26),
            (self._parting + 0.04, 0.15),
            (self._parting - 0.12, 0.24),
            (-0.31, 0.3),
            (-0.345, 0.42),
        ]
        self._frame.shape(crown + fringe, hair, relief=0.1)
        self._strands(-0.3, 0.3, -0.05, 0.2)
        if style in FALL:
            end = FALL[style]
            wide = 0.5 if end > 1.2 else 0.47
            for sign in (-1, 1):
                lock = [
                    (0.36, 0.2),
                    (0.46, 0.34),
                    (wide, 0.9),
                    (wide - 0.02, end),
                    (0.3, end + 0.02),
                    (0.31, 0.9),
                    (0.345, 0.5),
                ]
                self._frame.shape([(sign * x, y) for x, y in lock], hair, relief=0.2)
                self._strands(sign * 0.36, sign * 0.44, 0.5, end - 0.1, 3)

    def _draw_back(self) -> None:
        style, hair = self._style, self._hair
        if style == "bald":
            self._frame.crease([(-0.16, 0.14), (0.04, 0.1)], 1.25, 0.06)
            return
        cap = mirrored(points("0.1,-0.1 0.36,0.02 0.45,0.34 0.41,0.68 0.28,0.86 0.1,0.9"))
        if style == "cropped":
            cap = mirrored(points("0.1,-0.04 0.33,0.05 0.415,0.34 0.38,0.62 0.24,0.78 0.1,0.8"))
            self._frame.shape(cap, blend(hair, self._skin, 0.12), depth=0.6)
            return
        if style == "curly":
            rows = [
                (-0.06, (-0.2, 0.0, 0.2)),
                (0.14, (-0.38, -0.14, 0.12, 0.38)),
                (0.38, (-0.46, -0.2, 0.06, 0.3, 0.46)),
                (0.6, (-0.42, -0.16, 0.1, 0.42)),
                (0.78, (-0.28, 0.0, 0.28)),
            ]
            self._curls([(x, y) for y, xs in rows for x in xs], 0.2)
            return
        if style in FALL:
            end = FALL[style]
            fall = mirrored(
                [
                    (0.1, -0.1),
                    (0.36, 0.02),
                    (0.46, 0.36),
                    (0.5, 0.9),
                    (0.48, end - 0.1),
                    (0.3, end + 0.03),
                    (0.08, end + 0.05),
                ]
            )
            self._frame.shape(fall, hair, relief=0.12)
            self._strands(-0.4, 0.4, 0.1, end - 0.05, 14)
            return
        self._frame.shape(cap, hair, relief=0.12)
        self._strands(-0.32, 0.32, 0.0, 0.8, 9)
        if style == "ponytail":
            self._frame.shape(
                mirrored(points("0.06,0.28 0.16,0.5 0.18,1.0 0.13,1.6 0.03,1.75")),
                tone(hair, 0.94),
                relief=0.3,
            )
            self._strands(-0.1, 0.1, 0.5, 1.6, 4)
            self._frame.line([(-0.1, 0.36), (0.1, 0.36)], _RIBBON, 0.07)
        elif style == "bun":
            self._frame.shape(ellipse(0.0, 0.14, 0.24, 0.22), tone(hair, 0.94), relief=0.3)
            self._frame.crease(ellipse(0.0, 0.14, 0.13, 0.11), 0.76, 0.035)

    def _draw_side(self) -> None:
        style, hair = self._style, self._hair
        if style == "bald":
            self._frame.crease([(-0.1, 0.09), (0.1, 0.08)], 1.28, 0.06)
            return
        if style == "cropped":
            cap = points("0.3,0.14 0.1,-0.04 -0.24,0.0 -0.43,0.3 -0.4,0.66 -0.26,0.8 -0.12,0.6 0.06,0.5 0.14,0.26")
            self._frame.shape(cap, blend(hair, self._skin, 0.12), depth=0.6)
            return
        if style == "curly":
            centres = points(
                "0.2,0.06 0.02,-0.06 -0.18,-0.04 -0.36,0.1 -0.46,0.3 -0.44,0.52 -0.36,0.72 -0.2,0.5 "
                "-0.16,0.24 0.06,0.16 -0.02,0.36 -0.26,0.36"
            )
            self._curls(centres, 0.18)
            return
        cap = points(
            "0.35,0.24 0.3,0.02 0.06,-0.1 -0.26,-0.05 -0.47,0.26 -0.45,0.62 -0.3,0.88 -0.14,0.66 "
            "0.06,0.58 0.1,0.36 0.2,0.22"
        )
        self._frame.shape(cap, hair, relief=0.12)
        self._strands(-0.36, 0.2, -0.02, 0.34)
        if style in FALL:
            end = FALL[style]
            fall = [
                (0.08, 0.2),
                (0.13, 0.5),
                (0.06, 0.9),
                (0.04, end - 0.1),
                (-0.2, end),
                (-0.5, end - 0.04),
                (-0.54, 0.8),
                (-0.48, 0.3),
                (-0.2, 0.0),
            ]
            self._frame.shape(fall, hair, relief=0.16)
            self._strands(-0.42, 0.0, 0.4, end - 0.08, 8)
        elif style == "ponytail":
            self._frame.shape(
                points("-0.36,0.2 -0.6,0.16 -0.82,0.5 -0.8,1.1 -0.68,1.4 -0.62,1.0 -0.6,0.6 -0.4,0.42"),
                tone(hair, 0.94),
                relief=0.25,
            )
            self._frame.line([(-0.46, 0.22), (-0.46, 0.38)], _RIBBON, 0.07)
        elif style == "bun":
            self._frame.shape(ellipse(-0.5, 0.12, 0.21, 0.21), tone(hair, 0.94), relief=0.3)
