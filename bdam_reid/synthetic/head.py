"""Draws heads: face, beard, glasses and hat around the hair, from the front, from behind and the side."""

from __future__ import annotations

from bdam_reid.synthetic.figure import Figure
from bdam_reid.synthetic.hair import FALL, Hair
from bdam_reid.synthetic.people import Item, Rgb
from bdam_reid.synthetic.shapes import blend, ellipse, tone

_CHIN_Y = 0.152
_FRAMES, _GLASS, _EYE_WHITE, _IRIS = (20, 18, 22), (206, 226, 236), (246, 244, 240), (36, 26, 24)
_SIDE_LENS = ".17,.43 .39,.43 .385,.635 .2,.635"
_LENS = "-.15,.435 .15,.435 .135,.635 -.135,.635"
# Half the cheeks of a slim and of a heavy face are so much wider.
_CHEEKS = {"slim": -0.035, "average": 0.0, "heavy": 0.075}
# How far a beard must be from the colour of the skin.
_BEARD_CONTRAST = 150
# By view and age the lines of a face, as paths for both sides; they deepen with age.
_LINES = {
    "front": {
        "middle-aged": (".1,.7 .19,.79 .19,.9", ".09,.625 .2,.655 .26,.62", "-.01,.935 .09,.935"),
        "elderly": (
            *(".1,.7 .19,.79 .19,.9", ".09,.625 .2,.655 .26,.62", "-.01,.935 .09,.935"),
            *(".0,.27 .22,.27", "0,.345 .2,.345", ".29,.5 .36,.46", ".29,.54 .37,.57", ".26,.72 .29,.92"),
        ),
    },
    "side": {
        "middle-aged": (".32,.7 .25,.79 .26,.9", ".2,.62 .31,.63"),
        "elderly": (
            *(".32,.7 .25,.79 .26,.9", ".2,.62 .31,.63"),
            *(".2,.28 .34,.29", ".2,.35 .35,.36", ".1,.5 .18,.52", ".1,.58 .18,.55", ".14,.68 .16,.88"),
        ),
    },
}
_LINE_SHADES = {"middle-aged": 0.72, "elderly": 0.6}


def _apart(hair: Rgb, skin: Rgb) -> Rgb:
    """The hair's colour, darker where it would hardly show on the skin."""
    while sum(abs(x - y) for x, y in zip(hair, skin, strict=True)) < _BEARD_CONTRAST and sum(hair) > 60:
        hair = tone(hair, 0.85)
    return hair


class Head:
    """Draws one head in two parts: `draw_behind` goes before the torso, `draw` after it."""

    def __init__(self, figure: Figure):
        person, side_view, size = figure.person, figure.pose.side_view, figure.body["head"]
        self._person, self._hat = person, figure.outfit.hat
        self._view = "side" if side_view else figure.pose.view
        self._male, self._elderly = person.sex == "male", person.age == "elderly"
        self._skin, self._beard = person.skin_rgb, _apart(person.hair_rgb, person.skin_rgb)
        self._brow = blend(person.hair_rgb, blend(self._skin, (30, 16, 12), 0.72), 0.45)
        self._lips = blend(self._skin, (130, 56, 52), 0.45) if self._male else blend(self._skin, (178, 48, 56), 0.62)
        self._painter = figure.painter.at(
            0.022 if side_view else 0.0,
            _CHIN_Y - size,
            size=size,
            jaw=0.345 if self._male else 0.3,
            cheeks=_CHEEKS[person.build],
            chin=0.41 if self._male else 0.38,
            nape=-0.5 if side_view else -0.47,
        )
        self._hair = Hair(self._painter, person, self._view, figure.rng, covered=self._hat is not None)

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
            ear = ellipse(sign * (0.375 + max(0.0, _CHEEKS[self._person.build] * 0.8)), 0.56, 0.06, 0.1, 10)
            painter.shape(ear, tone(self._skin, 0.9))
        face = ".12,.02 .33,.12 .38+cheeks*.5,.42 jaw+.02+cheeks,.74 jaw*.62+cheeks,.98 .08,1.03"
        painter.shape(face, self._skin, half=True, rounds=2, relief=0.12, depth=0.7)
        self._draw_beard()
        self._draw_lines(self._skin)
        for x in (-0.165, 0.165):
            if self._person.glasses:
                painter.at(x * 1.06).fill(_LENS, blend(self._skin, _GLASS, 0.7))
            painter.fill(ellipse(x, 0.535, 0.072, 0.042, 10), _EYE_WHITE)
            painter.fill(ellipse(x, 0.535, 0.038, 0.044, 8), _IRIS)
            painter.at(x).line("-.085,.45 .085,.45", self._brow, 0.045 if self._male else 0.03)
        painter.line(".02,.5 .045,.69 -.03,.7", tone(self._skin, 0.74), 0.035)
        painter.line("-.11,.84 .11,.84", self._lips, 0.045 if self._male else 0.07)
        self._hair.draw()
        if self._person.glasses:
            for sign in (-1, 1):
                painter.at(0.175 * sign).line(f"{_LENS} -.15,.435 .15,.435", _FRAMES, 0.06)
                painter.at(side=sign).line(".3,.49 .39,.5", _FRAMES, 0.06)
            painter.line("-.06,.49 .06,.49", _FRAMES, 0.055)

    def _draw_lines(self, skin: Rgb) -> None:
        """The lines of a face, which part the three ages."""
        age, view = self._person.age, "side" if self._view == "side" else "front"
        for side in self._painter.sides() if view == "front" else (self._painter,):
            for path in _LINES[view].get(age, ()):
                side.line(path, tone(skin, _LINE_SHADES[age]), 0.034)

    def _draw_beard(self) -> None:
        if self._person.beard == "full":
            right = "jaw+cheeks+.045,.56 jaw+cheeks+.035,.8 jaw*.7+cheeks*.7,1.07 .1,1.15"
            left = "-.1,1.15 -jaw*.7-cheeks*.7,1.07 -jaw-cheeks-.035,.8 -jaw-cheeks-.045,.56"
            lip = "-.22,.68 -.16,.74 0,.72 .16,.74 .22,.68"
            self._painter.shape(f"{right} {left} {lip}", self._beard, rounds=1, relief=0.1, depth=0.7)
        elif self._person.beard == "moustache":
            self._painter.shape("0,.69 .13,.7 .28,.8 .29,.9 .2,.83 0,.8", self._beard, half=True, depth=0.5)

    def _draw_back(self) -> None:
        for x in (-0.39, 0.39):
            self._painter.shape(ellipse(x, 0.56, 0.05, 0.1, 10), tone(self._skin, 0.9))
        skull = ".1,-.04 .33,.06 .41,.36 .37,.72 .24,.96 .1,1"
        self._painter.shape(skull, self._skin, half=True, rounds=2, relief=0.12, depth=0.8)
        self._hair.draw()

    def _draw_side(self) -> None:
        painter = self._painter
        face = "0,0 .24,.06 .36,.24 .38,.44 .365,.5 .49,.66 .395,.71 .42,.78 .4,.84 chin,.96"
        skull = ".28,1.03 .02,.92 -.18,.98 -.36,.7 -.4,.36 -.28,.08"
        painter.shape(f"{face} {skull}", self._skin, rounds=1, relief=0.1, depth=0.7)
        if self._person.glasses:
            painter.fill(_SIDE_LENS, blend(self._skin, _GLASS, 0.7))
        painter.fill(ellipse(0.285, 0.525, 0.05, 0.042, 10), _EYE_WHITE)
        painter.fill(ellipse(0.305, 0.525, 0.03, 0.044, 8), _IRIS)
        painter.line(".2,.44 .36,.445", self._brow, 0.045 if self._male else 0.03)
        painter.line(
            ".28,.84 .395,.835" if self._male else ".28,.83 .41,.825", self._lips, 0.05 if self._male else 0.085
        )
        self._draw_lines(self._skin)
        self._draw_beard_from_side()
        self._hair.draw()
        if self._person.hairstyle not in FALL:
            painter.shape(ellipse(-0.02, 0.56, 0.065, 0.11, 12), tone(self._skin, 0.94), rounds=2, relief=0.3)
        if self._person.glasses:
            painter.line("-.04,.48 .22,.495", _FRAMES, 0.055)
            painter.line(f"{_SIDE_LENS} .17,.43 .39,.43", _FRAMES, 0.06)

    def _draw_beard_from_side(self) -> None:
        if self._person.beard == "full":
            lip = "0,.58 .1,.7 .24,.76 .42,.72 .43,.77 .3,.83 .43,.88"
            self._painter.shape(f"{lip} .47,1.05 .28,1.15 .04,1 -.06,.7", self._beard, rounds=1, depth=0.7)
        elif self._person.beard == "moustache":
            self._painter.shape(".18,.9 .24,.76 .36,.68 .47,.72 .45,.81 .32,.82 .24,.92", self._beard, depth=0.5)

    def _draw_hat(self, hat: Item) -> None:
        painter, rgb, dark = self._painter, hat.rgb, tone(hat.rgb, 0.72)
        dome = "nape,.3 nape+.02,.04 -.26,-.17 0,-.2 .26,-.17 .44,.04 .46,.3"
        painter.at(0.0, -0.03 if hat.kind == "beanie" else 0.0).shape(dome, rgb, rounds=1)
        if hat.kind == "beanie":
            painter.shape("nape-.02,.16 .46,.16 .45,.34 nape-.01,.34", dark, rounds=1, relief=0.1)
            painter.shape(ellipse(0.0, -0.27, 0.12, 0.11), tone(rgb, 1.15), rounds=2, relief=0.3)
        elif hat.kind == "sun hat":
            painter.shape(ellipse(-0.02, 0.26, 0.86, 0.13, 20), rgb, rounds=2, relief=0.1)
            painter.line("nape+.02,.17 .44,.17", tone(rgb, 0.5), 0.1)
        elif self._view == "front":
            painter.shape(".1,.2 .4,.24 .5,.38 .3,.37 .1,.35", dark, half=True, rounds=2, relief=0.2)
        elif self._view == "side":
            painter.shape(".28,.2 .6,.24 .84,.34 .78,.38 .3,.33", dark, rounds=2, relief=0.2)
        else:
            painter.fill(".13,.16 .15,.27 0,.27", tone(self._person.hair_rgb, 0.8), half=True)
