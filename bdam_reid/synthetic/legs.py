"""Draws everything below the waist: legs, trousers and skirts, shoes."""

from __future__ import annotations

import math

from bdam_reid.synthetic.body import CROTCH_Y, HIP_Y, Limb
from bdam_reid.synthetic.fabric import Paint
from bdam_reid.synthetic.figure import Figure
from bdam_reid.synthetic.painter import Painter
from bdam_reid.synthetic.people import Rgb
from bdam_reid.synthetic.shapes import SIDES, Outline, Point, between, mirrored, placed, points, smooth, tone

# Ease at hip, knee and ankle.
_TROUSERS = {
    "trousers": (0.006, 0.012, 0.02),
    "jeans": (0.003, 0.004, 0.008),
    "leggings": (0.0, 0.0, 0.001),
    "shorts": (0.008, 0.02, 0.02),
}
# The hem and how much wider it is than the hips.
_SKIRTS = {"skirt": (0.7, 0.026), "long skirt": (0.9, 0.04)}


def draw_legs(figure: Figure) -> None:
    """Legs, shoes, and trousers or a skirt; the farther leg is darker."""
    body, lower = figure.body, figure.outfit.lower
    radii = (body.thigh, body.knee, body.ankle)
    if figure.pose.side_view:
        radii = (body.thigh * 1.12, body.knee * 1.05, body.ankle * 1.05)
    boots = figure.outfit.shoes.kind == "boots"
    for leg, shade in zip(figure.pose.legs, (0.82, 1.0), strict=True):
        figure.painter.limb(leg.joints, radii, tone(figure.person.skin_rgb, shade))
        if not boots:
            _draw_shoe(figure, leg, shade)
        if lower is not None and lower.kind in _TROUSERS:
            _draw_trouser_leg(figure.painter, leg, radii, lower.kind, figure.cloth["lower"].shaded(shade))
        if boots:
            _draw_shoe(figure, leg, shade)
    if lower is not None and lower.kind in _SKIRTS:
        _draw_skirt(figure, lower.kind)
    elif lower is not None:
        _draw_seat(figure)


def _draw_trouser_leg(painter: Painter, leg: Limb, radii: tuple[float, ...], kind: str, paint: Paint) -> None:
    hip, knee, _ = leg.joints
    at_hip, at_knee, at_ankle = (r + ease for r, ease in zip(radii, _TROUSERS[kind], strict=True))
    if kind == "shorts":
        painter.limb((hip, between(hip, knee, 0.82)), (at_hip, at_knee), paint)
        return
    painter.limb(leg.joints, (at_hip, at_knee, at_ankle), paint)
    for share, width in ((0.96, 0.9), (1.06, 0.7)):
        y = knee[1] * share
        painter.crease(((knee[0] - at_knee * width, y), (knee[0] + at_knee * 0.2, y + 0.012)), 0.8, 0.005)
    if kind == "jeans":
        seam = ((hip[0] + at_hip * 0.8, 0.54), (knee[0] + at_knee * 0.7, knee[1]))
        painter.line(seam, tone(paint.rgb, 1.25), 0.004)


def _draw_seat(figure: Figure) -> None:
    painter, body, paint = figure.painter, figure.body, figure.cloth["lower"]
    if figure.pose.side_view:
        lap = [(body.belly * 0.9, 0.4), (body.thigh * 1.15, 0.47), (0.05, CROTCH_Y + 0.02)]
        back = [(-0.04, CROTCH_Y + 0.02), (-body.seat, 0.49), (-body.back * 0.8, 0.4)]
        painter.shape(smooth(lap + back), paint, relief=0.2)
        return
    half = [(body.waist, 0.4), (body.hips + 0.004, 0.48), (body.hips, 0.53), (0.012, 0.55)]
    painter.shape(mirrored(half), paint, relief=0.2)
    painter.crease(((0.0, 0.46), (0.0, 0.55)), 0.7, 0.006)
    if figure.pose.view == "back":
        pocket = points("-0.022,0.485 0.022,0.485 0.018,0.525 -0.018,0.525")
        for sign in SIDES:
            painter.crease(placed(pocket, sign * body.hips * 0.5), 0.78, 0.005)


def _draw_skirt(figure: Figure, kind: str) -> None:
    painter, body, legs = figure.painter, figure.body, figure.pose.legs
    hem, flare = _SKIRTS[kind]
    if figure.pose.side_view:
        covered = (1,) if kind == "skirt" else (1, 2)
        xs = [leg.joints[i][0] for leg in legs for i in covered]
        front, back = max(xs) * 0.86 + 0.045, min(xs) * 0.86 - 0.045
        outline = [(body.belly, 0.39), (body.thigh * 1.3, HIP_Y), (front, hem - 0.01), (front, hem)]
        outline += [(back, hem), (back, hem - 0.01), (-body.seat - 0.006, HIP_Y), (-body.back * 0.8, 0.39)]
    else:
        edge = body.hips + flare
        sides = [(body.waist, 0.39), (body.hips + 0.008, HIP_Y), (edge, hem - 0.02)]
        outline = mirrored([*sides, (edge, hem), (edge * 0.5, hem + 0.008)])
    painter.shape(outline, figure.cloth["lower"], relief=0.18)
    for share in (-0.55, -0.15, 0.3, 0.65):
        painter.crease(((body.hips * share, 0.52), ((body.hips + flare) * share, hem - 0.004)), 0.84, 0.006)


def _draw_shoe(figure: Figure, leg: Limb, shade: float) -> None:
    skin, rgb = tone(figure.person.skin_rgb, shade), tone(figure.outfit.shoes.rgb, shade)
    wide, kind, view = figure.body.ankle + 0.006, figure.outfit.shoes.kind, figure.pose.view
    if figure.pose.side_view:
        _draw_shoe_from_side(figure.painter, leg, kind, wide, rgb, skin)
    else:
        _draw_shoe_from_front(figure.painter, leg, kind, wide, rgb, skin, toes=view == "front")


def _draw_shoe_from_front(
    painter: Painter, leg: Limb, kind: str, wide: float, rgb: Rgb, skin: Rgb, *, toes: bool
) -> None:
    x, y = leg.joints[2]
    bottom = y + 0.012 + (0.052 if toes else 0.034) * (1.0 if leg.turn > 0 else 0.75)
    foot = mirrored([(wide, y), (wide * 1.25, bottom - 0.012), (wide * 0.9, bottom)])
    if kind == "high heels":
        foot = mirrored([(wide * 0.9, y + 0.006), (wide * 0.7, bottom)])
    if kind == "boots":
        painter.limb(((x, y - 0.075), (x, y)), (wide + 0.008, wide + 0.004), rgb)
    painter.shape(
        smooth(placed(foot, x)), skin if kind == "sandals" else rgb, relief=0.2 if kind == "sandals" else 0.24
    )
    if kind == "sandals":
        for share in (0.35, 0.7):
            level = y + (bottom - y) * share
            painter.line(((x - wide * 1.15, level), (x + wide * 1.15, level)), rgb, 0.011)
    if kind == "sneakers":
        painter.line(((x - wide * 1.05, bottom - 0.004), (x + wide * 1.05, bottom - 0.004)), _sole(rgb), 0.009)
        if toes:
            painter.line(((x - 0.008, y + 0.016), (x + 0.008, y + 0.016)), _sole(rgb), 0.005)


def _draw_shoe_from_side(painter: Painter, leg: Limb, kind: str, wide: float, rgb: Rgb, skin: Rgb) -> None:
    (x, y), sin, cos = leg.joints[2], math.sin(leg.turn), math.cos(leg.turn)

    def turned(outline: Outline) -> list[Point]:
        return [(x + px * cos - py * sin, y + px * sin + py * cos) for px, py in outline]

    if kind == "high heels":
        pump = [(-wide, 0.0), (wide * 0.6, 0.004), (0.075, 0.04), (0.04, 0.045), (-0.006, 0.026)]
        painter.shape(turned(pump), rgb, relief=0.2)
        painter.line(turned([(-wide * 0.8, 0.008), (-wide * 0.75, 0.045)]), rgb, 0.009)
        return
    if kind == "boots":
        painter.limb(turned([(0.0, -0.08), (0.0, 0.0)]), (wide + 0.008, wide + 0.004), rgb)
    upper = [(-wide, -0.004), (wide * 0.8, -0.006), (0.052, 0.018), (0.082, 0.03)]
    foot = [*upper, (0.082, 0.046), (-wide - 0.006, 0.046), (-wide - 0.006, 0.02)]
    painter.shape(turned(smooth(foot, 1)), skin if kind == "sandals" else rgb, relief=0.16)
    if kind == "sandals":
        painter.line(turned([(0.035, 0.008), (0.05, 0.044)]), rgb, 0.011)
        painter.line(turned([(-wide, 0.004), (wide, 0.012)]), rgb, 0.011)
        painter.line(turned([(-wide - 0.004, 0.045), (0.08, 0.045)]), tone(rgb, 0.7), 0.008)
    if kind == "sneakers":
        painter.line(turned([(-wide - 0.004, 0.042), (0.08, 0.042)]), _sole(rgb), 0.011)


def _sole(rgb: Rgb) -> Rgb:
    return (236, 236, 232) if sum(rgb) < 600 else (150, 150, 150)
