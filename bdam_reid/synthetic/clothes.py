"""Draws everything above the waist: neck, garments, arms with their sleeves."""

from __future__ import annotations

from typing import NamedTuple

from bdam_reid.synthetic.body import HIP_Y, WAIST_Y, Body, Limb, Pose
from bdam_reid.synthetic.fabric import Paint
from bdam_reid.synthetic.figure import Figure
from bdam_reid.synthetic.painter import Painter
from bdam_reid.synthetic.people import COLOURS, Item, Rgb
from bdam_reid.synthetic.shapes import SIDES, Point, between, blend, ellipse, mirrored, placed, points, smooth, tone


class Cut(NamedTuple):
    """The cut of a garment: how far it stands off the body, where it ends, how much wider it gets on the way, and how
    low a neckline shows skin.
    """

    sleeve: str
    ease: float
    hem: float
    flare: float = 0.0
    neckline: float | None = None

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


def draw_torso(figure: Figure) -> None:
    """Neck, upper garment, and what is worn over it."""
    body, outfit = figure.body, figure.outfit
    x = 0.012 if figure.pose.side_view else 0.0
    neck = (body.neck, body.neck * 1.15)
    figure.painter.limb(((x, 0.11), (x * 0.5, 0.175)), neck, tone(figure.person.skin_rgb, 0.92))
    _draw_garment(figure, outfit.upper, figure.cloth["upper"])
    if outfit.outer is not None:
        _draw_garment(figure, outfit.outer, figure.cloth["outer"])
        if figure.pose.view == "front":
            _draw_opening(figure, outfit.outer.kind, figure.cloth["outer"])


def _draw_garment(figure: Figure, item: Item, paint: Paint) -> None:
    painter, body, pose, cut = figure.painter, figure.body, figure.pose, CUTS[item.kind]
    outline = _side_outline(body, pose, cut) if pose.side_view else _front_outline(body, item.kind, cut)
    painter.shape(smooth(outline, 1), paint, relief=0.16)
    _draw_folds(figure, item.kind, cut)
    if pose.view == "front":
        _draw_front(figure, item, paint)
    elif pose.view == "back":
        _draw_back(painter, body, item.kind, paint)
    elif item.kind == "hoodie":
        hood = points("-0.02,0.145 -0.075,0.165 -0.1,0.21 -0.055,0.235 -0.02,0.19")
        painter.shape(smooth(hood), paint.shaded(0.88), relief=0.2)


def _front_outline(body: Body, kind: str, cut: Cut) -> list[Point]:
    ease, hem, edge = cut.ease, cut.hem, body.hips + cut.ease + cut.flare
    shoulder = body.shoulder - 0.03 if kind == "tank top" else body.shoulder
    yoke = [(body.neck + 0.002, 0.16), (shoulder * 0.62, 0.171)]
    armhole = [(shoulder - 0.008 + ease * 0.4, 0.19), (shoulder + ease * 0.3, 0.215), (body.chest + ease, 0.28)]
    sides = [(body.waist + ease, WAIST_Y), (body.hips + ease, HIP_Y)]
    return mirrored([*yoke, *armhole, *sides, (edge, hem - 0.012), (edge, hem), (edge * 0.5, hem + 0.006)])


def _side_outline(body: Body, pose: Pose, cut: Cut) -> list[Point]:
    ease, hem, belly = cut.ease, cut.hem, body.belly + cut.ease
    lap, seat = max(body.thigh + 0.008, belly * 0.82) + ease, -body.seat - ease
    chest = [(0.026, 0.162), (0.046 + ease, 0.195), (body.bust + ease, 0.262)]
    front = [*chest, (max(belly, 0.045 + ease), 0.33), (belly + 0.006, 0.4)]
    back = [(-body.seat - ease, HIP_Y), (-body.back * 0.78 - ease, 0.37), (-body.back - ease, 0.26)]
    nape = [(-body.back * 0.9 - ease * 0.5, 0.2), (-0.034, 0.158)]
    if cut.long:
        knees = [leg.joints[1][0] for leg in pose.legs]
        lap = max(lap, max(knees) * 0.8 + 0.04 + cut.flare * 0.4)
        seat = min(seat, min(knees) * 0.8 - 0.04 - cut.flare * 0.4)
    edge = [(lap, HIP_Y), (lap, hem - 0.004), (lap, hem), (seat, hem), (seat, hem - 0.004)]
    return [*front, *edge, *back, *nape]


def _draw_folds(figure: Figure, kind: str, cut: Cut) -> None:
    painter, body, rng = figure.painter, figure.body, figure.rng
    for _ in range(4):
        x, y = rng.uniform(-0.7, 0.7) * body.waist, rng.uniform(0.3, 0.47)
        painter.crease(((x, y), (x + rng.uniform(-0.03, 0.03), y + 0.03)), rng.choice((0.84, 0.88, 1.1)), 0.005)
    if cut.long:
        for share in (-0.5, 0.0, 0.5):
            painter.crease(((body.hips * share, 0.53), ((body.hips + 0.03) * share, cut.hem)), 0.86, 0.006)
    if kind in _WAISTBAND:
        _crease_across(painter, body.hips + 0.02, cut.hem - 0.022, 0.78, 0.006)
    if kind == "puffer jacket":
        for y in (0.215, 0.265, 0.315, 0.365, 0.415, 0.465):
            painter.crease(((-body.chest * 1.5, y), (0.0, y + 0.005), (body.chest * 1.5, y)), 0.72, 0.009)
            _crease_across(painter, body.chest * 1.5, y + 0.022, 1.1, 0.01)
    if kind == "dress":
        _crease_across(painter, body.waist, 0.39, 0.72, 0.008)


def _crease_across(painter: Painter, wide: float, y: float, value: float, width: float) -> None:
    painter.crease(((-wide, y), (wide, y)), value, width)


def _draw_front(figure: Figure, item: Item, paint: Paint) -> None:
    painter, neck, skin = figure.painter, figure.body.neck, figure.person.skin_rgb
    drop = CUTS[item.kind].neckline
    if drop is not None:
        neckline = mirrored([(neck + 0.008, 0.158), (neck * 0.9, drop - 0.01), (0.006, drop + 0.008)])
        painter.fill(smooth(neckline), skin)
    if item.kind in ("shirt", "polo shirt"):
        _draw_buttons(painter, neck, paint, skin, end=0.5 if item.kind == "shirt" else 0.265)
    if item.kind == "hoodie":
        _draw_hood(painter, neck, paint)
    if item.pattern == "printed" and item.second is not None:
        square = points("-0.036,0.25 0.036,0.25 0.036,0.31 -0.036,0.31")
        painter.fill(smooth(square, 1), COLOURS[item.second])
        painter.fill(ellipse(0.0, 0.28, 0.016, 0.016, 10), paint.rgb)


def _trim(paint: Paint) -> Rgb:
    """A colour that stands out from a garment's."""
    return tone(paint.rgb, 1.3 if sum(paint.rgb) < 500 else 0.72)


def _draw_buttons(painter: Painter, neck: float, paint: Paint, skin: Rgb, end: float) -> None:
    light = _trim(paint)
    painter.fill(points("-0.016,0.162 0.016,0.162 0,0.2"), skin)
    collar = [(0.014, 0.158), (neck + 0.012, 0.155), (0.03, 0.196), (0.0, 0.2)]
    for sign in SIDES:
        painter.shape(placed(collar, width=sign), light, relief=0.1)
    painter.line(((0.0, 0.2), (0.0, end)), blend(paint.rgb, (20, 20, 24), 0.45), 0.004)
    y = 0.22
    while y < end:
        painter.fill(ellipse(0.0, y, 0.006, 0.006, 8), light)
        y += 0.042


def _draw_hood(painter: Painter, neck: float, paint: Paint) -> None:
    hood = mirrored([(neck, 0.15), (neck + 0.03, 0.165), (0.03, 0.205), (0.0, 0.218)])
    painter.shape(smooth(hood), paint.shaded(0.85), relief=0.2)
    painter.fill(smooth(mirrored([(neck * 0.8, 0.158), (0.012, 0.185), (0.0, 0.19)])), tone(paint.rgb, 0.5))
    for sign in SIDES:
        painter.line(((sign * 0.016, 0.2), (sign * 0.018, 0.268)), _trim(paint), 0.006)
    painter.crease(points("-0.045,0.47 -0.03,0.405 0.03,0.405 0.045,0.47"), 0.72, 0.007)


def _draw_back(painter: Painter, body: Body, kind: str, paint: Paint) -> None:
    if kind == "hoodie":
        hood = mirrored([(body.neck, 0.148), (body.neck + 0.042, 0.175), (0.05, 0.225), (0.0, 0.262)])
        painter.shape(smooth(hood), paint.shaded(0.9), relief=0.2)
    if kind in _COLLAR:
        collar = mirrored([(body.neck, 0.148), (body.neck + 0.012, 0.17), (0.0, 0.176)])
        painter.shape(collar, paint.shaded(0.85), relief=0.1)
    if kind in _YOKE:
        _crease_across(painter, body.chest, 0.235, 0.8, 0.006)
    if kind in _LAPELS:
        painter.crease(((0.0, 0.4), (0.0, CUTS[kind].hem)), 0.74, 0.006)


def _draw_opening(figure: Figure, kind: str, paint: Paint) -> None:
    """What shows of the clothes below between the open sides of a jacket, with its lapels, zip or collar."""
    painter, body, outfit, cut = figure.painter, figure.body, figure.outfit, CUTS[kind]
    wide, end = 0.36 * body.waist, min(cut.hem + 0.01, CUTS[outfit.upper.kind].hem)
    if outfit.lower is not None and cut.long:
        lap = [(wide * 1.06, 0.5), (wide * 1.3, cut.hem + 0.004)]
        painter.fill(mirrored(lap), figure.cloth["lower"])
    inner = [(0.016, 0.163), (0.03, 0.2), (wide, 0.3), (wide * 1.08, end), (0.0, end + 0.004)]
    painter.fill(mirrored(inner), figure.cloth["upper"])
    for sign in SIDES:
        painter.crease(((sign * (wide + 0.006), 0.3), (sign * (wide * 1.1 + 0.006), cut.hem)), 0.66, 0.008)
        _draw_jacket_collar(painter, kind, paint, body.neck, wide, sign)
        if kind == "denim jacket":
            pocket = points("-0.02,0.265 0.02,0.265 0.016,0.3 -0.016,0.3 -0.02,0.265")
            painter.line(placed(pocket, sign * (wide + body.chest) * 0.52), tone(paint.rgb, 1.25), 0.004)
        if kind == "coat":
            for y in (0.34, 0.4, 0.46):
                painter.fill(ellipse(sign * (wide + 0.016), y, 0.008, 0.008, 8), blend(paint.rgb, (15, 15, 18), 0.5))
        if kind == "leather jacket":
            painter.line(((sign * (wide + 0.004), 0.3), (sign * (wide + 0.006), cut.hem)), (196, 196, 200), 0.004)


def _draw_jacket_collar(painter: Painter, kind: str, paint: Paint, neck: float, wide: float, sign: int) -> None:
    if kind in _LAPELS:
        lapel = [(0.012, 0.158), (neck + 0.02, 0.165), (wide + 0.03, 0.245), (wide, 0.3)]
        painter.shape(placed(lapel, width=sign), paint.shaded(0.86), relief=0.1)
    elif kind == "puffer jacket":
        stand = points("0.018,0.14 0.05,0.15 0.048,0.19 0.022,0.19")
        painter.shape(placed(stand, width=sign), paint.shaded(0.9))
    else:
        collar = [(0.014, 0.154), (neck + 0.018, 0.155), (0.06, 0.205), (0.03, 0.205)]
        painter.shape(placed(collar, width=sign), paint.shaded(0.84), relief=0.1)


def draw_arm(figure: Figure, arm: Limb) -> None:
    """One arm with its sleeve and hand; the far arm of a side view is darker."""
    painter, body, outfit = figure.painter, figure.body, figure.outfit
    shade = 0.8 if figure.pose.side_view and arm is figure.pose.arms[0] else 1.0
    skin = tone(figure.person.skin_rgb, shade)
    shoulder, elbow, wrist = arm.joints
    painter.limb(arm.joints, (body.arm, body.forearm * 1.08, body.forearm * 0.8), skin)
    painter.shape(smooth(ellipse(wrist[0] + 0.004, wrist[1] + 0.022, 0.018, 0.026, 10), 1), skin, relief=0.25)
    name, item = ("outer", outfit.outer) if outfit.outer is not None else ("upper", outfit.upper)
    ease, paint = CUTS[item.kind].ease * 0.75 + 0.002, figure.cloth[name].shaded(shade)
    if CUTS[item.kind].sleeve == "short":
        wide = body.arm + ease
        painter.limb((shoulder, between(shoulder, elbow, 0.62)), (wide, wide + 0.004), paint)
    if CUTS[item.kind].sleeve == "long":
        radii = (body.arm + ease, body.forearm * 1.1 + ease, body.forearm * 0.95 + ease)
        painter.limb(arm.joints, radii, paint)
        crook = [(-body.arm, 0.004), (body.arm * 0.4, -0.008)]
        painter.crease(placed(crook, *elbow), 0.78, 0.006)
        painter.crease(placed(points("-0.03,-0.012 0.03,-0.012"), *wrist), 0.76, 0.006)
    if item.kind == "puffer jacket":
        for a, b, shares in ((shoulder, elbow, (0.3, 0.65)), (elbow, wrist, (0.35, 0.7))):
            for share in shares:
                painter.crease(placed(points("-0.05,0 0.05,0"), *between(a, b, share)), 0.72, 0.008)
