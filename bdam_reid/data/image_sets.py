"""What image sets of every layout become: persons held out, protocols of searches by an image, checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from bdam_reid.data.checks import check_images
from bdam_reid.data.junk import same_camera
from bdam_reid.data.records import (
    Clothes,
    Dataset,
    DatasetError,
    Findings,
    Junk,
    Protocol,
    Query,
    Record,
    Report,
    Split,
    held_out,
)

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
"""Of the names of image files, in small letters."""


class Search(NamedTuple):
    """Images that search others; each is a record, which has its split."""

    name: str
    """Of the protocol."""
    queries: Sequence[Record]
    gallery: Sequence[Record]
    junk: Junk = same_camera
    clothes: Clothes = "same"


def image_set(
    name: str,
    root: Path,
    train: Sequence[Record],
    tests: Sequence[Search],
    findings: Findings,
    *,
    hold_out: bool,
    allow_missing: bool,
    val: Sequence[Record] = (),
    validation: Callable[[Sequence[Record]], Sequence[Search]] | None = None,
) -> Dataset:
    """The data set of the records that a layout has read.

    Where it brings no validation persons, every tenth training person, in the order of their numbers, is one.

    Args:
        name: of the layout.
        root: its folder.
        train: training records; none for a set that is for evaluation only.
        tests: what the test part is searched for.
        findings: of reading it; what is found here is added.
        hold_out: whether training persons are held out for validation if there are no others; else there is no
            protocol "val".
        allow_missing: whether evaluation may lack images.
        val: validation records, if the set brings them.
        validation: the searches of validation records; `by_each_camera` if it is not given.
    Raises: DatasetError if the set cannot be used.
    """
    _check_people(root, train, val, tests)
    if hold_out and not val:
        train, val = _hold_out(train, "val")
        what = "training identities held out for validation, as there is no such split"
        findings.add(what, _first_of_each(val))
    asked, found = (_distinct(getattr(test, side) for test in tests) for side in ("queries", "gallery"))
    unseen = [record.key for record in asked if record.camera is None]
    findings.add("queries whose camera is not known, for whom images by the same one count", unseen)
    learnt = {record.identity for record in train}
    known = [record.key for record in found if record.identity in learnt]
    findings.add("gallery images of persons who are trained on, whom no query looks for", known)
    splits = {"train": train, "val": val, "query": asked, "test": found}
    kept = check_images(splits, allow_missing, findings) if any(splits.values()) else ()
    people = {record.identity for record in kept}
    if len(people) == 1 or (hold_out and kept and not val) or not asked:
        raise DatasetError(
            f"expected training images of {'three' if hold_out else 'two'} people or more and images of queries in "
            f"{root}, got images of {len({r.identity for r in (*kept, *val)})} people and {len(asked)} queries: is it "
            "the right folder, and is it whole?"
        )
    searches = [*(validation or by_each_camera)(val), *tests] if val else tests
    report = Report.of({"train": kept, "val": val, "test": _distinct((asked, found))}, findings)
    return Dataset(name, root, kept, {search.name: _protocol(search) for search in searches}, report)


def by_each_camera(records: Sequence[Record], name: str = "val") -> list[Search]:
    """The first image of a person by each camera, in each outfit if that is known, searches all of the records."""
    first = {(r.identity, r.camera, r.outfit): r for r in reversed(records)}
    return [Search(name, [r for r in records if first[r.identity, r.camera, r.outfit] is r], records)]


def hold_out_test(records: Sequence[Record], findings: Findings) -> tuple[list[Record], list[Search]]:
    """Every tenth person for a test, where a set has no such part, and the records of the others."""
    rest, test = _hold_out(records, "test")
    what = "persons held out for the test, as there are neither queries nor a gallery"
    findings.add(what, _first_of_each(test))
    return rest, by_each_camera(test, "test")


def _hold_out(records: Sequence[Record], split: Split) -> tuple[list[Record], list[Record]]:
    """The records without every tenth person, and those of these, of another split."""
    people = held_out(record.identity for record in records)
    return (
        [record for record in records if record.identity not in people],
        [replace(record, split=split) for record in records if record.identity in people],
    )


def _first_of_each(records: Sequence[Record]) -> list[str]:
    """The key of the first image of each person, which is what a user knows the person by."""
    return list({record.identity: record.key for record in reversed(records)}.values())[::-1]


def images_in(folder: Path) -> Iterator[Path]:
    """The image files in a folder, in the order of their names."""
    return (path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES)


def numbered(names: Iterable[str]) -> dict[str, int]:
    """Numbers from 0 for names, in their order."""
    return {name: number for number, name in enumerate(sorted(set(names)))}


def _protocol(search: Search) -> Protocol:
    queries = tuple(Query(image=r.path, identity=r.identity, camera=r.camera, outfit=r.outfit) for r in search.queries)
    split: Literal["val", "test"] = "val" if any(r.split == "val" for r in search.gallery[:1]) else "test"
    return Protocol(search.name, queries, tuple(search.gallery), search.junk, split, search.clothes)


def _distinct(lists: Iterable[Sequence[Record]]) -> list[Record]:
    return list({record.path: record for records in lists for record in records}.values())


def _check_people(root: Path, train: Sequence[Record], val: Sequence[Record], tests: Sequence[Search]) -> None:
    """Raise DatasetError for a person of two splits."""
    splits = {"train": train, "val": val, "test": [record for test in tests for record in test.queries]}
    people = {split: {record.identity for record in records} for split, records in splits.items()}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        if shared := sorted(people[one] & people[other]):
            first = next(record.key for record in splits[one] if record.identity == shared[0])
            raise DatasetError(
                f"splits must have different people, but {len(shared)} ids of {root} are in both {one} and {other}, "
                f"such as that of {first}: a result would be wrong, use the official splits"
            )
