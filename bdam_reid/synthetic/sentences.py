"""Puts a shot into words: captions in the manner of several annotators, and the identity and clothing texts
of the sidecar.

Only what can be seen in the shot is mentioned, part of it is omitted, nothing false is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from bdam_reid.synthetic.people import Item, Outfit, Person, Shot, visible_items
from bdam_reid.synthetic.vocabulary import (
    AGE_WORDS,
    BEARD_WORDS,
    BUILD_WORDS,
    COLOUR_WORDS,
    GLASSES_WORDS,
    HAIR_COLOUR_WORDS,
    HAIR_PHRASES,
    HEIGHT_WORDS,
    ITEM_WORDS,
    NOUNS,
    PATTERN_PHRASES,
    PLURAL,
    POSTURE_WORDS,
    SKIN_WORDS,
    VIEW_PHRASES,
)

# How often an annotator mentions what can be seen.
_MENTION = {
    **{"age": 0.8, "build": 0.8, "height": 0.8, "skin": 0.4, "posture": 0.75},
    **{"hair": 0.92, "glasses": 0.9, "beard": 0.9},
    **{"outer": 1.0, "upper": 0.95, "lower": 0.97, "shoes": 0.75, "bag": 0.92, "hat": 0.95, "scarf": 0.85},
    "view": 0.25,
}
# Average build, average height and an upright posture are rarely worth a word.
_UNREMARKABLE = 0.12


def write_captions(person: Person, outfit: Outfit, shot: Shot) -> tuple[str, str]:
    """Two captions of one shot by annotators of different styles."""
    rng = Random(f"{shot.seed}/captions")
    first, second = rng.sample(_ANNOTATORS, 2)
    return first(_Observer(person, outfit, shot, rng)), second(_Observer(person, outfit, shot, rng))


def write_sidecar(person: Person, outfit: Outfit, shot: Shot) -> dict[str, str]:
    """Identity and clothing of one shot in two separate texts, with the name of their style."""
    rng = Random(f"{shot.seed}/sidecar")
    observer = _Observer(person, outfit, shot, rng, thorough=True)
    style = rng.choice(tuple(_SIDECAR_STYLES))
    identity, clothing = _SIDECAR_STYLES[style](observer)
    return {"identity": identity, "clothing": clothing, "style": style}


def _join(phrases: Sequence[str]) -> str:
    if len(phrases) < 2:
        return "".join(phrases)
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0].lower() in "aeio" or phrase.startswith("ugly") else f"a {phrase}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


class _Observer:
    """One look at a shot: what is noticed and which words come to mind.

    Attributes:
        adjectives: words before the noun (young, slim, tall).
        traits: noun phrases for "with ..." or "has ...": hair, glasses, beard, skin, posture.
        worn: noun phrases of garments, the outermost first.
        carried: noun phrases of bags.
    """

    def __init__(self, person: Person, outfit: Outfit, shot: Shot, rng: Random, *, thorough: bool = False):
        self.rng, self._thorough = rng, thorough
        self.noun = rng.choice(NOUNS[person.sex])
        self.pronoun, self.possessive = ("he", "his") if person.sex == "male" else ("she", "her")
        self.view = rng.choice(VIEW_PHRASES[shot.viewpoint]) if self._mentions("view") else ""
        self.adjectives = self._adjectives(person)
        self.traits = self._traits(person, outfit, shot)
        seen = {name: item for name, item in visible_items(outfit, shot).items() if self._mentions(name)}
        self.parts = {name: self._describe(item, shot) for name, item in seen.items()}
        self.carried = [f"{self.parts['bag']}{self._where(outfit)}"] if "bag" in self.parts else []
        self.worn = [phrase for name, phrase in self.parts.items() if name != "bag"]

    def _mentions(self, what: str) -> bool:
        # A sidecar leaves out a quarter of what an annotator does, and nobody says where its camera stands.
        chance = _MENTION[what]
        return self.rng.random() < (1 - (1 - chance) / 4 if self._thorough and what != "view" else chance)

    def _adjectives(self, person: Person) -> list[str]:
        words = []
        if person.height != "average" and self._mentions("height"):
            words.append(self.rng.choice(HEIGHT_WORDS[person.height]))
        if person.build != "average" and self._mentions("build"):
            words.append(self.rng.choice(BUILD_WORDS[person.build]))
        self.rng.shuffle(words)
        if self._mentions("age"):
            words.append(self.rng.choice(AGE_WORDS[person.age]))
        return words

    def _traits(self, person: Person, outfit: Outfit, shot: Shot) -> list[str]:
        pick, traits = self.rng.choice, []
        hidden = person.hairstyle == "bald" and outfit.hat is not None
        if not hidden and self._mentions("hair"):
            traits.append(self._hair(person, outfit))
        if person.glasses and shot.viewpoint != "back" and self._mentions("glasses"):
            traits.append(pick(GLASSES_WORDS))
        if person.beard != "none" and shot.viewpoint != "back" and self._mentions("beard"):
            traits.append(pick(BEARD_WORDS[person.beard]))
        if self._mentions("skin"):
            traits.append(pick(SKIN_WORDS[person.skin]))
        remarkable = person.posture == "stooped"
        if self._mentions("posture") if remarkable else self.rng.random() < _UNREMARKABLE:
            traits.append(pick(POSTURE_WORDS[person.posture]))
        for value, words in ((person.build, BUILD_WORDS), (person.height, HEIGHT_WORDS)):
            if value == "average" and self.rng.random() < _UNREMARKABLE:
                traits.append(pick(words[value]))
        if self.rng.random() < 0.4:
            self.rng.shuffle(traits)
        return traits

    def _hair(self, person: Person, outfit: Outfit) -> str:
        colour = self.rng.choice(HAIR_COLOUR_WORDS[person.hair_colour])
        # A hat sits on the bun.
        if person.hairstyle == "bun" and outfit.hat is not None:
            return f"{colour} hair"
        return self.rng.choice(HAIR_PHRASES[person.hairstyle]).format(colour=colour)

    def _describe(self, item: Item, shot: Shot) -> str:
        pattern = "plain" if item.pattern == "printed" and shot.viewpoint != "front" else item.pattern
        second = self.rng.choice(COLOUR_WORDS[item.second]) if item.second else ""
        phrase = self.rng.choice(PATTERN_PHRASES[pattern]).format(
            colour=self.rng.choice(COLOUR_WORDS[item.colour]),
            item=self.rng.choice(ITEM_WORDS[item.kind]),
            second=second,
        )
        if item.kind not in PLURAL:
            return _article(phrase)
        return f"a pair of {phrase}" if self.rng.random() < 0.15 else phrase

    def _where(self, outfit: Outfit) -> str:
        assert outfit.bag is not None
        if self.rng.random() < 0.45:
            return ""
        places = {
            "backpack": "on {whose} back",
            "crossbody bag": "across {whose} body",
            "shoulder bag": "over {whose} {side} shoulder",
        }
        place = places.get(outfit.bag.kind, "in {whose} {side} hand")
        return " " + place.format(whose=self.possessive, side=outfit.bag_side)

    def subject(self) -> str:
        """The noun with its adjectives: "a tall, slim young man"."""
        *before, last = [*self.adjectives, self.noun]
        # "Tall, slim young man": the age stands next to the noun without a comma.
        split = max(0, len(before) - 1) if before and before[-1] in _AGES else len(before)
        return _article(" ".join(filter(None, (", ".join(before[:split]), *before[split:], last))))

    def outfit(self) -> str:
        """All garments in one phrase; something open over something else is said to be so."""
        worn = list(self.worn)
        if "outer" in self.parts and "upper" in self.parts and self.rng.random() < 0.5:
            worn[:2] = [f"{worn[0]} over {worn[1]}"]
        elif self.rng.random() < 0.3:
            self.rng.shuffle(worn)
        return _join(worn) or "casual clothes"


_AGES = frozenset(word for words in AGE_WORDS.values() for word in words)


def _in_sentences(o: _Observer) -> str:
    """Two or three full sentences."""
    opening = (
        o.subject()
        if not o.traits
        else f"{o.subject()} {o.rng.choice(('with', 'who has'))} {_join(o.traits)}"
    )
    if o.traits and o.rng.random() < 0.5:
        opening = f"the {o.subject().split(' ', 1)[1]} has {_join(o.traits)}"
    verb = "is wearing" if o.rng.random() < 0.6 else "wears"
    sentences = [_sentence(opening), _sentence(f"{o.pronoun} {verb} {o.outfit()}")]
    if o.carried:
        sentences.append(
            _sentence(f"{o.pronoun} {o.rng.choice(('carries', 'is carrying', 'has'))} {_join(o.carried)}")
        )
    if o.view:
        sentences.append(_sentence(f"{o.pronoun} is {o.view}"))
    return " ".join(sentences)


def _in_one_sentence(o: _Observer) -> str:
    """One long sentence: who, in what, with what."""
    who = f"{o.subject()} with {_join(o.traits)}" if o.traits else o.subject()
    what = f"{o.rng.choice(('wearing', 'dressed in', 'in'))} {o.outfit()}"
    text = f"{who}{o.rng.choice((',', ''))} {what}"
    if o.carried:
        text += f"{o.rng.choice((', carrying', ' and carrying', ', with'))} {_join(o.carried)}"
    if o.view:
        text += f", {o.view}"
    return _sentence(text)


def _in_keywords(o: _Observer) -> str:
    """Telegraphic, without articles."""
    words = [" ".join([*o.adjectives, o.noun]), *o.traits, *o.worn, *o.carried]
    bare = [word.removeprefix("a pair of ").removeprefix("an ").removeprefix("a ") for word in words]
    return _sentence(", ".join(bare))


def _in_a_form(o: _Observer) -> str:
    """A list of labelled fields."""
    fields = [f"{o.noun}, {', '.join(o.adjectives)}" if o.adjectives else o.noun]
    if o.traits:
        fields.append(_join(o.traits))
    labels = {
        "outer": "over it",
        "upper": "top",
        "lower": "bottom",
        "shoes": "shoes",
        "bag": "bag",
        "hat": "hat",
        "scarf": "scarf",
    }
    names = sorted(o.parts, key=list(labels).index)
    if "outer" in names:
        labels["outer"] = "jacket"
    fields += [f"{labels[name]}: {o.parts[name].removeprefix('a pair of ')}" for name in names]
    return _sentence("; ".join(fields))


def _in_a_chat(o: _Observer) -> str:
    """Talkative and a little unsure."""
    hedge = o.rng.choice(("appears to be", "seems to be", "looks like", "is probably"))
    text = f"This person {hedge} {o.subject()}"
    if o.traits:
        text += f", and {o.pronoun} has {_join(o.traits)}"
    text = _sentence(text)
    start = o.rng.choice(
        (f"{o.pronoun} has on", f"{o.pronoun} is dressed in", f"{o.pronoun} wears what looks like")
    )
    text += " " + _sentence(f"{start} {o.outfit()}")
    if o.carried:
        text += " " + _sentence(f"there is also {_join(o.carried)}")
    return text


def _clothes_first(o: _Observer) -> str:
    """The clothes before the person."""
    text = f"wearing {o.outfit()}, {o.subject()}"
    if o.traits:
        text += f" with {_join(o.traits)}"
    text += f" {o.rng.choice(('is walking', 'walks by', 'is walking along'))}"
    if o.carried:
        text += f", carrying {_join(o.carried)}"
    return _sentence(text)


_ANNOTATORS = (_in_sentences, _in_one_sentence, _in_keywords, _in_a_form, _in_a_chat, _clothes_first)


def _detailed(o: _Observer) -> tuple[str, str]:
    identity = f"the image shows {o.subject()}" + (f" with {_join(o.traits)}" if o.traits else "")
    clothing = f"the person is wearing {o.outfit()}" + (
        f" and carries {_join(o.carried)}" if o.carried else ""
    )
    return _sentence(identity), _sentence(clothing)


def _concise(o: _Observer) -> tuple[str, str]:
    return _sentence(", ".join([o.subject(), *o.traits])), _sentence(
        ", ".join([*o.worn, *o.carried]) or o.outfit()
    )


def _formal(o: _Observer) -> tuple[str, str]:
    identity = f"the individual is {o.subject()}"
    if o.traits:
        identity += f". {o.pronoun.capitalize()} has {_join(o.traits)}"
    clothing = f"the attire consists of {o.outfit()}"
    if o.carried:
        clothing += f". The accessories include {_join(o.carried)}"
    return _sentence(identity), _sentence(clothing)


_SIDECAR_STYLES = {"detailed": _detailed, "concise": _concise, "formal": _formal}
