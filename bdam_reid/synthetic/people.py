"""Who walks past: persons, what they wear, and the shots taken of them.

Every value is drawn from `random.Random` with a string seed, whose streams do not depend on the platform. The words
(`sentences.py`), the picture (`drawing.py`) and the ground truth come from the same fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from PIL import ImageColor

Rgb = tuple[int, int, int]


def _palette(text: str) -> dict[str, Rgb]:
    """The colours of "name #rrggbb, name #rrggbb, ..."."""
    pairs = (entry.strip().rsplit(" ", 1) for entry in text.split(","))
    return {name: ImageColor.getrgb(code)[:3] for name, code in pairs}


COLOURS = _palette(
    "black #222226, white #f0f0ec, gray #8a8c90, red #cc2026, burgundy #70182c, orange #ec7a1e, yellow #f0cc34, "
    "green #2c9248, olive #6c703a, teal #10888e, light blue #92c0e8, blue #2658c4, navy #1a2454, purple #74369e, "
    "pink #f090b0, beige #dac6a4, brown #744a2c"
)
SKIN = _palette("light #f4d0b8, tan #d4a47a, brown #9c6c4a, dark #5e4030")
HAIR = _palette("black #1e1a1a, brown #623e24, blond #e4c06e, red #b24e1e, gray #96969a, white #e8e8e6")
HAIR_OF_SKIN = {
    "light": ("brown", "blond", "red", "black"),
    "tan": ("black", "brown", "blond"),
    "brown": ("black", "brown"),
    # Brown hair would hardly show on it.
    "dark": ("black",),
}
HAIRSTYLES = {
    "male": {"short": 0.42, "cropped": 0.2, "curly": 0.16, "shoulder-length": 0.07, "ponytail": 0.06, "bald": 0.09},
    "female": {
        **{"long": 0.24, "shoulder-length": 0.2, "bob": 0.14, "ponytail": 0.16},
        **{"bun": 0.12, "curly": 0.08, "short": 0.06},
    },
}
# The body height of each word for it, as a fraction of the frame.
STATURES = {"short": (0.74, 0.78), "average": (0.82, 0.86), "tall": (0.90, 0.94)}
VIEWPOINTS = ("front", "back", "left", "right")


@dataclass(frozen=True)
class Person:
    """What stays when the clothes change. `stature` is the body height as a fraction of the frame."""

    sex: str
    age: str
    build: str
    height: str
    skin: str
    hair_colour: str
    hairstyle: str
    posture: str
    glasses: bool
    beard: str
    stature: float
    skin_rgb: Rgb
    hair_rgb: Rgb


@dataclass(frozen=True)
class Item:
    """One garment, bag or hat; `second` is the other colour of a pattern."""

    kind: str
    colour: str
    rgb: Rgb
    pattern: str = "plain"
    second: str | None = None


@dataclass(frozen=True)
class Outfit:
    """Everything that changes with the clothes. A dress is an `upper` without a `lower`."""

    upper: Item
    lower: Item | None
    shoes: Item
    outer: Item | None = None
    bag: Item | None = None
    bag_side: str = "right"
    hat: Item | None = None
    scarf: Item | None = None

    def items(self) -> dict[str, Item]:
        """The items that are worn, outermost first."""
        names = ("outer", "upper", "lower", "shoes", "bag", "hat", "scarf")
        return {name: item for name in names if (item := getattr(self, name)) is not None}


@dataclass(frozen=True)
class Shot:
    """One picture of a person; `occluder` is "none" or what stands in front, `seed` that of the picture's details."""

    camera: int
    viewpoint: str
    occluder: str
    seed: str


def pick(rng: Random, weights: dict[str, float]) -> str:
    """One of several words, by their weights."""
    return rng.choices(list(weights), list(weights.values()))[0]


def dye(rng: Random, rgb: Rgb, amount: int) -> Rgb:
    """Another dye of the same colour: one step of brightness for all channels, and a small one for each."""
    step = rng.uniform(-amount, amount)
    red, green, blue = (min(250, max(8, round(c + step + rng.uniform(-amount, amount) / 3))) for c in rgb)
    return red, green, blue


def sample_person(rng: Random) -> Person:
    """Draw the identity of one person; unlikely combinations (a young person with white hair) do not occur.

    Hair tells the age: that of the middle-aged turns gray at the temples, that of the elderly has turned.
    """
    sex = rng.choice(("male", "female"))
    age = pick(rng, {"young": 0.42, "middle-aged": 0.33, "elderly": 0.25})
    skin = pick(rng, {"light": 0.38, "tan": 0.22, "brown": 0.2, "dark": 0.2})
    hairstyles = HAIRSTYLES[sex] | ({"bald": 0.35} if sex == "male" and age != "young" else {})
    hairstyle = pick(rng, hairstyles)
    hair_colour = pick(rng, _hair_colours(age, skin))
    height = pick(rng, {"short": 0.3, "average": 0.4, "tall": 0.3})
    return Person(
        sex=sex,
        age=age,
        build=pick(rng, {"slim": 0.34, "average": 0.34, "heavy": 0.32}),
        height=height,
        skin=skin,
        hair_colour=hair_colour,
        hairstyle=hairstyle,
        posture=pick(rng, {"stooped": 0.45 if age == "elderly" else 0.12, "upright": 0.7}),
        glasses=rng.random() < 0.32,
        beard=pick(rng, {"none": 0.55, "full": 0.3, "moustache": 0.15} if sex == "male" else {"none": 1.0}),
        stature=rng.uniform(*STATURES[height]) - (0.015 if sex == "female" else 0.0),
        skin_rgb=dye(rng, SKIN[skin], 8),
        hair_rgb=dye(rng, HAIR[hair_colour], 8),
    )


def _hair_colours(age: str, skin: str) -> dict[str, float]:
    natural = HAIR_OF_SKIN[skin]
    if age == "elderly":
        return {"gray": 0.55, "white": 0.45}
    return dict(zip(natural, (0.35, 0.3, 0.2, 0.15), strict=False))


def sample_shots(rng: Random, count: int, seed: str, cameras: Sequence[int] = range(6)) -> tuple[Shot, ...]:
    """Draw shots of one outfit by different cameras, from viewpoints that repeat only after all four were seen."""
    places = rng.sample(cameras, min(count, len(cameras)))
    viewpoints = rng.sample(VIEWPOINTS, len(VIEWPOINTS))
    return tuple(
        Shot(
            camera=places[i % len(places)],
            viewpoint=viewpoints[i % len(viewpoints)],
            occluder=pick(rng, {"none": 0.84, "low": 0.08, "pole": 0.08}),
            seed=f"{seed}/{i}",
        )
        for i in range(count)
    )


def bag_visible(outfit: Outfit, viewpoint: str) -> bool:
    """A backpack shows from everywhere, any other bag from everywhere but the far side."""
    if outfit.bag is None:
        return False
    return outfit.bag.kind == "backpack" or viewpoint in ("front", "back", outfit.bag_side)
