"""The words for what is drawn: every attribute has several, as annotators do."""

from __future__ import annotations


def _thesaurus(text: str) -> dict[str, tuple[str, ...]]:
    """The entries of "key: word | word; key | word; ...": a key that is a word itself stands first among its words."""
    entries = (entry.strip().rpartition(": ") for entry in " ".join(text.split()).split(";"))
    words = ((key, tuple(word.strip() for word in listed.split("|"))) for key, _, listed in entries)
    return {key or listed[0]: listed for key, listed in words}


COLOUR_WORDS = _thesaurus("""
    black; white; gray | grey; red | bright red; burgundy | maroon | dark red; orange; yellow; green;
    olive | olive green | khaki green; teal | turquoise; light blue | sky blue | pale blue; blue;
    navy | navy blue | dark blue; purple | violet; pink; beige | cream | cream-colored; brown
""")
ITEM_WORDS = _thesaurus("""
    t-shirt | T-shirt | tee shirt | short-sleeved t-shirt; polo shirt | polo;
    shirt | button-up shirt | long-sleeved shirt; blouse | long-sleeved blouse; tank top | sleeveless top;
    sweater | pullover | jumper; hoodie | hooded sweatshirt | hooded top; dress | knee-length dress;
    jacket; denim jacket | jean jacket; leather jacket; blazer | suit jacket; coat | long coat | overcoat;
    puffer jacket | padded jacket | down jacket | puffy jacket;
    trousers | pants | slacks; jeans | denim jeans; leggings | tight leggings; shorts;
    skirt | knee-length skirt; long skirt | ankle-length skirt | maxi skirt;
    sneakers | trainers | running shoes | tennis shoes; leather shoes | dress shoes; boots; sandals;
    high heels | heels | high-heeled shoes;
    backpack | rucksack; crossbody bag | messenger bag; shoulder bag | tote bag; shopping bag | carrier bag;
    handbag | purse; briefcase;
    cap | baseball cap; beanie | knit hat | woolly hat; sun hat | wide-brimmed hat; scarf
""")
PLURAL = frozenset(["trousers", "jeans", "leggings", "shorts", "sneakers", "boots", "sandals"]) | {
    "leather shoes",
    "high heels",
}
PATTERN_PHRASES = _thesaurus("""
    plain: {colour} {item};
    striped: {colour} and {second} striped {item} | {colour} {item} with {second} stripes | striped {colour} {item};
    checked: {colour} and {second} plaid {item} | {colour} checked {item} | {colour} {item} with {second} checks;
    dotted: {colour} polka-dot {item} | {colour} {item} with {second} dots;
    floral: {colour} floral {item} | {colour} {item} with {second} flowers;
    printed: {colour} {item} with a {second} print on the chest | {colour} {item} with a {second} logo
""")
NOUNS = _thesaurus("male: man | man | male | guy | gentleman; female: woman | woman | lady | female")
AGE_WORDS = _thesaurus("young | youthful; middle-aged | middle aged; elderly | old | senior | older")
BUILD_WORDS = _thesaurus("""
    slim | thin | slender | skinny; average: average build | medium build; heavy: heavyset | stout | overweight | heavy
""")
HEIGHT_WORDS = _thesaurus("short; average: average height | medium height; tall")
SKIN_WORDS = _thesaurus("""
    light: fair skin | light skin | pale skin; tan: tan skin | tanned skin | olive skin;
    brown: brown skin | medium brown skin; dark: dark skin | dark brown skin | a dark complexion
""")
HAIR_COLOUR_WORDS = _thesaurus("black | jet black; brown | brunette; blond | blonde; red | ginger; gray | grey; white")
HAIR_PHRASES = _thesaurus("""
    short: short {colour} hair | {colour} hair cut short;
    cropped: closely cropped {colour} hair | a {colour} buzz cut | very short {colour} hair;
    bald: a bald head | a shaved head | no hair;
    curly: curly {colour} hair | {colour} curls | {colour} curly hair;
    bob: a {colour} bob | chin-length {colour} hair | {colour} hair in a bob;
    shoulder-length: shoulder-length {colour} hair | {colour} shoulder-length hair | medium-length {colour} hair;
    long: long {colour} hair | long, straight {colour} hair | {colour} hair that is long;
    ponytail: {colour} hair in a ponytail | a {colour} ponytail | {colour} hair tied back in a ponytail;
    bun: {colour} hair in a bun | {colour} hair tied up in a bun | a {colour} bun
""")
GLASSES_WORDS = ("glasses", "black-rimmed glasses", "spectacles", "eyeglasses")
BEARD_WORDS = _thesaurus("full: a beard | a full beard | a thick beard; moustache: a moustache | a mustache")
POSTURE_WORDS = _thesaurus("""
    stooped: a stooped posture | a hunched back | a stoop; upright: an upright posture | a straight posture
""")
VIEW_PHRASES = _thesaurus("""
    front: facing the camera | walking toward the camera | seen from the front;
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
