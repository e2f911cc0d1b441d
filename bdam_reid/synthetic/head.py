"""Draws heads: face, beard, glasses and hat around the hair, from the front, from behind and the side."""

from __future__ import annotations

from bdam_reid.synthetic.figure import Figure
from bdam_reid.synthetic.hair import FALL, Hair, HeadFrame
from bdam_reid.synthetic.painter import blend, ellipse, mirrored, points, tone
from bdam_reid.synthetic.people import Item

_DARK = (26, 24, 28)


class Head:
    """Draws one head in two parts: `draw_behind` goes before the torso, `draw` after it."""

    def __init__(self, figure: Figure):
        pose, person = figure.pose, figure.person
        self._view = "side" if pose.side_view else pose.view
        self._frame = HeadFrame(figure.painter, figure.body.head, 0.022 if pose.side_view else 0.0)
        self._person, self._hat = person, figure.outfit.hat
        self._skin, self._hair = person.skin_rgb, person.hair_rgb
        self._hairdo = Hair(self._frame, person, self._view, figure.rng)

    def draw_behind(self) -> None:
        """Hair that falls behind the shoulders, or stands off the head."""
        self._hairdo.draw_behind()

    def draw(self) -> None:
        """The head itself, to be drawn last."""
        {"front": self._draw_front, "back": self._draw_back, "side": self._draw_side}[self._view]()
        if self._hat is not None:
            self._draw_hat(self._hat)

    def _draw_front(self) -> None:
        jaw = 0.3 if self._person.sex == "female" else 0.345
        cheeks = 0.05 if self._person.build == "heavy" else 0.0
        for sign in (-1, 1):
            self._frame.shape(ellipse(sign * (0.375 + cheeks), 0.56, 0.06, 0.1, 10), tone(self._skin, 0.9), rounds=0)
        face = mirrored(
            [
                (0.12, 0.02),
                (0.33, 0.12),
                (0.38 + cheeks * 0.5, 0.42),
                (jaw + 0.02 + cheeks, 0.74),
                (jaw * 0.62 + cheeks, 0.98),
                (0.08, 1.03),
            ]
        )
        self._frame.shape(face, self._skin, relief=0.12, depth=0.7)
        self._draw_beard_front(jaw + cheeks)
        self._draw_features()
        self._hairdo.draw()
        if self._person.glasses:
            self._draw_glasses_front()

    def _draw_features(self) -> None:
        skin, dark = self._skin, blend(self._skin, (30, 16, 12), 0.72)
        lips = blend(skin, (178, 48, 56), 0.62) if self._person.sex == "female" else blend(skin, (130, 56, 52), 0.45)
        brow = blend(self._hair, dark, 0.45)
        for sign in (-1, 1):
            x = sign * 0.165
            self._frame.fill(ellipse(x, 0.535, 0.072, 0.042, 10), (246, 244, 240))
            self._frame.fill(ellipse(x, 0.535, 0.038, 0.044, 8), (36, 26, 24))
            self._frame.line(
                [(x - 0.085, 0.45), (x + 0.085, 0.45)], brow, 0.045 if self._person.sex == "male" else 0.03
            )
        self._frame.line([(0.02, 0.5), (0.045, 0.69), (-0.03, 0.7)], tone(skin, 0.74), 0.035)
        self._frame.line([(-0.11, 0.83), (0.11, 0.83)], lips, 0.06 if self._person.sex == "female" else 0.045)
        if self._person.age != "young":
            value, width = (0.76, 0.028) if self._person.age == "elderly" else (0.88, 0.024)
            for sign in (-1, 1):
                lines = [
                    [(sign * 0.09, 0.7), (sign * 0.17, 0.84)],
                    [(sign * 0.1, 0.61), (sign * 0.24, 0.625)],
                ]
                for path in lines:
                    self._frame.crease(path, value, width)
            if self._person.age == "elderly":
                for y in (0.27, 0.345):
                    self._frame.crease([(-0.2, y), (0.2, y)], value, width)

    def _draw_beard_front(self, jaw: float) -> None:
        rgb = blend(self._hair, self._skin, 0.08)
        if self._person.beard == "full":
            jawline = mirrored([(jaw + 0.045, 0.56), (jaw + 0.035, 0.8), (jaw * 0.7, 1.07), (0.1, 1.15)])
            lip = points("-0.22,0.68 -0.16,0.74 0.0,0.72 0.16,0.74 0.22,0.68")
            self._frame.shape([*jawline, *lip], rgb, relief=0.1, depth=0.7, rounds=1)
        elif self._person.beard == "moustache":
            self._frame.shape(mirrored(points("0.05,0.72 0.19,0.77 0.22,0.83 0.06,0.79")), rgb, depth=0.5, rounds=1)

    def _draw_glasses_front(self) -> None:
        for sign in (-1, 1):
            x = sign * 0.175
            lens = [(x - 0.125, 0.46), (x + 0.125, 0.46), (x + 0.115, 0.615), (x - 0.115, 0.615)]
            self._frame.line([*lens, lens[0], lens[1]], _DARK, 0.05)
            self._frame.line([(sign * 0.3, 0.49), (sign * 0.38, 0.5)], _DARK, 0.05)
        self._frame.line([(-0.06, 0.5), (0.06, 0.5)], _DARK, 0.045)

    def _draw_back(self) -> None:
        for sign in (-1, 1):
            self._frame.shape(ellipse(sign * 0.39, 0.56, 0.05, 0.1, 10), tone(self._skin, 0.9), rounds=0)
        skull = mirrored(points("0.1,-0.04 0.33,0.06 0.41,0.36 0.37,0.72 0.24,0.96 0.1,1.0"))
        self._frame.shape(skull, self._skin, relief=0.12, depth=0.8)
        self._hairdo.draw()

    def _draw_side(self) -> None:
        male = self._person.sex == "male"
        face = points("0.0,0.0 0.24,0.06 0.36,0.24 0.38,0.44 0.365,0.5 0.49,0.66 0.395,0.71 0.42,0.78 0.4,0.84")
        skull = points("0.28,1.03 0.02,0.92 -0.18,0.98 -0.36,0.7 -0.4,0.36 -0.28,0.08")
        profile = [*face, (0.41 if male else 0.38, 0.96), *skull]
        self._frame.shape(profile, self._skin, relief=0.1, depth=0.7, rounds=1)
        dark = blend(self._skin, (30, 16, 12), 0.72)
        self._frame.fill(ellipse(0.285, 0.525, 0.05, 0.042, 10), (246, 244, 240))
        self._frame.fill(ellipse(0.305, 0.525, 0.03, 0.044, 8), (36, 26, 24))
        self._frame.line([(0.2, 0.44), (0.36, 0.445)], blend(self._hair, dark, 0.45), 0.045 if male else 0.03)
        lips = blend(self._skin, (130, 56, 52), 0.45) if male else blend(self._skin, (178, 48, 56), 0.62)
        self._frame.line([(0.28, 0.82), (0.395, 0.815)], lips, 0.05)
        if self._person.age == "elderly":
            for path in (
                [(0.28, 0.7), (0.22, 0.82)],
                [(0.2, 0.28), (0.32, 0.29)],
                [(0.17, 0.58), (0.26, 0.6)],
            ):
                self._frame.crease(path, 0.76, 0.028)
        self._draw_beard_side()
        self._hairdo.draw()
        if self._person.hairstyle not in FALL:
            self._frame.shape(ellipse(-0.02, 0.56, 0.065, 0.11, 12), tone(self._skin, 0.94), relief=0.3)
        if self._person.glasses:
            self._frame.line([(-0.02, 0.48), (0.24, 0.495)], _DARK, 0.045)
            lens = points("0.22,0.46 0.36,0.46 0.36,0.61 0.24,0.61")
            self._frame.line([*lens, lens[0], lens[1]], _DARK, 0.045)

    def _draw_beard_side(self) -> None:
        rgb = blend(self._hair, self._skin, 0.08)
        if self._person.beard == "full":
            self._frame.shape(
                points(
                    "0.0,0.58 0.1,0.7 0.24,0.76 0.42,0.72 0.43,0.77 0.3,0.83 0.43,0.88 0.47,1.05 "
                    "0.28,1.15 0.04,1.0 -0.06,0.7"
                ),
                rgb,
                depth=0.7,
                rounds=1,
            )
        elif self._person.beard == "moustache":
            self._frame.shape(points("0.26,0.8 0.36,0.71 0.45,0.74 0.42,0.8"), rgb, depth=0.5, rounds=1)

    def _draw_hat(self, hat: Item) -> None:
        rgb, dark = hat.rgb, tone(hat.rgb, 0.72)
        back = -0.5 if self._view == "side" else -0.47
        dome = [
            (back, 0.3),
            (back + 0.02, 0.04),
            (-0.26, -0.17),
            (0.0, -0.2),
            (0.26, -0.17),
            (0.44, 0.04),
            (0.46, 0.3),
        ]
        if hat.kind == "beanie":
            self._frame.shape([(x, y - 0.03) for x, y in dome], rgb, relief=0.14, rounds=1)
            self._frame.shape(
                [(back - 0.02, 0.16), (0.46, 0.16), (0.45, 0.34), (back - 0.01, 0.34)],
                dark,
                relief=0.1,
                rounds=1,
            )
            self._frame.shape(ellipse(0.0, -0.27, 0.12, 0.11), tone(rgb, 1.15), relief=0.3)
        elif hat.kind == "cap":
            self._frame.shape(dome, rgb, relief=0.14, rounds=1)
            if self._view == "front":
                self._frame.shape(mirrored(points("0.1,0.2 0.4,0.24 0.5,0.38 0.3,0.37 0.1,0.35")), dark, relief=0.2)
            elif self._view == "side":
                self._frame.shape(points("0.28,0.2 0.6,0.24 0.84,0.34 0.78,0.38 0.3,0.33"), dark, relief=0.2)
            else:
                self._frame.fill(mirrored([(0.13, 0.16), (0.15, 0.27), (0.0, 0.27)]), tone(self._hair, 0.8))
        else:
            self._frame.shape(dome, rgb, relief=0.14, rounds=1)
            self._frame.shape(ellipse(-0.02, 0.26, 0.86, 0.13, 20), rgb, relief=0.1)
            self._frame.line([(back + 0.02, 0.17), (0.44, 0.17)], tone(rgb, 0.5), 0.1)
