"""Draws heads: face, beard, glasses and hat around the hair, from the front, from behind and the side."""

from __future__ import annotations

from bdam_reid.synthetic.figure import Figure
from bdam_reid.synthetic.hair import FALL, Hair, HeadFrame
from bdam_reid.synthetic.people import Item
from bdam_reid.synthetic.shapes import SIDES, blend, ellipse, mirrored, placed, points, tone

_FRAMES, _EYE_WHITE, _IRIS = (26, 24, 28), (246, 244, 240), (36, 26, 24)
_CAP_PEAKS = {
    "front": mirrored(points("0.1,0.2 0.4,0.24 0.5,0.38 0.3,0.37 0.1,0.35")),
    "side": points("0.28,0.2 0.6,0.24 0.84,0.34 0.78,0.38 0.3,0.33"),
}


class Head:
    """Draws one head in two parts: `draw_behind` goes before the torso, `draw` after it."""

    def __init__(self, figure: Figure):
        pose, person = figure.pose, figure.person
        self._view = "side" if pose.side_view else pose.view
        self._frame = HeadFrame(figure.painter, figure.body.head, 0.022 if pose.side_view else 0.0)
        self._hair = Hair(self._frame, person, self._view, figure.rng)
        self._person, self._hat = person, figure.outfit.hat
        self._male, self._elderly = person.sex == "male", person.age == "elderly"
        self._skin = skin = person.skin_rgb
        self._brow = blend(person.hair_rgb, blend(skin, (30, 16, 12), 0.72), 0.45)
        self._lips = blend(skin, (130, 56, 52), 0.45) if self._male else blend(skin, (178, 48, 56), 0.62)
        self._beard = blend(person.hair_rgb, skin, 0.08)

    def draw_behind(self) -> None:
        """Hair that falls behind the shoulders, or stands off the head."""
        self._hair.draw_behind()

    def draw(self) -> None:
        """The head itself, to be drawn last."""
        {"front": self._draw_front, "back": self._draw_back, "side": self._draw_side}[self._view]()
        if self._hat is not None:
            self._draw_hat(self._hat)

    def _draw_front(self) -> None:
        jaw, cheeks = 0.345 if self._male else 0.3, 0.05 if self._person.build == "heavy" else 0.0
        self._draw_ears(0.375 + cheeks, 0.06)
        temple = [(0.12, 0.02), (0.33, 0.12), (0.38 + cheeks * 0.5, 0.42)]
        chin = [(jaw + 0.02 + cheeks, 0.74), (jaw * 0.62 + cheeks, 0.98), (0.08, 1.03)]
        self._frame.shape(mirrored(temple + chin), self._skin, relief=0.12, depth=0.7)
        self._draw_beard(jaw + cheeks)
        self._draw_features()
        self._draw_wrinkles()
        self._hair.draw()
        if self._person.glasses:
            self._draw_glasses()

    def _draw_ears(self, x: float, wide: float) -> None:
        for sign in SIDES:
            self._frame.shape(ellipse(sign * x, 0.56, wide, 0.1, 10), tone(self._skin, 0.9), rounds=0)

    def _draw_features(self) -> None:
        for x in (-0.165, 0.165):
            self._frame.fill(ellipse(x, 0.535, 0.072, 0.042, 10), _EYE_WHITE)
            self._frame.fill(ellipse(x, 0.535, 0.038, 0.044, 8), _IRIS)
            self._frame.line([(x - 0.085, 0.45), (x + 0.085, 0.45)], self._brow, 0.045 if self._male else 0.03)
        self._frame.line(points("0.02,0.5 0.045,0.69 -0.03,0.7"), tone(self._skin, 0.74), 0.035)
        self._frame.line(points("-0.11,0.83 0.11,0.83"), self._lips, 0.045 if self._male else 0.06)

    def _draw_wrinkles(self) -> None:
        if self._person.age == "young":
            return
        value, width = (0.76, 0.028) if self._elderly else (0.88, 0.024)
        for sign in SIDES:
            for fold in ("0.09,0.7 0.17,0.84", "0.1,0.61 0.24,0.625"):
                self._frame.crease(placed(points(fold), width=sign), value, width)
        if self._elderly:
            self._frame.crease(points("-0.2,0.27 0.2,0.27"), value, width)
            self._frame.crease(points("-0.2,0.345 0.2,0.345"), value, width)

    def _draw_beard(self, jaw: float) -> None:
        if self._person.beard == "full":
            jawline = mirrored([(jaw + 0.045, 0.56), (jaw + 0.035, 0.8), (jaw * 0.7, 1.07), (0.1, 1.15)])
            lip = points("-0.22,0.68 -0.16,0.74 0,0.72 0.16,0.74 0.22,0.68")
            self._frame.shape([*jawline, *lip], self._beard, relief=0.1, depth=0.7, rounds=1)
        elif self._person.beard == "moustache":
            moustache = mirrored(points("0.05,0.72 0.19,0.77 0.22,0.83 0.06,0.79"))
            self._frame.shape(moustache, self._beard, depth=0.5, rounds=1)

    def _draw_glasses(self) -> None:
        for sign in SIDES:
            lens = points("-0.125,0.46 0.125,0.46 0.115,0.615 -0.115,0.615 -0.125,0.46 0.125,0.46")
            self._frame.line(placed(lens, sign * 0.175), _FRAMES, 0.05)
            self._frame.line(placed(points("0.3,0.49 0.38,0.5"), width=sign), _FRAMES, 0.05)
        self._frame.line(points("-0.06,0.5 0.06,0.5"), _FRAMES, 0.045)

    def _draw_back(self) -> None:
        self._draw_ears(0.39, 0.05)
        skull = mirrored(points("0.1,-0.04 0.33,0.06 0.41,0.36 0.37,0.72 0.24,0.96 0.1,1"))
        self._frame.shape(skull, self._skin, relief=0.12, depth=0.8)
        self._hair.draw()

    def _draw_side(self) -> None:
        face = points("0,0 0.24,0.06 0.36,0.24 0.38,0.44 0.365,0.5 0.49,0.66 0.395,0.71 0.42,0.78 0.4,0.84")
        skull = points("0.28,1.03 0.02,0.92 -0.18,0.98 -0.36,0.7 -0.4,0.36 -0.28,0.08")
        profile = [*face, (0.41 if self._male else 0.38, 0.96), *skull]
        self._frame.shape(profile, self._skin, relief=0.1, depth=0.7, rounds=1)
        self._frame.fill(ellipse(0.285, 0.525, 0.05, 0.042, 10), _EYE_WHITE)
        self._frame.fill(ellipse(0.305, 0.525, 0.03, 0.044, 8), _IRIS)
        self._frame.line(points("0.2,0.44 0.36,0.445"), self._brow, 0.045 if self._male else 0.03)
        self._frame.line(points("0.28,0.82 0.395,0.815"), self._lips, 0.05)
        if self._elderly:
            for fold in ("0.28,0.7 0.22,0.82", "0.2,0.28 0.32,0.29", "0.17,0.58 0.26,0.6"):
                self._frame.crease(points(fold), 0.76, 0.028)
        self._draw_beard_from_side()
        self._hair.draw()
        if self._person.hairstyle not in FALL:
            self._frame.shape(ellipse(-0.02, 0.56, 0.065, 0.11, 12), tone(self._skin, 0.94), relief=0.3)
        if self._person.glasses:
            self._frame.line(points("-0.02,0.48 0.24,0.495"), _FRAMES, 0.045)
            self._frame.line(points("0.22,0.46 0.36,0.46 0.36,0.61 0.24,0.61 0.22,0.46 0.36,0.46"), _FRAMES, 0.045)

    def _draw_beard_from_side(self) -> None:
        if self._person.beard == "full":
            lip = points("0,0.58 0.1,0.7 0.24,0.76 0.42,0.72 0.43,0.77 0.3,0.83 0.43,0.88")
            chin = points("0.47,1.05 0.28,1.15 0.04,1 -0.06,0.7")
            self._frame.shape([*lip, *chin], self._beard, depth=0.7, rounds=1)
        elif self._person.beard == "moustache":
            self._frame.shape(points("0.26,0.8 0.36,0.71 0.45,0.74 0.42,0.8"), self._beard, depth=0.5, rounds=1)

    def _draw_hat(self, hat: Item) -> None:
        rgb, dark = hat.rgb, tone(hat.rgb, 0.72)
        back = -0.5 if self._view == "side" else -0.47
        dome = [(back, 0.3), (back + 0.02, 0.04), *points("-0.26,-0.17 0,-0.2 0.26,-0.17 0.44,0.04 0.46,0.3")]
        if hat.kind == "beanie":
            cuff = [(back - 0.02, 0.16), (0.46, 0.16), (0.45, 0.34), (back - 0.01, 0.34)]
            self._frame.shape(placed(dome, y=-0.03), rgb, rounds=1)
            self._frame.shape(cuff, dark, relief=0.1, rounds=1)
            self._frame.shape(ellipse(0.0, -0.27, 0.12, 0.11), tone(rgb, 1.15), relief=0.3)
            return
        self._frame.shape(dome, rgb, rounds=1)
        if hat.kind == "sun hat":
            self._frame.shape(ellipse(-0.02, 0.26, 0.86, 0.13, 20), rgb, relief=0.1)
            self._frame.line([(back + 0.02, 0.17), (0.44, 0.17)], tone(rgb, 0.5), 0.1)
        elif self._view in _CAP_PEAKS:
            self._frame.shape(_CAP_PEAKS[self._view], dark, relief=0.2)
        else:
            gap = mirrored(points("0.13,0.16 0.15,0.27 0,0.27"))
            self._frame.fill(gap, tone(self._person.hair_rgb, 0.8))
