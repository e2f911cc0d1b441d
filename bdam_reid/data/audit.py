"""Looks for what is wrong in a data set, and between data sets that are used together."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple, TypeAlias

from tqdm.auto import tqdm

from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.images import image_problem, open_image
from bdam_reid.data.records import SPLITS, Dataset, DatasetError, Finding, Findings, Report, Split

_WHOLE = (1 << 16, 1 << 16)
"""Size in pixels at which no image is decoded smaller than it is."""


class Image(NamedTuple):
    """An image file of a set."""

    path: Path
    key: str
    """Its path below the root of the set."""
    identity: int | None
    split: Split


Contents: TypeAlias = Mapping[bytes, Sequence[Image]]
"""Images by a digest of their content."""


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
    contents = _contents(_images(dataset), decode, findings)
    _find_copies(contents, findings)
    _find_vague_captions(dataset, findings)
    report = dataset.report
    return Audit(f"{dataset.name} at {root}", report, (*report.findings, *findings.listed()), contents)


def overlaps(one: Audit, other: Audit) -> tuple[Finding, ...]:
    """Images that are in two sets, by split. Those that one trains on and the other is tested on make results wrong."""
    findings = Findings()
    for first, second in product(SPLITS, repeat=2):
        keys = [
            next(image.key for image in one.contents[content] if image.split == first)
            for content in one.contents.keys() & other.contents.keys()
            if _has(one, content, first) and _has(other, content, second)
        ]
        what = f"{first} images of the one that are {second} images of the other"
        findings.add(what, sorted(keys), wrong=(first == "train") != (second == "train"))
    return findings.listed()


def _has(of: Audit, content: bytes, split: Split) -> bool:
    return any(image.split == split for image in of.contents[content])


def _images(dataset: Dataset) -> list[Image]:
    """Every image file of a set once."""
    named: list[tuple[Path, int | None, Split]] = [(r.path, r.identity, r.split) for r in dataset.train]
    for protocol in dataset.protocols.values():
        named += [(r.path, r.identity, protocol.split) for r in protocol.gallery]
        named += [(q.image, q.identity, protocol.split) for q in protocol.queries if q.image]
    files = {path: Image(path, os.path.relpath(path, dataset.root), identity, split) for path, identity, split in named}
    return list(files.values())


def _contents(images: Sequence[Image], decode: bool, findings: Findings) -> Contents:
    contents: dict[bytes, list[Image]] = defaultdict(list)
    with ThreadPoolExecutor() as pool:
        digests: Iterable[bytes | None] = pool.map(partial(_digest, decode=decode), (image.path for image in images))
        digests = tqdm(digests, "comparing images", len(images), unit="image", disable=None, leave=False)
        for image, digest in zip(images, digests, strict=True):
            if digest is not None:
                contents[digest].append(image)
            elif not image_problem(image.path):
                what = f"{image.split} images that are damaged inside"
                findings.add(what, [image.key], wrong=image.split != "train")
    return contents


def _digest(path: Path, decode: bool) -> bytes | None:
    """Of an image's bytes or pixels; None if it cannot be read."""
    try:
        if not decode:
            return hashlib.sha256(path.read_bytes()).digest()
        image = open_image(path, _WHOLE)
    except (OSError, ValueError):  # ImageError is one, and what a name with a zero byte raises
        return None
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()


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
