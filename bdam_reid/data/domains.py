"""Several data sets as one, each of them a domain: `join`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from bdam_reid.data.contents import contents_of, images_of, overlaps
from bdam_reid.data.records import SPLITS, Dataset, DatasetError, Domain, Finding, Findings, Protocol, Record, Report


def join(sets: Sequence[Dataset]) -> Dataset:
    """Several sets as one; persons are numbered anew, those of a set after those of the sets before it.

    Image files that are the same in two sets are counted in the report.

    Raises: DatasetError for a set that is given twice, or images that one is trained on and another is tested on.
    """
    names = _names([dataset.root for dataset in sets])
    report = _report(sets, names)
    train: list[Record] = []
    protocols: dict[str, Protocol] = {}
    first = 0
    for number, (name, dataset) in enumerate(zip(names, sets, strict=True)):
        people = {person: first + place for place, person in enumerate(sorted(set(_people(dataset))))}
        first += len(people)
        train += _moved(dataset.train, name, number, people)
        for protocol in dataset.protocols.values():
            moved = _moved_protocol(protocol, name, number, people)
            protocols[moved.name] = moved
    domains = tuple(Domain(name, of.name, of.root) for name, of in zip(names, sets, strict=True))
    return Dataset(" + ".join(of.name for of in sets), sets[0].root, tuple(train), protocols, report, domains)


def _names(roots: Sequence[Path]) -> list[str]:
    """A name for each folder, of letters that may be in the name of a file and without _, which comes after it; of
    folders of one name the later have a number."""
    if len({root.resolve() for root in roots}) < len(roots):
        raise DatasetError(f"expected different sets as domains, got one twice: {', '.join(map(str, roots))}")
    names: list[str] = []
    for root in roots:
        name = re.sub(r"[^\w.-]+|_", "-", root.name) or "set"
        candidates = (name, *(f"{name}-{number}" for number in range(2, len(roots) + 1)))
        names.append(next(candidate for candidate in candidates if candidate not in names))
    return names


def _people(dataset: Dataset) -> Iterator[int]:
    """Who is in any record or query."""
    yield from (record.identity for record in dataset.train)
    for protocol in dataset.protocols.values():
        yield from (record.identity for record in protocol.gallery)
        yield from (query.identity for query in protocol.queries if query.identity is not None)


def _moved(records: Sequence[Record], name: str, number: int, people: Mapping[int, int]) -> tuple[Record, ...]:
    return tuple(replace(r, key=f"{name}/{r.key}", identity=people[r.identity], domain=number) for r in records)


def _moved_protocol(protocol: Protocol, name: str, number: int, people: Mapping[int, int]) -> Protocol:
    queries = tuple(
        query if query.identity is None else replace(query, identity=people[query.identity])
        for query in protocol.queries
    )
    gallery = _moved(protocol.gallery, name, number, people)
    return replace(protocol, name=f"{name}_{protocol.name}", queries=queries, gallery=gallery, domain=number)


def _report(sets: Sequence[Dataset], names: Sequence[str]) -> Report:
    """What all sets hold, and which images are in several. Raises: DatasetError if these make a result wrong."""
    contents = [contents_of(images_of(dataset), Findings()) for dataset in sets]
    shared: list[Finding] = []
    for one, other in combinations(range(len(sets)), 2):
        for finding in overlaps(contents[one], contents[other], (names[one], names[other])):
            if finding.wrong:
                raise DatasetError(
                    f"{finding}: a result would be wrong. Do not use these sets together, or remove the images from "
                    "one; `python -m bdam_reid.data check` names what they share"
                )
            shared.append(finding)
    images, identities, captions = (
        {str(split): sum(getattr(dataset.report, what)[split] for dataset in sets) for split in SPLITS}
        for what in ("images", "identities", "captions")
    )
    reports = {name: dataset.report for name, dataset in zip(names, sets, strict=True)}
    return Report(images, identities, captions, tuple(shared), reports)
