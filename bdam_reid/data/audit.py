"""Looks for what is wrong in a data set, and between data sets that are used together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bdam_reid.data.contents import Contents, contents_of, images_of
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.records import SPLITS, Dataset, DatasetError, Finding, Findings, Report


@dataclass(frozen=True)
class Audit:
    """What is in a set, and what was found in it."""

    name: str
    """Of its layout, and where it is."""
    report: Report | None
    """None if it cannot be used."""
    findings: tuple[Finding, ...]
    contents: Contents


def audit(root: Path, decode: bool = False) -> Audit:
    """Read a data set as training and evaluation do, and look at what they do not: the content of its images.

    Args:
        root: its folder.
        decode: whether images are compared by their pixels, so that damage is found which only decoding finds, and a
            file that was written anew without loss is the same; else by the bytes of their files.
    """
    try:
        dataset = load_dataset(root, allow_missing=True)
    except DatasetError as error:
        reason = Finding("error, so that nothing else was looked at", 1, (str(error),), wrong=True)
        return Audit(f"unusable set at {root}", None, (reason,), {})
    findings = Findings()
    contents = contents_of(images_of(dataset), findings, decode)
    _find_copies(contents, findings)
    _find_vague_captions(dataset, findings)
    report = dataset.report
    return Audit(f"{dataset.name} at {root}", report, (*report.findings, *findings.listed()), contents)


def _find_copies(contents: Contents, findings: Findings) -> None:
    """Images that are in a set more than once: in two splits, of two persons, or of one."""
    for images in contents.values():
        splits = [split for split in SPLITS if any(image.split == split for image in images)]
        keys = " = ".join(image.key for image in images[:2])
        if len(splits) > 1:
            findings.add(f"images in {' and in '.join(splits)}", [keys], wrong=True)
        elif len({image.identity for image in images}) > 1:
            findings.add(f"{splits[0]} images of different persons at once", [keys], wrong=splits[0] != "train")
        elif len(images) > 1:
            findings.add(f"{splits[0]} images that are there again under another name", [keys] * (len(images) - 1))


def _find_vague_captions(dataset: Dataset, findings: Findings) -> None:
    """Captions that are queries for several persons, of whom only one is right at a time."""
    for name, protocol in dataset.protocols.items():
        persons: dict[str, set[int | None]] = defaultdict(set)
        for query in protocol.queries:
            if query.text and not query.image:
                persons[query.text].add(query.identity)
        findings.add(f"{name} captions that describe several persons", [t for t, of in persons.items() if len(of) > 1])


def table(of: Audit) -> Iterator[str]:
    """Lines that say what a set holds, and what was found in it."""
    yield of.name
    if of.report:
        columns = {"images": of.report.images, "persons": of.report.identities, "captions": of.report.captions}
        yield f"  {'':<6}{''.join(f'{name:>10}' for name in columns)}"
        for split in SPLITS:
            yield f"  {split:<6}{''.join(f'{counts[split]:>10}' for counts in columns.values())}"
    yield from listed(of.findings)


def listed(findings: Iterable[Finding]) -> Iterator[str]:
    """A line for each finding, those first that make results wrong."""
    for finding in sorted(findings, key=lambda finding: not finding.wrong):
        yield f"  {'WRONG' if finding.wrong else 'note'}  {finding}"
