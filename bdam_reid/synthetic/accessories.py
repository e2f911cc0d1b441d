"""Draws what a person carries: bags with their straps, and scarves."""

from __future__ import annotations

from bdam_reid.synthetic.figure import Figure
from bdam_reid.synthetic.painter import Painter
from bdam_reid.synthetic.people import Rgb, bag_visible
from bdam_reid.synthetic.shapes import ellipse, tone

_HAND_BAGS = ("handbag", "briefcase", "shopping bag")
_BRASS = (214, 186, 90)


def draw_behind(figure: Figure) -> None:
    """What a bag shows behind the torso: the sides of a backpack."""
    painter, bag = figure.painter, figure.outfit.bag
    if bag is None or bag.kind != "backpack":
        return
    if figure.pose.view == "front":
        painter.shape("chest-0.008,0.2 chest+0.022,0.24 chest+0.034,0.4 chest+0.002,0.43", bag.rgb, half=True, rounds=2)
    elif figure.pose.side_view:
        behind = painter.at(-figure.body["back"])
        pack = "0.02,0.19 -0.07,0.2 -0.115,0.26 -0.12,0.4 -0.07,0.44 0.02,0.43"
        behind.shape(pack, bag.rgb, rounds=2, relief=0.18)
        behind.shape("-0.09,0.32 -0.145,0.33 -0.145,0.41 -0.09,0.42", tone(bag.rgb, 0.8), rounds=2)


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
    painter, strap = figure.painter, tone(rgb, 0.78)
    if figure.pose.view == "front":
        for side in painter.at(strap=figure.body["shoulder"] * 0.6).sides():
            side.line("strap*0.92,0.168 strap,0.24 strap*1.12,0.33 strap*1.3,0.36", strap, 0.024)
    elif figure.pose.side_view:
        painter.line("-0.03,0.17 0.028,0.2 0.036,0.27 -0.01,0.35 -back,0.38", strap, 0.024)
    else:
        behind = painter.at(wide=figure.body["chest"] * 0.94)
        pack = "wide*0.5,0.185 wide*0.95,0.21 wide,0.3 wide,0.42 wide*0.6,0.445"
        pocket = "wide*0.68,0.33 wide*0.74,0.36 wide*0.7,0.42 0.02,0.425"
        behind.shape(pack, rgb, half=True, rounds=2, relief=0.12)
        behind.shape(pocket, tone(rgb, 0.82), half=True, rounds=2, relief=0.1)
        behind.line("-wide*0.6,0.345 wide*0.6,0.345", tone(rgb, 0.5), 0.006)
        behind.line("-0.02,0.187 -0.014,0.172 0.014,0.172 0.02,0.187", strap, 0.009)
        behind.crease("-wide*0.8,0.25 0,0.235 wide*0.8,0.25", 0.7, 0.006)


def _draw_crossbody(figure: Figure, rgb: Rgb) -> None:
    painter, strap = figure.painter, tone(rgb, 0.72)
    if figure.pose.side_view:
        painter.line("-0.02,0.17 0,0.3 0,0.45", strap, 0.014)
        _draw_pouch(painter.at(0.0, 0.485), 0.062, 0.048, rgb)
        return
    side = painter.at(side=figure.pose.sign(figure.outfit.bag_side))
    side.line("-shoulder*0.55,0.168 hips-0.01,0.45", strap, 0.016)
    _draw_pouch(side.at(figure.body["hips"] - 0.004, 0.49), 0.056, 0.05, rgb)


def _draw_pouch(where: Painter, rx: float, ry: float, rgb: Rgb) -> None:
    painter = where.at(rx=rx, ry=ry)
    painter.shape("-rx,-ry rx,-ry rx,ry -rx,ry", rgb, rounds=1, relief=0.16)
    painter.shape("-rx,-ry rx,-ry rx*0.8,ry*0.15 -rx*0.8,ry*0.15", tone(rgb, 0.84), rounds=1, relief=0.1)
    painter.fill(ellipse(0.0, ry * 0.12, 0.008, 0.008, 8), _BRASS)


def _draw_shoulder_bag(figure: Figure, rgb: Rgb) -> None:
    painter, body, strap = figure.painter, figure.body, tone(rgb, 0.72)
    if figure.pose.side_view:
        painter.line("-0.01,0.185 -0.03,0.39", strap, 0.012)
        painter.line("-0.01,0.185 0.03,0.39", strap, 0.012)
        _draw_tote(painter, rgb)
        return
    x = max(body["shoulder"], body["hips"]) + 0.022
    sign = figure.pose.sign(figure.outfit.bag_side)
    for shift in (-0.024, 0.02):
        painter.line([(sign * body["shoulder"] * 0.8, 0.178), (sign * x + shift, 0.4)], strap, 0.012)
    _draw_tote(painter.at(sign * x), rgb)


def _draw_tote(painter: Painter, rgb: Rgb) -> None:
    painter.shape("-0.058,0.385 0.058,0.385 0.068,0.505 -0.068,0.505", rgb)
    painter.crease("-0.058,0.397 0.058,0.397", 0.7, 0.006)


def draw_in_hand(figure: Figure) -> None:
    """A bag that hangs from a hand."""
    outfit, bag = figure.outfit, figure.outfit.bag
    if bag is None or bag.kind not in _HAND_BAGS or not bag_visible(outfit, figure.pose.view):
        return
    x, y = figure.pose.arm(outfit.bag_side).joints[2]
    painter, rgb, strap = figure.painter.at(x, y + 0.036), bag.rgb, tone(bag.rgb, 0.7)
    if bag.kind == "shopping bag":
        painter.line("-0.03,0.04 0,0 0.03,0.04", strap, 0.008)
        painter.shape("-0.05,0.035 0.05,0.035 0.062,0.17 -0.062,0.17", rgb, relief=0.16)
        painter.fill(ellipse(0.0, 0.105, 0.024, 0.024, 12), tone(rgb, 0.65))
    elif bag.kind == "handbag":
        painter.line("-0.034,0.05 -0.024,0.008 0.024,0.008 0.034,0.05", strap, 0.01)
        painter.shape("-0.05,0.045 0.05,0.045 0.07,0.12 -0.07,0.12", rgb, rounds=1, relief=0.16)
        painter.fill(ellipse(0.0, 0.06, 0.01, 0.008, 8), _BRASS)
    else:
        painter.line("-0.02,0.03 -0.016,0.006 0.016,0.006 0.02,0.03", strap, 0.01)
        painter.shape("-0.08,0.028 0.08,0.028 0.08,0.125 -0.08,0.125", rgb, relief=0.1)
        painter.line("-0.08,0.062 0.08,0.062", tone(rgb, 0.6), 0.006)


def draw_scarf(figure: Figure) -> None:
    """A scarf around the neck, with an end that hangs down."""
    painter, side_view, scarf = figure.painter, figure.pose.side_view, figure.outfit.scarf
    if scarf is None:
        return
    if figure.pose.view != "back":
        end = painter.at(0.03 if side_view else 0.02)
        end.shape("-0.014,0.18 0.026,0.18 0.034,0.32 -0.006,0.32", tone(scarf.rgb, 0.86), relief=0.2)
    loop = painter.at(wide=figure.body["neck"] + 0.022, chin=0.02 if side_view else 0.0)
    loop.shape("-wide,0.15 wide+chin,0.152 wide+0.008,0.19 0,0.205 -wide-0.008,0.19", scarf.rgb, rounds=2, relief=0.2)
    loop.crease("-wide,0.175 0,0.187 wide,0.172", 0.72, 0.007)
