"""Puts a shot into words: captions in the manner of several annotators, and the identity and clothing texts.

Only what can be seen in the shot is mentioned, part of it is omitted, nothing false is said.

A manner is a grammar: rules that are said in turn, each from left to right, where every rule may use those before.

    {name}           what the observer has for a name, or what an earlier rule said
    (a|b|c)          one of several words; (0.6: a|b) is the first of two with that chance
    [a / b]          a, or b if a name in a has nothing to say; without b nothing
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from bdam_reid.synthetic import words
from bdam_reid.synthetic.people import Item, Outfit, Person, Shot, visible_items

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
    **{"age": 0.8, "build": 0.8, "height": 0.8, "skin": 0.4, "posture": 0.75},
    **{"hair": 0.92, "glasses": 0.9, "beard": 0.9},
    **{"outer": 1.0, "upper": 0.95, "lower": 0.97, "shoes": 0.75, "bag": 0.92, "hat": 0.95, "scarf": 0.85},
    "view": 0.25,
}
# Average build, average height and an upright posture are rarely worth a word.
_UNREMARKABLE = 0.12


def write_captions(person: Person, outfit: Outfit, shot: Shot) -> tuple[str, str]:
    """Two captions of one shot by annotators of different manners."""
    rng = Random(f"{shot.seed}/captions")
    one, other = (_Observer(person, outfit, shot, rng).say(manner)["text"] for manner in rng.sample(_ANNOTATORS, 2))
    return one, other


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
    """One look at a shot: what is noticed, and which words come to mind."""

    def __init__(self, person: Person, outfit: Outfit, shot: Shot, rng: Random, *, thorough: bool = False):
        self._rng, self._thorough = rng, thorough
        noun = rng.choice(words.NOUNS[person.sex])
        pronoun, whose = ("he", "his") if person.sex == "male" else ("she", "her")
        view = rng.choice(words.VIEW_PHRASES[shot.viewpoint]) if self._mentions("view") else ""
        figure, age = self._figure(person), self._age(person)
        traits = self._traits(person, outfit, shot)
        seen = {name: item for name, item in visible_items(outfit, shot).items() if self._mentions(name)}
        self._parts = {name: self._describe(item, shot) for name, item in seen.items()}
        self._worn = [phrase for name, phrase in self._parts.items() if name != "bag"]
        carried = [self._parts["bag"] + self._place(outfit, whose)] if "bag" in self._parts else []
        # "Tall, slim young man": the age stands next to the noun without a comma.
        kind = " ".join(filter(None, (", ".join(figure), *age, noun)))
        self._names = {
            **{name: self._parts.get(name, "").removeprefix("a pair of ") for name in Outfit.__dataclass_fields__},
            **{"noun": noun, "pronoun": pronoun, "view": view, "adjectives": ", ".join(figure + age)},
            **{"type": kind, "subject": _article(kind)},
            **{"traits": _join(traits), "trait list": ", ".join(traits), "carried": _join(carried)},
            "clothing list": ", ".join(self._worn + carried),
            "keywords": ", ".join(map(_bare, [" ".join([*figure, *age, noun]), *traits, *self._worn, *carried])),
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

    def _figure(self, person: Person) -> list[str]:
        figure = []
        if person.height != "average" and self._mentions("height"):
            figure.append(self._rng.choice(words.HEIGHT_WORDS[person.height]))
        if person.build != "average" and self._mentions("build"):
            figure.append(self._rng.choice(words.BUILD_WORDS[person.build]))
        self._rng.shuffle(figure)
        return figure

    def _age(self, person: Person) -> list[str]:
        return [self._rng.choice(words.AGE_WORDS[person.age])] if self._mentions("age") else []

    def _traits(self, person: Person, outfit: Outfit, shot: Shot) -> list[str]:
        """What one has: hair, glasses, beard, skin, posture, and an average figure."""
        choose, face = self._rng.choice, shot.viewpoint != "back"
        traits = []
        if not (person.hairstyle == "bald" and outfit.hat) and self._mentions("hair"):
            traits.append(self._hair(person, outfit))
        if person.glasses and face and self._mentions("glasses"):
            traits.append(choose(words.GLASSES_WORDS))
        if person.beard != "none" and face and self._mentions("beard"):
            traits.append(choose(words.BEARD_WORDS[person.beard]))
        if self._mentions("skin"):
            traits.append(choose(words.SKIN_WORDS[person.skin]))
        if self._mentions("posture") if person.posture == "stooped" else self._rng.random() < _UNREMARKABLE:
            traits.append(choose(words.POSTURE_WORDS[person.posture]))
        for value, table in ((person.build, words.BUILD_WORDS), (person.height, words.HEIGHT_WORDS)):
            if value == "average" and self._rng.random() < _UNREMARKABLE:
                traits.append(choose(table[value]))
        if self._rng.random() < 0.4:
            self._rng.shuffle(traits)
        return traits

    def _hair(self, person: Person, outfit: Outfit) -> str:
        colour = self._rng.choice(words.HAIR_COLOUR_WORDS[person.hair_colour])
        # A hat sits on the bun.
        if person.hairstyle == "bun" and outfit.hat:
            return f"{colour} hair"
        return self._rng.choice(words.HAIR_PHRASES[person.hairstyle]).format(colour=colour)

    def _describe(self, item: Item, shot: Shot) -> str:
        choose = self._rng.choice
        pattern = "plain" if item.pattern == "printed" and shot.viewpoint != "front" else item.pattern
        second = choose(words.COLOUR_WORDS[item.second]) if item.second else ""
        phrase = choose(words.PATTERN_PHRASES[pattern]).format(
            colour=choose(words.COLOUR_WORDS[item.colour]), item=choose(words.ITEM_WORDS[item.kind]), second=second
        )
        if item.kind not in words.PLURAL:
            return _article(phrase)
        return f"a pair of {phrase}" if self._rng.random() < 0.15 else phrase

    def _place(self, outfit: Outfit, whose: str) -> str:
        assert outfit.bag is not None
        if self._rng.random() < 0.45:
            return ""
        return " " + words.BAG_PLACES[outfit.bag.kind].format(whose=whose, side=outfit.bag_side)

    def _outfit(self) -> str:
        """All garments in one phrase; something open over something else is said to be so."""
        worn = list(self._worn)
        if "outer" in self._parts and "upper" in self._parts and self._rng.random() < 0.5:
            worn[:2] = [f"{worn[0]} over {worn[1]}"]
        elif self._rng.random() < 0.3:
            self._rng.shuffle(worn)
        return _join(worn) or "casual clothes"
