"""Splits a human caption into what it says about the person and what it says about the clothes.

At test time there is no MLLM text, so both text features come from the caption itself. The rules rest on
English noun phrases, whose head comes last: a word that is neither ("black", "a", "wearing") belongs to the
next head in its sentence ("hair" or "jacket"), and what follows the last head belongs to that one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from itertools import groupby


class Kind(Enum):
    """What a word is in an English description of a person."""

    IDENTITY = auto()
    """A head of the identity part: hair, man, beard."""
    TRAIT = auto()
    """An adjective of persons, which may also say how a garment fits: slim, tall, old."""
    CLOTHING = auto()
    """A head of the clothing part: jacket, bag, stripes."""
    VERB = auto()
    """What precedes clothes, but also glasses: wearing, carrying."""
    BODY = auto()
    """Where things are worn; it belongs to what was said before: shoulder, hand."""
    COPULA = auto()
    """Says something about the head before it: is, looks."""
    FUNCTION = auto()
    """Ends a noun phrase: and, with, the."""
    OTHER = auto()


def word_set(text: str) -> frozenset[str]:
    """The words of a text, separated by spaces, as a set: how the wing writes its vocabularies."""
    return frozenset(text.split())


_VOCABULARY = {
    Kind.IDENTITY: word_set(
        "man men male males guy guys gentleman boy boys lad fellow dude woman women female females lady "
        "ladies girl girls gal person pedestrian individual adult teenager teen kid child toddler youth "
        "senior student hair haired hairs hairstyle hairdo haircut hairline ponytail ponytails pigtail "
        "pigtails braid braids braided bun bangs fringe afro bob curls dreadlocks bald balding buzzcut "
        "crewcut brunette blonde beard bearded stubble goatee moustache mustache whiskers sideburns "
        "gent lass youngster fella granny gran grandma nan grandpa grandad granddad mother father mum mom dad "
        "daughter son sister brother wife husband girlfriend boyfriend eyewear pageboy pixie locks "
        "bloke chap chaps pensioner grandmother grandfather specs mane tresses slouching slouched stooping unshaven "
        "shaven hairless beardless mustachioed whiskered "
        "scalp topknot chignon updo ringlets haircuts redhead headed "
        "clean-shaven shaved face faced facial complexion skin skinned glasses spectacles eyeglasses "
        "bespectacled build built body-build physique figure stature height weight posture stoop stooped "
        "hunched statured gait age aged middle-aged twenty-something "
        "twenties thirties forties fifties sixties seventies eighties "
        "teens years asian caucasian african american european hispanic indian features eyebrows eyes "
        "lips nose"
    ),
    Kind.TRAIT: word_set(
        "tall short slim thin slender skinny lean lanky petite fat chubby plump stout stocky heavy "
        "heavyset heavy-set overweight obese muscular athletic burly large young younger youthful old "
        "older elderly upright scrawny bony wiry gaunt gangly willowy svelte leggy beefy hefty portly rotund podgy "
        "tubby squat towering lofty diminutive tiny bronzed pallid"
    ),
    Kind.CLOTHING: word_set(
        "shirt shirts t-shirt t-shirts tshirt tee polo blouse top tops tank vest layer camisole tunic sweater "
        "sweatshirt pullover jumper cardigan hoodie hoody hood hooded jacket jackets coat coats overcoat "
        "raincoat parka blazer suit tuxedo uniform windbreaker anorak gilet poncho dress gown robe skirt "
        "skirts miniskirt pants trousers slacks jeans denim khakis leggings tights stockings shorts "
        "capris overalls jumpsuit romper pajamas bottom bottoms sweatpants joggers shoe shoes sneaker "
        "sneakers trainers boots boot sandals sandal heels heel pumps flats loafers slippers flip-flops "
        "footwear soles laces sock socks hat hats cap caps beanie beret helmet headband bandana hairband "
        "hijab headscarf scarf scarves muffler shawl tie necktie bowtie belt gloves glove mittens watch bracelet "
        "necklace earrings jewelry sunglasses bag bags backpack backpacks rucksack handbag handbags purse "
        "tote satchel briefcase case suitcase luggage messenger crossbody shoulder-bag knapsack pouch wallet "
        "umbrella mask masks phone cellphone book books bottle cup paper papers folder camera headphones earphones "
        "earbuds lanyard badge bicycle bike stroller trolley cart basket box package clothes clothing "
        "clothed outfit attire garment garments apparel accessories sleeve sleeves sleeved sleeveless "
        "long-sleeved short-sleeved long-sleeve short-sleeve collar collared buttons button-up "
        "button-down zipper zip zipped pocket pockets cuffs hem strap straps stripe stripes striped plaid "
        "checked checkered checks polka-dot dots dotted floral flowers pattern patterned print printed "
        "prints logo design lettering graphic leather cotton wool woolen knitted knit denims fabric lace "
        "fur topcoat trenchcoat windcheater mackintosh plimsolls runners snapback ballcap daypack holdall "
        "neckerchief hoops lycra spots stripy "
        "frock chinos bermudas stilettos brogues jersey singlet shawl stole clutch tote toque bonnet tartan gingham"
    ),
    Kind.VERB: word_set(
        "wearing wears wore worn dressed clad carrying carries carried holding holds sporting sports donning dons"
    ),
    Kind.BODY: word_set(
        "shoulder shoulders hand hands arm arms back neck waist chest wrist wrists ankle ankles knee "
        "knees head ear ears leg legs foot feet thigh thighs side front forehead body"
    ),
    Kind.COPULA: word_set("is are was were looks look appears seems being be"),
    Kind.FUNCTION: word_set(
        "a an the and or but with without in on over under of at by to from for his her their its he she "
        "they it this that these those who which has have had having also while as there pair"
    ),
}
FUNCTION_WORDS = frozenset().union(*(_VOCABULARY[kind] for kind in (Kind.FUNCTION, Kind.COPULA, Kind.VERB))) - word_set(
    "without he she his her"
)
"""Words that join others and say nothing of a person themselves."""
_KINDS = {word: kind for kind, words in _VOCABULARY.items() for word in words}
# Of several words, which are of another kind together than the last one is alone.
_TERMS = {
    tuple(term.split()): kind
    for kind, terms in {
        Kind.IDENTITY: ("crew cut", "buzz cut", "bowl cut", "pixie cut"),
        Kind.CLOTHING: (
            "hand bag",
            "hand bags",
            "face mask",
            "face shield",
            "hair band",
            "hair tie",
            "hair clip",
            "nose ring",
            "lip ring",
        ),
        # A way to stand or look.
        Kind.BODY: tuple(f"{word} the camera" for word in ("at", "facing", "from", "into", "to", "toward", "towards")),
    }.items()
    for term in terms
}

_SENTENCE_END = re.compile(r"[.;!?\n]+")
WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*|[,:]")
"""Finds the words of a sentence, and what divides it."""
# Words that join a part to its neighbours, and mean nothing at its beginning or end.
_LEADING = word_set(", : and but or with who while also")
_TRAILING = _LEADING | word_set("is has in a an the his her")


def split_caption(text: str) -> tuple[str, str]:
    """Split a caption into its identity part and its clothing part, in time linear in its length.

    Neither part is ever empty: a caption that has no words for one of them stands for it as a whole.

    Raises: ValueError if the caption is blank.
    """
    identity, clothing = phrases(text)
    return identity or text.strip(), clothing or text.strip()


def phrases(text: str) -> tuple[str, str]:
    """The identity part and the clothing part of a caption as `split_caption` has them; "" where it has no words for
    one.

    Raises: ValueError if the caption is blank.
    """
    if not text.strip():
        raise ValueError(f"a caption must not be blank, got {text!r}")
    parts: dict[bool, list[str]] = {True: [], False: []}
    for sentence in _SENTENCE_END.split(text):
        pieces = list(_pieces(sentence))
        for about_person, sentences in parts.items():
            own = [piece for about, piece in pieces if about == about_person]
            if own:
                sentences.append(", ".join(own))
    identity, clothing = (f"{'. '.join(sentences)}." if sentences else "" for sentences in parts.values())
    return identity, clothing


def _pieces(sentence: str) -> Iterator[tuple[bool, str]]:
    """The runs of a sentence that are about the person (True) or the clothes (False), in order."""
    words = list(WORD.finditer(sentence))
    owners = _owners([match.group() for match in words])
    at = 0
    for owner, run in groupby(owners):
        first, last = at, at + len(list(run)) - 1
        at = last + 1
        while first > 0 and first <= last and words[first].group().lower() in _LEADING:
            first += 1
        while last < len(words) - 1 and first <= last and words[last].group().lower() in _TRAILING:
            last -= 1
        if owner is not None and first <= last:
            yield owner, sentence[words[first].start() : words[last].end()]


def _kind(word: str) -> Kind:
    word = word.lower().replace("\u2019", "'").removesuffix("'s")
    if word in _KINDS:
        return _KINDS[word]
    # "Dark-haired", "light-skinned", "short-sleeved": the last part is the head.
    return _KINDS.get(word.rsplit("-", 1)[-1], Kind.OTHER)


def word_kinds(words: Sequence[str]) -> list[Kind]:
    """The kind of each word of a sentence, as `WORD` finds them; of a term of several words the last one has it."""
    kinds = [Kind.FUNCTION if word in ",:" else _kind(word) for word in words]
    lowered = [word.lower() for word in words]
    for end in range(2, len(words) + 1):
        for length in range(2, min(end, 3) + 1):
            term = _TERMS.get(tuple(lowered[end - length : end]))
            if term:
                kinds[end - length : end] = [Kind.OTHER] * (length - 1) + [term]
    return kinds


def _owners(words: Sequence[str]) -> list[bool | None]:
    """For every word of a sentence whether it is about the person (True) or the clothes (False).

    None for all if the sentence has no head.
    """
    kinds = word_kinds(words)
    owners: list[bool | None] = [None] * len(words)
    heads = _heads(kinds)
    previous: bool | None = None
    decided = 0  # Words before this one have their owner.
    predicate = verb = False  # After "hair is"; after "wearing", with no head yet.
    for i, (word, kind) in enumerate(zip(words, kinds, strict=True)):
        owner = heads[i]
        if owner is not None:
            predicate = predicate and kind is Kind.TRAIT
        elif kind is Kind.BODY or (predicate and kind is Kind.OTHER):
            owner = previous
        elif word == "," and verb:
            # "Wearing all black, a man ..." has no garment: the verb alone says what it is about.
            owner = False
        elif word == "," and kinds[i + 1 : i + 2] == [Kind.VERB]:
            # "... walks by, carrying a bag": what comes before the comma ends there.
            owner = previous
        elif kind is Kind.COPULA:
            predicate = i + 1 < len(kinds) and kinds[i + 1] in (Kind.OTHER, Kind.TRAIT)
        else:
            predicate = predicate and word.lower() == "and"
            verb = verb or kind is Kind.VERB
        if owner is not None:
            owners[decided : i + 1] = [owner] * (i + 1 - decided)
            previous, decided, verb = owner, i + 1, False
    owners[decided:] = [False if verb else previous] * (len(words) - decided)
    return owners


def _heads(kinds: Sequence[Kind]) -> list[bool | None]:
    """Which words decide what their neighbours are about. A trait directly before a garment ("slim blue
    jeans") does not.
    """
    heads: list[bool | None] = [None] * len(kinds)
    following: Kind | None = None
    for i in range(len(kinds) - 1, -1, -1):
        kind = kinds[i]
        if kind is Kind.IDENTITY or (kind is Kind.TRAIT and following is not Kind.CLOTHING):
            heads[i] = True
        elif kind is Kind.CLOTHING:
            heads[i] = False
        if kind is not Kind.OTHER and kind is not Kind.TRAIT:
            following = kind
    return heads
