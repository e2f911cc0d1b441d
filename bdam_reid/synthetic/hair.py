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
# Tied high, it stands above the head from everywhere.
_BUN = {
    "front": ellipse(0, -0.2, 0.26, 0.22),
    "back": ellipse(0, -0.14, 0.26, 0.24),
    "side": ellipse(-0.4, -0.08, 0.25, 0.25),
}
_GREYING = (186, 186, 190)
# By view: the shine of a bald head and its brightness; cropped hair, which is shaved at the sides and darker above; the
# size and places of curls, "behind" those of a front view that stand off the head.
_BALD = {
    "front": ("-.14,.1 .05,.08", 1.28),
    "back": ("-.16,.14 .04,.1", 1.25),
    "side": ("-.1,.09 .1,.08", 1.28),
}
_CROPPED = {
    "front": ("0,0 .28,.04 .4,.24 .4,.48 .34,.46 .29,.24 0,.2", "0,-.03 .24,.01 .31,.12 .29,.24 0,.2"),
    "back": (".1,-.02 .33,.05 .415,.34 .38,.62 .24,.78 .1,.8", ".1,-.04 .3,.02 .35,.14 .3,.24 .1,.26"),
    "side": (
        ".3,.16 .1,-.02 -.24,0 -.43,.3 -.4,.66 -.26,.8 -.12,.6 .1,.54 .2,.3",
        ".32,.18 .1,-.05 -.24,-.03 -.4,.18 -.3,.26 0,.22 .2,.24",
    ),
}
# By view: where hair turns gray first, for hair that ends at the ears and for hair that falls ("end" is where).
_TEMPLES = {
    "front": (".3,.24 .43,.22 .43,.52 .35,.52", ".33,.24 .46,.24 wide,.9 wide-.02,end .4,end .38,.9"),
    "back": (".3,.3 .45,.3 .42,.66 .3,.8 .26,.6", ".36,.2 .46,.36 .5,.9 .48,end .38,end .36,.9"),
    "side": (".26,.22 .1,.62 -.1,.68 -.06,.4 .06,.2", ".2,.24 .12,.5 .06,.9 .02,end-.1 -.14,end-.06 -.1,.5 0,.22"),
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
    """The hair of one person, seen from "front", "back" or "side"; a hat hides what is on top of the head."""

    def __init__(self, painter: Painter, person: Person, view: str, rng: Random, *, covered: bool):
        end, parting = FALL.get(person.hairstyle, 0.0), 0.1 if person.sex == "male" else -0.08
        self._painter = painter.at(end=end, behind=min(end, 1.7), wide=0.5 if end > 1.2 else 0.47, part=parting)
        self._style, self._view, self._rng = person.hairstyle, view, rng
        self._falls, self._end, self._covered = person.hairstyle in FALL, end, covered
        self._rgb, self._greying = person.hair_rgb, person.age == "middle-aged"
        self._bun = person.hairstyle == "bun" and not covered
        # Skin shows through what was shaved, less so above.
        self._stubble = [blend(person.hair_rgb, person.skin_rgb, share) for share in (0.62, 0.1)]

    def draw_behind(self) -> None:
        """Hair that falls behind the shoulders, or stands off the head."""
        painter, rgb, front = self._painter, self._rgb, self._view == "front"
        if self._falls and front:
            painter.shape(".2,0 .44,.3 .47,.8 .44,behind .2,behind", tone(rgb, 0.72), half=True, rounds=2)
        elif self._falls and self._view == "side":
            painter.shape(".1,0 -.4,.1 -.56,.5 -.58,end -.16,end 0,.6", tone(rgb, 0.9), rounds=2)
        elif self._style == "ponytail" and front:
            painter.shape(".3,.2 .56,.28 .66,.8 .56,1.35 .42,1.3 .46,.7", tone(rgb, 0.85), rounds=2)
        elif self._bun and front:
            painter.shape(_BUN["front"], tone(rgb, 0.9), rounds=1, relief=0.25)
        elif self._style == "curly" and front:
            self._draw_curls("behind")

    def draw(self) -> None:
        """Hair on the head, to be drawn over the face or skull."""
        if self._style == "bald":
            shine, value = _BALD[self._view]
            self._painter.crease(shine, value, 0.06)
        elif self._style == "cropped":
            for outline, rgb in zip(_CROPPED[self._view], self._stubble, strict=True):
                self._painter.shape(outline, rgb, half=self._view != "side", rounds=2, depth=0.5)
            self._draw_temples()
        elif self._style == "curly":
            self._draw_curls(self._view)
        else:
            {"front": self._draw_front, "back": self._draw_back, "side": self._draw_side}[self._view]()
            self._draw_temples()

    def _draw_temples(self) -> None:
        if self._greying:
            outline = _TEMPLES[self._view][self._falls]
            for side in (self._painter,) if self._view == "side" else self._painter.sides():
                side.shape(outline, _GREYING, rounds=1, relief=0.1)

    def _draw_curls(self, where: str) -> None:
        size, places = _CURLS[where]
        for x, y in points(places, {}):
            if self._covered and y < 0.3:
                continue
            radius = size * self._rng.uniform(0.85, 1.15)
            # The curls at the temples and the nape.
            rgb = _GREYING if self._greying and y > (0.5 if where == "back" else 0.35) else self._rgb
            self._painter.shape(ellipse(x, y, radius, radius, 10), rgb, relief=0.3, depth=0.8)

    def _draw_strands(self, left: float, right: float, top: float, bottom: float, count: int) -> None:
        for _ in range(count):
            x = self._rng.uniform(left, right)
            path = [(x, top), (x * 1.05 + self._rng.uniform(-0.04, 0.04), bottom)]
            self._painter.crease(path, self._rng.choice((0.8, 0.86, 1.14, 1.2)), 0.03)

    def _draw_front(self) -> None:
        ear = 0.5 if self._style in ("short", "ponytail", "bun") else 0.62
        crown = "-.4,ear -.45,.26 -.3,-.04 0,-.1 .3,-.04 .45,.26 .4,ear"
        fringe = ".345,.42 .3,.26 part+.04,.15 part-.12,.24 -.31,.3 -.345,.42"
        self._painter.at(ear=ear).shape(f"{crown} {fringe}", self._rgb, rounds=2, relief=0.1)
        self._draw_strands(-0.3, 0.3, -0.05, 0.2, 7)
        if self._falls:
            lock = ".36,.2 .46,.34 wide,.9 wide-.02,end .3,end+.02 .31,.9 .345,.5"
            for sign in (-1, 1):
                self._painter.at(side=sign).shape(lock, self._rgb, rounds=2, relief=0.2)
                self._draw_strands(sign * 0.36, sign * 0.44, 0.5, self._end - 0.1, 3)

    def _draw_back(self) -> None:
        painter, rgb = self._painter, self._rgb
        if self._falls:
            fall = ".1,-.1 .36,.02 .46,.36 .5,.9 .48,end-.1 .3,end+.03 .08,end+.05"
            painter.shape(fall, rgb, half=True, rounds=2, relief=0.12)
            self._draw_strands(-0.4, 0.4, 0.1, self._end - 0.05, 14)
            return
        painter.shape(".1,-.1 .36,.02 .45,.34 .41,.68 .28,.86 .1,.9", rgb, half=True, rounds=2, relief=0.12)
        self._draw_strands(-0.32, 0.32, 0.0, 0.8, 9)
        if self._style == "ponytail":
            painter.shape(".06,.28 .16,.5 .18,1 .13,1.6 .03,1.75", tone(rgb, 0.94), half=True, rounds=2, relief=0.3)
            self._draw_strands(-0.1, 0.1, 0.5, 1.6, 4)
            painter.line("-.1,.36 .1,.36", _RIBBON, 0.07)
        elif self._bun:
            painter.shape(_BUN["back"], tone(rgb, 0.94), rounds=1, relief=0.3)
            painter.line("-.15,.05 .15,.05", _RIBBON, 0.07)

    def _draw_side(self) -> None:
        painter, rgb = self._painter, self._rgb
        crown = ".35,.24 .3,.02 .06,-.1 -.26,-.05 -.47,.26 -.45,.62"
        painter.shape(f"{crown} -.3,.88 -.14,.66 .06,.58 .1,.36 .2,.22", rgb, rounds=2, relief=0.12)
        self._draw_strands(-0.36, 0.2, -0.02, 0.34, 7)
        if self._falls:
            tips = ".04,end-.1 -.2,end -.5,end-.04"
            painter.shape(f".08,.2 .13,.5 .06,.9 {tips} -.54,.8 -.48,.3 -.2,0", rgb, rounds=2, relief=0.16)
            self._draw_strands(-0.42, 0.0, 0.4, self._end - 0.08, 8)
        elif self._style == "ponytail":
            tail = "-.36,.2 -.6,.16 -.82,.5 -.8,1.1 -.68,1.4 -.62,1 -.6,.6 -.4,.42"
            painter.shape(tail, tone(rgb, 0.94), rounds=2, relief=0.25)
            painter.line("-.46,.22 -.46,.38", _RIBBON, 0.07)
        elif self._bun:
            painter.shape(_BUN["side"], tone(rgb, 0.94), rounds=1, relief=0.3)
