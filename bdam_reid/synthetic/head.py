"""Draws heads: face, beard, glasses and hat around the hair, from the front, from behind and the side."""

from __future__ import annotations

from bdam_reid.synthetic.figure import Figure
from bdam_reid.synthetic.hair import FALL, Hair
from bdam_reid.synthetic.people import Item
from bdam_reid.synthetic.shapes import blend, ellipse, tone

_CHIN_Y = 0.152
_FRAMES, _EYE_WHITE, _IRIS = (26, 24, 28), (246, 244, 240), (36, 26, 24)


class Head:
    """Draws one head in two parts: `draw_behind` goes before the torso, `draw` after it."""

    def __init__(self, figure: Figure):
        person, side_view, size = figure.person, figure.pose.side_view, figure.body["head"]
        self._person, self._hat = person, figure.outfit.hat
        self._view = "side" if side_view else figure.pose.view
        self._male, self._elderly = person.sex == "male", person.age == "elderly"
        self._skin, self._beard = person.skin_rgb, blend(person.hair_rgb, person.skin_rgb, 0.08)
        self._brow = blend(person.hair_rgb, blend(self._skin, (30, 16, 12), 0.72), 0.45)
        self._lips = blend(self._skin, (130, 56, 52), 0.45) if self._male else blend(self._skin, (178, 48, 56), 0.62)
        self._painter = figure.painter.at(
            0.022 if side_view else 0.0,
            _CHIN_Y - size,
            size=size,
            jaw=0.345 if self._male else 0.3,
            cheeks=0.05 if person.build == "heavy" else 0.0,
            chin=0.41 if self._male else 0.38,
            nape=-0.5 if side_view else -0.47,
        )
        self._hair = Hair(self._painter, person, self._view, figure.rng)

    def draw_behind(self) -> None:
        """Hair that falls behind the shoulders, or stands off the head."""
        self._hair.draw_behind()

    def draw(self) -> None:
        """The head itself, to be drawn last."""
        {"front": self._draw_front, "back": self._draw_back, "side": self._draw_side}[self._view]()
        if self._hat is not None:
            self._draw_hat(self._hat)

    def _draw_front(self) -> None:
        painter = self._painter
        for sign in (-1, 1):
            ear = ellipse(sign * (0.425 if self._person.build == "heavy" else 0.375), 0.56, 0.06, 0.1, 10)
            painter.shape(ear, tone(self._skin, 0.9))
        face = "0.12,0.02 0.33,0.12 0.38+cheeks*0.5,0.42 jaw+0.02+cheeks,0.74 jaw*0.62+cheeks,0.98 0.08,1.03"
        painter.shape(face, self._skin, half=True, rounds=2, relief=0.12, depth=0.7)
        self._draw_beard()
        for x in (-0.165, 0.165):
            painter.fill(ellipse(x, 0.535, 0.072, 0.042, 10), _EYE_WHITE)
            painter.fill(ellipse(x, 0.535, 0.038, 0.044, 8), _IRIS)
            painter.at(x).line("-0.085,0.45 0.085,0.45", self._brow, 0.045 if self._male else 0.03)
        painter.line("0.02,0.5 0.045,0.69 -0.03,0.7", tone(self._skin, 0.74), 0.035)
        painter.line("-0.11,0.83 0.11,0.83", self._lips, 0.045 if self._male else 0.06)
        self._draw_wrinkles()
        self._hair.draw()
        if self._person.glasses:
            for sign in (-1, 1):
                lens = "-0.125,0.46 0.125,0.46 0.115,0.615 -0.115,0.615 -0.125,0.46 0.125,0.46"
                painter.at(0.175 * sign).line(lens, _FRAMES, 0.05)
                painter.at(side=sign).line("0.3,0.49 0.38,0.5", _FRAMES, 0.05)
            painter.line("-0.06,0.5 0.06,0.5", _FRAMES, 0.045)

    def _draw_wrinkles(self) -> None:
        if self._person.age == "young":
            return
        value, width = (0.76, 0.028) if self._elderly else (0.88, 0.024)
        for side in self._painter.sides():
            side.crease("0.09,0.7 0.17,0.84", value, width)
            side.crease("0.1,0.61 0.24,0.625", value, width)
        if self._elderly:
            self._painter.crease("-0.2,0.27 0.2,0.27", value, width)
            self._painter.crease("-0.2,0.345 0.2,0.345", value, width)

    def _draw_beard(self) -> None:
        if self._person.beard == "full":
            right = "jaw+cheeks+0.045,0.56 jaw+cheeks+0.035,0.8 jaw*0.7+cheeks*0.7,1.07 0.1,1.15"
            left = "-0.1,1.15 -jaw*0.7-cheeks*0.7,1.07 -jaw-cheeks-0.035,0.8 -jaw-cheeks-0.045,0.56"
            lip = "-0.22,0.68 -0.16,0.74 0,0.72 0.16,0.74 0.22,0.68"
            self._painter.shape(f"{right} {left} {lip}", self._beard, rounds=1, relief=0.1, depth=0.7)
        elif self._person.beard == "moustache":
            moustache = "0.05,0.72 0.19,0.77 0.22,0.83 0.06,0.79"
            self._painter.shape(moustache, self._beard, half=True, rounds=1, depth=0.5)

    def _draw_back(self) -> None:
        for x in (-0.39, 0.39):
            self._painter.shape(ellipse(x, 0.56, 0.05, 0.1, 10), tone(self._skin, 0.9))
        skull = "0.1,-0.04 0.33,0.06 0.41,0.36 0.37,0.72 0.24,0.96 0.1,1"
        self._painter.shape(skull, self._skin, half=True, rounds=2, relief=0.12, depth=0.8)
        self._hair.draw()

    def _draw_side(self) -> None:
        painter = self._painter
        face = "0,0 0.24,0.06 0.36,0.24 0.38,0.44 0.365,0.5 0.49,0.66 0.395,0.71 0.42,0.78 0.4,0.84 chin,0.96"
        skull = "0.28,1.03 0.02,0.92 -0.18,0.98 -0.36,0.7 -0.4,0.36 -0.28,0.08"
        painter.shape(f"{face} {skull}", self._skin, rounds=1, relief=0.1, depth=0.7)
        painter.fill(ellipse(0.285, 0.525, 0.05, 0.042, 10), _EYE_WHITE)
        painter.fill(ellipse(0.305, 0.525, 0.03, 0.044, 8), _IRIS)
        painter.line("0.2,0.44 0.36,0.445", self._brow, 0.045 if self._male else 0.03)
        painter.line("0.28,0.82 0.395,0.815", self._lips, 0.05)
        if self._elderly:
            for wrinkle in ("0.28,0.7 0.22,0.82", "0.2,0.28 0.32,0.29", "0.17,0.58 0.26,0.6"):
                painter.crease(wrinkle, 0.76, 0.028)
        self._draw_beard_from_side()
        self._hair.draw()
        if self._person.hairstyle not in FALL:
            painter.shape(ellipse(-0.02, 0.56, 0.065, 0.11, 12), tone(self._skin, 0.94), rounds=2, relief=0.3)
        if self._person.glasses:
            painter.line("-0.02,0.48 0.24,0.495", _FRAMES, 0.045)
            painter.line("0.22,0.46 0.36,0.46 0.36,0.61 0.24,0.61 0.22,0.46 0.36,0.46", _FRAMES, 0.045)

    def _draw_beard_from_side(self) -> None:
        if self._person.beard == "full":
            lip = "0,0.58 0.1,0.7 0.24,0.76 0.42,0.72 0.43,0.77 0.3,0.83 0.43,0.88"
            self._painter.shape(f"{lip} 0.47,1.05 0.28,1.15 0.04,1 -0.06,0.7", self._beard, rounds=1, depth=0.7)
        elif self._person.beard == "moustache":
            self._painter.shape("0.26,0.8 0.36,0.71 0.45,0.74 0.42,0.8", self._beard, rounds=1, depth=0.5)

    def _draw_hat(self, hat: Item) -> None:
        painter, rgb, dark = self._painter, hat.rgb, tone(hat.rgb, 0.72)
        dome = "nape,0.3 nape+0.02,0.04 -0.26,-0.17 0,-0.2 0.26,-0.17 0.44,0.04 0.46,0.3"
        painter.at(0.0, -0.03 if hat.kind == "beanie" else 0.0).shape(dome, rgb, rounds=1)
        if hat.kind == "beanie":
            painter.shape("nape-0.02,0.16 0.46,0.16 0.45,0.34 nape-0.01,0.34", dark, rounds=1, relief=0.1)
            painter.shape(ellipse(0.0, -0.27, 0.12, 0.11), tone(rgb, 1.15), rounds=2, relief=0.3)
        elif hat.kind == "sun hat":
            painter.shape(ellipse(-0.02, 0.26, 0.86, 0.13, 20), rgb, rounds=2, relief=0.1)
            painter.line("nape+0.02,0.17 0.44,0.17", tone(rgb, 0.5), 0.1)
        elif self._view == "front":
            painter.shape("0.1,0.2 0.4,0.24 0.5,0.38 0.3,0.37 0.1,0.35", dark, half=True, rounds=2, relief=0.2)
        elif self._view == "side":
            painter.shape("0.28,0.2 0.6,0.24 0.84,0.34 0.78,0.38 0.3,0.33", dark, rounds=2, relief=0.2)
        else:
            painter.fill("0.13,0.16 0.15,0.27 0,0.27", tone(self._person.hair_rgb, 0.8), half=True)
