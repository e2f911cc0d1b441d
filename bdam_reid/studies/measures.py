"""What the papers' tables show of a run, read from its metrics.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bdam_reid.studies.grid import Figure, asked


def _rate(clothes: str, rate: str) -> Figure:
    def read(metrics: Mapping[str, Any]) -> float | None:
        found = asked(metrics, clothes)
        return found["results"].get("reranked", found["results"][clothes])[rate] if found else None

    return read


def colour_read(column: str) -> Figure:
    """A linear probe's accuracy in telling a colour from the first part of the embedding, which stands for the person;
    None where it was not probed."""

    def read(metrics: Mapping[str, Any]) -> float | None:
        columns = metrics.get("probes", {}).get("persons", {}).get("test", {}).get("outfit", {})
        return next(iter(columns[column]["linear"].values())) if column in columns else None

    return read


MEASURES: Mapping[str, Figure] = {
    "mAP": _rate("same", "map"),
    "R-1": _rate("same", "r1"),
    "R-5": _rate("same", "r5"),
    "R-10": _rate("same", "r10"),
    "mAP, other clothes": _rate("other", "map"),
    "R-1, other clothes": _rate("other", "r1"),
    "top colour read from the first part": colour_read("top colour"),
}
"""The drafts' four, in percent, which search for persons in the clothes that are described, re-ranked where a row
re-ranks; and what only ground truth can say: search in other clothes, and a linear probe's accuracy."""
JUDGED = ("mAP", "mAP, other clothes")
"""By which claims are judged: it moves less from seed to seed than the rates of single ranks."""
