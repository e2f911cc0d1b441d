"""What docs/metrics.md says of the fields of metrics.json, to be held against real ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
_ROW = re.compile(r"^\| (.+?) \| (.+) \|$", re.MULTILINE)
_CAPITALS = re.compile(r"\b[A-Z]{3,}\b")
_CLOSED = ("QUESTION", "SPLIT", "GROUP", "RATE", "SETTING", "FIGURE")
"""Capitals of which the page lists all names."""


def fields() -> set[str]:
    """All fields, one for each of the listed names; other capitals stand."""
    capitals = {name: re.findall("`(.+?)`", words) for name, words in _ROW.findall(PAGE) if name in _CLOSED}
    found: set[str] = set()
    for cell, _ in _ROW.findall(PAGE):
        for field in re.findall("`(.+?)`", cell):
            names = [name for name in _CLOSED if name in field.split(".")]
            for chosen in product(*(capitals[name] for name in names)):
                one = field
                for name, value in zip(names, chosen, strict=True):
                    one = one.replace(name, value)
                found.add(one)
    return found


def told(metrics: dict[str, Any]) -> set[str]:
    """The fields of the page that a metrics.json has. Raises: AssertionError if it has one that the page lacks."""
    patterns = {field: re.compile(_CAPITALS.sub("[^.]+", re.escape(field))) for field in fields()}
    met: set[str] = set()
    for path in _paths(metrics):
        matching = {field for field, pattern in patterns.items() if pattern.fullmatch(path)}
        assert matching, f"docs/metrics.md does not say what {path} is"
        met |= matching
    return met


def _paths(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _paths(inner, f"{path}.{name}" if path else name)
    else:
        yield path
