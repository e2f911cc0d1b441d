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
        painter.shape("chest-.008,.2 chest+.022,.24 chest+.034,.4 chest+.002,.43", bag.rgb, half=True, rounds=2)
    elif figure.pose.side_view:
        behind = painter.at(-figure.body["back"])
        behind.shape(".02,.19 -.07,.2 -.115,.26 -.12,.4 -.07,.44 .02,.43", bag.rgb, rounds=2, relief=0.18)
        behind.shape("-.09,.32 -.145,.33 -.145,.41 -.09,.42", tone(bag.rgb, 0.8), rounds=2)


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
            side.line("strap*.92,.168 strap,.24 strap*1.12,.33 strap*1.3,.36", strap, 0.024)
    elif figure.pose.side_view:
        painter.line("-.03,.17 .028,.2 .036,.27 -.01,.35 -back,.38", strap, 0.024)
    else:
        behind = painter.at(wide=figure.body["chest"] * 0.94)
        pack = "wide*.5,.185 wide*.95,.21 wide,.3 wide,.42 wide*.6,.445"
        pocket = "wide*.68,.33 wide*.74,.36 wide*.7,.42 .02,.425"
        behind.shape(pack, rgb, half=True, rounds=2, relief=0.12)
        behind.shape(pocket, tone(rgb, 0.82), half=True, rounds=2, relief=0.1)
        behind.line("-wide*.6,.345 wide*.6,.345", tone(rgb, 0.5), 0.006)
        behind.line("-.02,.187 -.014,.172 .014,.172 .02,.187", strap, 0.009)
        behind.crease("-wide*.8,.25 0,.235 wide*.8,.25", 0.7, 0.006)


def _draw_crossbody(figure: Figure, rgb: Rgb) -> None:
    painter, strap = figure.painter, tone(rgb, 0.72)
    if figure.pose.side_view:
        painter.line("-.02,.17 0,.3 0,.45", strap, 0.014)
        _draw_pouch(painter.at(0.0, 0.485), 0.062, 0.048, rgb)
        return
    side = painter.at(side=figure.pose.sign(figure.outfit.bag_side))
    side.line("-shoulder*.55,.168 hips-.01,.45", strap, 0.016)
    _draw_pouch(side.at(figure.body["hips"] - 0.004, 0.49), 0.056, 0.05, rgb)


def _draw_pouch(where: Painter, rx: float, ry: float, rgb: Rgb) -> None:
    painter = where.at(rx=rx, ry=ry)
    painter.shape("-rx,-ry rx,-ry rx,ry -rx,ry", rgb, rounds=1, relief=0.16)
    painter.shape("-rx,-ry rx,-ry rx*.8,ry*.15 -rx*.8,ry*.15", tone(rgb, 0.84), rounds=1, relief=0.1)
    painter.fill(ellipse(0.0, ry * 0.12, 0.008, 0.008, 8), _BRASS)


def _draw_shoulder_bag(figure: Figure, rgb: Rgb) -> None:
    painter, body, strap = figure.painter, figure.body, tone(rgb, 0.72)
    if figure.pose.side_view:
        painter.line("-.01,.185 -.03,.39", strap, 0.012)
        painter.line("-.01,.185 .03,.39", strap, 0.012)
        _draw_tote(painter, rgb)
        return
    x = max(body["shoulder"], body["hips"]) + 0.022
    sign = figure.pose.sign(figure.outfit.bag_side)
    for shift in (-0.024, 0.02):
        painter.line([(sign * body["shoulder"] * 0.8, 0.178), (sign * x + shift, 0.4)], strap, 0.012)
    _draw_tote(painter.at(sign * x), rgb)


def _draw_tote(painter: Painter, rgb: Rgb) -> None:
    painter.shape("-.058,.385 .058,.385 .068,.505 -.068,.505", rgb)
    painter.crease("-.058,.397 .058,.397", 0.7, 0.006)


def draw_in_hand(figure: Figure) -> None:
    """A bag that hangs from a hand."""
    outfit, bag = figure.outfit, figure.outfit.bag
    if bag is None or bag.kind not in _HAND_BAGS or not bag_visible(outfit, figure.pose.view):
        return
    x, y = figure.pose.arm(outfit.bag_side).joints[2]
    painter, rgb, strap = figure.painter.at(x, y + 0.036), bag.rgb, tone(bag.rgb, 0.7)
    if bag.kind == "shopping bag":
        painter.line("-.03,.04 0,0 .03,.04", strap, 0.008)
        painter.shape("-.05,.035 .05,.035 .062,.17 -.062,.17", rgb, relief=0.16)
        painter.fill(ellipse(0.0, 0.105, 0.024, 0.024, 12), tone(rgb, 0.65))
    elif bag.kind == "handbag":
        painter.line("-.034,.05 -.024,.008 .024,.008 .034,.05", strap, 0.01)
        painter.shape("-.05,.045 .05,.045 .07,.12 -.07,.12", rgb, rounds=1, relief=0.16)
        painter.fill(ellipse(0.0, 0.06, 0.01, 0.008, 8), _BRASS)
    else:
        painter.line("-.02,.03 -.016,.006 .016,.006 .02,.03", strap, 0.01)
        painter.shape("-.08,.028 .08,.028 .08,.125 -.08,.125", rgb, relief=0.1)
        painter.line("-.08,.062 .08,.062", tone(rgb, 0.6), 0.006)


def draw_scarf(figure: Figure) -> None:
    """A scarf around the neck, with an end that hangs down."""
    painter, side_view, scarf = figure.painter, figure.pose.side_view, figure.outfit.scarf
    if scarf is None:
        return
    if figure.pose.view != "back":
        end = painter.at(0.03 if side_view else 0.02)
        end.shape("-.014,.18 .026,.18 .034,.32 -.006,.32", tone(scarf.rgb, 0.86), relief=0.2)
    loop = painter.at(wide=figure.body["neck"] + 0.022, chin=0.02 if side_view else 0.0)
    loop.shape("-wide,.15 wide+chin,.152 wide+.008,.19 0,.205 -wide-.008,.19", scarf.rgb, rounds=2, relief=0.2)
    loop.crease("-wide,.175 0,.187 wide,.172", 0.72, 0.007)
