"""A sentence as one text, where others have `splitter`. Nothing is imported, since exports take this file along."""

from __future__ import annotations


def phrases(text: str) -> tuple[str]:
    """The one text of a sentence. Raises: ValueError if it is blank."""
    if not text.strip():
        raise ValueError(f"a sentence must not be blank, got {text!r}")
    return (text,)
