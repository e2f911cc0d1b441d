"""What can be seen of a person in one shot: the only place that decides it, for captions, texts and ground truth.

A name is seen if its value can be read from the picture: an absent beard is seen from the front and not from behind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from bdam_reid.synthetic.clothes import CUTS
from bdam_reid.synthetic.hair import FALL
from bdam_reid.synthetic.people import Item, Outfit, Person, Shot, bag_visible

Seen = Callable[[Person, Outfit, Shot], bool]

_SHORT_HEMS = ("shorts", "skirt")
_OUTSTANDING = ("ponytail", *FALL)
"""Hair that a hat does not cover, so that its style can be told."""


def visible_traits(person: Person, outfit: Outfit, shot: Shot) -> tuple[str, ...]:
    """The identity attributes that can be seen in a shot."""
    return tuple(name for name, seen in _TRAITS.items() if seen(person, outfit, shot))


def visible_slots(person: Person, outfit: Outfit, shot: Shot) -> tuple[str, ...]:
    """Where items are worn that can be seen in a shot, whether there is one or not."""
    return tuple(name for name, seen in _SLOTS.items() if seen(person, outfit, shot))


def visible_items(person: Person, outfit: Outfit, shot: Shot) -> dict[str, Item]:
    """The items that can be seen in a shot, as they can be seen: what shows below an open jacket is a top of some kind,
    and a print shows on an open chest only.
    """
    slots = visible_slots(person, outfit, shot)
    seen = {name: item for name, item in outfit.items().items() if name in slots}
    if "upper" in seen:
        seen["upper"] = _as_seen(seen["upper"], outfit, shot)
    return seen


def _as_seen(upper: Item, outfit: Outfit, shot: Shot) -> Item:
    if upper.pattern == "printed" and (outfit.outer is not None or shot.viewpoint != "front"):
        upper = replace(upper, pattern="plain", second=None)
    if outfit.outer is not None and upper.kind != "dress":
        upper = replace(upper, kind="top")
    return upper


def _always(person: Person, outfit: Outfit, shot: Shot) -> bool:
    return True


def _face(person: Person, outfit: Outfit, shot: Shot) -> bool:
    return shot.viewpoint != "back"


def _age(person: Person, outfit: Outfit, shot: Shot) -> bool:
    """By the lines of the face; from behind by hair, gray at the temples of the middle-aged, all gray or white of
    the elderly.
    """
    return _face(person, outfit, shot) or _hair_colour(person, outfit, shot)


def _skin(person: Person, outfit: Outfit, shot: Shot) -> bool:
    """From behind hands are too small, but a bald head, bare arms or bare legs are enough."""
    return (
        _face(person, outfit, shot)
        or (person.hairstyle == "bald" and outfit.hat is None)
        or CUTS[(outfit.outer or outfit.upper).kind].sleeve != "long"
        or _bare_legs(outfit, shot)
    )


def _bare_legs(outfit: Outfit, shot: Shot) -> bool:
    bare = outfit.lower is None or outfit.lower.kind in _SHORT_HEMS
    return bare and outfit.shoes.kind != "boots" and shot.occluder != "low"


def _hair_colour(person: Person, outfit: Outfit, shot: Shot) -> bool:
    """Below a hat short hair shows at the nape, curls and long hair on all sides."""
    if person.hairstyle == "bald":
        return False
    if outfit.hat is None or person.hairstyle in (*_OUTSTANDING, "curly"):
        return True
    return person.hairstyle != "cropped" and shot.viewpoint != "front"


def _hairstyle(person: Person, outfit: Outfit, shot: Shot) -> bool:
    return outfit.hat is None or person.hairstyle in _OUTSTANDING


_TRAITS: dict[str, Seen] = {
    "sex": _always,
    "age": _age,
    "build": _always,
    "height": _always,
    "skin": _skin,
    "hair_colour": _hair_colour,
    "hairstyle": _hairstyle,
    "posture": _always,
    "glasses": _face,
    "beard": _face,
}


def _upper(person: Person, outfit: Outfit, shot: Shot) -> bool:
    """A jacket is open in front, and a dress shows below it unless it is a long one."""
    if outfit.outer is None or shot.viewpoint == "front":
        return True
    return outfit.upper.kind == "dress" and not CUTS[outfit.outer.kind].long


def _lower(person: Person, outfit: Outfit, shot: Shot) -> bool:
    """What is shorter than a coat shows in front only, where it is open."""
    if outfit.lower is None or outfit.outer is None or shot.viewpoint == "front":
        return True
    return not (CUTS[outfit.outer.kind].long and outfit.lower.kind in _SHORT_HEMS)


def _shoes(person: Person, outfit: Outfit, shot: Shot) -> bool:
    return shot.occluder != "low"


def _bag(person: Person, outfit: Outfit, shot: Shot) -> bool:
    """From the side a bag may hang on the far side, and no bag cannot be told from that."""
    return shot.viewpoint in ("front", "back") or bag_visible(outfit, shot.viewpoint)


def _scarf(person: Person, outfit: Outfit, shot: Shot) -> bool:
    """Loose hair falls over it behind."""
    return shot.viewpoint != "back" or person.hairstyle not in FALL


_SLOTS: dict[str, Seen] = {
    "outer": _always,
    "upper": _upper,
    "lower": _lower,
    "shoes": _shoes,
    "bag": _bag,
    "hat": _always,
    "scarf": _scarf,
}
