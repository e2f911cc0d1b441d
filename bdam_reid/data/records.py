"""What a data set is, in memory and without its pixels: records, queries, protocols, and what was found in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

from bdam_reid.captions.texts import Texts
from bdam_reid.data.printable import printable, shortened

if TYPE_CHECKING:
    from torch import Tensor

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
Clothes = Literal["same", "other"]
"""The question of a search: whether the person wears the clothes that the query shows or describes, or others."""
CLOTHES: tuple[Clothes, ...] = get_args(Clothes)
HOLD_OUT = 10
"""One training identity in so many is held out for validation where a set has no validation split."""


class DatasetError(ValueError):
    """A data set that cannot be used: what was expected, what was found, what to do, on one printable line."""

    def __str__(self) -> str:
        return printable(super().__str__())


class QueryError(ValueError):
    """A query of a kind that a method cannot read, such as a sentence for one that reads images only."""


@dataclass(frozen=True)
class Record:
    """One image and what is known of it; `key` names it within its set."""

    path: Path
    key: str
    identity: int
    split: Split
    captions: tuple[str, ...] = ()
    camera: int | None = None
    outfit: int | None = None
    """Number of the outfit among those of the person."""
    texts: Texts | None = None
    attributes: Mapping[str, Any] | None = field(default=None, hash=False, repr=False)
    """Ground truth, as in attributes.json; labels of the person, see `attributes.LABELS`."""
    domain: int = 0
    """Which of the sets that are used together it is of: its place in `Dataset.domains`."""


@dataclass(frozen=True)
class Query:
    """What a gallery is searched with: a sentence, an image file, or both; and, where that is known, who it shows."""

    text: str | None = None
    image: Path | None = None
    identity: int | None = None
    camera: int | None = None
    outfit: int | None = None
    described: Path | None = None
    """Image that the text describes, for pictures of results. No method reads it."""
    attributes: Mapping[str, Any] | None = field(default=None, hash=False, repr=False)
    """Ground truth of who is shown, as that of a record; a search has none."""


Junk: TypeAlias = Callable[[Sequence[Query], Sequence[Record]], "Tensor"]
"""Q queries and G gallery records -> (Q, G) bool, True where an entry does not count for a query."""


@dataclass(frozen=True)
class Protocol:
    """Queries, the gallery that they search, and which of its entries are junk for which query."""

    name: str
    queries: tuple[Query, ...]
    gallery: tuple[Record, ...]
    junk: Junk | None = None
    split: Literal["val", "test"] = "test"
    """Whether it may choose checkpoints and weights of parts, or is only reported."""
    clothes: Clothes = "same"
    """What it asks."""
    domain: int = 0
    """Which of the sets that are used together it is of."""
    ceiling: Mapping[str, float] | None = None
    """R-1 and mAP ("r1" and "map", percent) of a perfect reader of its captions, where the set knows them."""


def has_attributes(protocol: Protocol) -> bool:
    """Whether anything is known of its images that a search does not know."""
    return any(query.attributes for query in protocol.queries) or any(record.attributes for record in protocol.gallery)


def without_attributes(protocol: Protocol) -> Protocol:
    """The same protocol, of whose images nothing is known but what a search knows."""
    return replace(
        protocol,
        queries=tuple(replace(query, attributes=None) for query in protocol.queries),
        gallery=tuple(replace(record, attributes=None) for record in protocol.gallery),
    )


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with some entries, and was done about it."""

    what: str
    count: int
    examples: tuple[str, ...]
    wrong: bool = False
    """Whether it makes results wrong, or is only to be known."""

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.examples) else ""
        return f"{self.count} {self.what}: {', '.join(self.examples)}{more}"


class Findings:
    """Collects findings while a set is read."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, bool], list[str]] = defaultdict(list)

    def add(self, what: str, examples: Iterable[object], *, wrong: bool = False) -> None:
        """Count entries with a fault, named by what they are; none adds nothing."""
        shown = [str(example) for example in examples]
        if shown:
            self._found[what, wrong] += shown

    def listed(self) -> tuple[Finding, ...]:
        """All of them, in the order in which they were first found."""
        return tuple(
            Finding(what, len(found), tuple(shortened(example) for example in found[:3]), wrong)
            for (what, wrong), found in self._found.items()
        )


@dataclass(frozen=True)
class Report:
    """What a data set holds, per split, and what was found in it."""

    images: dict[str, int]
    identities: dict[str, int]
    captions: dict[str, int]
    findings: tuple[Finding, ...]
    domains: Mapping[str, Report] = field(default_factory=dict)
    """Of several sets that are used together, what each holds, by name; the counts are of all."""

    @classmethod
    def of(cls, splits: Mapping[str, Sequence[Record]], findings: Findings) -> Report:
        """The report of the records of each split."""
        return cls(
            images={split: len(records) for split, records in splits.items()},
            identities={split: len({r.identity for r in records}) for split, records in splits.items()},
            captions={split: sum(len(r.captions) for r in records) for split, records in splits.items()},
            findings=findings.listed(),
        )

    def __str__(self) -> str:
        lines = [
            f"{split}: {self.images[split]} images of {self.identities[split]} persons"
            + (f", {self.captions[split]} captions" if any(self.captions.values()) else "")
            for split in SPLITS
        ]
        parts = [f"{name}: {line}" for name, report in self.domains.items() for line in str(report).splitlines()]
        return "\n".join([*lines, *parts, *(str(finding) for finding in self.findings)])


class Domain(NamedTuple):
    """One of the sets that are used together."""

    name: str
    """Of its folder; no other has it."""
    layout: str
    root: Path

    def __str__(self) -> str:
        return f"{self.layout} at {self.root}"


@dataclass(frozen=True)
class Dataset:
    """A data set; `name` is that of its layout, after "synthetic" if it is drawn; `protocols` has "test", what else
    there is, and "val" unless nothing was left for it. Of the split "val" there is one protocol for a question at most.

    Or several sets that are used together, each a domain: no identity is in two of them, and keys of records and names
    of protocols begin with a domain's name ("duke/query/...", "duke_test"). `name` is of all layouts, `root` of the
    first."""

    name: str
    root: Path
    train: tuple[Record, ...]
    protocols: Mapping[str, Protocol]
    report: Report
    several: tuple[Domain, ...] = ()
    """The sets, if there are several."""

    @property
    def domains(self) -> tuple[Domain, ...]:
        """The sets that it is made of, or the one that it is."""
        return self.several or (Domain(self.root.name, self.name, self.root),)

    def own_name(self, of: Record | Protocol) -> str:
        """The key of a record, or the name of a protocol, as its own set has it."""
        named = of.key if isinstance(of, Record) else of.name
        return named[len(self.domains[of.domain].name) + 1 :] if self.several else named

    def __str__(self) -> str:
        return "; ".join(map(str, self.domains))


def held_out(identities: Iterable[int]) -> set[int]:
    """Every tenth of the identities, in the order of their numbers; none of fewer than three."""
    people = sorted(set(identities))
    return set(people[::HOLD_OUT]) if len(people) > 2 else set()
