"""Which data sets are drawn: they hold no photographs, and are called synthetic wherever they are named."""

from __future__ import annotations

from pathlib import Path

ONLY_DRAWN = ("statements.json", "synthetic.json")
"""Files one of which synthetic sets have, and no others."""


def is_drawn(root: Path) -> bool:
    """Whether the set in a folder is one of ours."""
    return any((root / name).exists() for name in ONLY_DRAWN)
