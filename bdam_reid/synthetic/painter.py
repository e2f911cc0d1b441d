"""A small painter: smooth shapes in colour, and the light that falls on them.

Colour and light are two layers. Shapes fill the colour layer flatly (or with a fabric) and give relief to the light
layer; the light multiplies the colour after both were reduced from `SUPERSAMPLING` times the final size, which smooths
edges and shading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image, ImageDraw

from bdam_reid.synthetic.fabric import Paint, fabric
from bdam_reid.synthetic.people import Rgb
from bdam_reid.synthetic.shapes import Outline, Point, capsule, placed

WIDTH, HEIGHT = 96, 192
SUPERSAMPLING = 4
NEUTRAL = 128
HIP = 0.48
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

    A stooped person is drawn with the same coordinates: the painter bends everything above the hip.
    """

    def __init__(self, stance: Stance):
        size = (WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING)
        self.colour, self.light = Image.new("RGBA", size), Image.new("L", size, NEUTRAL)
        self._colour, self._light = ImageDraw.Draw(self.colour), ImageDraw.Draw(self.light)
        self._stance = stance
        self._centre, self._top = stance.centre * SUPERSAMPLING, stance.top * SUPERSAMPLING
        self._unit = stance.height * SUPERSAMPLING
        self._toward_light = stance.light * stance.facing

    def shape(self, outline: Outline, paint: Paint | Rgb, *, relief: float = 0.14, depth: float = 1.0) -> None:
        """Fill a closed polygon; `relief` is the share of its size that turns away from the viewer, `depth` how dark
        that gets.
        """
        self.fill(outline, paint)
        xs, ys = zip(*outline, strict=True)
        x, y = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
        shift = self._toward_light * relief * 0.35 * (max(xs) - min(xs)) / 2
        face = [(x + (px - x) * (1 - relief) + shift, y + (py - y) * (1 - relief * 0.4)) for px, py in outline]
        self._shine(outline, 1 - 0.3 * depth)
        self._shine(face, 1 + 0.04 * depth)

    def limb(self, path: Outline, radii: Sequence[float], paint: Paint | Rgb) -> None:
        """Fill a chain of tapered capsules, rounded by the light."""
        self._fill(_chain(path, radii), paint)
        for share, offset, change in _ROUNDING:
            shifted = [(x + self._toward_light * offset * r, y) for (x, y), r in zip(path, radii, strict=True)]
            for part in _chain(shifted, [r * share for r in radii]):
                self._shine(part, 1 + change)

    def fill(self, outline: Outline, paint: Paint | Rgb) -> None:
        """Fill a polygon with a colour or a fabric, without relief."""
        self._fill([outline], paint)

    def line(self, path: Outline, rgb: Rgb, width: float) -> None:
        """A line of colour."""
        self._colour.line(self._pixels(path), fill=rgb, width=self._thickness(width), joint="curve")

    def crease(self, path: Outline, value: float, width: float) -> None:
        """A fold or strand: a line of light (value > 1) or shade on whatever is there."""
        self._light.line(self._pixels(path), fill=round(NEUTRAL * value), width=self._thickness(width))

    def _shine(self, outline: Outline, value: float) -> None:
        self._light.polygon(self._pixels(outline), fill=round(NEUTRAL * value))

    def _fill(self, outlines: Sequence[Outline], paint: Paint | Rgb) -> None:
        polygons = [self._pixels(outline) for outline in outlines]
        if isinstance(paint, Paint) and paint.pattern != "plain":
            self._fill_with_fabric(polygons, paint)
            return
        rgb = paint.rgb if isinstance(paint, Paint) else paint
        for polygon in polygons:
            self._colour.polygon(polygon, fill=rgb)

    def _fill_with_fabric(self, polygons: Sequence[Outline], paint: Paint) -> None:
        x0, y0, x1, y1 = box = self._bounds([point for polygon in polygons for point in polygon])
        if x1 <= x0 or y1 <= y0:
            return
        mask = Image.new("L", (x1 - x0, y1 - y0))
        for polygon in polygons:
            ImageDraw.Draw(mask).polygon(placed(polygon, -x0, -y0), fill=255)
        self.colour.paste(fabric(paint, box, self._unit, self.colour.size), (x0, y0), mask)

    def _bounds(self, points: Outline) -> tuple[int, int, int, int]:
        xs, ys = zip(*points, strict=True)
        width, height = self.colour.size
        return max(0, int(min(xs))), max(0, int(min(ys))), min(width, int(max(xs)) + 2), min(height, int(max(ys)) + 2)

    def _pixels(self, outline: Outline) -> list[Point]:
        return [self._pixel(x, y) for x, y in outline]

    def _pixel(self, x: float, y: float) -> Point:
        stance, bend = self._stance, max(0.0, (HIP - y) / HIP) ** 1.5
        return (
            self._centre + stance.facing * (x + stance.lean * bend) * self._unit,
            self._top + (y + stance.drop * bend) * self._unit,
        )

    def _thickness(self, width: float) -> int:
        return max(1, round(width * self._unit))


def _chain(path: Outline, radii: Sequence[float]) -> list[list[Point]]:
    joints = pairwise(zip(path, radii, strict=True))
    return [capsule(a, b, ra, rb) for (a, ra), (b, rb) in joints]
