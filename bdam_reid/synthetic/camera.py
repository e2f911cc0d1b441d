"""Cameras: where they hang, their light, and how they take a picture of a drawn person."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from bdam_reid.synthetic import scene
from bdam_reid.synthetic.painter import HEIGHT, NEUTRAL, WIDTH


@dataclass(frozen=True)
class Camera:
    """A place and its light: gains of the three channels, the range of brightness, the side the light comes from (-1
    is left), and the grain of the sensor.
    """

    scenery: scene.Scenery
    gains: tuple[float, float, float]
    brightness: tuple[float, float]
    light: int
    noise: float


CAMERAS = (
    # A city in all seasons.
    Camera(scene.street, (1.02, 1.0, 0.96), (0.88, 1.04), 1, 3.0),
    Camera(scene.park, (1.0, 1.02, 0.97), (0.88, 1.06), -1, 3.0),
    Camera(scene.station, (0.97, 1.01, 0.98), (0.82, 0.98), 1, 5.0),
    Camera(scene.crossing, (0.98, 1.0, 1.03), (0.86, 1.02), -1, 4.0),
    Camera(scene.campus, (1.03, 1.0, 0.95), (0.88, 1.04), 1, 3.0),
    Camera(scene.night, (1.0, 0.97, 0.95), (0.8, 0.95), -1, 6.0),
    # Another city in winter, outside and inside.
    Camera(scene.snow, (0.92, 0.98, 1.08), (0.9, 1.02), -1, 3.0),
    Camera(scene.snow, (0.82, 0.88, 1.1), (0.62, 0.74), 1, 7.0),
    Camera(scene.mall, (1.1, 1.0, 0.82), (0.9, 1.02), 1, 3.0),
    Camera(scene.mall, (1.04, 0.98, 0.9), (0.78, 0.9), -1, 5.0),
    Camera(scene.garage, (0.9, 1.06, 0.92), (0.7, 0.84), 1, 8.0),
    Camera(scene.terminal, (0.98, 0.96, 1.06), (0.78, 0.92), -1, 5.0),
)


@lru_cache(maxsize=2 * len(CAMERAS))
def _panorama(seed: int, number: int) -> Image.Image:
    """What a camera overlooks, slightly out of focus, so that the person in front is not."""
    image = Image.new("RGB", (scene.PANORAMA, HEIGHT))
    CAMERAS[number].scenery(ImageDraw.Draw(image), Random(f"{seed}/camera/{number}"))
    return image.filter(ImageFilter.GaussianBlur(1.3))


def background(seed: int, number: int, rng: Random) -> Image.Image:
    """A cut of a camera's view, `WIDTH` x `HEIGHT`."""
    left, top = rng.randint(0, scene.PANORAMA - WIDTH), rng.randint(0, 6)
    bottom = HEIGHT - rng.randint(0, 6)
    view = _panorama(seed, number).crop((left, 0, left + WIDTH, HEIGHT))
    return view.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR, box=(0, top, WIDTH, bottom))


def cast_shadow(image: Image.Image, centre: float, floor: float, width: float, light: int) -> Image.Image:
    """Darken the ground under a person, away from the light."""
    mask = Image.new("L", image.size)
    centre -= light * width * 0.35
    ImageDraw.Draw(mask).ellipse((centre - width, floor - 5, centre + width, floor + 5), fill=120)
    shadow = Image.new("RGB", image.size, (24, 24, 30))
    return Image.composite(shadow, image, mask.filter(ImageFilter.GaussianBlur(2.5)))


def expose(
    colour: Image.Image, light: Image.Image, behind: Image.Image, camera: Camera, brightness: float
) -> Image.Image:
    """The lit person before what is behind, under the camera's light; `colour` has its alpha in its colours.

    The light layer is blurred a little, so that relief turns into shading; lower parts of the picture get less light.
    """
    pixels = np.asarray(colour, dtype=np.float32)
    shade = np.asarray(light.filter(ImageFilter.GaussianBlur(0.7)), dtype=np.float32) / NEUTRAL
    across = np.linspace(1.0 - 0.07 * camera.light, 1.0 + 0.07 * camera.light, WIDTH, dtype=np.float32)
    down = np.linspace(1.05, 0.93, HEIGHT, dtype=np.float32)
    mixed = pixels[..., :3] * (shade * across * down[:, None])[..., None]
    mixed += np.asarray(behind, dtype=np.float32) * (1 - pixels[..., 3:] / 255)
    mixed *= np.asarray(camera.gains, dtype=np.float32) * np.float32(brightness)
    return _image(mixed)


def occlude(image: Image.Image, occluder: str, rng: Random) -> None:
    """Draw what stands between the camera and the person, if anything."""
    scene.obstacle(ImageDraw.Draw(image), occluder, rng)


def develop(image: Image.Image, camera: Camera, rng: Random) -> Image.Image:
    """What the sensor adds: a little blur now and then, and grain."""
    if rng.random() < 0.25:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.7)))
    grains = np.frombuffer(rng.randbytes(2 * WIDTH * HEIGHT), dtype=np.uint8).reshape(2, HEIGHT, WIDTH, 1)
    grain = (grains[0].astype(np.float32) - grains[1]) * np.float32(camera.noise / 160)
    return _image(np.asarray(image, dtype=np.float32) + grain + 0.5)


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
