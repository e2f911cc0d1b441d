"""What a multimodal model is asked: two descriptions of each image, of identity and of clothing (icme III-C)."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from bdam_reid.captions.styles import Style

Part: TypeAlias = Literal["identity", "clothing"]
PARTS: tuple[Part, ...] = get_args(Part)
LONGEST_SIDE = 1024
"""Pixels; larger images are made smaller."""

_SYSTEM = (
    "You describe one person in a photograph for a data set of person search. Say only what can be seen. Write plain "
    'English prose that starts with the description itself, and answer with one JSON object: {"description": "..."}.'
)
_TASKS: dict[Part, str] = {
    "identity": "Describe the person's identity in 8 to 50 words: sex, age, build, height, posture, skin, hair, "
    "glasses and beard, as far as they can be seen. Say nothing of clothes, hats, shoes, bags or anything else that is "
    "worn or carried.",
    "clothing": "Describe the person's clothing in 8 to 50 words: each garment with its type, colour, pattern and "
    "material, the shoes, and the accessories worn or carried, as far as they can be seen. Call the wearer the person; "
    "say nothing of sex, age, build, skin, face or hair.",
}
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "description",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"description": {"type": "string"}},
            "required": ["description"],
            "additionalProperties": False,
        },
    },
}
"""Structured output, as OpenAI, vLLM and Ollama take it."""


def instruction(part: Part, style: Style | None) -> str:
    """What is asked of every image that is described in a style, or in none."""
    if style is None:
        return _TASKS[part]
    examples = "\n".join(f"- {example}" for example in style.examples)
    return (
        f"{_TASKS[part]}\n\nStyle, in so far as it agrees with the above. {style.prompt} Take the manner of these "
        f"examples, in which general words stand for what was said, and not their content:\n{examples}"
    )


def digest(styles: Sequence[Style]) -> str:
    """A short name for all that is asked: another one means other prompts."""
    asked = [[instruction(part, style) for style in styles or (None,)] for part in PARTS]
    return hashlib.sha256(json.dumps([_SYSTEM, asked]).encode()).hexdigest()[:16]


def style_of(key: str, styles: Sequence[Style]) -> Style | None:
    """The style of the texts of an image; all styles come alike often, whatever their share."""
    if not styles:
        return None
    return styles[int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % len(styles)]


def messages(part: Part, style: Style | None, image: str, rejected: tuple[str, str] | None) -> list[dict[str, Any]]:
    """The messages of a call.

    Args:
        part: which description.
        style: of the text.
        image: as `data_url` gives it.
        rejected: the last answer and what was wrong with it, unless this is the first call.
    """
    content: list[dict[str, Any]] = [
        {"type": "text", "text": instruction(part, style)},
        {"type": "image_url", "image_url": {"url": image}},
    ]
    asked: list[dict[str, Any]] = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": content}]
    if rejected is None:
        return asked
    answer, reason = rejected
    again = f"This description cannot be used: {reason}. Describe the same person again without this fault."
    # Halves of characters, which a model may spell in JSON, cannot be sent.
    shown = answer[:2000].encode(errors="replace").decode() or "{}"
    return [*asked, {"role": "assistant", "content": shown}, {"role": "user", "content": again}]


def data_url(path: Path) -> str:
    """An image file as JPEG in a data URL, upright and without metadata such as the place where it was taken.

    Raises: ImageError if it cannot be read.
    """
    from bdam_reid.data.images import open_image

    image = open_image(path, (LONGEST_SIDE, LONGEST_SIDE))
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    file = BytesIO()
    image.save(file, "JPEG", quality=95)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
