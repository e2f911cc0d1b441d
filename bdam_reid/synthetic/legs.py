"""Draws everything below the waist: legs, trousers and skirts, shoes."""

from __future__ import annotations

import math

from bdam_reid.synthetic.body import CROTCH_Y, HIP_Y, Limb
from bdam_reid.synthetic.figure import Figure, shaded
from bdam_reid.synthetic.painter import Paint, Painter, Point, mirrored, smooth, tone
from bdam_reid.synthetic.people import Rgb

# Ease at hip, knee and ankle, and where a leg ends.
_LEG_EASE = {
    "trousers": (0.006, 0.012, 0.02),
    "jeans": (0.003, 0.004, 0.008),
    "leggings": (0.0, 0.0, 0.001),
    "shorts": (0.008, 0.02, 0.02),
}
_SKIRTS = {"skirt": (0.7, 0.026), "long skirt": (0.9, 0.04)}


def draw_legs(figure: Figure) -> None:
    """Legs, shoes, and trousers or a skirt; the farther leg is darker."""
    body, pose, lower = figure.body, figure.pose, figure.outfit.lower
    radii = (body.thigh, body.knee, body.ankle)
    if pose.side_view:
        radii = (body.thigh * 1.12, body.knee * 1.05, body.ankle * 1.05)
    for leg, shade in zip(pose.legs, (0.82, 1.0), strict=True):
        figure.painter.limb(leg.joints, radii, tone(figure.person.skin_rgb, shade))
        boots = figure.outfit.shoes.kind == "boots"
        if not boots:
            _draw_shoe(figure, leg, shade)
        if lower is not None and lower.kind in _LEG_EASE:
            _draw_trouser_leg(figure.painter, leg, radii, lower.kind, shaded(figure.cloth["lower"], shade))
        if boots:
            _draw_shoe(figure, leg, shade)
    if lower is not None and lower.kind in _SKIRTS:
        _draw_skirt(figure, lower.kind)
    elif lower is not None:
        _draw_seat(figure)


def _draw_trouser_leg(painter: Painter, leg: Limb, radii: tuple[float, ...], kind: str, paint: Paint) -> None:
    hip, knee, ankle = leg.joints
    at_hip, at_knee, at_ankle = (r + e for r, e in zip(radii, _LEG_EASE[kind], strict=True))
    if kind == "shorts":
        end = (hip[0] + (knee[0] - hip[0]) * 0.82, hip[1] + (knee[1] - hip[1]) * 0.82)
        painter.limb((hip, end), (at_hip, at_knee), paint)
        return
    painter.limb((hip, knee, ankle), (at_hip, at_knee, at_ankle), paint)
    for share, width in ((0.96, 0.9), (1.06, 0.7)):
        y = knee[1] * share
        painter.crease(((knee[0] - at_knee * width, y), (knee[0] + at_knee * 0.2, y + 0.012)), 0.8, 0.005)
    if kind == "jeans":
        painter.line(((hip[0] + at_hip * 0.8, 0.54), (knee[0] + at_knee * 0.7, knee[1])), tone(paint.rgb, 1.25), 0.004)


def _draw_seat(figure: Figure) -> None:
    painter, body, pose, paint = figure.painter, figure.body, figure.pose, figure.cloth["lower"]
    if pose.side_view:
        seat = [
            (body.belly * 0.9, 0.4),
            (body.thigh * 1.15, 0.47),
            (0.05, CROTCH_Y + 0.02),
            (-0.04, CROTCH_Y + 0.02),
        ]
        painter.shape(smooth([*seat, (-body.seat, 0.49), (-body.back * 0.8, 0.4)]), paint, relief=0.2)
        return
    painter.shape(
        mirrored([(body.waist, 0.4), (body.hips + 0.004, 0.48), (body.hips, 0.53), (0.012, 0.55)]),
        paint,
        relief=0.2,
    )
    painter.crease(((0.0, 0.46), (0.0, 0.55)), 0.7, 0.006)
    if pose.view == "back":
        for sign in (-1, 1):
            x = sign * body.hips * 0.5
            painter.crease(
                ((x - 0.022, 0.485), (x + 0.022, 0.485), (x + 0.018, 0.525), (x - 0.018, 0.525)), 0.78, 0.005
            )


def _draw_skirt(figure: Figure, kind: str) -> None:
    painter, body, pose, paint = figure.painter, figure.body, figure.pose, figure.cloth["lower"]
    hem, flare = _SKIRTS[kind]
    if pose.side_view:
        xs = [joint[0] for leg in pose.legs for joint in leg.joints[1 : 2 if kind == "skirt" else 3]]
        front, back = max(xs) * 0.86 + 0.045, min(xs) * 0.86 - 0.045
        outline = [(body.belly, 0.39), (body.thigh * 1.3, HIP_Y), (front, hem - 0.01), (front, hem)]
        outline += [(back, hem), (back, hem - 0.01), (-body.seat - 0.006, HIP_Y), (-body.back * 0.8, 0.39)]
    else:
        edge = body.hips + flare
        outline = mirrored(
            [
                (body.waist, 0.39),
                (body.hips + 0.008, HIP_Y),
                (edge, hem - 0.02),
                (edge, hem),
                (edge * 0.5, hem + 0.008),
            ]
        )
    painter.shape(outline, paint, relief=0.18)
    for share in (-0.55, -0.15, 0.3, 0.65):
        painter.crease(((body.hips * share, 0.52), ((body.hips + flare) * share, hem - 0.004)), 0.84, 0.006)


def _draw_shoe(figure: Figure, leg: Limb, shade: float) -> None:
    painter, body, pose, shoe = figure.painter, figure.body, figure.pose, figure.outfit.shoes
    skin = tone(figure.person.skin_rgb, shade)
    rgb = tone(shoe.rgb, shade)
    (x, y), wide = leg.joints[2], body.ankle + 0.006
    if pose.side_view:
        _draw_shoe_from_side(painter, leg, shoe.kind, rgb, skin, wide)
        return
    length = 0.052 if pose.view == "front" else 0.034
    bottom = y + 0.012 + length * (1.0 if leg.turn > 0 else 0.75)
    if shoe.kind == "boots":
        painter.limb(((x, y - 0.075), (x, y)), (wide + 0.008, wide + 0.004), rgb)
    toe = [(x - wide, y), (x + wide, y), (x + wide * 1.25, bottom - 0.012), (x + wide * 0.9, bottom)]
    foot = smooth([*toe, (x - wide * 0.9, bottom), (x - wide * 1.25, bottom - 0.012)])
    if shoe.kind == "sandals":
        painter.shape(foot, skin, relief=0.2)
        for share in (0.35, 0.7):
            level = y + (bottom - y) * share
            painter.line(((x - wide * 1.15, level), (x + wide * 1.15, level)), rgb, 0.011)
        return
    if shoe.kind == "high heels":
        foot = smooth(
            [
                (x - wide * 0.9, y + 0.006),
                (x + wide * 0.9, y + 0.006),
                (x + wide * 0.7, bottom),
                (x - wide * 0.7, bottom),
            ]
        )
    painter.shape(foot, rgb, relief=0.24)
    if shoe.kind == "sneakers":
        sole = _sole(rgb)
        painter.line(((x - wide * 1.05, bottom - 0.004), (x + wide * 1.05, bottom - 0.004)), sole, 0.009)
        if pose.view == "front":
            painter.line(((x - 0.008, y + 0.016), (x + 0.008, y + 0.016)), sole, 0.005)


def _draw_shoe_from_side(painter: Painter, leg: Limb, kind: str, rgb: Rgb, skin: Rgb, wide: float) -> None:
    (x, y), (sin, cos) = leg.joints[2], (math.sin(leg.turn), math.cos(leg.turn))

    def turned(outline: list[Point]) -> list[Point]:
        return [(x + px * cos - py * sin, y + px * sin + py * cos) for px, py in outline]

    if kind == "boots":
        painter.limb(turned([(0.0, -0.08), (0.0, 0.0)]), (wide + 0.008, wide + 0.004), rgb)
    if kind == "high heels":
        painter.shape(
            turned([(-wide, 0.0), (wide * 0.6, 0.004), (0.075, 0.04), (0.04, 0.045), (-0.006, 0.026)]),
            rgb,
            relief=0.2,
        )
        painter.line(turned([(-wide * 0.8, 0.008), (-wide * 0.75, 0.045)]), rgb, 0.009)
        return
    foot = [
        (-wide, -0.004),
        (wide * 0.8, -0.006),
        (0.052, 0.018),
        (0.082, 0.03),
        (0.082, 0.046),
        (-wide - 0.006, 0.046),
        (-wide - 0.006, 0.02),
    ]
    painter.shape(turned(smooth(foot, 1)), skin if kind == "sandals" else rgb, relief=0.16)
    if kind == "sandals":
        for strap in ([(0.035, 0.008), (0.05, 0.044)], [(-wide, 0.004), (wide, 0.012)]):
            painter.line(turned(strap), rgb, 0.011)
        painter.line(turned([(-wide - 0.004, 0.045), (0.08, 0.045)]), tone(rgb, 0.7), 0.008)
    if kind == "sneakers":
        sole = _sole(rgb)
        painter.line(turned([(-wide - 0.004, 0.042), (0.08, 0.042)]), sole, 0.011)


def _sole(rgb: Rgb) -> Rgb:
    return (236, 236, 232) if sum(rgb) < 600 else (150, 150, 150)
