"""Draws everything below the waist: legs, trousers and skirts, shoes."""

from __future__ import annotations

from bdam_reid.synthetic.fabric import Paint
from bdam_reid.synthetic.figure import Figure, Limb
from bdam_reid.synthetic.painter import Painter
from bdam_reid.synthetic.people import Rgb
from bdam_reid.synthetic.shapes import between, tone

# Ease at hip, knee and ankle.
_TROUSERS = {
    "trousers": (0.006, 0.012, 0.02),
    "jeans": (0.003, 0.004, 0.008),
    "leggings": (0.0, 0.0, 0.001),
    "shorts": (0.008, 0.02, 0.02),
}
# The hem, how much wider it is than the hips, and the joints of a leg that it covers.
_SKIRTS = {"skirt": (0.7, 0.026, (1,)), "long skirt": (0.9, 0.04, (1, 2))}


def draw_legs(figure: Figure) -> None:
    """Legs, shoes, and trousers or a skirt; the farther leg is darker."""
    body, lower = figure.body, figure.outfit.lower
    radii = (body["thigh"], body["knee"], body["ankle"])
    if figure.pose.side_view:
        radii = (body["thigh"] * 1.12, body["knee"] * 1.05, body["ankle"] * 1.05)
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
    fold = painter.at(knee[0], wide=at_knee, knee=knee[1])
    fold.crease("-wide*.9,knee*.96 wide*.2,knee*.96+.012", 0.8, 0.005)
    fold.crease("-wide*.7,knee*1.06 wide*.2,knee*1.06+.012", 0.8, 0.005)
    if kind == "jeans":
        seam = ((hip[0] + at_hip * 0.8, 0.54), (knee[0] + at_knee * 0.7, knee[1]))
        painter.line(seam, tone(paint.rgb, 1.25), 0.004)


def _draw_seat(figure: Figure) -> None:
    painter, paint = figure.painter, figure.cloth["lower"]
    if figure.pose.side_view:
        seat = "belly*.9,.4 thigh*1.15,.47 .05,.545 -.04,.545 -seat,.49 -back*.8,.4"
        painter.shape(seat, paint, rounds=2, relief=0.2)
        return
    painter.shape("waist,.4 hips+.004,.48 hips,.53 .012,.55", paint, half=True, relief=0.2)
    painter.crease("0,.46 0,.55", 0.7, 0.006)
    if figure.pose.view == "back":
        for x in (-figure.body["hips"] * 0.5, figure.body["hips"] * 0.5):
            painter.at(x).crease("-.022,.485 .022,.485 .018,.525 -.018,.525", 0.78, 0.005)


def _draw_skirt(figure: Figure, kind: str) -> None:
    body, paint, (hem, flare, covered) = figure.body, figure.cloth["lower"], _SKIRTS[kind]
    xs = [leg.joints[i][0] for leg in figure.pose.legs for i in covered]
    front, rear = max(xs) * 0.86 + 0.045, min(xs) * 0.86 - 0.045
    painter = figure.painter.at(hem=hem, edge=body["hips"] + flare, front=front, rear=rear)
    if figure.pose.side_view:
        lap = "belly,.39 thigh*1.3,.485 front,hem-.01 front,hem"
        painter.shape(f"{lap} rear,hem rear,hem-.01 -seat-.006,.485 -back*.8,.39", paint, relief=0.18)
    else:
        painter.shape("waist,.39 hips+.008,.485 edge,hem-.02 edge,hem edge*.5,hem+.008", paint, half=True, relief=0.18)
    for share in (-0.55, -0.15, 0.3, 0.65):
        painter.crease([(body["hips"] * share, 0.52), ((body["hips"] + flare) * share, hem - 0.004)], 0.84, 0.006)


def _draw_shoe(figure: Figure, leg: Limb, shade: float) -> None:
    skin, rgb = tone(figure.person.skin_rgb, shade), tone(figure.outfit.shoes.rgb, shade)
    wide, kind, view = figure.body["ankle"] + 0.006, figure.outfit.shoes.kind, figure.pose.view
    if figure.pose.side_view:
        _draw_shoe_from_side(figure.painter.at(*leg.joints[2], turn=leg.turn, wide=wide), kind, wide, rgb, skin)
        return
    length = 0.012 + (0.052 if view == "front" else 0.034) * (1.0 if leg.turn > 0 else 0.75)
    painter = figure.painter.at(*leg.joints[2], wide=wide, length=length)
    _draw_shoe_from_front(painter, kind, wide, rgb, skin, toes=view == "front")


def _draw_shoe_from_front(painter: Painter, kind: str, wide: float, rgb: Rgb, skin: Rgb, *, toes: bool) -> None:
    foot = "wide,0 wide*1.25,length-.012 wide*.9,length"
    if kind == "boots":
        painter.limb("0,-.075 0,0", (wide + 0.008, wide + 0.004), rgb)
    if kind == "sandals":
        painter.shape(foot, skin, half=True, rounds=2, relief=0.2)
        painter.line("-wide*1.15,length*.35 wide*1.15,length*.35", rgb, 0.011)
        painter.line("-wide*1.15,length*.7 wide*1.15,length*.7", rgb, 0.011)
        return
    painter.shape(
        "wide*.9,.006 wide*.7,length" if kind == "high heels" else foot, rgb, half=True, rounds=2, relief=0.24
    )
    if kind == "sneakers":
        painter.line("-wide*1.05,length-.004 wide*1.05,length-.004", _sole(rgb), 0.009)
        if toes:
            painter.line("-.008,.016 .008,.016", _sole(rgb), 0.005)


def _draw_shoe_from_side(painter: Painter, kind: str, wide: float, rgb: Rgb, skin: Rgb) -> None:
    if kind == "high heels":
        painter.shape("-wide,0 wide*.6,.004 .075,.04 .04,.045 -.006,.026", rgb, relief=0.2)
        painter.line("-wide*.8,.008 -wide*.75,.045", rgb, 0.009)
        return
    if kind == "boots":
        painter.limb("0,-.08 0,0", (wide + 0.008, wide + 0.004), rgb)
    upper = "-wide,-.004 wide*.8,-.006 .052,.018 .082,.03"
    foot = f"{upper} .082,.046 -wide-.006,.046 -wide-.006,.02"
    painter.shape(foot, skin if kind == "sandals" else rgb, rounds=1, relief=0.16)
    if kind == "sandals":
        painter.line(".035,.008 .05,.044", rgb, 0.011)
        painter.line("-wide,0.004 wide,0.012", rgb, 0.011)
        painter.line("-wide-.004,.045 .08,.045", tone(rgb, 0.7), 0.008)
    if kind == "sneakers":
        painter.line("-wide-.004,.042 .08,.042", _sole(rgb), 0.011)


def _sole(rgb: Rgb) -> Rgb:
    return (236, 236, 232) if sum(rgb) < 600 else (150, 150, 150)
