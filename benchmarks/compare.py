"""`python -m benchmarks.compare OLD NEW`: what became faster or slower between two results files of one machine.

The noise of a ratio has three parts: the standard error of either median, from its quartiles, and what the peers,
whose code is the same in both files, differ by. A contender counts as faster or slower beyond three times that.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import contradictions
from benchmarks.results import MODES, OURS, figures, load

SIGMAS = 3.0


@dataclass(frozen=True)
class Change:
    """A contender of a benchmark in both files."""

    name: str
    contender: str
    mode: str
    old_ms: float
    new_ms: float
    noise: float
    """Of log(new / old), one standard deviation."""

    @property
    def verdict(self) -> str:
        difference = math.log(self.new_ms / self.old_ms)
        if abs(difference) <= SIGMAS * self.noise:
            return "no difference"
        return "faster" if difference < 0 else "slower"


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """What both files have, ours and the peers.

    Raises: ValueError if they are not of one machine with the same versions.
    """
    for key, (before, after) in contradictions(old, new).items():
        raise ValueError(f"both files must be of the same {key}, got {before} and {after}")
    pairs = list(_pairs(old, new))
    drift = _drift([math.log(b["ms"] / a["ms"]) for _, contender, _, a, b in pairs if contender not in OURS])
    return [
        Change(name, contender, mode, a["ms"], b["ms"], math.hypot(_error(a), _error(b), drift))
        for name, contender, mode, a, b in pairs
    ]


def _pairs(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, str, str, Any, Any]]:
    before = {entry["name"]: entry for entry in old["results"]}
    for entry in new["results"]:
        for mode in MODES:
            was = figures(before[entry["name"]], mode) if entry["name"] in before else {}
            for contender, row in figures(entry, mode).items():
                if "ms" in row and "ms" in was.get(contender, ()):
                    yield entry["name"], contender, mode, was[contender], row


def _error(row: Mapping[str, float]) -> float:
    """Relative standard error of a median of normally distributed times, whose quartiles are 1.349 deviations apart."""
    deviation = (row["high"] - row["low"]) / 1.349 / row["ms"]
    return math.sqrt(math.pi / 2 / row["rounds"]) * deviation


def _drift(differences: list[float]) -> float:
    """Standard deviation of the peers' differences, from their median absolute value: a few may have changed."""
    return 1.4826 * statistics.median(map(abs, differences)) if differences else 0.0


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--all", action="store_true", help="print what did not change, too")
    options = parser.parse_args(arguments)
    old, new = load(options.old), load(options.new)
    try:
        found = changes(old, new)
    except ValueError as error:
        sys.exit(f"error: {error}")
    counts = {verdict: 0 for verdict in ("faster", "slower", "no difference")}
    for change in found:
        counts[change.verdict] += 1
        if options.all or change.verdict != "no difference":
            percent = 100 * (change.new_ms / change.old_ms - 1)
            print(
                f"{change.verdict:13}  {change.name} {change.contender}, {MODES[change.mode]}: {change.old_ms:.4g} ms, "
                f"now {change.new_ms:.4g} ms ({percent:+.1f} %, noise {100 * change.noise:.1f} %)"
            )
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))


if __name__ == "__main__":
    main()
