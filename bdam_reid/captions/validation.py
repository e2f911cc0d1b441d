"""What may be wrong with a text that a multimodal model wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from bdam_reid.captions.masking import COLOURS
from bdam_reid.captions.prompts import Part
from bdam_reid.captions.splitter import WORD, Kind, word_kinds, word_set

SHORTEST, LONGEST = 8, 130
"""Words of a text."""
_LEFTOVERS = re.compile(
    r"\b(?:(?:the|this) (?:image|picture|photo|photograph)|in the (?:image|picture|photo)|as an ai|i(?:'m| am) sorry"
    r"|i (?:cannot|can't)|unable to|language model|not (?:visible|specified|clear)|unknown|n/a|json|descriptions?"
    r"|here is|garment and garment)\b|\bsure,|```|https?:|[<>{}\[\]*#|\\]",
    re.IGNORECASE,
)
"""What models say beside a description, and what is left of the prompt."""
_FENCED = re.compile(r"```(?:json)?\s(.*)```", re.DOTALL)
_NEUTRAL = word_set("person individual pedestrian figure features headed face body weight height glasses")
"""What the splitter takes for words of a person and a text on clothing may have."""
_AMBIGUOUS = word_set("top tops case layer layers lace checks spots print design soles cap")
"""What the splitter takes for words of clothing and a text on identity may have."""


_COVERAGE: dict[Part, dict[str, frozenset[str]]] = {
    "identity": {
        "sex": word_set("man woman male female boy girl guy lady gentleman masculine feminine lad fellow chap"),
        "age": word_set(
            "young younger old older elderly aged middle-aged adult teenage teenager teen child kid senior youthful "
            "mature twenties thirties forties fifties sixties seventies eighties boy girl lady toddler"
        ),
        "build": word_set(
            "slim thin slender skinny lean lanky fat chubby plump stout stocky heavy heavyset overweight athletic "
            "muscular burly large petite build built tall short height stature average medium"
        ),
        "hair or skin": word_set(
            "hair haired bald hairstyle ponytail bun braid braids bob curls skin skinned complexion beard bearded "
            "moustache mustache glasses brunette blonde"
        ),
    },
    "clothing": {
        "an upper garment": word_set(
            "shirt t-shirt tshirt tee polo blouse top tank vest sweater sweatshirt pullover jumper cardigan hoodie "
            "hoody jacket coat overcoat raincoat parka blazer suit uniform windbreaker dress gown robe jumpsuit "
            "overalls tunic jersey"
        ),
        "a lower garment": word_set(
            "skirt pants trousers slacks jeans leggings tights shorts capris joggers sweatpants chinos dress gown robe "
            "jumpsuit overalls suit uniform coat overcoat"
        ),
        "shoes or accessories": word_set(
            "shoe shoes sneakers trainers boots sandals heels flats loafers slippers footwear hat cap beanie scarf bag "
            "backpack handbag purse tote satchel suitcase umbrella belt tie gloves watch glasses sunglasses socks "
            "phone barefoot briefcase"
        ),
    },
}
_LEAST = {"identity": 2, "clothing": 2}
"""Of these groups a text has words of so many at least: not everything can be seen in every image."""


class Fault(NamedTuple):
    """Something wrong with a text."""

    kind: str
    """Of a few: "form", "cut", "length", "coverage", "other part", "leftover"."""
    what: str
    """In words that follow "this description cannot be used: "."""

    def __str__(self) -> str:
        return self.what


def read_answer(content: str) -> str:
    """The description in an answer, in single spaces; "" if the answer is not of the form that was asked for. A fence
    of Markdown around it, which models like to write, does not count."""
    fenced = _FENCED.fullmatch(content.strip())
    try:
        value = json.loads(fenced.group(1) if fenced else content)
    except (ValueError, RecursionError):
        return ""
    text = value.get("description") if isinstance(value, dict) else None
    return " ".join(text.split()) if isinstance(text, str) else ""


def faults(text: str, part: Part) -> list[Fault]:
    """What is wrong with a text; nothing if it can be trained on."""
    if not text.strip():
        return [Fault("form", 'it is not a JSON object {"description": "..."} with a text in it')]
    return list(_faults(text, part))


def _faults(text: str, part: Part) -> Iterator[Fault]:
    if not text.isprintable():
        yield Fault("form", "it has control characters, line breaks or halves of characters")
    words = [word.lower() for word in WORD.findall(text) if word not in ",:"]
    if not SHORTEST <= len(words) <= LONGEST:
        yield Fault("length", f"it has {len(words)} words, and must have {SHORTEST} to {LONGEST}")
    if leftover := _LEFTOVERS.search(text):
        yield Fault("leftover", f"it says {leftover.group().strip()!r}, which is no description")
    present = _present(words)
    missing = [name for name, group in _COVERAGE[part].items() if not group & present]
    least = _LEAST[part]
    if len(_COVERAGE[part]) - len(missing) < least:
        yield Fault("coverage", f"it lacks {', '.join(missing)}, of which it may lack {len(_COVERAGE[part]) - least}")
    if part == "clothing" and not COLOURS & present:
        yield Fault("coverage", "it names no colour")
    if other := _of_the_other_part(words, part):
        listed = ", ".join(dict.fromkeys(other[:5]))
        about = "clothes" if part == "identity" else "the person and not of the clothes"
        yield Fault("other part", f"it speaks of {about}: {listed}")


def _present(words: list[str]) -> set[str]:
    """The words of a text and the parts of those with hyphens ("dark-haired", "light-blue")."""
    return {*words, *(piece for word in words for piece in word.split("-"))}


def _of_the_other_part(words: list[str], part: Part) -> list[str]:
    kinds = word_kinds(words)
    if part == "identity":
        return [w for w, kind in zip(words, kinds, strict=True) if kind is Kind.CLOTHING and w not in _AMBIGUOUS]
    found = []
    for at, (word, kind) in enumerate(zip(words, kinds, strict=True)):
        if kind is Kind.IDENTITY and word not in _NEUTRAL:
            found.append(word)
        # "A tall person", but not "slim jeans".
        if kind is Kind.TRAIT and kinds[at + 1 : at + 2] == [Kind.IDENTITY]:
            found.append(word)
    return found
