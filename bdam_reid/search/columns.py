"""What is known of the images of a gallery besides their pictures, and which of them a filter leaves.

A column has a text for each image, or None where it is unknown. The column `time` is of moments: what else is known is
compared for equality, moments by before and after.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone

import numpy as np
from numpy.typing import NDArray

from bdam_reid.data.printable import shortened
from bdam_reid.data.records import QueryError

TIME = "time"
UNKNOWN = -1


@dataclass(frozen=True)
class Column:
    """The texts of N images, each kept once."""

    codes: NDArray[np.int32]
    """(N,) places in `values`, or `UNKNOWN`."""
    values: list[str]

    def __getitem__(self, row: int) -> str | None:
        """The text of an image."""
        code = int(self.codes[row])
        return None if code == UNKNOWN else self.values[code]


def column_named(name: str, columns: Mapping[str, Column]) -> Column:
    """The column of a name. Raises: QueryError if there is none."""
    if name not in columns:
        known = f"one of {', '.join(columns)}" if columns else "none, as the index was made without a table"
        raise QueryError(f"the column must be {known}, got {shortened(name)!r}")
    return columns[name]


def column_of(texts: Iterable[str | None]) -> Column:
    """The column of texts; empty ones are unknown."""
    known: dict[str, int] = {}
    codes = [known.setdefault(text, len(known)) if text else UNKNOWN for text in texts]
    return Column(np.array(codes, dtype=np.int32), list(known))


@dataclass(frozen=True)
class Where:
    """Which images may be found: all of these must hold."""

    equal: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For each column the texts of which an image has one."""
    since: float | None = None
    """Seconds since 1970, UTC: the image is of this moment or a later one."""
    until: float | None = None
    """The image is of an earlier moment."""

    def __bool__(self) -> bool:
        """Whether it asks for anything."""
        return bool(self.equal) or self.since is not None or self.until is not None

    def mask(self, columns: Mapping[str, Column]) -> NDArray[np.bool_]:
        """(N,) True where an image of at least one column may be found; what is unknown is never equal, nor before or
        after. Raises: QueryError for a column that there is not."""
        held = [np.isin(column_named(name, columns).codes, self._codes(name, columns)) for name in self.equal]
        if self.since is not None or self.until is not None:
            held.append(self._in_time(column_named(TIME, columns)))
        return np.logical_and.reduce(held)

    def unknown(self, columns: Mapping[str, Column]) -> list[str]:
        """What it asks for that no image has, and what images have: "camera=9, but there are 1, 2, 3"."""
        return [
            f"{name}={text}, but there are {shortened(', '.join(columns[name].values))}"
            for name, texts in self.equal.items()
            for text in texts
            if text not in columns[name].values
        ]

    def _codes(self, name: str, columns: Mapping[str, Column]) -> list[int]:
        places = {value: code for code, value in enumerate(columns[name].values)}
        return [places[value] for value in self.equal[name] if value in places]

    def _in_time(self, column: Column) -> NDArray[np.bool_]:
        # One more for what is unknown, whose code is -1: the last.
        moments = np.array([*map(moment, column.values), np.nan])[column.codes]
        since = -np.inf if self.since is None else self.since
        until = np.inf if self.until is None else self.until
        return (moments >= since) & (moments < until)


def where_of(conditions: Sequence[str]) -> Where:
    """The filter of conditions such as camera=3, time>=2026-11-01T08:00 and time<2026-11-02. Of one column several
    conditions of equality leave what fulfils any.

    Raises: QueryError for any other form.
    """
    equal: dict[str, tuple[str, ...]] = {}
    bounds: dict[str, float] = {}
    for condition in conditions:
        match = re.fullmatch(r"\s*([^<>=]+?)\s*(>=|<|=)\s*(.*\S)\s*", condition, re.DOTALL)
        if not match or (match[1] == TIME) == (match[2] == "="):
            raise QueryError(
                f"a filter must be column=value, time>=moment or time<moment, got {shortened(condition)!r}"
            )
        name, sign, value = match.groups()
        if name == TIME:
            if sign in bounds:
                raise QueryError(f"a filter must have one time{sign}, got another, {shortened(condition)!r}")
            bounds[sign] = moment(value)
        else:
            equal[name] = (*equal.get(name, ()), value)
    return Where(equal, bounds.get(">="), bounds.get("<"))


def moment(text: str) -> float:
    """Seconds since 1970, UTC, of a number of them, or of a date and time as ISO 8601 writes it; where that says
    nothing of the zone, UTC. Raises: QueryError for any other text."""
    try:
        return float(text) if re.fullmatch(r"-?\d+(\.\d+)?", text) else _iso(text)
    except (ValueError, OverflowError) as error:
        raise QueryError(
            f"a time must be as 2026-11-27T08:30:00 or seconds since 1970, got {shortened(text)!r}"
        ) from error


def _iso(text: str) -> float:
    # Python 3.10 does not read the Z.
    read = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    return (read if read.tzinfo else read.replace(tzinfo=timezone.utc)).timestamp()
