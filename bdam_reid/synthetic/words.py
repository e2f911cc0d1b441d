"""The words for what is drawn: every attribute has several, as annotators do.

A word is true of one value only: no "charcoal", which is said of gray and of black.
"""

from __future__ import annotations


def _thesaurus(text: str) -> dict[str, tuple[str, ...]]:
    """The entries of "key: word | word; key | word; ...": a key that is a word itself stands first among its words."""
    entries = (entry.strip().rpartition(": ") for entry in " ".join(text.split()).split(";"))
    words = ((key, tuple(word.strip() for word in listed.split("|"))) for key, _, listed in entries)
    return {key or listed[0]: listed for key, listed in words}


COLOUR_WORDS = _thesaurus("""
    black | pitch black; white | off-white | snow-white; gray | grey | ash-gray | slate gray;
    red | bright red | scarlet | crimson; burgundy | maroon | dark red | wine-colored;
    orange | bright orange | tangerine; yellow | bright yellow | mustard yellow | golden yellow;
    green | bright green | emerald green | grass green; olive | olive green | khaki green | army green | moss green;
    teal | turquoise | blue-green; light blue | sky blue | pale blue | baby blue | powder blue;
    blue | royal blue | cobalt blue | bright blue; navy | navy blue | dark blue | midnight blue;
    purple | violet | plum; pink | rose | light pink; beige | cream | cream-colored | sand-colored | tan;
    brown | chocolate brown | coffee-colored
""")
ITEM_WORDS = _thesaurus("""
    t-shirt | T-shirt | tee | tee shirt | short-sleeved t-shirt; polo shirt | polo;
    shirt | button-up shirt | button-down shirt | collared shirt | long-sleeved shirt;
    blouse | long-sleeved blouse; tank top | sleeveless top | vest top; top | layer underneath;
    sweater | pullover | jumper | knitted sweater | knit sweater; hoodie | hoody | hooded sweatshirt | hooded top;
    dress | knee-length dress | short-sleeved dress; jacket | short jacket | bomber jacket;
    denim jacket | jean jacket; leather jacket | biker jacket; blazer | suit jacket | sports jacket;
    coat | long coat | overcoat | winter coat;
    puffer jacket | padded jacket | down jacket | puffy jacket | quilted jacket;
    trousers | pants | slacks | dress pants; jeans | denim jeans | denim pants; leggings | tight leggings;
    shorts | knee-length shorts; skirt | knee-length skirt | flared skirt;
    long skirt | ankle-length skirt | maxi skirt | floor-length skirt;
    sneakers | trainers | running shoes | tennis shoes | sports shoes | athletic shoes;
    leather shoes | dress shoes | formal shoes; boots | high boots; sandals | open sandals;
    high heels | heels | high-heeled shoes | pumps;
    backpack | rucksack; crossbody bag | messenger bag | sling bag; shoulder bag | tote bag | tote;
    shopping bag | carrier bag | grocery bag; handbag | purse | hand bag; briefcase | attache case;
    cap | baseball cap | peaked cap; beanie | knit hat | woolly hat | bobble hat | knitted cap;
    sun hat | wide-brimmed hat | floppy hat; scarf | neck scarf | muffler
""")
PLURAL = frozenset(["trousers", "jeans", "leggings", "shorts", "sneakers", "boots", "sandals"]) | {
    "leather shoes",
    "high heels",
}
PATTERN_PHRASES = _thesaurus("""
    plain: {colour} {item};
    striped: {colour} and {second} striped {item} | {colour} {item} with {second} stripes | striped {colour} {item};
    checked: {colour} and {second} plaid {item} | {colour} checked {item} | {colour} {item} with {second} checks |
        checkered {colour} and {second} {item};
    dotted: {colour} polka-dot {item} | {colour} {item} with {second} dots | {colour} dotted {item};
    floral: {colour} floral {item} | {colour} {item} with {second} flowers | flower-patterned {colour} {item};
    printed: {colour} {item} with a {second} print on the chest | {colour} {item} with a {second} logo |
        {colour} graphic {item}
""")
NOUNS = _thesaurus("male: man | man | male | guy | gentleman | fellow; female: woman | woman | lady | female")
# Those that begin with "in" stand after the noun, the others before it.
AGE_WORDS = _thesaurus("""
    young | youthful | in {whose} twenties | twenty-something;
    middle-aged | middle aged | in {whose} forties | in {whose} fifties | mature;
    elderly | old | senior | older | in {whose} seventies | aged
""")
BUILD_WORDS = _thesaurus("""
    slim | thin | slender | skinny | lean; average: average build | medium build | a normal build;
    heavy: heavyset | stout | overweight | heavy | plump | chubby | stocky
""")
HEIGHT_WORDS = _thesaurus("""
    short | rather short | short-statured; average: average height | medium height | a normal height;
    tall | rather tall | quite tall
""")
SKIN_WORDS = _thesaurus("""
    light: fair skin | light skin | pale skin | a fair complexion | a pale complexion;
    tan: tan skin | tanned skin | olive skin | a tanned complexion | suntanned skin;
    brown: brown skin | medium brown skin | a brown complexion;
    dark: dark skin | dark brown skin | a dark complexion | very dark skin
""")
HAIR_COLOUR_WORDS = _thesaurus("""
    black | jet black; brown | brunette | chestnut; blond | blonde | fair | golden; red | ginger | auburn;
    gray | grey | silver; white | snow-white
""")
# One word for the person instead of a phrase: the colour alone, or no hair.
HAIR_ADJECTIVES = _thesaurus("""
    black: black-haired; brown: brown-haired; blond: fair-haired | blond-haired; red: red-haired | red-headed;
    gray: gray-haired | silver-haired; white: white-haired
""")
BALD_ADJECTIVES = ("bald", "bald-headed")
GRAYING_WORDS = ("graying {colour}", "greying {colour}")
HAIR_PHRASES = _thesaurus("""
    short: short {colour} hair | {colour} hair cut short | a short {colour} haircut;
    cropped: closely cropped {colour} hair | a {colour} buzz cut | very short {colour} hair | a {colour} crew cut;
    bald: a bald head | a shaved head | no hair;
    curly: curly {colour} hair | {colour} curls | {colour} curly hair | frizzy {colour} hair;
    bob: a {colour} bob | chin-length {colour} hair | {colour} hair in a bob | {colour} hair cut in a bob;
    shoulder-length: shoulder-length {colour} hair | {colour} shoulder-length hair | medium-length {colour} hair |
        {colour} hair down to the shoulders;
    long: long {colour} hair | long, straight {colour} hair | {colour} hair that is long | very long {colour} hair;
    ponytail: {colour} hair in a ponytail | a {colour} ponytail | {colour} hair tied back in a ponytail;
    bun: {colour} hair in a bun | {colour} hair tied up in a bun | a {colour} bun | a {colour} topknot
""")
GLASSES_WORDS = (
    *("glasses", "black-rimmed glasses", "spectacles", "eyeglasses"),
    *("thick-framed glasses", "a pair of glasses"),
)
BEARD_WORDS = _thesaurus("""
    full: a beard | a full beard | a thick beard | a bushy beard;
    moustache: a moustache | a mustache | a thick moustache | a bushy mustache;
    none: a clean-shaven face | no beard
""")
POSTURE_WORDS = _thesaurus("""
    stooped: a stooped posture | a hunched back | a stoop | hunched shoulders | a bent posture;
    upright: an upright posture | a straight posture | an erect posture
""")
VIEW_PHRASES = _thesaurus("""
    front: facing the camera | walking toward the camera | seen from the front | coming closer;
    back: seen from behind | walking away from the camera | facing away;
    left: walking to the left | seen from the side | facing left;
    right: walking to the right | seen from the side | facing right
""")
BAG_PLACES = {
    "backpack": "on {whose} back",
    "crossbody bag": "across {whose} body",
    "shoulder bag": "over {whose} {side} shoulder",
    **dict.fromkeys(("handbag", "briefcase", "shopping bag"), "in {whose} {side} hand"),
}
