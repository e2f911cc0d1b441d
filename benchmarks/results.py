"""The results files: `results/<device>.json`, and those of runs that train.

`python -m benchmarks.results FILE`: how ours stands in each benchmark of a file, in a line.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"
OURS = ("cuda", "triton", "cpu", "reference", "ours")
"""Contenders of these names are ours: our backends, and what has no backends."""
MODES = {"forward": "forward", "train": "forward + backward"}
TIMES = {"ms": "", "graph_ms": ", in a graph"}
"""Median times that are kept of a contender: as it is called, and on a GPU as its graph is replayed."""

SEARCH = "search of a gallery"
"""The "op" of what `test_search.py` measures of indexes at several sizes."""

Entry = Mapping[str, Any]
"""A benchmark's name, commit, labels, and contenders: name -> facts, and for each mode the figures."""


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def add_entry(path: Path, machine: Mapping[str, Any], entry: Entry) -> None:
    """Writes a benchmark's figures into a machine's file, in place of what it had of them; never half a file."""
    existing = load(path) if path.exists() else {}
    entries = {old["name"]: old for old in existing.get("results", ())} | {entry["name"]: entry}
    versions = existing.get("versions", {}) | machine["versions"]
    whole = {**machine, "versions": versions, "results": list(entries.values())}
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


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


def best_of_ours(entry: Entry, mode: str, key: str = "ms") -> str | None:
    """The fastest contender of ours, the peer aside."""
    ours = [name for name in OURS if name != entry.get("peer")]
    times = {name: row[key] for name, row in figures(entry, mode).items() if name in ours and key in row}
    return min(times, key=times.__getitem__) if times else None


def best_peer(entry: Entry, mode: str, key: str = "ms") -> str | None:
    """The contender that the best of ours is held against: the fastest whose name begins with that of the peer."""
    times = {
        name: row[key]
        for name, row in figures(entry, mode).items()
        if entry.get("peer") and name.startswith(entry["peer"]) and key in row
    }
    return min(times, key=times.__getitem__) if times else None


def ratio(entry: Entry, mode: str, key: str = "ms") -> float | None:
    """How many times the best of ours the best peer takes; None without a peer."""
    ours, peer = best_of_ours(entry, mode, key), best_peer(entry, mode, key)
    rows = figures(entry, mode)
    return rows[peer][key] / rows[ours][key] if ours and peer and rows[ours][key] else None


def target(entry: Entry, key: str = "ms") -> float | None:
    """The ratio that is wanted: of replayed graphs "graph_target", if that is another."""
    return entry.get("graph_target", entry.get("target")) if key == "graph_ms" else entry.get("target")


def title(entry: Entry) -> str:
    return f"{entry['op']}, {entry['size']}"


def summary(entry: Entry) -> Iterator[str]:
    """A line for each mode: medians, and how the best of ours stands against the peer and the target."""
    for mode, words in MODES.items():
        rows = figures(entry, mode)
        if not any("ms" in row for row in rows.values()):
            continue
        for key, how in TIMES.items():
            times = ", ".join(f"{name} {row[key]:.4g} ms" for name, row in rows.items() if key in row)
            times_the_peer = ratio(entry, mode, key)
            stands = f": {times_the_peer:.2f}x {best_peer(entry, mode, key)}" if times_the_peer else ""
            wanted = f", target {target(entry, key)}x" if times_the_peer and target(entry, key) else ""
            if times:
                yield f"{title(entry)}, {words}{how}: {times}{stands}{wanted}"


def standing(entry: Entry) -> str:
    """Milliseconds of the best of ours and of the best peer with their ratio, forward and with backward, each as called
    and in a graph; "!" where more is wanted. Without a peer, the times of all. And who failed."""
    cells = []
    for mode in MODES:
        rows = figures(entry, mode)
        for key in TIMES:
            ours, peer, times = best_of_ours(entry, mode, key), best_peer(entry, mode, key), ratio(entry, mode, key)
            wanted = target(entry, key) if mode == "train" else None
            if ours and peer and times:
                missed = "!" if wanted and times < wanted else ""
                cells.append(f"{rows[ours][key]:.3g}/{rows[peer][key]:.3g} {times:.2f}x{missed}")
            else:
                cells.append("/".join(f"{row[key]:.3g}" for row in rows.values() if key in row) or "-")
    failed = (name for name, row in entry["contenders"].items() if any(key.startswith("failed") for key in row))
    what = title(entry).replace("bidirectional_", "").replace(", bf16", "").replace(", N = 16", "")
    return f"{what[:56]:56} " + " ".join(f"{cell:>18}" for cell in cells) + "".join(f" FAILED: {x}" for x in failed)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results", description="How ours stands in a file.")
    parser.add_argument("file", type=Path)
    print(f"{'ms, ours/best peer':56} {'forward':>18} {'in a graph':>18} {'with backward':>18} {'in a graph':>18}")
    for entry in load(parser.parse_args(arguments).file)["results"]:
        print(standing(entry))


if __name__ == "__main__":
    main()
