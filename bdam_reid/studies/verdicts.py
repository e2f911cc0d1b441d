"""What runs say of a claim of the form "one row is better than another"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, variance
from typing import Literal, NamedTuple

LEVEL = 0.95
_RULE = (
    "A claim says that one row is better than another. The difference of their means over the seeds, the former less "
    "the latter, has a 95% interval (Student's t, {deviation}). The claim **holds** if all of the interval is above 0, "
    "**does not hold** if all of it is below 0, and **cannot be told** otherwise, or from fewer than two seeds of each "
    "row. There is no correction for the number of claims: of twenty true zeros one would be told from 0."
)
RULE = _RULE.format(deviation="deviation pooled over both rows")
PAIRED_RULE = _RULE.format(deviation="of the differences seed by seed, as the rows of a seed share a model")


class Claim(NamedTuple):
    """A sentence of a draft as a comparison of two rows of its table."""

    text: str
    source: str
    better: str
    """Name of the row that is claimed to be better."""
    worse: str


class Verdict(NamedTuple):
    """What the runs say of a claim in one figure."""

    difference: float
    """Of the means, in the figure's unit."""
    margin: float | None
    """Half the interval's width; None from too few seeds."""
    word: Literal["holds", "does not hold", "cannot be told"]


def judge(better: Sequence[float], worse: Sequence[float], *, paired: bool = False) -> Verdict:
    """The verdict on a figure's values over the seeds of both rows, one or more of each: by RULE, or by PAIRED_RULE if
    those at the same place are paired."""
    difference = fmean(better) - fmean(worse)
    if min(len(better), len(worse)) < 2:
        return Verdict(difference, None, "cannot be told")
    margin = _paired_margin(better, worse) if paired else _pooled_margin(better, worse)
    if abs(difference) <= margin:
        return Verdict(difference, margin, "cannot be told")
    return Verdict(difference, margin, "holds" if difference > 0 else "does not hold")


def _pooled_margin(one: Sequence[float], other: Sequence[float]) -> float:
    freedom = len(one) + len(other) - 2
    pooled = ((len(one) - 1) * variance(one) + (len(other) - 1) * variance(other)) / freedom
    return _student(freedom) * math.sqrt(pooled * (1 / len(one) + 1 / len(other)))


def _paired_margin(one: Sequence[float], other: Sequence[float]) -> float:
    differences = [x - y for x, y in zip(one, other, strict=True)]
    return _student(len(one) - 1) * math.sqrt(variance(differences) / len(one))


def _student(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, freedom))
