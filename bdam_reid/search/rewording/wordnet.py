"""WordNet as a thesaurus: the nearest known word in its graph of senses.

Reads the database files of Princeton's WordNet 3 (man page wndb), as Debian's package `wordnet-base` and the
corpus of NLTK have them.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterator
from heapq import heappop, heappush
from pathlib import Path
from typing import NamedTuple, TypeAlias

PARTS = ("noun", "verb", "adj", "adv")
"""Parts of speech, by their files."""
_LETTERS = {"n": "noun", "v": "verb", "a": "adj", "s": "adj", "r": "adv"}
HOW_TO_GET = "install Debian's wordnet-base, or set WNSEARCHDIR to the folder dict of Princeton's WordNet 3"
LIMIT = 1.0
"""Farthest that a word may be from what replaces it."""
RARER = 0.25
"""What each sense of a word costs more than the one before it, which is more common."""
COSTS = {"@": 1.0, "~": 1.5, "&": 0.5, "+": 0.5, "\\": 0.5, "<": 0.5, "=": 1.0}
"""A step to what is wider, narrower, similar, derived, that pertains, is a participle, is an attribute."""
_ENDINGS = (
    *(("s", ""), ("ses", "s"), ("xes", "x"), ("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y")),
    *(("es", ""), ("ed", ""), ("ed", "e"), ("ing", ""), ("ing", "e")),
    *(("er", ""), ("er", "e"), ("est", ""), ("est", "e"), ("ish", ""), ("y", "")),
)
"""Of inflected forms, and what words have instead (man page morphy); the last two make adjectives: greenish, steely."""

Sense: TypeAlias = tuple[str, int]
"""A part of speech, and where its file has the set of synonyms."""


class Synset(NamedTuple):
    """Words of one sense."""

    words: tuple[str, ...]
    """Synonyms in lower case; one of several words has underscores."""
    near: tuple[tuple[float, Sense], ...]
    """Other senses, and how far they are."""


class WordNet:
    """Args: folder: with data.*, index.* and *.exc. Raises: OSError, ValueError if they cannot be read."""

    def __init__(self, folder: Path) -> None:
        self._synsets: dict[Sense, Synset] = {}
        self._senses: dict[str, list[Sense]] = defaultdict(list)
        self._irregular: dict[str, list[str]] = defaultdict(list)
        for part in PARTS:
            for line in _lines(folder / f"data.{part}"):
                self._synsets[part, int(line.split(maxsplit=1)[0])] = _synset(line)
            for line in _lines(folder / f"index.{part}"):
                word, _, count, *rest = line.split()
                self._senses[word] += [(part, int(offset)) for offset in rest[-int(count) :]]
            for line in _lines(folder / f"{part}.exc"):
                form, *lemmas = line.split()
                self._irregular[form] += lemmas

    def nearest(self, word: str, known: Collection[str]) -> str | None:
        """The known word whose sense is nearest to one of `word`, at most LIMIT away; None if there is none.

        Args:
            word: in lower case, in any form: "denims".
            known: words, in lower case.
        """
        forms = list(dict.fromkeys(self._forms(word)))
        for form in forms[1:]:
            if form in known:
                return form
        lemma = next((form for form in forms if form in self._senses), None)
        waiting = [(RARER * rank, sense) for rank, sense in enumerate(self._senses[lemma] if lemma else [])]
        seen: set[Sense] = set()
        while waiting:
            far, sense = heappop(waiting)
            if far > LIMIT:
                return None
            if sense in seen:
                continue
            seen.add(sense)
            synset = self._synsets[sense]
            for synonym in synset.words:
                if synonym in known and synonym != word:
                    return synonym
            for step, other in synset.near:
                heappush(waiting, (far + step, other))
        return None

    def _forms(self, word: str) -> Iterator[str]:
        """The word, and what it may be a form of."""
        yield word
        yield from self._irregular.get(word, [])
        for ending, instead in _ENDINGS:
            if word.endswith(ending) and len(word) - len(ending) > 2:
                yield word[: len(word) - len(ending)] + instead


def find_wordnet() -> Path | None:
    """The folder of WordNet's files: that of its own variable WNSEARCHDIR, Debian's, or NLTK's; None if all lack it."""
    asked = os.environ.get("WNSEARCHDIR")
    places = (Path("/usr/share/wordnet"), Path.home() / "nltk_data/corpora/wordnet")
    folders = (Path(asked), *places) if asked else places
    return next((folder for folder in folders if (folder / "data.noun").is_file()), None)


def _lines(path: Path) -> Iterator[str]:
    """Those of a database file after its licence, whose lines begin with a space."""
    with path.open(encoding="latin-1") as file:
        yield from (line for line in file if not line.startswith(" "))


def _synset(line: str) -> Synset:
    fields = line.partition("|")[0].split()
    count = int(fields[3], 16)
    words = tuple(word.partition("(")[0].lower() for word in fields[4 : 4 + 2 * count : 2])
    pointers = fields[5 + 2 * count : 5 + 2 * count + 4 * int(fields[4 + 2 * count])]
    steps = zip(pointers[::4], pointers[1::4], pointers[2::4], strict=True)
    near = ((COSTS[kind], (_LETTERS[letter], int(offset))) for kind, offset, letter in steps if kind in COSTS)
    return Synset(words, tuple(near))
