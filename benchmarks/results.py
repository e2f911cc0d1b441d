"""The results files: `results/<device>.json`, and those of runs that train."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"
OURS = ("cuda", "triton", "cpu", "reference", "ours")
"""Contenders of these names are ours: our backends, and what has no backends."""
MODES = {"forward": "forward", "train": "forward + backward"}

Entry = Mapping[str, Any]
"""A benchmark's name, commit, labels, and contenders: name -> facts, and for each mode the figures."""


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def devices() -> dict[str, dict[str, Any]]:
    """Measurements by file name, those of machines with the fewest entries last."""
    found = {path.name: load(path) for path in sorted(FOLDER.glob("*.json"))}
    measured = {name: results for name, results in found.items() if "device" in results}
    return dict(sorted(measured.items(), key=lambda item: -len(item[1]["results"])))


def find(results: Mapping[str, Any], name: str) -> Entry:
    return next(entry for entry in results["results"] if entry["name"] == name)


def figures(entry: Entry, mode: str) -> dict[str, Mapping[str, float]]:
    """The contenders' figures in a mode."""
    return {name: contender[mode] for name, contender in entry["contenders"].items() if mode in contender}


def best_of_ours(entry: Entry, mode: str) -> str | None:
    """The fastest contender of ours, the peer aside."""
    ours = [name for name in OURS if name != entry.get("peer")]
    times = {name: row["ms"] for name, row in figures(entry, mode).items() if name in ours and "ms" in row}
    return min(times, key=times.__getitem__) if times else None


def ratio(entry: Entry, mode: str, key: str = "ms") -> float | None:
    """How many times the best of ours the peer takes; None without a peer."""
    ours, rows = best_of_ours(entry, mode), figures(entry, mode)
    peer = rows.get(entry.get("peer", ""))
    return peer[key] / rows[ours][key] if ours and peer and rows[ours][key] else None


def title(entry: Entry) -> str:
    return f"{entry['op']}, {entry['size']}"


def summary(entry: Entry) -> Iterator[str]:
    """A line for each mode: medians, and how the best of ours stands against the peer and the target."""
    for mode, words in MODES.items():
        rows = figures(entry, mode)
        if not any("ms" in row for row in rows.values()):
            continue
        times = ", ".join(f"{name} {row['ms']:.4g} ms" for name, row in rows.items())
        times_the_peer = ratio(entry, mode)
        stands = f": {times_the_peer:.2f}x {entry['peer']}" if times_the_peer else ""
        target = f", target {entry['target']}x" if times_the_peer and "target" in entry else ""
        yield f"{title(entry)}, {words}: {times}{stands}{target}"
