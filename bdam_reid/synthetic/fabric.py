"""Colours and fabrics that a painter fills shapes with."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw

from bdam_reid.synthetic.people import Rgb
from bdam_reid.synthetic.shapes import blend, tone

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Paint:
    """A colour, and the pattern of a second colour on it."""

    rgb: Rgb
    pattern: str
    second: Rgb
    seed: str

    def shaded(self, factor: float) -> Paint:
        """The same fabric, darker or lighter."""
        return Paint(tone(self.rgb, factor), self.pattern, tone(self.second, factor), self.seed)


def fabric(paint: Paint, box: tuple[int, int, int, int], unit: float, canvas: tuple[int, int]) -> Image.Image:
    """The cut of a pattern for a box of the canvas, so that neighbouring parts of one garment match."""
    x0, y0, x1, y1 = box
    cloth = Image.new("RGBA", (x1 - x0, y1 - y0), paint.rgb)
    draw, step = ImageDraw.Draw(cloth), 0.042 * unit
    # Where the pattern repeats, beginning outside of the box.
    xs = [i * step - x0 for i in range(int(x0 / step) - 1, int(x1 / step) + 2)]
    ys = [i * step - y0 for i in range(int(y0 / step) - 1, int(y1 / step) + 2)]
    if paint.pattern == "striped":
        for y in ys:
            draw.rectangle((0, y, x1 - x0, y + 0.42 * step), fill=paint.second)
    elif paint.pattern == "checked":
        _checks(cloth, paint, xs, ys, 0.4 * step)
    elif paint.pattern == "dotted":
        for row, y in enumerate(ys):
            for x in xs:
                left = x + row % 2 * step / 2
                draw.ellipse((left, y, left + 0.52 * step, y + 0.52 * step), fill=paint.second)
    elif paint.pattern == "floral":
        _flowers(draw, paint, box, step, canvas)
    return cloth


def _checks(cloth: Image.Image, paint: Paint, xs: list[float], ys: list[float], wide: float) -> None:
    draw, (width, height) = ImageDraw.Draw(cloth), cloth.size
    between = blend(paint.rgb, paint.second, 0.5)
    for y in ys:
        draw.rectangle((0, y, width, y + wide), fill=between)
    for x in xs:
        draw.rectangle((x, 0, x + wide, height), fill=between)
    for x in xs:
        for y in ys:
            draw.rectangle((x, y, x + wide, y + wide), fill=paint.second)


def _flowers(draw: ImageDraw.ImageDraw, paint: Paint, box: Box, step: float, canvas: tuple[int, int]) -> None:
    rng = Random(paint.seed)
    leaf, heart = blend(paint.second, (40, 120, 60), 0.6), tone(paint.rgb, 0.9)
    for _ in range(420):
        x, y = rng.uniform(0, canvas[0]) - box[0], rng.uniform(0, canvas[1]) - box[1]
        size = step * rng.uniform(0.22, 0.4)
        petals = paint.second if rng.random() < 0.75 else leaf
        if -size < x < box[2] - box[0] + size and -size < y < box[3] - box[1] + size:
            _disc(draw, x, y, size, petals)
            _disc(draw, x, y, size / 3, heart)


def _disc(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, rgb: Rgb) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=rgb)
