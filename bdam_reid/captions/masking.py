"""Takes the content out of a caption, so that what is left is its style (icme III-C, long 3.3).

The drafts have a multimodal model replace entities and attributes by general words. Here rules do, without any model:
what is said of the person, of clothes and of the body becomes "person", "garment" and "body". The words between them
stay, with their order and their marks, which is how it was said.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from bdam_reid.captions.splitter import WORD, Kind, word_kinds, word_set

COLOURS = word_set(
    "black white grey gray red blue green yellow brown pink purple orange beige tan cream navy teal maroon khaki olive "
    "turquoise gold golden silver burgundy violet lilac mustard crimson scarlet indigo ivory charcoal camel denim "
    "dark light bright pale colourful colorful multicoloured multicolored"
)
"""Words of a colour, a shade among them."""
_ATTRIBUTES = COLOURS | word_set(
    "long small big medium thick thin tight loose plain wavy curly straight wide narrow patterned one two three four "
    "blond fair ginger auburn"
)
# How something is said, although it may stand before a noun.
_MANNER = word_set(
    "very quite rather really somewhat slightly like probably possibly perhaps maybe also there shown seen visible "
    "please find look image picture photo shows not no some something someone what"
)
_SUBSTITUTES = {Kind.IDENTITY: "person", Kind.TRAIT: "person", Kind.CLOTHING: "garment", Kind.BODY: "body"}
_PRONOUNS = {"an": "a", **dict.fromkeys(("he", "she"), "someone"), **dict.fromkeys(("his", "her", "its"), "their")}
_SENTENCE = re.compile(r"([.;!?\n]+)")


def mask(caption: str) -> str:
    """A caption with "person", "garment" and "body" for what it says of them, in lower case; the words that say it one
    way or another stay. "An old man wearing blue jeans" is "a person wearing garment"."""
    pieces = _SENTENCE.split(caption)
    masked = (_masked(piece) if at % 2 == 0 else piece.strip()[:1] for at, piece in enumerate(pieces))
    return re.sub(r" ([,:.;!?])", r"\1", " ".join(filter(None, masked)))


def _masked(sentence: str) -> str:
    words = [word.lower() for word in WORD.findall(sentence)]
    kept: list[str] = []
    for word, substitute in zip(words, _substitutes(words), strict=True):
        if not substitute:
            kept.append(_PRONOUNS.get(word, word))
        elif kept[-1:] != [substitute]:
            kept.append(substitute)
    return " ".join(kept)


def _substitutes(words: Sequence[str]) -> list[str]:
    """What stands for each word, or "" where the word stays."""
    substitutes = [""] * len(words)
    following = ""
    for at, kind in reversed(list(enumerate(word_kinds(words)))):
        if kind in _SUBSTITUTES and not (kind in (Kind.TRAIT, Kind.BODY) and following):
            following = _SUBSTITUTES[kind]
        elif kind not in (Kind.OTHER, Kind.TRAIT, Kind.BODY) or _is_manner(words[at]):
            following = ""
        elif not following and words[at] in _ATTRIBUTES:
            # "His hair is long and black" has no noun behind its attributes.
            substitutes[at] = "so"
        substitutes[at] = following or substitutes[at]
    return substitutes


def _is_manner(word: str) -> bool:
    return word in _MANNER or word.endswith(("ing", "ly"))
