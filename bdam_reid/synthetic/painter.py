"""A small painter: smooth shapes in colour, and the light that falls on them.

Colour and light are two layers. Shapes fill the colour layer flatly (or with a fabric) and give relief to
the light layer; the light multiplies the colour after both were reduced from `SUPERSAMPLING` times the
final size, which smooths edges and shading.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from random import Random

from PIL import Image, ImageDraw

from bdam_reid.synthetic.people import Rgb

WIDTH, HEIGHT = 96, 192
SUPERSAMPLING = 4
NEUTRAL = 128

Point = tuple[float, float]


@dataclass(frozen=True)
class Paint:
    """A colour, and the pattern of a second colour on it."""

    rgb: Rgb
    pattern: str = "plain"
    second: Rgb = (255, 255, 255)
    seed: str = ""


def tone(rgb: Rgb, factor: float) -> Rgb:
    """A darker (factor < 1) or lighter colour of the same hue."""
    red, green, blue = (min(255, max(0, round(c * factor))) for c in rgb)
    return red, green, blue


def blend(a: Rgb, b: Rgb, share: float) -> Rgb:
    """The mixture of two colours with a share of the second."""
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


@cache
def points(text: str) -> tuple[Point, ...]:
    """The points of "x,y x,y ...", as an SVG polygon writes them."""
    pairs = (pair.split(",") for pair in text.split())
    return tuple((float(x), float(y)) for x, y in pairs)


def smooth(outline: Sequence[Point], rounds: int = 2) -> list[Point]:
    """A closed curve through a polygon's edges (Chaikin's corner cutting)."""
    for _ in range(rounds):
        following = [*outline[1:], outline[0]]
        outline = [
            p
            for (ax, ay), (bx, by) in zip(outline, following, strict=True)
            for p in (
                (ax * 0.75 + bx * 0.25, ay * 0.75 + by * 0.25),
                (ax * 0.25 + bx * 0.75, ay * 0.25 + by * 0.75),
            )
        ]
    return list(outline)


def mirrored(half: Sequence[Point]) -> list[Point]:
    """A symmetric polygon from its right half, given from top to bottom."""
    return [*half, *((-x, y) for x, y in reversed(half))]


def ellipse(x: float, y: float, rx: float, ry: float, steps: int = 16) -> list[Point]:
    """An ellipse as a polygon."""
    turns = [2 * math.pi * i / steps for i in range(steps)]
    return [(x + rx * math.cos(t), y + ry * math.sin(t)) for t in turns]


def capsule(a: Point, b: Point, ra: float, rb: float) -> list[Point]:
    """The outline of two discs of radii ra and rb, joined."""
    angle = math.atan2(b[1] - a[1], b[0] - a[0])
    arc = [math.pi * (0.5 + i / 6) for i in range(7)]
    start = [(a[0] + ra * math.cos(angle + t), a[1] + ra * math.sin(angle + t)) for t in arc]
    end = [(b[0] + rb * math.cos(angle + t + math.pi), b[1] + rb * math.sin(angle + t + math.pi)) for t in arc]
    return start + end


class Painter:
    """Draws in body units: (0, 0) is the crown of an upright person, (0, 1) the floor below, x grows to
    where the person faces.

    A stooped person is drawn with the same coordinates: the painter bends everything above the hip.
    """

    hip = 0.48

    def __init__(self, *, centre: float, top: float, unit: float, facing: int, lean: float, drop: float, light: int):
        size = (WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING)
        self.colour = Image.new("RGBA", size)
        self.light = Image.new("L", size, NEUTRAL)
        self._colour, self._light = ImageDraw.Draw(self.colour), ImageDraw.Draw(self.light)
        self._centre, self._top, self.unit = centre, top, unit
        self._facing, self._lean, self._drop = facing, lean, drop
        self._toward_light = light * facing

    def place(self, x: float, y: float) -> Point:
        """The pixel of a point in body units."""
        bend = max(0.0, (self.hip - y) / self.hip) ** 1.5
        return (
            self._centre + self._facing * (x + self._lean * bend) * self.unit,
            self._top + (y + self._drop * bend) * self.unit,
        )

    def _polygon(self, outline: Sequence[Point]) -> list[Point]:
        return [self.place(x, y) for x, y in outline]

    def shape(self, outline: Sequence[Point], paint: Paint | Rgb, *, relief: float = 0.14, depth: float = 1.0) -> None:
        """Fill a closed polygon; `relief` is the share of its size that turns away from the viewer, `depth`
        how dark that gets.
        """
        self.fill([outline], paint)
        edge, face = round(NEUTRAL * (1 - 0.3 * depth)), round(NEUTRAL * (1 + 0.04 * depth))
        self._light.polygon(self._polygon(outline), fill=edge)
        xs, ys = [p[0] for p in outline], [p[1] for p in outline]
        cx, cy = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
        shift = self._toward_light * relief * 0.35 * (max(xs) - min(xs)) / 2
        inner = [(cx + (x - cx) * (1 - relief) + shift, cy + (y - cy) * (1 - relief * 0.4)) for x, y in outline]
        self._light.polygon(self._polygon(inner), fill=face)

    def limb(self, path: Sequence[Point], radii: Sequence[float], paint: Paint | Rgb, *, depth: float = 1.0) -> None:
        """Fill a chain of tapered capsules, rounded by the light."""
        self.fill(self._chain(path, radii), paint)
        bands = ((1.0, 0.0, 1 - 0.34 * depth), (0.74, 0.16, 1.0), (0.34, 0.34, 1 + 0.08 * depth))
        for share, offset, value in bands:
            shift = [self._toward_light * offset * r for r in radii]
            moved = [(x + s, y) for (x, y), s in zip(path, shift, strict=True)]
            for part in self._chain(moved, [r * share for r in radii]):
                self._light.polygon(self._polygon(part), fill=round(NEUTRAL * value))

    @staticmethod
    def _chain(path: Sequence[Point], radii: Sequence[float]) -> list[list[Point]]:
        joints = list(zip(path, radii, strict=True))
        return [capsule(a, b, ra, rb) for (a, ra), (b, rb) in pairwise(joints)]

    def line(self, path: Sequence[Point], rgb: Rgb, width: float) -> None:
        """A line of colour; `width` in body units."""
        pixels = max(1, round(width * self.unit))
        self._colour.line(self._polygon(path), fill=(*rgb, 255), width=pixels, joint="curve")

    def crease(self, path: Sequence[Point], value: float, width: float) -> None:
        """A fold or strand: a line of light (value > 1) or shade on whatever is there."""
        self._light.line(self._polygon(path), fill=round(NEUTRAL * value), width=max(1, round(width * self.unit)))

    def fill(self, polygons: Sequence[Sequence[Point]], paint: Paint | Rgb) -> None:
        """Fill polygons with a colour or a fabric, without relief."""
        outlines = [self._polygon(polygon) for polygon in polygons]
        if not isinstance(paint, Paint) or paint.pattern == "plain":
            rgb = paint.rgb if isinstance(paint, Paint) else paint
            for outline in outlines:
                self._colour.polygon(outline, fill=(*rgb, 255))
            return
        box = self._bounds(outlines)
        if box[2] <= box[0] or box[3] <= box[1]:
            return
        mask = Image.new("L", (box[2] - box[0], box[3] - box[1]))
        stencil = ImageDraw.Draw(mask)
        for outline in outlines:
            stencil.polygon([(x - box[0], y - box[1]) for x, y in outline], fill=255)
        self.colour.paste(self._fabric(paint, box), box[:2], mask)

    def _bounds(self, outlines: Sequence[Sequence[Point]]) -> tuple[int, int, int, int]:
        xs, ys = [x for o in outlines for x, _ in o], [y for o in outlines for _, y in o]
        width, height = self.colour.size
        return (
            max(0, int(min(xs))),
            max(0, int(min(ys))),
            min(width, int(max(xs)) + 2),
            min(height, int(max(ys)) + 2),
        )

    def _fabric(self, paint: Paint, box: tuple[int, int, int, int]) -> Image.Image:
        """A cut of the pattern for a box of the canvas, so that neighbouring parts of one garment match."""
        x0, y0, x1, y1 = box
        cloth = Image.new("RGBA", (x1 - x0, y1 - y0), (*paint.rgb, 255))
        draw, second = ImageDraw.Draw(cloth), (*paint.second, 255)
        step = 0.042 * self.unit
        columns = [i * step for i in range(int(x0 / step) - 1, int(x1 / step) + 2)]
        rows = [i * step for i in range(int(y0 / step) - 1, int(y1 / step) + 2)]
        if paint.pattern == "striped":
            for y in rows:
                draw.rectangle((0, y - y0, x1 - x0, y - y0 + 0.42 * step), fill=second)
        elif paint.pattern == "checked":
            between = (*blend(paint.rgb, paint.second, 0.5), 255)
            bars = [(0, y - y0, x1 - x0, y - y0 + 0.4 * step) for y in rows]
            posts = [(x - x0, 0, x - x0 + 0.4 * step, y1 - y0) for x in columns]
            for band in bars + posts:
                draw.rectangle(band, fill=between)
            for x in columns:
                for y in rows:
                    draw.rectangle((x - x0, y - y0, x - x0 + 0.4 * step, y - y0 + 0.4 * step), fill=second)
        elif paint.pattern == "dotted":
            radius = 0.26 * step
            for i, y in enumerate(rows):
                for x in columns:
                    left, top = x - x0 + (i % 2) * step / 2, y - y0
                    draw.ellipse((left, top, left + 2 * radius, top + 2 * radius), fill=second)
        elif paint.pattern == "floral":
            self._flowers(draw, paint, box, step)
        return cloth

    @staticmethod
    def _flowers(draw: ImageDraw.ImageDraw, paint: Paint, box: tuple[int, int, int, int], step: float) -> None:
        rng = Random(paint.seed)
        leaf = blend(paint.second, (40, 120, 60), 0.6)
        for _ in range(420):
            x, y = (
                rng.uniform(0, WIDTH * SUPERSAMPLING) - box[0],
                rng.uniform(0, HEIGHT * SUPERSAMPLING) - box[1],
            )
            size = step * rng.uniform(0.22, 0.4)
            rgb = paint.second if rng.random() < 0.75 else leaf
            if not (-size < x < box[2] - box[0] + size and -size < y < box[3] - box[1] + size):
                continue
            draw.ellipse((x - size, y - size, x + size, y + size), fill=(*rgb, 255))
            draw.ellipse((x - size / 3, y - size / 3, x + size / 3, y + size / 3), fill=(*tone(paint.rgb, 0.9), 255))
