"""What hangs in a wardrobe: outfits that fit the weather and the person's sex, in colours that go together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from bdam_reid.synthetic.people import COLOURS, Item, Outfit, Person, Rgb, dye, pick

_WARM_TOPS = {"t-shirt": 0.4, "polo shirt": 0.15, "shirt": 0.25, "tank top": 0.2}
_COLD_TOPS = {"sweater": 0.34, "hoodie": 0.28, "shirt": 0.22, "t-shirt": 0.16}
_OUTER = {
    **{"jacket": 0.28, "puffer jacket": 0.16, "coat": 0.24},
    **{"blazer": 0.12, "denim jacket": 0.1, "leather jacket": 0.1},
}
_PATTERNS = {"plain": 0.56, "striped": 0.15, "checked": 0.11, "dotted": 0.06, "printed": 0.12}
# Kinds that come in some colours only; everything else comes in all.
_DYES = {
    "jeans": ("blue", "navy", "light blue", "black", "gray"),
    "trousers": ("black", "gray", "navy", "beige", "brown", "olive", "white", "burgundy"),
    "leggings": ("black", "gray", "purple", "navy"),
    "shorts": ("beige", "black", "blue", "olive", "gray", "white", "red", "navy"),
    "denim jacket": ("blue", "light blue"),
    "leather jacket": ("black", "brown"),
    "blazer": ("black", "gray", "navy", "beige", "brown", "burgundy"),
    "sneakers": ("white", "black", "gray", "red", "blue", "green", "pink"),
    "leather shoes": ("black", "brown"),
    "boots": ("black", "brown", "beige"),
    "high heels": ("black", "red", "beige"),
    "sandals": ("brown", "black", "white"),
    **dict.fromkeys(("handbag", "briefcase"), ("black", "brown", "beige", "burgundy")),
}


@dataclass(frozen=True)
class Season:
    """How people dress: the share of warm days, and the colours of what comes in all colours."""

    warm: float
    colours: tuple[str, ...] = tuple(COLOURS)


ALL_YEAR = Season(0.5)


def sample_outfit(rng: Random, person: Person, season: Season = ALL_YEAR) -> Outfit:
    """Draw one outfit that fits the weather (warm or cold) and the person's sex."""

    def item(kind: str) -> Item:
        return _item(rng, kind, _DYES.get(kind, season.colours))

    female, warm = person.sex == "female", rng.random() < season.warm
    upper = _sample_upper(rng, female, warm, season)
    lower = None if upper.kind == "dress" else _sample_lower(rng, female, warm, upper, season)
    outer = item(pick(rng, _OUTER)) if rng.random() < (0.12 if warm else 0.68) else None
    shoes = {"sneakers": 0.5, "leather shoes": 0.2, "boots": 0.02 if warm else 0.3}
    shoes |= {"high heels": 0.18} if female else {}
    shoes |= {"sandals": 0.18} if warm else {}
    shoe = pick(rng, shoes)
    bags = {"backpack": 0.4, "crossbody bag": 0.16, "shoulder bag": 0.16, "shopping bag": 0.1}
    bag = pick(rng, bags | ({"handbag": 0.24} if female else {"briefcase": 0.1}))
    hat = pick(rng, {"cap": 0.6, "sun hat": 0.4 if female else 0.0} if warm else {"beanie": 0.7, "cap": 0.3})
    return Outfit(
        upper=upper,
        lower=lower,
        outer=outer,
        shoes=item(shoe),
        bag=item(bag) if rng.random() < 0.55 else None,
        bag_side=rng.choice(("left", "right")),
        hat=item(hat) if rng.random() < 0.18 else None,
        scarf=item("scarf") if not warm and rng.random() < 0.2 else None,
    )


def _sample_upper(rng: Random, female: bool, warm: bool, season: Season) -> Item:
    tops = dict(_WARM_TOPS if warm else _COLD_TOPS)
    tops |= {"dress": 0.3 if warm else 0.12, "blouse": 0.2} if female else {}
    kind = pick(rng, tops)
    patterns = dict(_PATTERNS)
    if kind in ("shirt", "polo shirt", "blouse", "dress"):
        del patterns["printed"]
    if kind in ("dress", "blouse"):
        patterns["floral"] = 0.2
    return _patterned(rng, _item(rng, kind, season.colours), patterns)


def _sample_lower(rng: Random, female: bool, warm: bool, upper: Item, season: Season) -> Item:
    kinds = {"jeans": 0.36, "trousers": 0.36, "shorts": 0.28 if warm else 0.02}
    kinds |= {"skirt": 0.24, "long skirt": 0.12, "leggings": 0.14} if female else {}
    kind = pick(rng, kinds)
    # A lower garment in the colour of the upper would read as one garment, and one with a pattern is enough.
    item = _item(rng, kind, tuple(c for c in _DYES.get(kind, season.colours) if c != upper.colour))
    if "skirt" in kind and upper.pattern == "plain":
        return _patterned(rng, item, {"plain": 0.5, "checked": 0.25, "floral": 0.25})
    return item


def _item(rng: Random, kind: str, colours: tuple[str, ...]) -> Item:
    colour = rng.choice(colours)
    return Item(kind, colour, dye(rng, COLOURS[colour], 10))


def _patterned(rng: Random, item: Item, patterns: dict[str, float]) -> Item:
    pattern = pick(rng, patterns)
    if pattern == "plain":
        return item
    # The two colours of a pattern must be far enough apart to be told at a glance.
    candidates = ("white", "black", "red", "yellow", "navy", "light blue")
    others = [c for c in candidates if _contrast(COLOURS[c], item.rgb) > 180]
    return replace(item, pattern=pattern, second=rng.choice(others))


def _contrast(a: Rgb, b: Rgb) -> int:
    return sum(abs(x - y) for x, y in zip(a, b, strict=True))


def differs(a: Outfit, b: Outfit) -> bool:
    """Whether nothing of one outfit can be mistaken for the other: no item of one kind and colour, no same colour above
    or below the waist.
    """
    worn = [{(item.kind, item.colour) for item in outfit.items().values()} for outfit in (a, b)]
    same_above = (a.outer or a.upper).colour == (b.outer or b.upper).colour
    same_below = a.lower is not None and b.lower is not None and a.lower.colour == b.lower.colour
    return not (worn[0] & worn[1] or same_above or same_below)


def sample_wardrobe(rng: Random, person: Person, outfits: int) -> tuple[Outfit, ...]:
    """Draw outfits of which every two differ in the sense of `differs`."""
    wardrobe: list[Outfit] = []
    while len(wardrobe) < outfits:
        outfit = sample_outfit(rng, person)
        if all(differs(outfit, other) for other in wardrobe):
            wardrobe.append(outfit)
    return tuple(wardrobe)
