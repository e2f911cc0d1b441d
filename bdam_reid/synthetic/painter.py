"""A small painter: smooth shapes in colour, and the light that falls on them.

Colour and light are two layers. Shapes fill the colour layer flatly (or with a fabric) and give relief to the light
layer; the light multiplies the colour after both were reduced from `SUPERSAMPLING` times the final size, which smooths
edges and shading.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image, ImageDraw

from bdam_reid.synthetic.fabric import Paint, fabric
from bdam_reid.synthetic.people import Rgb
from bdam_reid.synthetic.shapes import Outline, Point, capsule, mirrored, points, smooth

WIDTH, HEIGHT = 96, 192
SUPERSAMPLING = 4
NEUTRAL = 128
_HIP = 0.48
# Light on a limb, from its edge to its middle: the share of the radius, the shift to the light, the change.
_ROUNDING = ((1.0, 0.0, -0.34), (0.74, 0.16, 0.0), (0.34, 0.34, 0.08))


@dataclass(frozen=True)
class Stance:
    """Where a person stands in the picture, in pixels of the final size, and how.

    `facing` and `light` are -1 for left and 1 for right; a stooped person's head leans forward and drops.
    """

    centre: float
    top: float
    height: float
    facing: int
    light: int
    lean: float
    drop: float


class Painter:
    """Draws in body units: (0, 0) is the crown of an upright person, (0, 1) the floor below, x grows to where the
    person faces.

    Outlines are points, or text with the measures of the body. `half` mirrors an outline that gives the right half of a
    shape, `rounds` is how often its corners are cut. A stooped person is drawn with the same coordinates: the painter
    bends everything above the hip.
    """

    def __init__(self, stance: Stance, measures: Mapping[str, float]):
        size = (WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING)
        # Colours with alpha already in them: what is drawn is opaque, so that only reduction mixes them.
        self.colour, self.light = Image.new("RGBa", size), Image.new("L", size, NEUTRAL)
        self._colour, self._light = ImageDraw.Draw(self.colour), ImageDraw.Draw(self.light)
        self._stance, self._unit = stance, stance.height * SUPERSAMPLING
        self._toward_light = stance.light * stance.facing
        self._measures = dict(measures)
        self._origin, self._size, self._side, self._turn = (0.0, 0.0), 1.0, 1, 0.0

    def at(
        self, x: float = 0.0, y: float = 0.0, *, size: float = 1.0, side: int = 1, turn: float = 0.0, **measures: float
    ) -> Painter:
        """A painter on the same picture with its (0, 0) at (x, y) and a unit of `size`, mirrored by a `side` of -1,
        turned, and with more measures.
        """
        other = copy(self)
        other._origin, other._size = self._place(x, y), self._size * size
        other._side, other._turn = self._side * side, self._turn + turn
        other._measures = self._measures | measures
        return other

    def sides(self) -> tuple[Painter, Painter]:
        """Painters of the left and of the right, for what comes in pairs."""
        return self.at(side=-1), self

    def shape(
        self,
        outline: Outline | str,
        paint: Paint | Rgb,
        *,
        half: bool = False,
        rounds: int = 0,
        relief: float = 0.14,
        depth: float = 1.0,
    ) -> None:
        """Fill a closed polygon; `relief` is the share of its size that turns away from the viewer, `depth` how dark
        that gets.
        """
        edge = self._points(outline, half, rounds)
        self._fill([edge], paint)
        xs, ys = zip(*edge, strict=True)
        x, y = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
        shift = self._toward_light * relief * 0.35 * (max(xs) - min(xs)) / 2
        face = [(x + (px - x) * (1 - relief) + shift, y + (py - y) * (1 - relief * 0.4)) for px, py in edge]
        self._shine(edge, 1 - 0.3 * depth)
        self._shine(face, 1 + 0.04 * depth)

    def limb(self, path: Outline | str, radii: Sequence[float], paint: Paint | Rgb) -> None:
        """Fill a chain of tapered capsules, rounded by the light."""
        joints = self._points(path)
        self._fill(_chain(joints, radii), paint)
        for share, offset, change in _ROUNDING:
            shifted = [(x + self._toward_light * offset * r, y) for (x, y), r in zip(joints, radii, strict=True)]
            for part in _chain(shifted, [r * share for r in radii]):
                self._shine(part, 1 + change)

    def fill(self, outline: Outline | str, paint: Paint | Rgb, *, half: bool = False, rounds: int = 0) -> None:
        """Fill a polygon with a colour or a fabric, without relief."""
        self._fill([self._points(outline, half, rounds)], paint)

    def line(self, path: Outline | str, rgb: Rgb, width: float) -> None:
        """A line of colour."""
        self._colour.line(self._pixels(self._points(path)), fill=rgb, width=self._thickness(width), joint="curve")

    def crease(self, path: Outline | str, value: float, width: float) -> None:
        """A fold or strand: a line of light (value > 1) or shade on whatever is there."""
        pixels = self._pixels(self._points(path))
        self._light.line(pixels, fill=round(NEUTRAL * value), width=self._thickness(width))

    def _points(self, outline: Outline | str, half: bool = False, rounds: int = 0) -> list[Point]:
        """The points of an outline in units of the body."""
        if isinstance(outline, str):
            outline = points(outline, self._measures)
        return [self._place(x, y) for x, y in smooth(mirrored(outline) if half else outline, rounds)]

    def _place(self, x: float, y: float) -> Point:
        x, y, sin, cos = self._side * self._size * x, self._size * y, math.sin(self._turn), math.cos(self._turn)
        return self._origin[0] + x * cos - y * sin, self._origin[1] + x * sin + y * cos

    def _pixels(self, outline: Outline) -> list[Point]:
        stance, high = self._stance, self._unit
        left, top, wide = stance.centre * SUPERSAMPLING, stance.top * SUPERSAMPLING, stance.facing * high
        if stance.lean or stance.drop:
            bends = [max(0.0, (_HIP - y) / _HIP) ** 1.5 for _, y in outline]
            outline = [
                (x + stance.lean * bend, y + stance.drop * bend) for (x, y), bend in zip(outline, bends, strict=True)
            ]
        return [(left + x * wide, top + y * high) for x, y in outline]

    def _thickness(self, width: float) -> int:
        return max(1, round(width * self._size * self._unit))

    def _shine(self, outline: Outline, value: float) -> None:
        self._light.polygon(self._pixels(outline), fill=round(NEUTRAL * value))

    def _fill(self, outlines: Sequence[Outline], paint: Paint | Rgb) -> None:
        polygons = [self._pixels(outline) for outline in outlines]
        if isinstance(paint, Paint) and paint.pattern != "plain":
            self._fill_with_fabric(polygons, paint)
            return
        for polygon in polygons:
            self._colour.polygon(polygon, fill=paint.rgb if isinstance(paint, Paint) else paint)

    def _fill_with_fabric(self, polygons: Sequence[Outline], paint: Paint) -> None:
        xs, ys = zip(*(point for polygon in polygons for point in polygon), strict=True)
        width, height = self.colour.size
        x0, y0 = max(0, int(min(xs))), max(0, int(min(ys)))
        x1, y1 = min(width, int(max(xs)) + 2), min(height, int(max(ys)) + 2)
        if x1 <= x0 or y1 <= y0:
            return
        mask = Image.new("L", (x1 - x0, y1 - y0))
        for polygon in polygons:
            ImageDraw.Draw(mask).polygon([(x - x0, y - y0) for x, y in polygon], fill=255)
        self.colour.paste(fabric(paint, (x0, y0, x1, y1), self._unit, self.colour.size), (x0, y0), mask)


def _chain(path: Outline, radii: Sequence[float]) -> list[list[Point]]:
    joints = pairwise(zip(path, radii, strict=True))
    return [capsule(a, b, ra, rb) for (a, ra), (b, rb) in joints]
