"""Draws everything above the waist: neck, garments, arms with their sleeves."""

from __future__ import annotations

from bdam_reid.synthetic.body import HIP_Y, WAIST_Y, Body, Limb, Pose
from bdam_reid.synthetic.figure import Figure, shaded
from bdam_reid.synthetic.painter import Paint, Painter, Point, blend, ellipse, mirrored, smooth, tone
from bdam_reid.synthetic.people import COLOURS, Item, Person

_LONG = ("shirt", "blouse", "sweater", "hoodie", "jacket", "denim jacket", "leather jacket", "puffer jacket")
SLEEVES = {
    **{"tank top": "none", "t-shirt": "short", "polo shirt": "short", "dress": "short"},
    **dict.fromkeys((*_LONG, "blazer", "coat"), "long"),
}

# Of each garment: how far it stands off the body, where it ends, and how much wider it gets on the way.
_EASE = {
    **dict.fromkeys(("t-shirt", "polo shirt"), 0.006),
    **dict.fromkeys(("shirt", "blouse"), 0.007),
    **dict.fromkeys(("denim jacket", "blazer"), 0.012),
    **{"tank top": 0.002, "dress": 0.004, "leather jacket": 0.011, "sweater": 0.013},
    **{"jacket": 0.015, "hoodie": 0.016, "coat": 0.017, "puffer jacket": 0.03},
}
_HEM = {
    **dict.fromkeys(("t-shirt", "polo shirt", "sweater", "jacket"), 0.515),
    **dict.fromkeys(("shirt", "hoodie", "puffer jacket"), 0.525),
    **{"leather jacket": 0.495, "denim jacket": 0.5, "tank top": 0.505, "blouse": 0.51},
    **{"blazer": 0.545, "dress": 0.7, "coat": 0.735},
}
_FLARE = {"dress": 0.05, "coat": 0.024, "blouse": 0.012}


def draw_torso(figure: Figure) -> None:
    """Neck, upper garment, and what is worn over it."""
    body, outfit = figure.body, figure.outfit
    x = 0.012 if figure.pose.side_view else 0.0
    neck = ((x, 0.11), (x * 0.5, 0.175))
    figure.painter.limb(neck, (body.neck, body.neck * 1.15), tone(figure.person.skin_rgb, 0.92))
    _draw_garment(figure, outfit.upper, figure.cloth["upper"])
    if outfit.outer is not None:
        _draw_garment(figure, outfit.outer, figure.cloth["outer"])
        if figure.pose.view == "front":
            _draw_opening(figure)


def _outline(body: Body, pose: Pose, kind: str) -> list[Point]:
    ease, hem, flare = _EASE[kind], _HEM[kind], _FLARE.get(kind, 0.0)
    if pose.side_view:
        knees = [leg.joints[1][0] for leg in pose.legs] if hem > 0.6 else [0.0]
        belly = body.belly + ease
        front = [
            (0.026, 0.162),
            (0.046 + ease, 0.195),
            (body.bust + ease, 0.262),
            (max(belly, 0.045 + ease), 0.33),
            (belly + 0.006, 0.4),
        ]
        seat, lap = -body.seat - ease, max(body.thigh + 0.008, belly * 0.82) + ease
        if hem > 0.6:
            lap, seat = (
                max(lap, max(knees) * 0.8 + 0.04 + flare * 0.4),
                min(seat, min(knees) * 0.8 - 0.04 - flare * 0.4),
            )
        front += [(lap, HIP_Y), (lap, hem - 0.004), (lap, hem)]
        back = [
            (seat, hem),
            (seat, hem - 0.004),
            (-body.seat - ease, HIP_Y),
            (-body.back * 0.78 - ease, 0.37),
            (-body.back - ease, 0.26),
        ]
        return [*front, *back, (-body.back * 0.9 - ease * 0.5, 0.2), (-0.034, 0.158)]
    shoulder = body.shoulder - 0.03 if kind == "tank top" else body.shoulder
    edge = body.hips + ease + flare
    half = [
        (body.neck + 0.002, 0.16),
        (shoulder * 0.62, 0.171),
        (shoulder - 0.008 + ease * 0.4, 0.19),
        (shoulder + ease * 0.3, 0.215),
    ]
    half += [(body.chest + ease, 0.28)]
    half += [
        (body.waist + ease, WAIST_Y),
        (body.hips + ease, HIP_Y),
        (edge, hem - 0.012),
        (edge, hem),
        (edge * 0.5, hem + 0.006),
    ]
    return mirrored(half)


def _draw_garment(figure: Figure, item: Item, paint: Paint) -> None:
    painter, body, pose, rng = figure.painter, figure.body, figure.pose, figure.rng
    outline = _outline(body, pose, item.kind)
    painter.shape(smooth(outline, 1), paint, relief=0.16)
    hem = _HEM[item.kind]
    for _ in range(4):
        x, y = rng.uniform(-0.7, 0.7) * body.waist, rng.uniform(0.3, 0.47)
        painter.crease(((x, y), (x + rng.uniform(-0.03, 0.03), y + 0.03)), rng.choice((0.84, 0.88, 1.1)), 0.005)
    if hem > 0.6:
        for share in (-0.5, 0.0, 0.5):
            painter.crease(((body.hips * share, 0.53), ((body.hips + 0.03) * share, hem)), 0.86, 0.006)
    if item.kind in ("sweater", "hoodie", "jacket", "leather jacket"):
        painter.crease(((-body.hips - 0.02, hem - 0.022), (body.hips + 0.02, hem - 0.022)), 0.78, 0.006)
    if item.kind == "puffer jacket":
        for y in (0.215, 0.265, 0.315, 0.365, 0.415, 0.465):
            painter.crease(((-body.chest * 1.5, y), (0.0, y + 0.005), (body.chest * 1.5, y)), 0.72, 0.009)
            painter.crease(((-body.chest * 1.5, y + 0.022), (body.chest * 1.5, y + 0.022)), 1.1, 0.01)
    if item.kind == "dress":
        painter.crease(((-body.waist, 0.39), (body.waist, 0.39)), 0.72, 0.008)
    if pose.view == "front":
        _draw_front_details(painter, body, item, paint, figure.person)
    elif pose.view == "back":
        _draw_back_details(painter, body, item, paint)
    elif item.kind == "hoodie":
        painter.shape(
            smooth([(-0.02, 0.145), (-0.075, 0.165), (-0.1, 0.21), (-0.055, 0.235), (-0.02, 0.19)]),
            shaded(paint, 0.88),
            relief=0.2,
        )


def _draw_front_details(painter: Painter, body: Body, item: Item, paint: Paint, person: Person) -> None:
    kind, dark, neck = item.kind, blend(paint.rgb, (20, 20, 24), 0.45), body.neck
    light = tone(paint.rgb, 1.3) if sum(paint.rgb) < 500 else tone(paint.rgb, 0.72)
    if kind in ("t-shirt", "sweater", "tank top", "blouse", "dress"):
        drop = {"t-shirt": 0.185, "sweater": 0.178, "tank top": 0.215, "blouse": 0.205, "dress": 0.21}[kind]
        painter.fill(
            [smooth(mirrored([(neck + 0.008, 0.158), (neck * 0.9, drop - 0.01), (0.006, drop + 0.008)]))],
            person.skin_rgb,
        )
    if kind in ("shirt", "polo shirt"):
        painter.fill([[(-0.016, 0.162), (0.016, 0.162), (0.0, 0.2)]], person.skin_rgb)
        for sign in (-1, 1):
            painter.shape(
                [(sign * 0.014, 0.158), (sign * (neck + 0.012), 0.155), (sign * 0.03, 0.196), (0.0, 0.2)],
                light,
                relief=0.1,
            )
        end = 0.5 if kind == "shirt" else 0.265
        painter.line(((0.0, 0.2), (0.0, end)), dark, 0.004)
        y = 0.22
        while y < end:
            painter.fill([ellipse(0.0, y, 0.006, 0.006, 8)], light)
            y += 0.042
    if kind == "hoodie":
        painter.shape(
            smooth(mirrored([(neck, 0.15), (neck + 0.03, 0.165), (0.03, 0.205), (0.0, 0.218)])),
            shaded(paint, 0.85),
            relief=0.2,
        )
        painter.fill([smooth(mirrored([(neck * 0.8, 0.158), (0.012, 0.185), (0.0, 0.19)]))], tone(paint.rgb, 0.5))
        for sign in (-1, 1):
            painter.line(((sign * 0.016, 0.2), (sign * 0.018, 0.268)), light, 0.006)
        painter.crease(((-0.045, 0.47), (-0.03, 0.405), (0.03, 0.405), (0.045, 0.47)), 0.72, 0.007)
    if item.pattern == "printed" and item.second is not None:
        second = COLOURS[item.second]
        painter.fill([smooth([(-0.036, 0.25), (0.036, 0.25), (0.036, 0.31), (-0.036, 0.31)], 1)], second)
        painter.fill([ellipse(0.0, 0.28, 0.016, 0.016, 10)], paint.rgb)


def _draw_back_details(painter: Painter, body: Body, item: Item, paint: Paint) -> None:
    if item.kind == "hoodie":
        painter.shape(
            smooth(mirrored([(body.neck, 0.148), (body.neck + 0.042, 0.175), (0.05, 0.225), (0.0, 0.262)])),
            shaded(paint, 0.9),
            relief=0.2,
        )
    elif item.kind in ("shirt", "polo shirt", "blazer", "coat", "denim jacket", "leather jacket", "jacket"):
        painter.shape(
            mirrored([(body.neck, 0.148), (body.neck + 0.012, 0.17), (0.0, 0.176)]),
            shaded(paint, 0.85),
            relief=0.1,
        )
    if item.kind in ("blazer", "coat"):
        painter.crease(((0.0, 0.4), (0.0, _HEM[item.kind])), 0.74, 0.006)
    elif item.kind in ("denim jacket", "leather jacket", "jacket", "shirt"):
        painter.crease(((-body.chest, 0.235), (body.chest, 0.235)), 0.8, 0.006)


def _draw_opening(figure: Figure) -> None:
    """What shows of the upper garment between the open sides of a jacket, with its lapels, zip or collar."""
    painter, body, outfit, cloth = figure.painter, figure.body, figure.outfit, figure.cloth
    assert outfit.outer is not None
    kind, paint = outfit.outer.kind, cloth["outer"]
    hem, upper_hem = _HEM[kind], min(_HEM[kind] + 0.01, _HEM[outfit.upper.kind])
    wide = 0.36 * body.waist
    inner = [(0.016, 0.163), (0.03, 0.2), (wide, 0.3), (wide * 1.08, upper_hem), (0.0, upper_hem + 0.004)]
    if outfit.lower is not None and hem > 0.6:
        below = [
            (wide * 1.06, 0.5),
            (wide * 1.3, hem + 0.004),
            (-wide * 1.3, hem + 0.004),
            (-wide * 1.06, 0.5),
        ]
        painter.fill([below], cloth["lower"])
    painter.fill([mirrored(inner)], cloth["upper"])
    dark, light = blend(paint.rgb, (15, 15, 18), 0.5), tone(paint.rgb, 1.25)
    for sign in (-1, 1):
        painter.crease(((sign * (wide + 0.006), 0.3), (sign * (wide * 1.1 + 0.006), hem)), 0.66, 0.008)
        if kind in ("blazer", "coat"):
            lapel = [
                (sign * 0.012, 0.158),
                (sign * (body.neck + 0.02), 0.165),
                (sign * (wide + 0.03), 0.245),
                (sign * wide, 0.3),
            ]
            painter.shape(lapel, shaded(paint, 0.86), relief=0.1)
        elif kind != "puffer jacket":
            collar = [
                (sign * 0.014, 0.154),
                (sign * (body.neck + 0.018), 0.155),
                (sign * 0.06, 0.205),
                (sign * 0.03, 0.205),
            ]
            painter.shape(collar, shaded(paint, 0.84), relief=0.1)
        else:
            painter.shape(
                [(sign * 0.018, 0.14), (sign * 0.05, 0.15), (sign * 0.048, 0.19), (sign * 0.022, 0.19)],
                shaded(paint, 0.9),
            )
        if kind == "denim jacket":
            x = sign * (wide + body.chest) * 0.52
            painter.line(
                ((x - 0.02, 0.265), (x + 0.02, 0.265), (x + 0.016, 0.3), (x - 0.016, 0.3), (x - 0.02, 0.265)),
                light,
                0.004,
            )
        if kind == "coat":
            for y in (0.34, 0.4, 0.46):
                painter.fill([ellipse(sign * (wide + 0.016), y, 0.008, 0.008, 8)], dark)
        if kind == "leather jacket":
            painter.line(((sign * (wide + 0.004), 0.3), (sign * (wide + 0.006), hem)), (196, 196, 200), 0.004)


def draw_arm(figure: Figure, arm: Limb) -> None:
    """One arm with its sleeve and hand; the far arm of a side view is darker."""
    painter, body, pose, outfit = figure.painter, figure.body, figure.pose, figure.outfit
    far = pose.side_view and arm is pose.arms[0]
    shade = 0.8 if far else 1.0
    shoulder, elbow, wrist = arm.joints
    skin = tone(figure.person.skin_rgb, shade)
    painter.limb(arm.joints, (body.arm, body.forearm * 1.08, body.forearm * 0.8), skin)
    hand = (wrist[0] + 0.004, wrist[1] + 0.022)
    painter.shape(smooth(ellipse(hand[0], hand[1], 0.018, 0.026, 10), 1), skin, relief=0.25)
    name = "outer" if outfit.outer is not None else "upper"
    item = outfit.items()[name]
    ease, paint = _EASE[item.kind] * 0.75 + 0.002, shaded(figure.cloth[name], shade)
    sleeve = SLEEVES[item.kind]
    if sleeve == "long":
        painter.limb(arm.joints, (body.arm + ease, body.forearm * 1.1 + ease, body.forearm * 0.95 + ease), paint)
        painter.crease(
            ((elbow[0] - body.arm, elbow[1] + 0.004), (elbow[0] + body.arm * 0.4, elbow[1] - 0.008)),
            0.78,
            0.006,
        )
        painter.crease(((wrist[0] - 0.03, wrist[1] - 0.012), (wrist[0] + 0.03, wrist[1] - 0.012)), 0.76, 0.006)
        if item.kind == "puffer jacket":
            for share in (0.3, 0.65, 1.35, 1.7):
                a, b = (shoulder, elbow) if share < 1 else (elbow, wrist)
                x, y = a[0] + (b[0] - a[0]) * (share % 1), a[1] + (b[1] - a[1]) * (share % 1)
                painter.crease(((x - 0.05, y), (x + 0.05, y)), 0.72, 0.008)
    elif sleeve == "short":
        end = (shoulder[0] + (elbow[0] - shoulder[0]) * 0.62, shoulder[1] + (elbow[1] - shoulder[1]) * 0.62)
        painter.limb((shoulder, end), (body.arm + ease, body.arm + ease + 0.004), paint)
