"""The format of texts.json: an identity text and a clothing text for each image, by its key.

    {"cam/0001_0.jpg": {"identity": "A tall woman with ...", "clothing": "She wears ...", "style": "concise"}}

`style` says how a text was written, and is not read yet.
"""

from __future__ import annotations

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


def _texts_of(entry: Any) -> Texts | None:
    texts = [entry.get(part) if isinstance(entry, dict) else None for part in Texts._fields]
    written = [text for text in texts if isinstance(text, str) and text.strip()]
    return Texts(*written) if len(written) == len(texts) else None
