"""What runs say of a claim of the form "one row is better than another"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, variance
from typing import Literal, NamedTuple

LEVEL = 0.95
RULE = (
    "A claim says that one row is better than another. The difference of their means over the seeds, the former less "
    "the latter, has a 95% interval (Student's t, deviation pooled over both rows). The claim **holds** if all of the "
    "interval is above 0, **does not hold** if all of it is below 0, and **cannot be told** otherwise, or from fewer "
    "than two seeds of each row. There is no correction for the number of claims: of twenty true zeros one would be "
    "told from 0."
)


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


def judge(better: Sequence[float], worse: Sequence[float]) -> Verdict:
    """The verdict from a figure's values over the seeds of both rows, one or more of each, by RULE."""
    from scipy.stats import t

    difference = fmean(better) - fmean(worse)
    if min(len(better), len(worse)) < 2:
        return Verdict(difference, None, "cannot be told")
    freedom = len(better) + len(worse) - 2
    pooled = ((len(better) - 1) * variance(better) + (len(worse) - 1) * variance(worse)) / freedom
    margin = float(t.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(pooled * (1 / len(better) + 1 / len(worse)))
    if abs(difference) <= margin:
        return Verdict(difference, margin, "cannot be told")
    return Verdict(difference, margin, "holds" if difference > 0 else "does not hold")
