"""Draws what a person carries: bags with their straps, and scarves."""

from __future__ import annotations

from bdam_reid.synthetic.figure import Figure
from bdam_reid.synthetic.painter import Painter
from bdam_reid.synthetic.people import Rgb, bag_visible
from bdam_reid.synthetic.shapes import SIDES, ellipse, mirrored, placed, points, smooth, tone

_HAND_BAGS = ("handbag", "briefcase", "shopping bag")
_BRASS = (214, 186, 90)


def draw_behind(figure: Figure) -> None:
    """What a bag shows behind the torso: the sides of a backpack."""
    painter, body, bag = figure.painter, figure.body, figure.outfit.bag
    if bag is None or bag.kind != "backpack":
        return
    if figure.pose.view == "front":
        wide = body.chest + 0.022
        half = [(wide - 0.03, 0.2), (wide, 0.24), (wide + 0.012, 0.4), (wide - 0.02, 0.43)]
        painter.shape(smooth(mirrored(half)), bag.rgb)
    elif figure.pose.side_view:
        pack = points("0.02,0.19 -0.07,0.2 -0.115,0.26 -0.12,0.4 -0.07,0.44 0.02,0.43")
        pocket = points("-0.09,0.32 -0.145,0.33 -0.145,0.41 -0.09,0.42")
        painter.shape(smooth(placed(pack, -body.back)), bag.rgb, relief=0.18)
        painter.shape(smooth(placed(pocket, -body.back)), tone(bag.rgb, 0.8))


def draw_before(figure: Figure) -> None:
    """Straps and bags in front of the torso; bags of the hand are left to `draw_in_hand`."""
    bag = figure.outfit.bag
    if bag is None or bag.kind in _HAND_BAGS or not bag_visible(figure.outfit, figure.pose.view):
        return
    if bag.kind == "backpack":
        _draw_backpack(figure, bag.rgb)
    elif bag.kind == "crossbody bag":
        _draw_crossbody(figure, bag.rgb)
    else:
        _draw_shoulder_bag(figure, bag.rgb)


def _draw_backpack(figure: Figure, rgb: Rgb) -> None:
    painter, body, strap = figure.painter, figure.body, tone(rgb, 0.78)
    if figure.pose.view == "front":
        for sign in SIDES:
            x = sign * body.shoulder * 0.6
            painter.line(((x * 0.92, 0.168), (x, 0.24), (x * 1.12, 0.33), (x * 1.3, 0.36)), strap, 0.024)
    elif figure.pose.side_view:
        over = points("-0.03,0.17 0.028,0.2 0.036,0.27 -0.01,0.35")
        painter.line([*over, (-body.back, 0.38)], strap, 0.024)
    else:
        wide = body.chest * 0.94
        pack = mirrored(points("0.5,0.185 0.95,0.21 1,0.3 1,0.42 0.6,0.445"))
        pocket = mirrored([*placed(points("0.68,0.33 0.74,0.36 0.7,0.42"), width=wide), (0.02, 0.425)])
        painter.shape(smooth(placed(pack, width=wide)), rgb, relief=0.12)
        painter.shape(smooth(pocket), tone(rgb, 0.82), relief=0.1)
        painter.line(((-wide * 0.6, 0.345), (wide * 0.6, 0.345)), tone(rgb, 0.5), 0.006)
        painter.line(points("-0.02,0.187 -0.014,0.172 0.014,0.172 0.02,0.187"), strap, 0.009)
        painter.crease(((-wide * 0.8, 0.25), (0.0, 0.235), (wide * 0.8, 0.25)), 0.7, 0.006)


def _draw_crossbody(figure: Figure, rgb: Rgb) -> None:
    painter, body, strap = figure.painter, figure.body, tone(rgb, 0.72)
    if figure.pose.side_view:
        painter.line(((-0.02, 0.17), (0.0, 0.3), (0.0, 0.45)), strap, 0.014)
        _draw_pouch(painter, 0.0, 0.485, 0.062, 0.048, rgb)
        return
    sign = figure.pose.sign(figure.outfit.bag_side)
    painter.line(((-sign * body.shoulder * 0.55, 0.168), (sign * (body.hips - 0.01), 0.45)), strap, 0.016)
    _draw_pouch(painter, sign * (body.hips - 0.004), 0.49, 0.056, 0.05, rgb)


def _draw_pouch(painter: Painter, x: float, y: float, rx: float, ry: float, rgb: Rgb) -> None:
    painter.shape(smooth(placed(points("-1,-1 1,-1 1,1 -1,1"), x, y, rx, ry), 1), rgb, relief=0.16)
    flap = placed(points("-1,-1 1,-1 0.8,0.15 -0.8,0.15"), x, y, rx, ry)
    painter.shape(smooth(flap, 1), tone(rgb, 0.84), relief=0.1)
    painter.fill(ellipse(x, y + ry * 0.12, 0.008, 0.008, 8), _BRASS)


def _draw_shoulder_bag(figure: Figure, rgb: Rgb) -> None:
    painter, body, strap = figure.painter, figure.body, tone(rgb, 0.72)
    if figure.pose.side_view:
        for end in (-0.03, 0.03):
            painter.line(((-0.01, 0.185), (end, 0.39)), strap, 0.012)
        _draw_tote(painter, 0.0, rgb)
        return
    sign = figure.pose.sign(figure.outfit.bag_side)
    x = sign * (max(body.shoulder, body.hips) + 0.022)
    for shift in (-0.024, 0.02):
        painter.line(((sign * body.shoulder * 0.8, 0.178), (x + shift, 0.4)), strap, 0.012)
    _draw_tote(painter, x, rgb)


def _draw_tote(painter: Painter, x: float, rgb: Rgb) -> None:
    painter.shape(placed(points("-0.058,0.385 0.058,0.385 0.068,0.505 -0.068,0.505"), x), rgb)
    painter.crease(placed(points("-0.058,0.397 0.058,0.397"), x), 0.7, 0.006)


def draw_in_hand(figure: Figure) -> None:
    """A bag that hangs from a hand."""
    painter, outfit, bag = figure.painter, figure.outfit, figure.outfit.bag
    if bag is None or bag.kind not in _HAND_BAGS or not bag_visible(outfit, figure.pose.view):
        return
    x, y = figure.pose.arm(outfit.bag_side).joints[2]
    y += 0.036
    rgb, strap = bag.rgb, tone(bag.rgb, 0.7)
    if bag.kind == "shopping bag":
        painter.line(placed(points("-0.03,0.04 0,0 0.03,0.04"), x, y), strap, 0.008)
        painter.shape(placed(points("-0.05,0.035 0.05,0.035 0.062,0.17 -0.062,0.17"), x, y), rgb, relief=0.16)
        painter.fill(ellipse(x, y + 0.105, 0.024, 0.024, 12), tone(rgb, 0.65))
    elif bag.kind == "handbag":
        bow = points("-0.05,0.045 0.05,0.045 0.07,0.12 -0.07,0.12")
        painter.line(placed(points("-0.034,0.05 -0.024,0.008 0.024,0.008 0.034,0.05"), x, y), strap, 0.01)
        painter.shape(smooth(placed(bow, x, y), 1), rgb, relief=0.16)
        painter.fill(ellipse(x, y + 0.06, 0.01, 0.008, 8), _BRASS)
    else:
        painter.line(placed(points("-0.02,0.03 -0.016,0.006 0.016,0.006 0.02,0.03"), x, y), strap, 0.01)
        painter.shape(placed(points("-0.08,0.028 0.08,0.028 0.08,0.125 -0.08,0.125"), x, y), rgb, relief=0.1)
        painter.line(placed(points("-0.08,0.062 0.08,0.062"), x, y), tone(rgb, 0.6), 0.006)


def draw_scarf(figure: Figure) -> None:
    """A scarf around the neck, with an end that hangs down."""
    painter, side_view, scarf = figure.painter, figure.pose.side_view, figure.outfit.scarf
    if scarf is None:
        return
    neck, chin = figure.body.neck + 0.022, 0.02 if side_view else 0.0
    if figure.pose.view != "back":
        end = points("-0.014,0.18 0.026,0.18 0.034,0.32 -0.006,0.32")
        painter.shape(placed(end, 0.03 if side_view else 0.02), tone(scarf.rgb, 0.86), relief=0.2)
    loop = [(-neck, 0.15), (neck + chin, 0.152), (neck + 0.008, 0.19), (0.0, 0.205), (-neck - 0.008, 0.19)]
    painter.shape(smooth(loop), scarf.rgb, relief=0.2)
    painter.crease(((-neck, 0.175), (0.0, 0.187), (neck, 0.172)), 0.72, 0.007)
