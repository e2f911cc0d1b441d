"""Puts a shot into words: captions in the manner of several annotators, and the identity and clothing texts.

Only what can be seen in the shot is mentioned, part of it is omitted, nothing false is said.

A manner is a grammar: rules that are said in turn, each from left to right, where every rule may use those before.

    {name}           what the observer has for a name, or what an earlier rule said
    (a|b|c)          one of several words; (0.6: a|b) is the first of two with that chance
    [a / b]          a, or b if a name in a has nothing to say; without b nothing
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

from bdam_reid.synthetic import words
from bdam_reid.synthetic.people import Item, Outfit, Person, Shot
from bdam_reid.synthetic.visible import visible_items, visible_traits

Grammar = dict[str, str]

_WITH_TRAITS = "{subject}[ with {traits}]"
_ANNOTATORS: tuple[Grammar, ...] = (
    {  # Two or three full sentences.
        "known by": "[(with|who has) {traits}]",
        "opening": "[(0.5: the {type} has {traits}|{subject} {known by}) / {subject}]",
        "text": "{opening}. {pronoun} (0.6: is wearing|wears) {outfit}."
        "[ {pronoun} (carries|is carrying|has) {carried}.][ {pronoun} is {view}.]",
    },
    {  # One long sentence: who, in what, with what.
        "dressed": "(wearing|dressed in|in) {outfit}",
        "text": f"{_WITH_TRAITS}(,|) {{dressed}}[(, carrying| and carrying|, with) {{carried}}][, {{view}}].",
    },
    {  # Telegraphic, without articles.
        "text": "{keywords}.",
    },
    {  # A list of labelled fields.
        "text": "{noun}[, {adjectives}][; {traits}][; jacket: {outer}][; top: {upper}][; bottom: {lower}]"
        "[; shoes: {shoes}][; bag: {bag}][; hat: {hat}][; scarf: {scarf}].",
    },
    {  # Talkative and a little unsure.
        "text": "This person (appears to be|seems to be|looks like|is probably) {subject}"
        "[, and {pronoun} has {traits}]. {pronoun} (has on|is dressed in|wears what looks like) {outfit}."
        "[ There is also {carried}.]",
    },
    {  # The clothes before the person.
        "text": f"wearing {{outfit}}, {_WITH_TRAITS} (is walking|walks by|is walking along)[, carrying {{carried}}].",
    },
    {  # A search request.
        "text": f"(please find|look for|we are searching for|the search is for) {_WITH_TRAITS}, "
        "last seen in {outfit}[ and carrying {carried}].",
    },
    {  # The clothes as a subject of their own, the person at the end.
        "owner": "the {type}[ with {traits}]",
        "text": "(the clothes are|the outfit consists of) {outfit}[, and the bag is {carried}]. "
        "(they belong to|this is what is worn by) {owner}[, {view}].",
    },
    {  # One relative clause around the clothes.
        "text": "{subject} who is wearing {outfit}[ and carrying {carried}][ has {traits} / walks by].",
    },
)
_TEXT_STYLES: dict[str, Grammar] = {
    "detailed": {
        "identity": f"the image shows {_WITH_TRAITS}.",
        "clothing": "the person is wearing {outfit}[ and carries {carried}].",
    },
    "concise": {
        "identity": "{subject}[, {trait list}].",
        "clothing": "[{clothing list} / {outfit}].",
    },
    "formal": {
        "identity": "the individual is {subject}[. {pronoun} has {traits}].",
        "clothing": "the attire consists of {outfit}[. The accessories include {carried}].",
    },
}
_RULE = re.compile(r"\[(?P<optional>[^]]*)\]|\((?P<choice>[^)]*)\)|\{(?P<name>[^}]*)\}")

# How often an annotator mentions what can be seen.
_MENTION = {
    **{"age": 0.8, "build": 0.8, "height": 0.8, "skin": 0.5, "posture": 0.75},
    **{"hair": 0.92, "glasses": 0.9, "beard": 0.9},
    **{"outer": 1.0, "upper": 0.95, "lower": 0.97, "shoes": 0.75, "bag": 0.92, "hat": 0.95, "scarf": 0.85},
    "view": 0.25,
}
# What is rarely worth a word.
_UNREMARKABLE = {"build": "average", "height": "average", "posture": "upright", "beard": "none"}
_UNREMARKABLE_MENTION = 0.12
_FIGURE = {"build": words.BUILD_WORDS, "height": words.HEIGHT_WORDS}
_TRAITS = {"skin": words.SKIN_WORDS, "posture": words.POSTURE_WORDS}
_ADJECTIVE = 0.12
"""How often hair is an adjective of the person ("a fair-haired woman")."""
_GRAYING = 0.2


class Caption(NamedTuple):
    """A sentence and what it states: values of identity attributes, and by item its kind, colour and pattern."""

    text: str
    identity: dict[str, Any]
    clothing: dict[str, dict[str, str]]


def write_captions(person: Person, outfit: Outfit, shot: Shot) -> tuple[Caption, Caption]:
    """Two captions of one shot by annotators of different manners."""
    rng = Random(f"{shot.seed}/captions")
    one, other = (_caption(_Observer(person, outfit, shot, rng), manner) for manner in rng.sample(_ANNOTATORS, 2))
    return one, other


def _caption(observer: _Observer, manner: Grammar) -> Caption:
    return Caption(observer.say(manner)["text"], observer.identity, observer.clothing)


def write_texts(person: Person, outfit: Outfit, shot: Shot) -> dict[str, str]:
    """Identity and clothing of one shot in two separate texts, with the name of their style."""
    # The name that the seed had when the first sets were drawn: another one would draw other texts.
    rng = Random(f"{shot.seed}/sidecar")
    observer = _Observer(person, outfit, shot, rng, thorough=True)
    style = rng.choice(tuple(_TEXT_STYLES))
    return {**observer.say(_TEXT_STYLES[style]), "style": style}


def _join(phrases: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(phrases[:-1]), *phrases[-1:])))


def _article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0].lower() in "aeio" else f"a {phrase}"


def _bare(phrase: str) -> str:
    return phrase.removeprefix("a pair of ").removeprefix("an ").removeprefix("a ")


class _Observer:
    """One look at a shot: what is noticed, and the words for it; `identity` and `clothing` are what they state."""

    def __init__(self, person: Person, outfit: Outfit, shot: Shot, rng: Random, *, thorough: bool = False):
        self._person, self._rng, self._thorough = person, rng, thorough
        self._seen = frozenset(visible_traits(person, outfit, shot))
        self.identity: dict[str, Any] = {"sex": person.sex}
        self.clothing: dict[str, dict[str, str]] = {}
        noun = rng.choice(words.NOUNS[person.sex])
        pronoun, self._whose = ("he", "his") if person.sex == "male" else ("she", "her")
        view = rng.choice(words.VIEW_PHRASES[shot.viewpoint]) if self._mentions("view") else ""
        adjectives, hair = self._hair()
        figure, age = self._figure() + adjectives, self._age()
        traits = self._traits(hair)
        seen = {name: item for name, item in visible_items(person, outfit, shot).items() if self._mentions(name)}
        self._parts = {name: self._describe(name, item) for name, item in seen.items()}
        self._worn = [phrase for name, phrase in self._parts.items() if name != "bag"]
        carried = [self._parts["bag"] + self._place(outfit)] if "bag" in self._parts else []
        # "Tall, slim young man in his twenties": the age stands next to the noun without a comma.
        before, after = ([age], []) if age and not age.startswith("in ") else ([], [age])
        kind = " ".join(filter(None, (", ".join(figure), *before, noun, *after)))
        self._names = {
            **{name: self._parts.get(name, "").removeprefix("a pair of ") for name in Outfit.__dataclass_fields__},
            **{"noun": noun, "pronoun": pronoun, "view": view, "adjectives": ", ".join(filter(None, [*figure, age]))},
            **{"type": kind, "subject": _article(kind)},
            **{"traits": _join(traits), "trait list": ", ".join(traits), "carried": _join(carried)},
            "clothing list": ", ".join(self._worn + carried),
            "keywords": ", ".join(map(_bare, [kind.replace(",", ""), *traits, *self._worn, *carried])),
        }

    def say(self, grammar: Grammar) -> dict[str, str]:
        """What every rule of a grammar gives, as sentences that begin with a capital."""
        said = {}
        for name, rule in grammar.items():
            self._names[name] = self._expand(rule)
            said[name] = re.sub(r"(?:^|(?<=\. )).", lambda first: first[0].upper(), self._names[name])
        return said

    def _expand(self, rule: str) -> str:
        return _RULE.sub(self._expand_part, rule)

    def _expand_part(self, part: re.Match[str]) -> str:
        if part["name"]:
            return self._outfit() if part["name"] == "outfit" else self._names[part["name"]]
        if part["optional"]:
            wanted, _, otherwise = part["optional"].partition(" / ")
            names = re.findall(r"\{(.*?)\}", wanted)
            return self._expand(wanted if all(map(self._names.get, names)) else otherwise)
        chance, _, listed = part["choice"].rpartition(": ")
        options = listed.split("|")
        if chance:
            return self._expand(options[0] if self._rng.random() < float(chance) else options[1])
        return self._expand(self._rng.choice(options))

    def _mentions(self, what: str) -> bool:
        # Thorough texts leave out a quarter of what an annotator does, and none says where its camera stands.
        chance = _MENTION[what]
        return self._rng.random() < (1 - (1 - chance) / 4 if self._thorough and what != "view" else chance)

    def _notices(self, name: str) -> bool:
        """Whether an identity attribute can be seen and is mentioned, what is unremarkable about it rarely."""
        if name not in self._seen:
            return False
        unremarkable = getattr(self._person, name) == _UNREMARKABLE.get(name)
        return self._rng.random() < _UNREMARKABLE_MENTION if unremarkable else self._mentions(name)

    def _say(self, name: str, phrases: Mapping[str, Sequence[str]]) -> str:
        """One of the phrases for the value of an identity attribute, which is stated by it."""
        value = self.identity[name] = getattr(self._person, name)
        return self._rng.choice(phrases[value]).format(whose=self._whose)

    def _figure(self) -> list[str]:
        """What is remarkable about height and build."""
        remarkable = [name for name in ("height", "build") if getattr(self._person, name) != "average"]
        figure = [self._say(name, _FIGURE[name]) for name in remarkable if self._notices(name)]
        self._rng.shuffle(figure)
        return figure

    def _age(self) -> str:
        return self._say("age", words.AGE_WORDS) if self._notices("age") else ""

    def _traits(self, hair: list[str]) -> list[str]:
        """What one has: hair, glasses, beard, skin, posture, and an average figure."""
        traits = list(hair)
        if self._person.glasses and self._notices("glasses"):
            self.identity["glasses"] = True
            traits.append(self._rng.choice(words.GLASSES_WORDS))
        if self._person.sex == "male" and self._notices("beard"):
            traits.append(self._say("beard", words.BEARD_WORDS))
        traits += [self._say(name, phrases) for name, phrases in _TRAITS.items() if self._notices(name)]
        average = [name for name in _FIGURE if getattr(self._person, name) == "average"]
        traits += [self._say(name, _FIGURE[name]) for name in average if self._notices(name)]
        if self._rng.random() < 0.4:
            self._rng.shuffle(traits)
        return traits

    def _hair(self) -> tuple[list[str], list[str]]:
        """What is said of the hair: adjectives of the person, and phrases for what the person has."""
        style, colour = self._person.hairstyle, self._person.hair_colour
        seen = self._seen & {"hairstyle", "hair_colour"}
        if not seen or not self._mentions("hair"):
            return [], []
        if style == "bald":
            adjective = self._rng.random() < _ADJECTIVE
            phrase = self._say("hairstyle", {style: words.BALD_ADJECTIVES} if adjective else words.HAIR_PHRASES)
            return ([phrase], []) if adjective else ([], [phrase])
        if self._rng.random() < _ADJECTIVE:
            return [self._say("hair_colour", words.HAIR_ADJECTIVES)], []
        self.identity |= {name: getattr(self._person, name) for name in sorted(seen)}
        word = self._rng.choice(words.HAIR_COLOUR_WORDS[colour])
        if self._person.age == "middle-aged" and "age" in self._seen and self._rng.random() < _GRAYING:
            self.identity["age"] = self._person.age
            word = self._rng.choice(words.GRAYING_WORDS).format(colour=word)
        phrases = words.HAIR_PHRASES[style] if "hairstyle" in seen else ("{colour} hair",)
        return [], [self._rng.choice(phrases).format(colour=word)]

    def _describe(self, name: str, item: Item) -> str:
        choose = self._rng.choice
        phrase = choose(words.PATTERN_PHRASES[item.pattern])
        stated = {"kind": item.kind, "colour": item.colour}
        if item.kind == "top":
            del stated["kind"]
        if item.pattern != "plain":
            stated["pattern"] = item.pattern
        if item.second and "{second}" in phrase:
            stated["second_colour"] = item.second
        self.clothing[name] = stated
        second = choose(words.COLOUR_WORDS[item.second]) if item.second else ""
        phrase = phrase.format(
            colour=choose(words.COLOUR_WORDS[item.colour]), item=choose(words.ITEM_WORDS[item.kind]), second=second
        )
        if item.kind not in words.PLURAL:
            return _article(phrase)
        return f"a pair of {phrase}" if self._rng.random() < 0.15 else phrase

    def _place(self, outfit: Outfit) -> str:
        assert outfit.bag is not None
        if self._rng.random() < 0.45:
            return ""
        return " " + words.BAG_PLACES[outfit.bag.kind].format(whose=self._whose, side=outfit.bag_side)

    def _outfit(self) -> str:
        """All garments in one phrase; something open over something else is said to be so."""
        worn = list(self._worn)
        if "outer" in self._parts and "upper" in self._parts and self._rng.random() < 0.5:
            worn[:2] = [f"{worn[0]} over {worn[1]}"]
        elif self._rng.random() < 0.3:
            self._rng.shuffle(worn)
        return _join(worn) or "casual clothes"
