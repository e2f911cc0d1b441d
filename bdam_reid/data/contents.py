"""The content of image files, by which the same image is found again under another name or in another set."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple, TypeAlias

from tqdm.auto import tqdm

from bdam_reid.data.images import image_problem, open_image
from bdam_reid.data.records import SPLITS, Dataset, Finding, Findings, Split

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


def overlaps(one: Contents, other: Contents, names: tuple[str, str] = ("the one", "the other")) -> tuple[Finding, ...]:
    """Images that are in two sets, by split. Those that one trains on and the other is tested on make results wrong."""
    findings = Findings()
    for first, second in product(SPLITS, repeat=2):
        keys = [
            next(image.key for image in one[content] if image.split == first)
            for content in one.keys() & other.keys()
            if _has(one, content, first) and _has(other, content, second)
        ]
        what = f"{first} images of {names[0]} that are {second} images of {names[1]}"
        findings.add(what, sorted(keys), wrong=(first == "train") != (second == "train"))
    return findings.listed()


def _has(of: Contents, content: bytes, split: Split) -> bool:
    return any(image.split == split for image in of[content])


def images_of(dataset: Dataset) -> list[Image]:
    """Every image file of a set once."""
    named: list[tuple[Path, int | None, Split]] = [(r.path, r.identity, r.split) for r in dataset.train]
    for protocol in dataset.protocols.values():
        named += [(r.path, r.identity, protocol.split) for r in protocol.gallery]
        named += [(q.image, q.identity, protocol.split) for q in protocol.queries if q.image]
    files = {path: Image(path, os.path.relpath(path, dataset.root), identity, split) for path, identity, split in named}
    return list(files.values())


def contents_of(images: Sequence[Image], findings: Findings, decode: bool = False) -> Contents:
    """Images by what is in them: their pixels, if they are decoded, else the bytes of their files.

    Args:
        images: some cannot be read, which `check_images` says.
        findings: images of which only decoding finds that they are damaged are added.
        decode: whether pixels are compared.
    """
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
