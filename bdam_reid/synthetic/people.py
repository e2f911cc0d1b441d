"""Who walks past: persons, their outfits and the shots taken of them.

Every value is drawn from `random.Random` with a string seed, whose streams do not depend on the platform.
What is said about a person in words (`sentences.py`), what is drawn (`drawing.py`) and what is written as
ground truth come from the same fields.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

Rgb = tuple[int, int, int]

COLOURS: dict[str, Rgb] = {
    "black": (34, 34, 38),
    "white": (240, 240, 236),
    "gray": (138, 140, 144),
    "red": (204, 32, 38),
    "burgundy": (112, 24, 44),
    "orange": (236, 122, 30),
    "yellow": (240, 204, 52),
    "green": (44, 146, 72),
    "olive": (108, 112, 58),
    "teal": (16, 136, 142),
    "light blue": (146, 192, 232),
    "blue": (38, 88, 196),
    "navy": (26, 36, 84),
    "purple": (116, 54, 158),
    "pink": (240, 144, 176),
    "beige": (218, 198, 164),
    "brown": (116, 74, 44),
}
SKIN: dict[str, Rgb] = {
    "light": (244, 208, 184),
    "tan": (212, 164, 122),
    "brown": (156, 108, 74),
    "dark": (94, 64, 48),
}
HAIR: dict[str, Rgb] = {
    "black": (30, 26, 26),
    "brown": (98, 62, 36),
    "blond": (228, 192, 110),
    "red": (178, 78, 30),
    "gray": (150, 150, 154),
    "white": (232, 232, 230),
}
LEATHER = ("black", "brown", "beige", "burgundy")
VIEWPOINTS = ("front", "back", "left", "right")
CAMERAS = 6

# Sleeves of everything that covers the upper body: "none", "short" or "long".
_LONG = ("shirt", "blouse", "sweater", "hoodie", "jacket", "denim jacket", "leather jacket", "puffer jacket")
SLEEVES = {
    **{"tank top": "none", "t-shirt": "short", "polo shirt": "short", "dress": "short"},
    **dict.fromkeys((*_LONG, "blazer", "coat"), "long"),
}
HAND_BAGS = ("handbag", "briefcase", "shopping bag")


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
    """One picture of a person; `occluder` is "none" or what stands in front, `carries` the seed of its
    details.
    """

    camera: int
    viewpoint: str
    occluder: str
    seed: str


def _pick(rng: Random, weights: dict[str, float]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def _vary(rng: Random, rgb: Rgb, amount: int) -> Rgb:
    """Another dye of the same colour: one step of brightness for all channels, and a small one for each."""
    step = rng.uniform(-amount, amount)
    red, green, blue = (min(250, max(8, round(c + step + rng.uniform(-amount, amount) / 3))) for c in rgb)
    return red, green, blue


def sample_person(rng: Random) -> Person:
    """Draw the identity attributes of one person; unlikely combinations (a young person with white hair) do
    not occur.
    """
    sex = rng.choice(("male", "female"))
    age = _pick(rng, {"young": 0.42, "middle-aged": 0.33, "elderly": 0.25})
    skin = _pick(rng, {"light": 0.38, "tan": 0.22, "brown": 0.2, "dark": 0.2})
    if age == "elderly":
        colours = {"gray": 0.5, "white": 0.4, HAIR_OF_SKIN[skin][0]: 0.1}
    else:
        colours = dict(zip(HAIR_OF_SKIN[skin], (0.4, 0.3, 0.15, 0.15), strict=False))
        if age == "middle-aged":
            colours["gray"] = 0.12
    styles = MEN_HAIR if sex == "male" else WOMEN_HAIR
    hairstyle = _pick(rng, {**styles, "bald": 0.35} if sex == "male" and age != "young" else styles)
    hair_colour = _pick(rng, colours)
    height = _pick(rng, {"short": 0.3, "average": 0.4, "tall": 0.3})
    low, high = {"short": (0.74, 0.78), "average": (0.82, 0.86), "tall": (0.90, 0.94)}[height]
    beards = {"none": 0.55, "full": 0.3, "moustache": 0.15} if sex == "male" else {"none": 1.0}
    return Person(
        sex=sex,
        age=age,
        build=_pick(rng, {"slim": 0.34, "average": 0.34, "heavy": 0.32}),
        height=height,
        skin=skin,
        hair_colour=hair_colour,
        hairstyle=hairstyle,
        posture=_pick(rng, {"stooped": 0.45 if age == "elderly" else 0.12, "upright": 0.7}),
        glasses=rng.random() < 0.32,
        beard=_pick(rng, beards),
        stature=rng.uniform(low, high) - (0.015 if sex == "female" else 0.0),
        skin_rgb=_vary(rng, SKIN[skin], 8),
        hair_rgb=_vary(rng, HAIR[hair_colour], 8),
    )


HAIR_OF_SKIN = {
    "light": ("brown", "blond", "red", "black"),
    "tan": ("black", "brown", "blond"),
    "brown": ("black", "brown"),
    "dark": ("black", "brown"),
}
MEN_HAIR = {
    "short": 0.42,
    "cropped": 0.2,
    "curly": 0.16,
    "shoulder-length": 0.07,
    "ponytail": 0.06,
    "bald": 0.09,
}
WOMEN_HAIR = {
    "long": 0.24,
    "shoulder-length": 0.2,
    "bob": 0.14,
    "ponytail": 0.16,
    "bun": 0.12,
    "curly": 0.08,
    "short": 0.06,
}

_WARM_TOPS = {"t-shirt": 0.4, "polo shirt": 0.15, "shirt": 0.25, "tank top": 0.2}
_COLD_TOPS = {"sweater": 0.34, "hoodie": 0.28, "shirt": 0.22, "t-shirt": 0.16}
_OUTER = {
    "jacket": 0.28,
    "puffer jacket": 0.16,
    "coat": 0.24,
    "blazer": 0.12,
    "denim jacket": 0.1,
    "leather jacket": 0.1,
}
_PATTERNS = {"plain": 0.56, "striped": 0.15, "checked": 0.11, "dotted": 0.06, "printed": 0.12}
_LOWER_COLOURS = {
    "jeans": ("blue", "navy", "light blue", "black", "gray"),
    "trousers": ("black", "gray", "navy", "beige", "brown", "olive", "white", "burgundy"),
    "leggings": ("black", "gray", "purple", "navy"),
    "shorts": ("beige", "black", "blue", "olive", "gray", "white", "red", "navy"),
}
_OUTER_COLOURS = {
    "denim jacket": ("blue", "light blue"),
    "leather jacket": ("black", "brown"),
    "blazer": ("black", "gray", "navy", "beige", "brown", "burgundy"),
}
_SHOE_COLOURS = {
    "sneakers": ("white", "black", "gray", "red", "blue", "green", "pink"),
    "leather shoes": ("black", "brown"),
    "boots": ("black", "brown", "beige"),
    "high heels": ("black", "red", "beige"),
    "sandals": ("brown", "black", "white"),
}


def _item(rng: Random, kind: str, colours: tuple[str, ...] = tuple(COLOURS)) -> Item:
    colour = rng.choice(colours)
    return Item(kind, colour, _vary(rng, COLOURS[colour], 10))


def _patterned(rng: Random, item: Item, patterns: dict[str, float]) -> Item:
    pattern = _pick(rng, patterns)
    if pattern == "plain":
        return item
    # The two colours of a pattern must be far enough apart to be told at a glance.
    others = [
        c
        for c in ("white", "black", "red", "yellow", "navy", "light blue")
        if _contrast(COLOURS[c], item.rgb) > 180
    ]
    return replace(item, pattern=pattern, second=rng.choice(others))


def _contrast(a: Rgb, b: Rgb) -> int:
    return sum(abs(x - y) for x, y in zip(a, b, strict=True))


def _sample_upper(rng: Random, female: bool, warm: bool) -> Item:
    tops = dict(_WARM_TOPS if warm else _COLD_TOPS)
    if female:
        tops |= {"dress": 0.3 if warm else 0.12, "blouse": 0.2}
    kind = _pick(rng, tops)
    patterns = dict(_PATTERNS)
    if kind in ("shirt", "polo shirt", "blouse", "dress"):
        patterns.pop("printed")
    if female and kind in ("dress", "blouse"):
        patterns["floral"] = 0.2
    return _patterned(rng, _item(rng, kind), patterns)


def _sample_lower(rng: Random, female: bool, warm: bool, upper: Item) -> Item:
    kinds = {"jeans": 0.36, "trousers": 0.36, "shorts": 0.28 if warm else 0.02}
    if female:
        kinds |= {"skirt": 0.24, "long skirt": 0.12, "leggings": 0.14}
    kind = _pick(rng, kinds)
    # One garment with a pattern is enough, and a lower one in the colour of the upper would read as one
    # garment.
    item = _item(rng, kind, tuple(c for c in _LOWER_COLOURS.get(kind, tuple(COLOURS)) if c != upper.colour))
    if "skirt" in kind and upper.pattern == "plain":
        return _patterned(rng, item, {"plain": 0.5, "checked": 0.25, "floral": 0.25})
    return item


def sample_outfit(rng: Random, person: Person) -> Outfit:
    """Draw one outfit that fits the weather (warm or cold) and the person's sex."""
    female, warm = person.sex == "female", rng.random() < 0.5
    upper = _sample_upper(rng, female, warm)
    lower = None if upper.kind == "dress" else _sample_lower(rng, female, warm, upper)
    outer = None
    if rng.random() < (0.12 if warm else 0.68):
        kind = _pick(rng, _OUTER)
        outer = _item(rng, kind, _OUTER_COLOURS.get(kind, tuple(COLOURS)))
    shoes = {"sneakers": 0.5, "leather shoes": 0.2, "boots": 0.02 if warm else 0.3}
    shoes |= {"high heels": 0.18} if female else {}
    shoes |= {"sandals": 0.18} if warm else {}
    shoe = _pick(rng, shoes)
    bags = {"backpack": 0.4, "crossbody bag": 0.16, "shoulder bag": 0.16, "shopping bag": 0.1}
    bags |= {"handbag": 0.24} if female else {"briefcase": 0.1}
    bag = _pick(rng, bags)
    hat = _pick(rng, {"cap": 0.6, "sun hat": 0.4 if female else 0.0} if warm else {"beanie": 0.7, "cap": 0.3})
    return Outfit(
        upper=upper,
        lower=lower,
        outer=outer,
        shoes=_item(rng, shoe, _SHOE_COLOURS[shoe]),
        bag=_item(rng, bag, LEATHER if bag in ("handbag", "briefcase") else tuple(COLOURS))
        if rng.random() < 0.55
        else None,
        bag_side=rng.choice(("left", "right")),
        hat=_item(rng, hat) if rng.random() < 0.18 else None,
        scarf=_item(rng, "scarf") if not warm and rng.random() < 0.2 else None,
    )


def differs(a: Outfit, b: Outfit) -> bool:
    """Whether nothing of one outfit can be mistaken for the other: no item of one kind and colour, no same
    colour above or below.
    """
    worn = [{(item.kind, item.colour) for item in outfit.items().values()} for outfit in (a, b)]
    above, below = ((a.outer or a.upper).colour, (b.outer or b.upper).colour), (a.lower, b.lower)
    same_below = below[0] is not None and below[1] is not None and below[0].colour == below[1].colour
    return not worn[0] & worn[1] and above[0] != above[1] and not same_below


def sample_wardrobe(rng: Random, person: Person, outfits: int) -> tuple[Outfit, ...]:
    """Draw outfits of which every two differ in the sense of `differs`."""
    wardrobe: list[Outfit] = []
    while len(wardrobe) < outfits:
        outfit = sample_outfit(rng, person)
        if all(differs(outfit, other) for other in wardrobe):
            wardrobe.append(outfit)
    return tuple(wardrobe)


def sample_shots(rng: Random, count: int, seed: str) -> tuple[Shot, ...]:
    """Draw shots of one outfit from different cameras, and viewpoints that repeat only after all four were
    seen.
    """
    cameras = rng.sample(range(CAMERAS), min(count, CAMERAS))
    viewpoints = rng.sample(VIEWPOINTS, len(VIEWPOINTS))
    return tuple(
        Shot(
            camera=cameras[i % len(cameras)],
            viewpoint=viewpoints[i % len(viewpoints)],
            occluder=_pick(rng, {"none": 0.84, "low": 0.08, "pole": 0.08}),
            seed=f"{seed}/{i}",
        )
        for i in range(count)
    )


def visible_items(outfit: Outfit, shot: Shot) -> dict[str, Item]:
    """The items that can be seen in a shot: what is open in front, behind the body or behind an obstacle is
    left out.
    """
    seen = outfit.items()
    if outfit.outer is not None and shot.viewpoint != "front":
        del seen["upper"]
        # A dress still shows below every jacket.
        if outfit.upper.kind == "dress":
            seen["upper"] = outfit.upper
    if shot.occluder == "low":
        del seen["shoes"]
    if outfit.bag is not None and not bag_visible(outfit, shot.viewpoint):
        del seen["bag"]
    return seen


def bag_visible(outfit: Outfit, viewpoint: str) -> bool:
    """A backpack shows from everywhere, any other bag from everywhere but the far side."""
    if outfit.bag is None:
        return False
    return outfit.bag.kind == "backpack" or viewpoint in ("front", "back") or viewpoint == outfit.bag_side
