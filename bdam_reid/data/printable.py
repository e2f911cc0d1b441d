"""Text from data as it may be printed: `printable`."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text on one line, with escapes such as \\x1b for what would steer a terminal or forge a line of the log:
    control characters, line breaks, marks of writing direction, halves of characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str, limit: int = 60) -> str:
    """The beginning of a text as `printable` has it, of `limit` characters at most."""
    text = printable(text[: limit + 1])
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
