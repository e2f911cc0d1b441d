"""Draws everything above the waist: neck, garments, arms with their sleeves."""

from __future__ import annotations

from typing import NamedTuple

from bdam_reid.synthetic.fabric import Paint
from bdam_reid.synthetic.figure import Figure, Limb
from bdam_reid.synthetic.painter import Painter
from bdam_reid.synthetic.people import COLOURS, Item, Rgb
from bdam_reid.synthetic.shapes import between, blend, ellipse, tone


class Cut(NamedTuple):
    """The cut of a garment: how far it stands off the body, where it ends, how much wider it gets on the way, and how
    low a neckline shows skin.
    """

    sleeve: str
    ease: float
    hem: float
    flare: float = 0.0
    neckline: float = 0.0

    @property
    def long(self) -> bool:
        """Whether the garment covers the thighs."""
        return self.hem > 0.6


CUTS = {
    "tank top": Cut("none", 0.002, 0.505, neckline=0.215),
    "t-shirt": Cut("short", 0.006, 0.515, neckline=0.185),
    "polo shirt": Cut("short", 0.006, 0.515),
    "shirt": Cut("long", 0.007, 0.525),
    "blouse": Cut("long", 0.007, 0.51, 0.012, neckline=0.205),
    "sweater": Cut("long", 0.013, 0.515, neckline=0.178),
    "hoodie": Cut("long", 0.016, 0.525),
    "dress": Cut("short", 0.004, 0.7, 0.05, neckline=0.21),
    "jacket": Cut("long", 0.015, 0.515),
    "denim jacket": Cut("long", 0.012, 0.5),
    "leather jacket": Cut("long", 0.011, 0.495),
    "puffer jacket": Cut("long", 0.03, 0.525),
    "blazer": Cut("long", 0.012, 0.545),
    "coat": Cut("long", 0.017, 0.735, 0.024),
}
_WAISTBAND = ("sweater", "hoodie", "jacket", "leather jacket")
_COLLAR = ("shirt", "polo shirt", "blazer", "coat", "denim jacket", "leather jacket", "jacket")
_YOKE = ("denim jacket", "leather jacket", "jacket", "shirt")
_LAPELS = ("blazer", "coat")
# Measures beyond the body's are those of a cut, and what `_measured` adds.
_FRONT = (
    "neck+.002,.16 shoulder*.62,.171 shoulder-.008+ease*.4,.19 shoulder+ease*.3,.215 chest+ease,.28 "
    "waist+ease,.39 hips+ease,.485 edge,hem-.012 edge,hem edge*.5,hem+.006"
)
_SIDE = (
    ".026,.162 .046+ease,.195 bust+ease,.262 stomach,.33 belly+ease+.006,.4 "
    "lap,0.485 lap,hem-0.004 lap,hem rear,hem rear,hem-0.004 "
    "-seat-ease,.485 -back*.78-ease,.37 -back-ease,.26 -back*.9-ease*.5,.2 -.034,.158"
)


def draw_torso(figure: Figure) -> None:
    """Neck, upper garment, and what is worn over it."""
    body, outfit = figure.body, figure.outfit
    neck = ".012,.11 .006,.175" if figure.pose.side_view else "0,.11 0,.175"
    figure.painter.limb(neck, (body["neck"], body["neck"] * 1.15), tone(figure.person.skin_rgb, 0.92))
    _draw_garment(figure, outfit.upper, figure.cloth["upper"])
    if outfit.outer is not None:
        _draw_garment(figure, outfit.outer, figure.cloth["outer"])
        if figure.pose.view == "front":
            _draw_opening(figure, outfit.outer.kind, figure.cloth["outer"])


def _draw_garment(figure: Figure, item: Item, paint: Paint) -> None:
    view, painter = figure.pose.view, _measured(figure, item.kind)
    painter.shape(
        _SIDE if figure.pose.side_view else _FRONT, paint, half=not figure.pose.side_view, rounds=1, relief=0.16
    )
    _draw_folds(figure, painter, item.kind)
    if view == "front":
        _draw_front(painter, item, paint, figure.person.skin_rgb)
    elif view == "back":
        _draw_back(painter, item.kind, paint)
    elif item.kind == "hoodie":
        painter.shape("-.02,.145 -.075,.165 -.1,.21 -.055,.235 -.02,.19", paint.shaded(0.88), rounds=2, relief=0.2)


def _measured(figure: Figure, kind: str) -> Painter:
    """The painter with the measures of a garment."""
    body, cut = figure.body, CUTS[kind]
    belly = body["belly"] + cut.ease
    lap, rear = max(body["thigh"] + 0.008, belly * 0.82) + cut.ease, -body["seat"] - cut.ease
    if cut.long:
        knees = [leg.joints[1][0] for leg in figure.pose.legs]
        lap = max(lap, max(knees) * 0.8 + 0.04 + cut.flare * 0.4)
        rear = min(rear, min(knees) * 0.8 - 0.04 - cut.flare * 0.4)
    return figure.painter.at(
        ease=cut.ease,
        hem=cut.hem,
        drop=cut.neckline,
        edge=body["hips"] + cut.ease + cut.flare,
        lap=lap,
        rear=rear,
        stomach=max(belly, 0.045 + cut.ease),
        shoulder=body["shoulder"] - 0.03 if kind == "tank top" else body["shoulder"],
    )


def _draw_folds(figure: Figure, painter: Painter, kind: str) -> None:
    rng = figure.rng
    for _ in range(4):
        x, y = rng.uniform(-0.7, 0.7) * figure.body["waist"], rng.uniform(0.3, 0.47)
        painter.crease(((x, y), (x + rng.uniform(-0.03, 0.03), y + 0.03)), rng.choice((0.84, 0.88, 1.1)), 0.005)
    if CUTS[kind].long:
        for fold in ("-hips*.5,.53 -hips*.5-.015,hem", "0,.53 0,hem", "hips*.5,.53 hips*.5+.015,hem"):
            painter.crease(fold, 0.86, 0.006)
    if kind in _WAISTBAND:
        painter.crease("-hips-.02,hem-.022 hips+.02,hem-.022", 0.78, 0.006)
    if kind == "puffer jacket":
        for y in (0.215, 0.265, 0.315, 0.365, 0.415, 0.465):
            painter.at(0.0, y).crease("-chest*1.5,0 0,.005 chest*1.5,0", 0.72, 0.009)
            painter.at(0.0, y).crease("-chest*1.5,.022 chest*1.5,.022", 1.1, 0.01)
    if kind == "dress":
        painter.crease("-waist,0.39 waist,0.39", 0.72, 0.008)


def _draw_front(painter: Painter, item: Item, paint: Paint, skin: Rgb) -> None:
    trim = tone(paint.rgb, 1.3 if sum(paint.rgb) < 500 else 0.72)
    if CUTS[item.kind].neckline:
        painter.fill("neck+.008,.158 neck*.9,drop-.01 .006,drop+.008", skin, half=True, rounds=2)
    if item.kind in ("shirt", "polo shirt"):
        painter.fill("-.016,.162 .016,.162 0,.2", skin)
        for side in painter.sides():
            side.shape(".014,.158 neck+.012,.155 .03,.196 0,.2", trim, relief=0.1)
        end, buttons = (0.5, 7) if item.kind == "shirt" else (0.265, 2)
        painter.line([(0.0, 0.2), (0.0, end)], blend(paint.rgb, (20, 20, 24), 0.45), 0.004)
        for button in range(buttons):
            painter.fill(ellipse(0.0, 0.22 + 0.042 * button, 0.006, 0.006, 8), trim)
    if item.kind == "hoodie":
        painter.shape("neck,.15 neck+.03,.165 .03,.205 0,.218", paint.shaded(0.85), half=True, rounds=2, relief=0.2)
        painter.fill("neck*.8,.158 .012,.185 0,.19", tone(paint.rgb, 0.5), half=True, rounds=2)
        for side in painter.sides():
            side.line(".016,.2 .018,.268", trim, 0.006)
        painter.crease("-.045,.47 -.03,.405 .03,.405 .045,.47", 0.72, 0.007)
    if item.pattern == "printed" and item.second is not None:
        painter.fill("-.036,.25 .036,.25 .036,.31 -.036,.31", COLOURS[item.second], rounds=1)
        painter.fill(ellipse(0.0, 0.28, 0.016, 0.016, 10), paint.rgb)


def _draw_back(painter: Painter, kind: str, paint: Paint) -> None:
    if kind == "hoodie":
        painter.shape("neck,.148 neck+.042,.175 .05,.225 0,.262", paint.shaded(0.9), half=True, rounds=2, relief=0.2)
    if kind in _COLLAR:
        painter.shape("neck,.148 neck+.012,.17 0,.176", paint.shaded(0.85), half=True, relief=0.1)
    if kind in _YOKE:
        painter.crease("-chest,0.235 chest,0.235", 0.8, 0.006)
    if kind in _LAPELS:
        painter.crease("0,.4 0,hem", 0.74, 0.006)


def _draw_opening(figure: Figure, kind: str, paint: Paint) -> None:
    """What shows of the clothes below between the open sides of a jacket, with its lapels, zip or collar."""
    cut, wide = CUTS[kind], max(0.03, 0.36 * figure.body["waist"])
    painter = figure.painter.at(wide=wide, hem=cut.hem, end=min(cut.hem + 0.01, CUTS[figure.outfit.upper.kind].hem))
    if cut.long and figure.outfit.lower is not None:
        painter.fill("wide*1.06,.5 wide*1.3,hem+.004", figure.cloth["lower"], half=True)
    painter.fill(".016,.163 .03,.2 wide,.3 wide*1.08,end 0,end+.004", figure.cloth["upper"], half=True)
    for side in painter.sides():
        side.crease("wide+.006,.3 wide*1.1+.006,hem", 0.66, 0.008)
        if kind in _LAPELS:
            side.shape(".012,.158 neck+.02,.165 wide+.03,.245 wide,.3", paint.shaded(0.86), relief=0.1)
        elif kind == "puffer jacket":
            side.shape(".018,.14 .05,.15 .048,.19 .022,.19", paint.shaded(0.9))
        else:
            side.shape(".014,.154 neck+.018,.155 .06,.205 .03,.205", paint.shaded(0.84), relief=0.1)
        if kind == "coat":
            for y in (0.34, 0.4, 0.46):
                side.fill(ellipse(wide + 0.016, y, 0.008, 0.008, 8), blend(paint.rgb, (15, 15, 18), 0.5))
        if kind == "leather jacket":
            side.line("wide+.004,.3 wide+.006,hem", (196, 196, 200), 0.004)
    if kind == "denim jacket":
        for x in (-(wide + figure.body["chest"]) * 0.52, (wide + figure.body["chest"]) * 0.52):
            painter.at(x).line("-.02,.265 .02,.265 .016,.3 -.016,.3 -.02,.265", tone(paint.rgb, 1.25), 0.004)


def draw_arm(figure: Figure, arm: Limb) -> None:
    """One arm with its sleeve and hand; the far arm of a side view is darker."""
    painter, body, outfit = figure.painter, figure.body, figure.outfit
    shade = 0.8 if figure.pose.side_view and arm is figure.pose.arms[0] else 1.0
    skin = tone(figure.person.skin_rgb, shade)
    shoulder, elbow, wrist = arm.joints
    painter.limb(arm.joints, (body["arm"], body["forearm"] * 1.08, body["forearm"] * 0.8), skin)
    painter.at(*wrist).shape(ellipse(0.004, 0.022, 0.018, 0.026, 10), skin, rounds=1, relief=0.25)
    name, item = ("outer", outfit.outer) if outfit.outer is not None else ("upper", outfit.upper)
    ease, paint = CUTS[item.kind].ease * 0.75 + 0.002, figure.cloth[name].shaded(shade)
    if CUTS[item.kind].sleeve == "short":
        wide = body["arm"] + ease
        painter.limb((shoulder, between(shoulder, elbow, 0.62)), (wide, wide + 0.004), paint)
    if CUTS[item.kind].sleeve == "long":
        painter.limb(
            arm.joints, (body["arm"] + ease, body["forearm"] * 1.1 + ease, body["forearm"] * 0.95 + ease), paint
        )
        painter.at(*elbow).crease("-arm,.004 arm*.4,-.008", 0.78, 0.006)
        painter.at(*wrist).crease("-.03,-.012 .03,-.012", 0.76, 0.006)
    if item.kind == "puffer jacket":
        for a, b, shares in ((shoulder, elbow, (0.3, 0.65)), (elbow, wrist, (0.35, 0.7))):
            for share in shares:
                painter.at(*between(a, b, share)).crease("-.05,0 .05,0", 0.72, 0.008)
