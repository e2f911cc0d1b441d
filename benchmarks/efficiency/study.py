"""What the efficiency study says, computed from the results files: the radar's scores, growth with length, claims."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.results import find

KINDS = ("mamba", "transformer", "simple")
PAPER = "test_fusion[pooled-16]"
"""The drafts' own sizes: one token, a batch of 16."""
SHORTEST_FITTED = 1024
"""Of the lengths that exponents are fitted to: below, fixed costs hide the growth."""

Row = Mapping[str, float]


def accuracy(runs: Sequence[Mapping[str, Any]], kind: str, metric: str = "map") -> tuple[float, float, int]:
    """Mean and standard deviation of a metric of the test split over the seeds, in percent, and their number."""
    values = [run["metrics"]["protocols"]["test"]["results"]["same"][metric] for run in runs if run["setting"] == kind]
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0, len(values)


def radar(results: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Raw numbers of Fig. 5's five axes for each fusion, at the drafts' sizes."""
    entry = find(results, PAPER)
    return {
        kind: {
            "mAP": accuracy(runs, kind)[0],
            "Params": contender["parameters"] / 1e6,
            "FLOPs": contender["forward_flops"] / entry["batch"] / 1e6,
            "Memory": contender["train"]["peak_mib"],
            "Speed": 1e3 * entry["batch"] / contender["forward"]["ms"],
        }
        for kind, contender in ((kind, entry["contenders"][kind]) for kind in KINDS)
    }


COSTS = ("Params", "FLOPs", "Memory")


def scores(raw: Mapping[str, Row]) -> dict[str, dict[str, float]]:
    """Each axis in [0, 100], higher is better: best / value of a cost, value / best of the others, times 100."""
    return {
        kind: {
            axis: 100 * (min(r[axis] for r in raw.values()) / value if axis in COSTS else value / _best(raw, axis))
            for axis, value in row.items()
        }
        for kind, row in raw.items()
    }


def _best(raw: Mapping[str, Row], axis: str) -> float:
    return max(row[axis] for row in raw.values())


@dataclass(frozen=True)
class Curve:
    """A quantity of a fusion over the number of tokens."""

    lengths: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def exponent(self) -> float:
        """Slope of log value over log length, least squares, from SHORTEST_FITTED on."""
        points = [
            (math.log(length), math.log(value))
            for length, value in zip(self.lengths, self.values, strict=True)
            if length >= SHORTEST_FITTED
        ]
        return statistics.linear_regression(*zip(*points, strict=True)).slope


QUANTITIES = {
    "forward ms": lambda contender: contender["forward"]["ms"],
    "forward + backward ms": lambda contender: contender["train"]["ms"],
    "peak MiB in training": lambda contender: contender["train"]["peak_mib"],
    "GFLOPs, forward + backward": lambda contender: contender["train_flops"] / 1e9,
}


def growth(results: Mapping[str, Any], quantity: str) -> dict[str, Curve]:
    """The curves of the fusions that read sequences."""
    entries = sorted((e for e in results["results"] if "length" in e), key=lambda e: e["length"])
    lengths = tuple(entry["length"] for entry in entries)
    return {
        kind: Curve(lengths, tuple(QUANTITIES[quantity](entry["contenders"][kind]) for entry in entries))
        for kind in KINDS[:2]
    }


def crossings(a: Curve, b: Curve) -> list[float]:
    """Lengths at which two curves cross, on straight lines between the points of a log-log plot."""
    gaps = [math.log(y / x) for x, y in zip(a.values, b.values, strict=True)]
    logs = [math.log(length) for length in a.lengths]
    return [
        math.exp(logs[i] + (logs[i + 1] - logs[i]) * gaps[i] / (gaps[i] - gaps[i + 1]))
        for i in range(len(gaps) - 1)
        if gaps[i] * gaps[i + 1] < 0
    ]


def describe_crossing(a: Curve, b: Curve) -> str:
    """Where curve a is below curve b."""
    found = crossings(a, b)
    if not found:
        return "below at every length" if a.values[-1] < b.values[-1] else "above at every length"
    where = " and ".join(f"{length:.0f}" for length in found)
    return f"crosses at {where}, then {'below' if a.values[-1] < b.values[-1] else 'above'}"


@dataclass(frozen=True)
class Claim:
    """What a draft says, what was measured, and whether that bears it out; None if so few seeds cannot tell."""

    text: str
    measured: str
    holds: bool | None


def claims(results: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> Iterator[Claim]:
    """The claims of sections 2.2 and 4.5 of the longer draft and of both abstracts, at the drafts' own sizes.

    "Fewer" and "faster" mean just that. "Comparable" means within 10 % of a cost. What is said of two accuracies holds,
    or does not, if they differ by more than two standard errors of the difference. "Linear" is an exponent within 0.15
    of 1, "quadratic" one beyond that, and of memory one beyond 1.5.
    """
    raw = radar(results, runs)
    mamba, transformer, simple = (raw[kind] for kind in KINDS)
    for axis, unit in (("Params", "M"), ("FLOPs", "M a pair"), ("Memory", "MiB at the peak of training")):
        yield Claim(
            f"fewer resources than a 4-layer Transformer: {axis}",
            f"{mamba[axis]:.3g} against {transformer[axis]:.3g} {unit}",
            mamba[axis] < transformer[axis],
        )
    yield Claim(
        "faster than a 4-layer Transformer",
        f"{mamba['Speed']:,.0f} against {transformer['Speed']:,.0f} pairs/s forward",
        mamba["Speed"] > transformer["Speed"],
    )
    yield Claim(
        "accuracy comparable to a 4-layer Transformer",
        f"mAP {spread(runs, 'mamba')} against {spread(runs, 'transformer')}",
        _better(runs, "mamba", "transformer"),
    )
    yield Claim(
        "a marked improvement of mAP over Simple",
        f"mAP {spread(runs, 'mamba')} against {spread(runs, 'simple')}",
        _better(runs, "mamba", "simple"),
    )
    yield Claim(
        "efficiency comparable to Simple",
        f"{mamba['Params']:.3g} against {simple['Params']:.3g} M parameters, {mamba['FLOPs']:.3g} against "
        f"{simple['FLOPs']:.3g} MFLOPs, {mamba['Speed']:,.0f} against {simple['Speed']:,.0f} pairs/s",
        all(mamba[a] <= 1.1 * simple[a] for a in COSTS) and mamba["Speed"] >= simple["Speed"] / 1.1,
    )
    times = growth(results, "forward + backward ms")
    yield Claim(
        "linear time in the sequence, against a Transformer's quadratic one",
        f"fitted exponents of training time {times['mamba'].exponent:.2f} and {times['transformer'].exponent:.2f}",
        abs(times["mamba"].exponent - 1) < 0.15 < times["transformer"].exponent - 1,
    )
    memory = growth(results, "peak MiB in training")
    yield Claim(
        "a Transformer's memory grows with the square of the length",
        f"fitted exponents of peak training memory {memory['mamba'].exponent:.2f} and "
        f"{memory['transformer'].exponent:.2f}: fused attention keeps no matrix of weights",
        memory["transformer"].exponent > 1.5,
    )
    yield Claim(
        "long-range dependencies between the modalities",
        "the fused feature is one token, so the scan takes one step and sees no other; there is no range, and no "
        "quadratic cost to avoid",
        False,
    )


def spread(runs: Sequence[Mapping[str, Any]], kind: str, metric: str = "map") -> str:
    """A metric's mean and deviation over the seeds."""
    mean, deviation, _ = accuracy(runs, kind, metric)
    return f"{mean:.1f} ± {deviation:.1f}"


def _better(runs: Sequence[Mapping[str, Any]], kind: str, other: str) -> bool | None:
    """Whether the first of two mean mAPs is greater; None if they differ by two standard errors of that or less."""
    (mean, deviation, n), (other_mean, other_deviation, m) = (accuracy(runs, k) for k in (kind, other))
    errors = (mean - other_mean) / (math.sqrt(deviation**2 / n + other_deviation**2 / m) or math.inf)
    return errors > 0 if abs(errors) > 2 else None
