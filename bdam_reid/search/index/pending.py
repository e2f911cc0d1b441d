"""Embeddings of an update that is under way: what was embedded before it was killed is not embedded again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Set
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np

from bdam_reid.search.files import ImageFile
from bdam_reid.search.index.generation import Vectors
from bdam_reid.search.index.paths import Paths


class _Block(NamedTuple):
    file: Path
    images: list[ImageFile]


class Pending:
    """Blocks of embeddings in a folder, each written whole or not at all.

    Args:
        folder: which is made when there is something to keep.
        fingerprint: of the model; blocks of another one are removed, and those that are damaged.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder, self._fingerprint = folder, fingerprint
        self._blocks: list[_Block] = []
        for file in sorted(folder.glob("*")):
            images = self._read(file)
            if images:
                self._blocks.append(_Block(file, images))
            else:
                file.unlink()
        self._next = 1 + max((int(block.file.stem) for block in self._blocks), default=0)

    def images(self) -> list[ImageFile]:
        """What is embedded, in order."""
        return [image for block in self._blocks for image in block.images]

    def add(self, images: list[ImageFile], vectors: Vectors) -> None:
        """Keep a block of at least one image, vectors (N, E). Raises: OSError."""
        self._folder.mkdir(exist_ok=True)
        file = self._folder / f"{self._next:08d}.npz"
        temporary = file.with_suffix(".tmp")
        paths = Paths.of(image.path for image in images)
        with open(temporary, "wb") as out:
            np.savez(
                out,
                fingerprint=np.array(self._fingerprint),
                paths=paths.text,
                ends=paths.ends,
                numbers=np.array([image[1:] for image in images], dtype=np.int64),
                vectors=vectors,
            )
        os.replace(temporary, file)
        self._blocks.append(_Block(file, images))
        self._next += 1

    def vectors(self, wanted: Set[ImageFile]) -> Iterator[Vectors]:
        """The embeddings of those images that are wanted, in the order of `images`, block by block."""
        for block in self._blocks:
            rows = [row for row, image in enumerate(block.images) if image in wanted]
            with np.load(block.file, allow_pickle=False) as held:
                yield held["vectors"][rows]

    def _read(self, file: Path) -> list[ImageFile]:
        """The images of a block; none of one that cannot be used."""
        try:
            with np.load(file, allow_pickle=False) as held:
                if held["fingerprint"].item() != self._fingerprint:
                    return []
                numbers = held["numbers"].tolist()
                images = [
                    ImageFile(path, *two) for path, two in zip(Paths(held["paths"], held["ends"]), numbers, strict=True)
                ]
                return images if len(held["vectors"]) == len(images) else []
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile):
            return []
