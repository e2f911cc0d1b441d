"""Where the pictures are taken: six cameras with their backgrounds and light, and what stands in the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from bdam_reid.synthetic.painter import HEIGHT, NEUTRAL, WIDTH, blend, tone
from bdam_reid.synthetic.people import Rgb

_PANORAMA = 4 * WIDTH
_HORIZON = 104


def _street(draw: ImageDraw.ImageDraw, rng: Random) -> None:
    """A shopping street: windows and awnings over a tiled pavement."""
    draw.rectangle((0, 0, _PANORAMA, _HORIZON), fill=(176, 164, 150))
    draw.rectangle((0, _HORIZON, _PANORAMA, HEIGHT), fill=(186, 182, 176))
    for x in range(-10, _PANORAMA, 68):
        glass = rng.choice(((104, 124, 136), (126, 138, 142), (92, 104, 118)))
        draw.rectangle((x + 6, 34, x + 58, 92), fill=glass)
        draw.polygon([(x + 12, 92), (x + 30, 34), (x + 40, 34), (x + 22, 92)], fill=tone(glass, 1.15))
        awning = rng.choice(((142, 84, 76), (96, 124, 104), (92, 104, 138), (168, 146, 104)))
        draw.polygon([(x + 4, 20), (x + 60, 20), (x + 64, 34), (x, 34)], fill=awning)
    _paving(draw, (160, 156, 150), 13)


def _paving(draw: ImageDraw.ImageDraw, joint: Rgb, step: int) -> None:
    """Tiles in perspective."""
    y, gap = float(_HORIZON + 3), step * 0.35
    while y < HEIGHT:
        draw.line((0, y, _PANORAMA, y), fill=joint)
        y, gap = y + gap, gap * 1.3
    for x in range(-_PANORAMA, 2 * _PANORAMA, 3 * step):
        draw.line((x, HEIGHT, _PANORAMA / 2 + (x - _PANORAMA / 2) * 0.55, _HORIZON), fill=joint)


def _park(draw: ImageDraw.ImageDraw, rng: Random) -> None:
    """A park: sky, a row of trees, grass and a gravel path."""
    draw.rectangle((0, 0, _PANORAMA, _HORIZON), fill=(196, 212, 222))
    for trunk in range(-20, _PANORAMA + 20, 15):
        green = blend((84, 118, 72), (124, 148, 92), rng.random())
        radius, top = rng.randint(20, 32), rng.randint(8, 62)
        draw.ellipse((trunk - radius, top - radius, trunk + radius, top + radius), fill=green)
        if rng.random() < 0.35:
            draw.rectangle((trunk - 3, top + 12, trunk + 3, _HORIZON), fill=(104, 88, 72))
    draw.rectangle((0, _HORIZON - 12, _PANORAMA, HEIGHT), fill=(132, 154, 100))
    draw.polygon([(0, 136), (_PANORAMA, 122), (_PANORAMA, HEIGHT), (0, HEIGHT)], fill=(196, 186, 164))
    for _ in range(300):
        x, y = rng.uniform(0, _PANORAMA), rng.uniform(_HORIZON - 8, 122)
        draw.line((x, y, x + rng.uniform(-1, 1), y - 3), fill=blend((108, 134, 80), (156, 172, 116), rng.random()))


def _station(draw: ImageDraw.ImageDraw, rng: Random) -> None:
    """An underground station: tiled wall, posters, a polished floor."""
    draw.rectangle((0, 0, _PANORAMA, _HORIZON), fill=(196, 202, 198))
    for x in range(0, _PANORAMA, 9):
        draw.line((x, 0, x, _HORIZON), fill=(178, 186, 182))
    for y in range(0, _HORIZON, 9):
        draw.line((0, y, _PANORAMA, y), fill=(178, 186, 182))
    for x in range(12, _PANORAMA, 86):
        poster = rng.choice(((150, 112, 96), (104, 128, 146), (164, 156, 112), (120, 104, 140)))
        draw.rectangle((x, 18, x + 34, 70), fill=(90, 94, 96))
        draw.rectangle((x + 2, 20, x + 32, 68), fill=poster)
        draw.rectangle((x + 6, 26, x + 28, 42), fill=tone(poster, 1.3))
    draw.rectangle((0, _HORIZON - 8, _PANORAMA, _HORIZON), fill=(120, 126, 124))
    draw.rectangle((0, _HORIZON, _PANORAMA, HEIGHT), fill=(158, 160, 156))
    draw.rectangle((0, _HORIZON + 4, _PANORAMA, _HORIZON + 9), fill=(202, 184, 108))
    for x in range(-10, _PANORAMA, 54):
        draw.polygon(
            [(x, _HORIZON + 10), (x + 16, _HORIZON + 10), (x + 28, HEIGHT), (x + 4, HEIGHT)],
            fill=(170, 172, 168),
        )


def _crossing(draw: ImageDraw.ImageDraw, rng: Random) -> None:
    """A zebra crossing, with houses and parked cars behind."""
    draw.rectangle((0, 0, _PANORAMA, _HORIZON), fill=(188, 190, 192))
    for x in range(-6, _PANORAMA, 44):
        wall = blend((168, 158, 148), (140, 146, 152), rng.random())
        draw.rectangle((x, rng.randint(0, 16), x + 42, _HORIZON), fill=wall)
        for y in (24, 48):
            for shift in (8, 25):
                draw.rectangle((x + shift, y, x + shift + 9, y + 14), fill=tone(wall, 0.7))
    draw.rectangle((0, _HORIZON - 14, _PANORAMA, HEIGHT), fill=(112, 114, 118))
    for x in range(rng.randint(0, 30), _PANORAMA, 128):
        car = rng.choice(((150, 60, 58), (76, 96, 128), (202, 202, 200), (70, 72, 76)))
        draw.rounded_rectangle((x, 84, x + 74, 102), 7, fill=car)
        draw.rounded_rectangle((x + 14, 72, x + 58, 90), 7, fill=tone(car, 0.8))
        draw.rectangle((x + 19, 76, x + 53, 85), fill=(150, 166, 174))
        for wheel in (x + 14, x + 56):
            draw.ellipse((wheel - 7, 95, wheel + 7, 109), fill=(40, 40, 42))
    for x in range(-80, _PANORAMA, 42):
        draw.polygon([(x + 14, 122), (x + 30, 122), (x + 22, HEIGHT), (x - 4, HEIGHT)], fill=(206, 206, 202))


def _campus(draw: ImageDraw.ImageDraw, rng: Random) -> None:
    """A brick wall with a hedge, light paving."""
    draw.rectangle((0, 0, _PANORAMA, _HORIZON), fill=(160, 116, 98))
    for row, y in enumerate(range(0, _HORIZON, 5)):
        for x in range(-(row % 2) * 6, _PANORAMA, 12):
            draw.rectangle((x, y, x + 10, y + 3), fill=blend((166, 118, 98), (142, 98, 84), rng.random()))
    for x in range(20, _PANORAMA, 96):
        draw.rectangle((x, 12, x + 30, 62), fill=(222, 218, 208))
        draw.rectangle((x + 3, 15, x + 27, 59), fill=(116, 134, 146))
        draw.line((x + 15, 15, x + 15, 59), fill=(222, 218, 208), width=2)
    for x in range(0, _PANORAMA, 9):
        radius = rng.randint(9, 14)
        draw.ellipse(
            (x - radius, 96 - radius, x + radius, 96 + radius),
            fill=blend((74, 102, 66), (104, 130, 84), rng.random()),
        )
    draw.rectangle((0, _HORIZON, _PANORAMA, HEIGHT), fill=(206, 198, 184))
    _paving(draw, (186, 178, 164), 17)


def _night(draw: ImageDraw.ImageDraw, rng: Random) -> None:
    """A street in the evening: lit windows, lamps and their pools of light."""
    draw.rectangle((0, 0, _PANORAMA, _HORIZON), fill=(66, 70, 88))
    for x in range(4, _PANORAMA, 24):
        for y in (10, 38, 66):
            lit = rng.random() < 0.4
            draw.rectangle((x, y, x + 12, y + 17), fill=(214, 184, 120) if lit else (50, 54, 70))
    draw.rectangle((0, _HORIZON, _PANORAMA, HEIGHT), fill=(96, 96, 104))
    for x in range(40, _PANORAMA, 110):
        draw.rectangle((x - 2, 20, x + 2, _HORIZON), fill=(44, 46, 54))
        draw.ellipse((x - 9, 8, x + 9, 24), fill=(252, 232, 180))
        draw.ellipse((x - 46, 124, x + 46, 154), fill=(132, 124, 112))


@dataclass(frozen=True)
class Camera:
    """A place and its light: gains of the three channels, the range of brightness, the side the light comes
    from.
    """

    scenery: Callable[[ImageDraw.ImageDraw, Random], None]
    gains: tuple[float, float, float]
    brightness: tuple[float, float]
    light: int
    noise: float


_PLACES = (
    Camera(_street, (1.02, 1.0, 0.96), (0.88, 1.04), 1, 3.0),
    Camera(_park, (1.0, 1.02, 0.97), (0.88, 1.06), -1, 3.0),
    Camera(_station, (0.97, 1.01, 0.98), (0.82, 0.98), 1, 5.0),
    Camera(_crossing, (0.98, 1.0, 1.03), (0.86, 1.02), -1, 4.0),
    Camera(_campus, (1.03, 1.0, 0.95), (0.88, 1.04), 1, 3.0),
    Camera(_night, (1.0, 0.97, 0.95), (0.8, 0.95), -1, 6.0),
)


def camera_of(number: int) -> Camera:
    """The camera of a shot."""
    return _PLACES[number]


@lru_cache(maxsize=2 * len(_PLACES))
def _panorama(seed: int, number: int) -> Image.Image:
    """What a camera overlooks, slightly out of focus, so that the person in front is not."""
    image = Image.new("RGB", (_PANORAMA, HEIGHT))
    _PLACES[number].scenery(ImageDraw.Draw(image), Random(f"{seed}/camera/{number}"))
    return image.filter(ImageFilter.GaussianBlur(1.3))


def background(seed: int, number: int, rng: Random) -> Image.Image:
    """A cut of a camera's view, `WIDTH` x `HEIGHT`."""
    left, top = rng.randint(0, _PANORAMA - WIDTH), rng.randint(0, 6)
    bottom = HEIGHT - rng.randint(0, 6)
    view = _panorama(seed, number).crop((left, 0, left + WIDTH, HEIGHT))
    return view.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR, box=(0, top, WIDTH, bottom))


def cast_shadow(image: Image.Image, centre: float, floor: float, width: float, light: int) -> Image.Image:
    """Darken the ground under a person, away from the light."""
    mask = Image.new("L", image.size)
    centre -= light * width * 0.35
    ImageDraw.Draw(mask).ellipse((centre - width, floor - 5, centre + width, floor + 5), fill=120)
    return Image.composite(
        Image.new("RGB", image.size, (24, 24, 30)), image, mask.filter(ImageFilter.GaussianBlur(2.5))
    )


def occlude(image: Image.Image, occluder: str, rng: Random) -> None:
    """Draw what stands between the camera and the person: something low that hides the feet, or a pole."""
    draw = ImageDraw.Draw(image)
    if occluder == "pole":
        x, wide = rng.choice((rng.uniform(8, 26), rng.uniform(68, 86))), rng.uniform(6, 10)
        for share, value in ((1.0, 92), (0.6, 122), (0.2, 142)):
            draw.rectangle((x - wide * share / 2, 0, x + wide * share / 2, HEIGHT), fill=(value, value, value + 4))
    elif occluder == "low":
        top = rng.randint(146, 154)
        if rng.random() < 0.5:
            for x in range(-4, WIDTH + 8, 5):
                for y in range(top, HEIGHT + 8, 6):
                    radius = rng.randint(4, 8)
                    leaf = blend((58, 92, 50), (104, 138, 76), rng.random())
                    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=leaf)
        else:
            draw.rectangle((0, top, WIDTH, HEIGHT), fill=(150, 146, 140))
            draw.rectangle((0, top, WIDTH, top + 5), fill=(182, 178, 172))
            for x in range(rng.randint(0, 20), WIDTH, 26):
                draw.line((x, top + 6, x, HEIGHT), fill=(126, 122, 118))


def expose(
    colour: Image.Image, light: Image.Image, scene: Image.Image, camera: Camera, brightness: float
) -> Image.Image:
    """The lit person in front of the scene, under the camera's light.

    The light layer is blurred a little, so that relief turns into shading; lower parts of the picture get
    less light.
    """
    pixels = np.asarray(colour, dtype=np.float32)
    shade = np.asarray(light.filter(ImageFilter.GaussianBlur(0.7)), dtype=np.float32) / NEUTRAL
    across = np.linspace(1.0 - 0.07 * camera.light, 1.0 + 0.07 * camera.light, WIDTH, dtype=np.float32)
    down = np.linspace(1.05, 0.93, HEIGHT, dtype=np.float32)
    lit = pixels[..., :3] * (shade * across * down[:, None])[..., None]
    alpha = pixels[..., 3:] / 255
    mixed = lit * alpha + np.asarray(scene, dtype=np.float32) * (1 - alpha)
    mixed *= np.asarray(camera.gains, dtype=np.float32) * np.float32(brightness)
    return Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8))


def develop(image: Image.Image, camera: Camera, rng: Random) -> Image.Image:
    """What the sensor adds: a little blur now and then, and grain."""
    if rng.random() < 0.25:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.7)))
    grains = np.frombuffer(rng.randbytes(2 * WIDTH * HEIGHT), dtype=np.uint8).reshape(2, HEIGHT, WIDTH, 1)
    grain = (grains[0].astype(np.float32) - grains[1]) * np.float32(camera.noise / 160)
    return Image.fromarray(np.clip(np.asarray(image, dtype=np.float32) + grain + 0.5, 0, 255).astype(np.uint8))
