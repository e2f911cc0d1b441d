"""What the cameras overlook: places four pictures wide, drawn with a little chance, and what stands in the way."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from PIL import ImageDraw

from bdam_reid.synthetic.painter import HEIGHT, WIDTH
from bdam_reid.synthetic.people import Rgb
from bdam_reid.synthetic.shapes import blend, tone

Canvas = ImageDraw.ImageDraw
Scenery = Callable[[Canvas, Random], None]

PANORAMA = 4 * WIDTH
HORIZON = 104


def _ground(draw: Canvas, top: float, rgb: Rgb) -> None:
    draw.rectangle((0, top, PANORAMA, HEIGHT), fill=rgb)


def _backdrop(draw: Canvas, wall: Rgb) -> None:
    draw.rectangle((0, 0, PANORAMA, HORIZON), fill=wall)


def _polygon(draw: Canvas, x: int, outline: str, rgb: Rgb) -> None:
    """A polygon "x,y x,y ..." whose x count from somewhere."""
    pairs = (map(int, pair.split(",")) for pair in outline.split())
    draw.polygon([(x + px, y) for px, y in pairs], fill=rgb)


def _disc(draw: Canvas, x: float, y: float, radius: float, rgb: Rgb) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=rgb)


def _paving(draw: Canvas, joint: Rgb, step: int) -> None:
    """Tiles in perspective."""
    y, gap = float(HORIZON + 3), step * 0.35
    while y < HEIGHT:
        draw.line((0, y, PANORAMA, y), fill=joint)
        y, gap = y + gap, gap * 1.3
    for x in range(-PANORAMA, 2 * PANORAMA, 3 * step):
        draw.line((x, HEIGHT, PANORAMA / 2 + (x - PANORAMA / 2) * 0.55, HORIZON), fill=joint)


def street(draw: Canvas, rng: Random) -> None:
    """A shopping street: windows and awnings over a tiled pavement."""
    _backdrop(draw, (176, 164, 150))
    _ground(draw, HORIZON, (186, 182, 176))
    for x in range(-10, PANORAMA, 68):
        glass = rng.choice(((104, 124, 136), (126, 138, 142), (92, 104, 118)))
        awning = rng.choice(((142, 84, 76), (96, 124, 104), (92, 104, 138), (168, 146, 104)))
        draw.rectangle((x + 6, 34, x + 58, 92), fill=glass)
        _polygon(draw, x, "12,92 30,34 40,34 22,92", tone(glass, 1.15))
        _polygon(draw, x, "4,20 60,20 64,34 0,34", awning)
    _paving(draw, (160, 156, 150), 13)


def park(draw: Canvas, rng: Random) -> None:
    """A park: sky, a row of trees, grass and a gravel path."""
    _backdrop(draw, (196, 212, 222))
    for trunk in range(-20, PANORAMA + 20, 15):
        green = blend((84, 118, 72), (124, 148, 92), rng.random())
        radius, top = rng.randint(20, 32), rng.randint(8, 62)
        _disc(draw, trunk, top, radius, green)
        if rng.random() < 0.35:
            draw.rectangle((trunk - 3, top + 12, trunk + 3, HORIZON), fill=(104, 88, 72))
    _ground(draw, HORIZON - 12, (132, 154, 100))
    draw.polygon([(0, 136), (PANORAMA, 122), (PANORAMA, HEIGHT), (0, HEIGHT)], fill=(196, 186, 164))
    for _ in range(300):
        x, y, lean = rng.uniform(0, PANORAMA), rng.uniform(HORIZON - 8, 122), rng.uniform(-1, 1)
        draw.line((x, y, x + lean, y - 3), fill=blend((108, 134, 80), (156, 172, 116), rng.random()))


def station(draw: Canvas, rng: Random) -> None:
    """An underground station: tiled wall, posters, a polished floor."""
    _backdrop(draw, (196, 202, 198))
    for x in range(0, PANORAMA, 9):
        draw.line((x, 0, x, HORIZON), fill=(178, 186, 182))
    for y in range(0, HORIZON, 9):
        draw.line((0, y, PANORAMA, y), fill=(178, 186, 182))
    for x in range(12, PANORAMA, 86):
        poster = rng.choice(((150, 112, 96), (104, 128, 146), (164, 156, 112), (120, 104, 140)))
        draw.rectangle((x, 18, x + 34, 70), fill=(90, 94, 96))
        draw.rectangle((x + 2, 20, x + 32, 68), fill=poster)
        draw.rectangle((x + 6, 26, x + 28, 42), fill=tone(poster, 1.3))
    draw.rectangle((0, HORIZON - 8, PANORAMA, HORIZON), fill=(120, 126, 124))
    _ground(draw, HORIZON, (158, 160, 156))
    draw.rectangle((0, HORIZON + 4, PANORAMA, HORIZON + 9), fill=(202, 184, 108))
    for x in range(-10, PANORAMA, 54):
        _polygon(draw, x, "0,114 16,114 28,192 4,192", (170, 172, 168))


def crossing(draw: Canvas, rng: Random) -> None:
    """A zebra crossing, with houses and parked cars behind."""
    _backdrop(draw, (188, 190, 192))
    for x in range(-6, PANORAMA, 44):
        wall = blend((168, 158, 148), (140, 146, 152), rng.random())
        draw.rectangle((x, rng.randint(0, 16), x + 42, HORIZON), fill=wall)
        for left, top in ((8, 24), (25, 24), (8, 48), (25, 48)):
            draw.rectangle((x + left, top, x + left + 9, top + 14), fill=tone(wall, 0.7))
    _ground(draw, HORIZON - 14, (112, 114, 118))
    for x in range(rng.randint(0, 30), PANORAMA, 128):
        _car(draw, x, rng.choice(((150, 60, 58), (76, 96, 128), (202, 202, 200), (70, 72, 76))))
    for x in range(-80, PANORAMA, 42):
        _polygon(draw, x, "14,122 30,122 22,192 -4,192", (206, 206, 202))


def _car(draw: Canvas, x: int, rgb: Rgb) -> None:
    draw.rounded_rectangle((x, 84, x + 74, 102), 7, fill=rgb)
    draw.rounded_rectangle((x + 14, 72, x + 58, 90), 7, fill=tone(rgb, 0.8))
    draw.rectangle((x + 19, 76, x + 53, 85), fill=(150, 166, 174))
    for wheel in (x + 14, x + 56):
        _disc(draw, wheel, 102, 7, (40, 40, 42))


def campus(draw: Canvas, rng: Random) -> None:
    """A brick wall with a hedge, light paving."""
    _backdrop(draw, (160, 116, 98))
    for row, y in enumerate(range(0, HORIZON, 5)):
        for x in range(-(row % 2) * 6, PANORAMA, 12):
            draw.rectangle((x, y, x + 10, y + 3), fill=blend((166, 118, 98), (142, 98, 84), rng.random()))
    for x in range(20, PANORAMA, 96):
        draw.rectangle((x, 12, x + 30, 62), fill=(222, 218, 208))
        draw.rectangle((x + 3, 15, x + 27, 59), fill=(116, 134, 146))
        draw.line((x + 15, 15, x + 15, 59), fill=(222, 218, 208), width=2)
    for x in range(0, PANORAMA, 9):
        radius = rng.randint(9, 14)
        _disc(draw, x, 96, radius, blend((74, 102, 66), (104, 130, 84), rng.random()))
    _ground(draw, HORIZON, (206, 198, 184))
    _paving(draw, (186, 178, 164), 17)


def night(draw: Canvas, rng: Random) -> None:
    """A street in the evening: lit windows, lamps and their pools of light."""
    _backdrop(draw, (66, 70, 88))
    for x in range(4, PANORAMA, 24):
        for y in (10, 38, 66):
            draw.rectangle((x, y, x + 12, y + 17), fill=(214, 184, 120) if rng.random() < 0.4 else (50, 54, 70))
    _ground(draw, HORIZON, (96, 96, 104))
    for x in range(40, PANORAMA, 110):
        draw.rectangle((x - 2, 20, x + 2, HORIZON), fill=(44, 46, 54))
        draw.ellipse((x - 9, 8, x + 9, 24), fill=(252, 232, 180))
        draw.ellipse((x - 46, 124, x + 46, 154), fill=(132, 124, 112))


def snow(draw: Canvas, rng: Random) -> None:
    """A row of houses under snow, bare trees, a trodden path."""
    _backdrop(draw, (206, 212, 220))
    for x in range(-20, PANORAMA, 72):
        wall = rng.choice(((156, 120, 96), (132, 140, 150), (170, 156, 120)))
        draw.rectangle((x + 6, 36, x + 66, HORIZON), fill=wall)
        _polygon(draw, x, "0,38 36,8 72,38", (238, 242, 248))
        for left in (14, 44):
            draw.rectangle((x + left, 52, x + left + 14, 72), fill=tone(wall, 0.55))
            draw.line((x + left, 74, x + left + 14, 74), fill=(240, 244, 250), width=2)
    for x in range(rng.randint(0, 30), PANORAMA, 58):
        for lean in (-14, -7, 0, 6, 13):
            draw.line((x, 70, x + lean, 22 + abs(lean)), fill=(92, 82, 78))
        draw.line((x, 60, x, HORIZON), fill=(84, 74, 70), width=4)
    _ground(draw, HORIZON - 6, (232, 237, 244))
    draw.polygon([(0, 138), (PANORAMA, 128), (PANORAMA, 172), (0, 180)], fill=(204, 210, 220))
    for _ in range(160):
        step, y = rng.uniform(0, PANORAMA), rng.uniform(132, 174)
        draw.ellipse((step, y, step + 5, y + 2), fill=(184, 192, 206))


def mall(draw: Canvas, rng: Random) -> None:
    """A shopping mall in warm light: a gallery above, lit shops, a floor that shines."""
    _backdrop(draw, (214, 196, 166))
    draw.rectangle((0, 0, PANORAMA, 20), fill=(184, 164, 134))
    for x in range(6, PANORAMA, 26):
        draw.ellipse((x, 3, x + 12, 9), fill=(255, 246, 214))
    for x in range(-14, PANORAMA, 80):
        shop = rng.choice(((226, 190, 120), (214, 168, 150), (190, 186, 160), (232, 208, 164)))
        draw.rectangle((x + 6, 34, x + 74, HORIZON), fill=shop)
        draw.rectangle((x + 6, 26, x + 74, 38), fill=tone(shop, 0.6))
        for left in (16, 36, 56):
            draw.rectangle((x + left, 62, x + left + 10, 98), fill=tone(shop, rng.uniform(0.55, 0.9)))
    _ground(draw, HORIZON, (208, 188, 160))
    for x in range(0, PANORAMA, 40):
        _polygon(draw, x, "0,106 20,106 26,192 -8,192", (222, 206, 180))


def garage(draw: Canvas, rng: Random) -> None:
    """An underground car park: concrete, tubes of light, pillars, cars and painted lines."""
    _backdrop(draw, (120, 126, 122))
    draw.rectangle((0, 0, PANORAMA, 22), fill=(88, 94, 92))
    for x in range(10, PANORAMA, 60):
        draw.rectangle((x, 10, x + 34, 14), fill=(236, 250, 236))
    _ground(draw, HORIZON - 12, (104, 108, 106))
    for x in range(rng.randint(0, 20), PANORAMA, 104):
        _car(draw, x, rng.choice(((64, 70, 78), (176, 178, 180), (60, 84, 76), (120, 48, 44))))
        draw.rectangle((x + 80, 22, x + 94, 116), fill=(148, 152, 146))
        draw.rectangle((x + 80, 84, x + 94, 100), fill=(204, 176, 40))
    for x in range(-60, PANORAMA, 70):
        _polygon(draw, x, "20,116 24,116 2,192 -6,192", (196, 190, 120))


def terminal(draw: Canvas, rng: Random) -> None:
    """An airport's hall: a wall of glass with the dusk behind, benches, a carpet."""
    for y in range(HORIZON):
        draw.line((0, y, PANORAMA, y), fill=blend((110, 122, 160), (222, 176, 150), y / HORIZON))
    for x in range(-10, PANORAMA, 34):
        draw.rectangle((x, 0, x + 3, HORIZON), fill=(70, 76, 88))
    for y in (30, 66):
        draw.rectangle((0, y, PANORAMA, y + 2), fill=(70, 76, 88))
    _ground(draw, HORIZON - 4, (96, 104, 128))
    for x in range(rng.randint(0, 30), PANORAMA, 74):
        draw.rectangle((x, 88, x + 52, 102), fill=rng.choice(((44, 48, 60), (120, 56, 52), (52, 84, 98))))
    for y in range(112, HEIGHT, 12):
        draw.line((0, y, PANORAMA, y), fill=(86, 94, 118))


def obstacle(draw: Canvas, kind: str, rng: Random) -> None:
    """What stands between the camera and the person: something low that hides the feet, or a
    pole beside the body, which hides nothing.
    """
    if kind == "pole":
        x, wide = rng.choice((rng.uniform(6, 16), rng.uniform(80, 90))), rng.uniform(6, 10)
        for share, value in ((1.0, 92), (0.6, 122), (0.2, 142)):
            half = wide * share / 2
            draw.rectangle((x - half, 0, x + half, HEIGHT), fill=(value, value, value + 4))
    elif kind == "low":
        top = rng.randint(150, 158)
        if rng.random() < 0.5:
            _hedge(draw, top, rng)
        else:
            _low_wall(draw, top, rng)


def _hedge(draw: Canvas, top: int, rng: Random) -> None:
    for x in range(-4, WIDTH + 8, 5):
        for y in range(top, HEIGHT + 8, 6):
            radius = rng.randint(4, 8)
            _disc(draw, x, y, radius, blend((58, 92, 50), (104, 138, 76), rng.random()))


def _low_wall(draw: Canvas, top: int, rng: Random) -> None:
    draw.rectangle((0, top, WIDTH, HEIGHT), fill=(150, 146, 140))
    draw.rectangle((0, top, WIDTH, top + 5), fill=(182, 178, 172))
    for x in range(rng.randint(0, 20), WIDTH, 26):
        draw.line((x, top + 6, x, HEIGHT), fill=(126, 122, 118))
