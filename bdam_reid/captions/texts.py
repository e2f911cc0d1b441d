"""The format of texts.json: an identity text and a clothing text for each image, by its key.

    {"cam/0001_0.jpg": {"identity": "A tall woman with ...", "clothing": "She wears ...", "style": "concise"}}

`style` names how both were written, for the report of a set, which counts its styles.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

FILE = "texts.json"


class Texts(NamedTuple):
    """What a multimodal model says of an image, in two separate texts."""

    identity: str
    clothing: str


def read_texts(entries: Mapping[str, Any]) -> dict[str, Texts]:
    """The texts in the content of texts.json, by image key; an image that lacks one of the two has none."""
    return {key: texts for key, entry in entries.items() if (texts := _texts_of(entry))}


def count_styles(entries: Mapping[str, Any]) -> Counter[str]:
    """How many images in the content of texts.json have texts of which style; those without both texts, or without a
    style, are not counted."""
    named = (entries[key].get("style") for key in read_texts(entries))
    return Counter(style for style in named if isinstance(style, str) and style)


def _texts_of(entry: Any) -> Texts | None:
    texts = [entry.get(part) if isinstance(entry, dict) else None for part in Texts._fields]
    written = [text for text in texts if isinstance(text, str) and text.strip()]
    return Texts(*written) if len(written) == len(texts) else None
