"""Draws what a person carries: bags with their straps, and scarves."""

from __future__ import annotations

from bdam_reid.synthetic.body import Pose
from bdam_reid.synthetic.figure import Figure
from bdam_reid.synthetic.painter import Painter, Point, ellipse, mirrored, smooth, tone
from bdam_reid.synthetic.people import Rgb, bag_visible

HAND_BAGS = ("handbag", "briefcase", "shopping bag")


def _side_sign(pose: Pose, side: str) -> int:
    """On which side of a front or back picture the person's own side is."""
    left = 1 if pose.view == "front" else -1
    return left if side == "left" else -left


def draw_behind(figure: Figure) -> None:
    """What a bag shows behind the torso: the sides of a backpack."""
    painter, body, pose, bag = figure.painter, figure.body, figure.pose, figure.outfit.bag
    if bag is None or bag.kind != "backpack":
        return
    if pose.view == "front":
        wide = body.chest + 0.022
        painter.shape(
            smooth(mirrored([(wide - 0.03, 0.2), (wide, 0.24), (wide + 0.012, 0.4), (wide - 0.02, 0.43)])),
            bag.rgb,
        )
    elif pose.side_view:
        back = -body.back
        pack = [
            (back + 0.02, 0.19),
            (back - 0.07, 0.2),
            (back - 0.115, 0.26),
            (back - 0.12, 0.4),
            (back - 0.07, 0.44),
            (back + 0.02, 0.43),
        ]
        painter.shape(smooth(pack), bag.rgb, relief=0.18)
        painter.shape(
            smooth([(back - 0.09, 0.32), (back - 0.145, 0.33), (back - 0.145, 0.41), (back - 0.09, 0.42)]),
            tone(bag.rgb, 0.8),
        )


def draw_before(figure: Figure) -> None:
    """Straps and bags in front of the torso; bags of the hand are left to `draw_in_hand`."""
    bag = figure.outfit.bag
    if bag is None or bag.kind in HAND_BAGS or not bag_visible(figure.outfit, figure.pose.view):
        return
    if bag.kind == "backpack":
        _draw_backpack(figure, bag.rgb)
    elif bag.kind == "crossbody bag":
        _draw_crossbody(figure, bag.rgb)
    else:
        _draw_shoulder_bag(figure, bag.rgb)


def _draw_backpack(figure: Figure, rgb: Rgb) -> None:
    painter, body, pose = figure.painter, figure.body, figure.pose
    strap = tone(rgb, 0.78)
    if pose.view == "front":
        for sign in (-1, 1):
            x = sign * body.shoulder * 0.6
            painter.line(((x * 0.92, 0.168), (x, 0.24), (x * 1.12, 0.33), (x * 1.3, 0.36)), strap, 0.024)
    elif pose.view == "back":
        wide = body.chest * 0.94
        painter.shape(
            smooth(
                mirrored([(wide * 0.5, 0.185), (wide * 0.95, 0.21), (wide, 0.3), (wide, 0.42), (wide * 0.6, 0.445)])
            ),
            rgb,
            relief=0.12,
        )
        painter.shape(
            smooth(mirrored([(wide * 0.68, 0.33), (wide * 0.74, 0.36), (wide * 0.7, 0.42), (0.02, 0.425)])),
            tone(rgb, 0.82),
            relief=0.1,
        )
        painter.line(((-wide * 0.6, 0.345), (wide * 0.6, 0.345)), tone(rgb, 0.5), 0.006)
        painter.line(((-0.02, 0.187), (-0.014, 0.172), (0.014, 0.172), (0.02, 0.187)), strap, 0.009)
        painter.crease(((-wide * 0.8, 0.25), (0.0, 0.235), (wide * 0.8, 0.25)), 0.7, 0.006)
    else:
        painter.line(((-0.03, 0.17), (0.028, 0.2), (0.036, 0.27), (-0.01, 0.35), (-body.back, 0.38)), strap, 0.024)


def _draw_crossbody(figure: Figure, rgb: Rgb) -> None:
    painter, body, pose = figure.painter, figure.body, figure.pose
    strap = tone(rgb, 0.72)
    if pose.side_view:
        painter.line(((-0.02, 0.17), (0.0, 0.3), (0.0, 0.45)), strap, 0.014)
        _draw_pouch(painter, 0.0, 0.485, 0.062, 0.048, rgb)
        return
    sign = _side_sign(pose, figure.outfit.bag_side)
    painter.line(((-sign * body.shoulder * 0.55, 0.168), (sign * (body.hips - 0.01), 0.45)), strap, 0.016)
    _draw_pouch(painter, sign * (body.hips - 0.004), 0.49, 0.056, 0.05, rgb)


def _draw_shoulder_bag(figure: Figure, rgb: Rgb) -> None:
    painter, body, pose = figure.painter, figure.body, figure.pose
    strap = tone(rgb, 0.72)
    if pose.side_view:
        for x in (-0.03, 0.03):
            painter.line(((-0.01, 0.185), (x, 0.39)), strap, 0.012)
        _draw_tote(painter, 0.0, rgb)
        return
    sign = _side_sign(pose, figure.outfit.bag_side)
    x = sign * (max(body.shoulder, body.hips) + 0.022)
    for shift in (-0.024, 0.02):
        painter.line(((sign * body.shoulder * 0.8, 0.178), (x + shift, 0.4)), strap, 0.012)
    _draw_tote(painter, x, rgb)


def _draw_tote(painter: Painter, x: float, rgb: Rgb) -> None:
    painter.shape([(x - 0.058, 0.385), (x + 0.058, 0.385), (x + 0.068, 0.505), (x - 0.068, 0.505)], rgb, relief=0.14)
    painter.crease(((x - 0.058, 0.397), (x + 0.058, 0.397)), 0.7, 0.006)


def _draw_pouch(painter: Painter, x: float, y: float, rx: float, ry: float, rgb: Rgb) -> None:
    body: list[Point] = [(x - rx, y - ry), (x + rx, y - ry), (x + rx, y + ry), (x - rx, y + ry)]
    painter.shape(smooth(body, 1), rgb, relief=0.16)
    painter.shape(
        smooth(
            [
                (x - rx, y - ry),
                (x + rx, y - ry),
                (x + rx * 0.8, y + ry * 0.15),
                (x - rx * 0.8, y + ry * 0.15),
            ],
            1,
        ),
        tone(rgb, 0.84),
        relief=0.1,
    )
    painter.fill([ellipse(x, y + ry * 0.12, 0.008, 0.008, 8)], (214, 186, 90))


def draw_in_hand(figure: Figure) -> None:
    """A bag that hangs from a hand."""
    painter, pose, outfit = figure.painter, figure.pose, figure.outfit
    bag = outfit.bag
    if bag is None or bag.kind not in HAND_BAGS or not bag_visible(outfit, pose.view):
        return
    x, y = pose.arm(outfit.bag_side).joints[2]
    y += 0.036
    strap = tone(bag.rgb, 0.7)
    if bag.kind == "shopping bag":
        painter.line(((x - 0.03, y + 0.04), (x, y), (x + 0.03, y + 0.04)), strap, 0.008)
        outline = [(x - 0.05, y + 0.035), (x + 0.05, y + 0.035), (x + 0.062, y + 0.17), (x - 0.062, y + 0.17)]
        painter.shape(outline, bag.rgb, relief=0.16)
        painter.fill([ellipse(x, y + 0.105, 0.024, 0.024, 12)], tone(bag.rgb, 0.65))
    elif bag.kind == "handbag":
        painter.line(
            ((x - 0.034, y + 0.05), (x - 0.024, y + 0.008), (x + 0.024, y + 0.008), (x + 0.034, y + 0.05)),
            strap,
            0.01,
        )
        painter.shape(
            smooth([(x - 0.05, y + 0.045), (x + 0.05, y + 0.045), (x + 0.07, y + 0.12), (x - 0.07, y + 0.12)], 1),
            bag.rgb,
            relief=0.16,
        )
        painter.fill([ellipse(x, y + 0.06, 0.01, 0.008, 8)], (214, 186, 90))
    else:
        painter.line(
            ((x - 0.02, y + 0.03), (x - 0.016, y + 0.006), (x + 0.016, y + 0.006), (x + 0.02, y + 0.03)),
            strap,
            0.01,
        )
        painter.shape(
            [(x - 0.08, y + 0.028), (x + 0.08, y + 0.028), (x + 0.08, y + 0.125), (x - 0.08, y + 0.125)],
            bag.rgb,
            relief=0.1,
        )
        painter.line(((x - 0.08, y + 0.062), (x + 0.08, y + 0.062)), tone(bag.rgb, 0.6), 0.006)


def draw_scarf(figure: Figure) -> None:
    """A scarf around the neck, with an end that hangs down."""
    painter, body, pose, scarf = figure.painter, figure.body, figure.pose, figure.outfit.scarf
    if scarf is None:
        return
    rgb, neck = scarf.rgb, body.neck + 0.022
    if pose.view != "back":
        x = 0.03 if pose.side_view else 0.02
        painter.shape(
            [(x - 0.014, 0.18), (x + 0.026, 0.18), (x + 0.034, 0.32), (x - 0.006, 0.32)],
            tone(rgb, 0.86),
            relief=0.2,
        )
    painter.shape(
        smooth(
            [
                (-neck, 0.15),
                (neck + (0.02 if pose.side_view else 0), 0.152),
                (neck + 0.008, 0.19),
                (0.0, 0.205),
                (-neck - 0.008, 0.19),
            ]
        ),
        rgb,
        relief=0.2,
    )
    painter.crease(((-neck, 0.175), (0.0, 0.187), (neck, 0.172)), 0.72, 0.007)
