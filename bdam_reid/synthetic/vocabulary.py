"""The words for what is drawn: every attribute has several, as annotators do."""

from __future__ import annotations

COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "black": ("black",),
    "white": ("white",),
    "gray": ("gray", "grey"),
    "red": ("red", "bright red"),
    "burgundy": ("burgundy", "maroon", "dark red"),
    "orange": ("orange",),
    "yellow": ("yellow",),
    "green": ("green",),
    "olive": ("olive", "olive green", "khaki green"),
    "teal": ("teal", "turquoise"),
    "light blue": ("light blue", "sky blue", "pale blue"),
    "blue": ("blue",),
    "navy": ("navy", "navy blue", "dark blue"),
    "purple": ("purple", "violet"),
    "pink": ("pink",),
    "beige": ("beige", "cream", "cream-colored"),
    "brown": ("brown",),
}
ITEM_WORDS: dict[str, tuple[str, ...]] = {
    "t-shirt": ("t-shirt", "T-shirt", "tee shirt", "short-sleeved t-shirt"),
    "polo shirt": ("polo shirt", "polo"),
    "shirt": ("shirt", "button-up shirt", "long-sleeved shirt"),
    "blouse": ("blouse", "long-sleeved blouse"),
    "tank top": ("tank top", "sleeveless top"),
    "sweater": ("sweater", "pullover", "jumper"),
    "hoodie": ("hoodie", "hooded sweatshirt", "hooded top"),
    "dress": ("dress", "knee-length dress"),
    "jacket": ("jacket",),
    "denim jacket": ("denim jacket", "jean jacket"),
    "leather jacket": ("leather jacket",),
    "puffer jacket": ("puffer jacket", "padded jacket", "down jacket", "puffy jacket"),
    "blazer": ("blazer", "suit jacket"),
    "coat": ("coat", "long coat", "overcoat"),
    "trousers": ("trousers", "pants", "slacks"),
    "jeans": ("jeans", "denim jeans"),
    "leggings": ("leggings", "tight leggings"),
    "shorts": ("shorts",),
    "skirt": ("skirt", "knee-length skirt"),
    "long skirt": ("long skirt", "ankle-length skirt", "maxi skirt"),
    "sneakers": ("sneakers", "trainers", "running shoes", "tennis shoes"),
    "leather shoes": ("leather shoes", "dress shoes"),
    "boots": ("boots",),
    "high heels": ("high heels", "heels", "high-heeled shoes"),
    "sandals": ("sandals",),
    "backpack": ("backpack", "rucksack"),
    "crossbody bag": ("crossbody bag", "messenger bag"),
    "shoulder bag": ("shoulder bag", "tote bag"),
    "shopping bag": ("shopping bag", "carrier bag"),
    "handbag": ("handbag", "purse"),
    "briefcase": ("briefcase",),
    "cap": ("cap", "baseball cap"),
    "beanie": ("beanie", "knit hat", "woolly hat"),
    "sun hat": ("sun hat", "wide-brimmed hat"),
    "scarf": ("scarf",),
}
PLURAL = frozenset(
    ("trousers", "jeans", "leggings", "shorts", "sneakers", "leather shoes", "boots", "high heels", "sandals")
)
PATTERN_PHRASES: dict[str, tuple[str, ...]] = {
    "plain": ("{colour} {item}",),
    "striped": (
        "{colour} and {second} striped {item}",
        "{colour} {item} with {second} stripes",
        "striped {colour} {item}",
    ),
    "checked": (
        "{colour} and {second} plaid {item}",
        "{colour} checked {item}",
        "{colour} {item} with {second} checks",
    ),
    "dotted": ("{colour} polka-dot {item}", "{colour} {item} with {second} dots"),
    "floral": ("{colour} floral {item}", "{colour} {item} with {second} flowers"),
    "printed": ("{colour} {item} with a {second} print on the chest", "{colour} {item} with a {second} logo"),
}
NOUNS = {"male": ("man", "man", "male", "guy", "gentleman"), "female": ("woman", "woman", "lady", "female")}
AGE_WORDS = {
    "young": ("young", "youthful"),
    "middle-aged": ("middle-aged", "middle aged"),
    "elderly": ("elderly", "old", "senior", "older"),
}
BUILD_WORDS = {
    "slim": ("slim", "thin", "slender", "skinny"),
    "average": ("average build", "medium build"),
    "heavy": ("heavyset", "stout", "overweight", "heavy"),
}
HEIGHT_WORDS = {"short": ("short",), "average": ("average height", "medium height"), "tall": ("tall",)}
SKIN_WORDS = {
    "light": ("fair skin", "light skin", "pale skin"),
    "tan": ("tan skin", "tanned skin", "olive skin"),
    "brown": ("brown skin", "medium brown skin"),
    "dark": ("dark skin", "dark brown skin", "a dark complexion"),
}
HAIR_COLOUR_WORDS = {
    "black": ("black", "jet black"),
    "brown": ("brown", "brunette"),
    "blond": ("blond", "blonde"),
    "red": ("red", "ginger"),
    "gray": ("gray", "grey"),
    "white": ("white",),
}
HAIR_PHRASES = {
    "short": ("short {colour} hair", "{colour} hair cut short"),
    "cropped": ("closely cropped {colour} hair", "a {colour} buzz cut", "very short {colour} hair"),
    "bald": ("a bald head", "a shaved head", "no hair"),
    "curly": ("curly {colour} hair", "{colour} curls", "{colour} curly hair"),
    "bob": ("a {colour} bob", "chin-length {colour} hair", "{colour} hair in a bob"),
    "shoulder-length": (
        "shoulder-length {colour} hair",
        "{colour} shoulder-length hair",
        "medium-length {colour} hair",
    ),
    "long": ("long {colour} hair", "long, straight {colour} hair", "{colour} hair that is long"),
    "ponytail": (
        "{colour} hair in a ponytail",
        "a {colour} ponytail",
        "{colour} hair tied back in a ponytail",
    ),
    "bun": ("{colour} hair in a bun", "{colour} hair tied up in a bun", "a {colour} bun"),
}
GLASSES_WORDS = ("glasses", "black-rimmed glasses", "spectacles", "eyeglasses")
BEARD_WORDS = {
    "full": ("a beard", "a full beard", "a thick beard"),
    "moustache": ("a moustache", "a mustache"),
}
POSTURE_WORDS = {
    "stooped": ("a stooped posture", "a hunched back", "a stoop"),
    "upright": ("an upright posture", "a straight posture"),
}
VIEW_PHRASES = {
    "front": ("facing the camera", "walking toward the camera", "seen from the front"),
    "back": ("seen from behind", "walking away from the camera", "facing away"),
    "left": ("walking to the left", "seen from the side", "facing left"),
    "right": ("walking to the right", "seen from the side", "facing right"),
}
