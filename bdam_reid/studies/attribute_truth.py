"""What attribute labels can tell persons apart by, whatever a model makes of them: what findings are held against.

The truth of an attribute is the information of its labels, their entropy among the persons who are ranked: an oracle's
experts read labels, so that this is what an attribute can add at most. A constant one has none. Two things can make it
less than it seems, and are said beside it: that pictures do not show it, so that what an oracle gains by it is a leak
of the label and no sight; and that another attribute tells it already, as one does of which it is a copy.

What this cannot say: how well a picture shows what heads do not read of it, as a linear head is a lower bound; how
labels of three and more attributes go together; and which attributes matter among photographs, of drawn persons.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from math import log2
from typing import NamedTuple

from bdam_reid.data.attributes import Labels


class Truth(NamedTuple):
    """Of an attribute."""

    frequency: float
    """Share of the labelled persons that are not in its most frequent state."""
    information: float
    """Bits, entropy of its labels; that there is none is one of them, as then no expert reads the person."""
    shown: float | None
    """Bits of its labels that linear heads read from pictures; None where that was not measured."""
    told_by: str
    """The attribute whose labels tell most of it; empty if none tells anything."""
    told: float
    """The share of its information that these tell: 1 of a copy."""


def information(values: Sequence[Hashable]) -> float:
    """Entropy of values in bits."""
    counts = Counter(values).values()
    return sum(count / len(values) * log2(len(values) / count) for count in counts)


def shared(some: Sequence[Hashable], others: Sequence[Hashable]) -> float:
    """Mutual information of two sequences in bits; of few values it comes out too great, by chance."""
    both = information(list(zip(some, others, strict=True)))
    return max(0.0, information(some) + information(others) - both)


def shown(labels: Sequence[Labels], said: Sequence[Labels]) -> dict[str, float]:
    """Attribute -> bits of the labels of images that what is said of these tells; only images with a label count."""
    pairs: dict[str, list[tuple[str, str | None]]] = {}
    for true, guess in zip(labels, said, strict=True):
        for name, label in true.items():
            if label is not None:
                pairs.setdefault(name, []).append((label, guess.get(name)))
    return {name: shared(*zip(*of, strict=True)) for name, of in pairs.items()}


def truths(names: Sequence[str], persons: Sequence[Labels], read: Mapping[str, float]) -> dict[str, Truth]:
    """Of all attributes.

    Args:
        names: of the attributes.
        persons: the labels of each person who has any.
        read: bits that are read from pictures, as `shown` gives them; empty if that was not measured.
    """
    columns = {name: [labels.get(name) for labels in persons] for name in names}
    found = {}
    for name, column in columns.items():
        bits = information(column)
        by = {other: shared(column, of) / bits for other, of in columns.items() if other != name} if bits else {}
        told_by = max(by, key=lambda other: by[other], default="")
        told = by.get(told_by, 0.0)
        found[name] = Truth(_frequency(column), bits, read.get(name), told_by if told else "", told)
    return found


def rank_correlation(found: Sequence[float], truth: Sequence[float | None]) -> tuple[float, float] | None:
    """Spearman's, and its p value; None where one side is not known of all, or all of it is the same."""
    from scipy.stats import spearmanr

    known = [value for value in truth if value is not None]
    if len(known) < len(truth) or len(set(found)) < 2 or len(set(known)) < 2:
        return None
    rho, p = spearmanr(found, known)
    return float(rho), float(p)


def _frequency(column: Sequence[str | None]) -> float:
    known = Counter(label for label in column if label is not None)
    return 1 - max(known.values()) / known.total() if known else 0.0
