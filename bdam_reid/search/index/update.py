"""Brings an index up to date with its folder: what is new or was changed is embedded, what is gone leaves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from bdam_reid.config import ConfigError
from bdam_reid.engine.lock import FILE as LOCK
from bdam_reid.engine.lock import locked
from bdam_reid.search.columns import column_of
from bdam_reid.search.files import ImageFile, Listing, Refused, list_images
from bdam_reid.search.index import lists
from bdam_reid.search.index.embedding import Embedder, embed_by_file, embed_images
from bdam_reid.search.index.generation import (
    BLOCK,
    MANIFEST,
    PENDING,
    VECTORS,
    Generation,
    Manifest,
    Vectors,
    commit,
    folder_of,
    read_generation,
    read_manifest,
    write_generation,
)
from bdam_reid.search.index.paths import Paths
from bdam_reid.search.index.pending import Pending
from bdam_reid.search.names import parse_name, whole_of
from bdam_reid.search.pictures import pictures_of
from bdam_reid.search.table import Table

RETRAINED = 2.0
"""How many times more, or fewer, images a gallery has than when its lists were trained, until they are again."""


@dataclass(frozen=True)
class Report:
    """What an update did."""

    images: int
    """In the index now."""
    embedded: int
    """Of them were new or changed."""
    removed: int
    """Were in the index, and are not any more."""
    refused: Sequence[Refused]
    others: int
    """Files of the folder that have no name of an image or a video."""
    unlisted: int
    """Images of which the table says nothing."""
    absent: int
    """Images of the table that are not in the index."""
    changed: bool
    """Whether anything was written; else the index was up to date."""
    warning: str
    """Why nobody is kept from writing at the same time; else empty."""


def update_index(
    index: Path,
    folder: Path,
    embedder: Embedder,
    model: str,
    table: Table,
    frames_per_second: float = 1.0,
    detect: bool = False,
) -> Report:
    """Make an index of a folder, or bring the one that is there up to date. Killed at any moment it leaves the index as
    it was, and when it is called again embeds only what it had not.

    Args:
        index: its folder.
        folder: of the images.
        embedder: the model.
        model: where it lies, for those who open the index; where it was moved, its new place is noted.
        table: what is known of the images; it replaces what was.
        frames_per_second: that are taken of videos; where it is another than before, they are embedded again.
        detect: whether images and frames are of whole scenes, in which persons are looked for; where it was otherwise
            before, all are embedded again.
    Raises: ConfigError if the folder cannot be read, `index` is something else, or of another folder or model, another
        process writes to it, nothing is left of its images, or it needs FAISS, which is not installed; GalleryError if
        it is damaged; OSError.
    """
    _check_place(index)
    index.mkdir(parents=True, exist_ok=True)
    with locked(index, "writes") as warning:
        before = read_manifest(index) if (index / MANIFEST).exists() else None
        if before:
            _check_same(index, before, folder, embedder, model)
        old = read_generation(folder_of(index, before.generation)) if before else None
        images_stay = before is None or before.detect == detect
        videos_stay = images_stay and (before is None or before.frames_per_second == frames_per_second)
        listing = list_images(folder)
        _check_not_emptied(index, old, folder, listing)
        there = {*(listing.images if images_stay else ()), *(listing.videos if videos_stay else ())}
        files = [_file_of(image) for image in old.files()] if old else []
        kept = np.array([row for row, file in enumerate(files) if file in there], dtype=np.int64)
        wanted = {*listing.images, *listing.videos}.difference(files[row] for row in kept)
        lists.check_faiss(len(kept) + len(wanted))
        pending = Pending(index / PENDING, f"{embedder.fingerprint} {frames_per_second} {detect}")
        known = [entry for entry in old.refused if entry.file in there] if old else []
        missing = wanted.difference(map(_file_of, pending.images()), (entry.file for entry in known))
        images = [image for image in listing.images if image in missing]
        several = [video for video in listing.videos if video in missing]
        if detect:
            images, several = [], [*images, *several]
        refused = embed_images(folder, images, embedder, pending)
        pictures = partial(pictures_of, folder, per_second=frames_per_second, detect=detect)
        refused += embed_by_file(several, pictures, embedder, pending)
        new = [image for image in pending.images() if _file_of(image) in wanted]
        lists.check_faiss(len(kept) + len(new))
        rows = _rows(old, kept, new, table, sorted([*listing.refused, *known, *refused], key=lambda entry: entry.path))
        changed = old is None or _differ(old, rows)
        if changed:
            number = 1 + (before.generation if before else 0)
            manifest = _manifest(number, folder, embedder, model, frames_per_second, detect)
            _write(index, before, manifest, rows, kept, _vectors(old, kept, pending, {*new}))
        elif before and before.model != model:
            changed = True
            commit(index, replace(before, model=model))
    paths = {file.path for file in (*listing.images, *listing.videos)}
    told = {row for path in rows.paths for row in (whole_of(path), parse_name(path).file) if row in table.rows}
    return Report(
        images=len(rows.paths),
        embedded=len(new),
        removed=sum(file.path not in paths for file in files),
        refused=rows.refused,
        others=listing.others,
        unlisted=sum(table.of(path) is None for path in rows.paths) if table.names else 0,
        absent=len(table.rows) - len(told),
        changed=changed,
        warning=warning,
    )


def _file_of(image: ImageFile) -> ImageFile:
    """The file that an image is, or is a frame or a part of."""
    return image._replace(path=parse_name(image.path).file)


def _check_place(index: Path) -> None:
    """Raise ConfigError for what is no folder of an index, nor of one that was killed before its first manifest."""
    if index.exists() and not index.is_dir():
        raise ConfigError(f"--output must be a folder, got the file {index}")
    if index.is_dir() and not (index / MANIFEST).exists():
        ours = (LOCK, PENDING, f"{MANIFEST}.tmp")
        if any(path.name not in ours and not path.name.startswith("generation-") for path in index.iterdir()):
            raise ConfigError(
                f"--output must be a new folder or that of an index, got {index}, which holds other files"
            )


def _check_same(index: Path, before: Manifest, folder: Path, embedder: Embedder, model: str) -> None:
    if before.fingerprint != embedder.fingerprint:
        raise ConfigError(
            f"{index} was made with other weights than those of {model}, namely {before.model} as it was then; vectors "
            "of two models cannot be compared: give another --output, or delete that folder"
        )
    if Path(before.folder) != folder.resolve():
        raise ConfigError(
            f"{index} is an index of {before.folder}, got {folder}: give another --output, or delete that folder"
        )


def _check_not_emptied(index: Path, old: Generation | None, folder: Path, listing: Listing) -> None:
    """Raise ConfigError where all that an index has is gone at once, as of a disk that is not mounted."""
    if old and len(old.paths) and not (listing.images or listing.videos):
        raise ConfigError(
            f"expected photographs in {folder}, of which {index} has {len(old.paths):,}, got none: is its disk there? "
            "If they are to leave the index, delete its folder"
        )


def _rows(
    old: Generation | None, kept: NDArray[np.int64], new: Sequence[ImageFile], table: Table, refused: list[Refused]
) -> Generation:
    """All of a generation but its vectors: what is kept of the old one, then what is new."""
    images = [*_kept_files(old, kept), *new]
    numbers = np.array([image[1:] for image in images], dtype=np.int64).reshape(-1, 2)
    said = [table.of(image.path) for image in images]
    columns = {
        name: column_of(texts[place] if texts else None for texts in said) for place, name in enumerate(table.names)
    }
    nothing = np.empty((0, 0), np.float16)
    return Generation(
        nothing, Paths.of(image.path for image in images), numbers[:, 0], numbers[:, 1], columns, refused
    )  # fmt: skip


def _kept_files(old: Generation | None, kept: NDArray[np.int64]) -> list[ImageFile]:
    if old is None:
        return []
    images = list(old.files())
    return [images[row] for row in kept]


def _differ(old: Generation, rows: Generation) -> bool:
    """Whether anything but the order of the images differs."""
    same = (
        list(old.files()) == list(rows.files())
        and old.refused == rows.refused
        and old.columns.keys() == rows.columns.keys()
        and all(
            old.columns[name].values == column.values and np.array_equal(old.columns[name].codes, column.codes)
            for name, column in rows.columns.items()
        )
    )
    return not same


def _vectors(
    old: Generation | None, kept: NDArray[np.int64], pending: Pending, wanted: set[ImageFile]
) -> Iterator[Vectors]:
    """The embeddings of a new generation, block by block."""
    for at in range(0, len(kept), BLOCK):
        assert old is not None
        yield old.vectors[kept[at : at + BLOCK]]
    yield from pending.vectors(wanted)


def _write(
    index: Path,
    before: Manifest | None,
    manifest: Manifest,
    rows: Generation,
    kept: NDArray[np.int64],
    blocks: Iterator[Vectors],
) -> None:
    """Write a generation and make it the current one."""
    target, parts = folder_of(index, manifest.generation), list(manifest.parts.values())
    write_generation(target, rows, blocks, (len(rows.paths), max(part.stop for part in parts)))
    commit(index, replace(manifest, trained_on=_write_lists(index, before, target, kept, parts)))


def _write_lists(
    index: Path, before: Manifest | None, target: Path, kept: NDArray[np.int64], parts: Sequence[slice]
) -> int:
    """Write the inverted lists of a large gallery; those of the generation before stay as they are where the gallery
    has about the size that they were trained for. Returns: that size, or 0 without lists."""
    vectors: Vectors = np.load(target / VECTORS, mmap_mode="r", allow_pickle=False)
    count = len(vectors)
    if count <= lists.EXACT:
        return 0
    if before and before.trained_on / RETRAINED <= count <= before.trained_on * RETRAINED:
        source, trained_on = folder_of(index, before.generation), before.trained_on
        trained, codes = lists.read_trained(source), np.load(source / lists.CODES, mmap_mode="r", allow_pickle=False)
    else:
        trained, codes, kept, trained_on = lists.train_lists(vectors, parts), np.empty(0), kept[:0], count

    def blocks() -> Iterator[NDArray[np.uint8]]:
        for at in range(0, len(kept), BLOCK):
            yield codes[kept[at : at + BLOCK]]
        for at in tqdm(range(len(kept), count, BLOCK), unit="block", desc="sorting into lists", disable=None):
            yield lists.encode(trained, parts, vectors[at : at + BLOCK])

    lists.write_lists(target, trained, blocks(), (count, len(parts) * lists.code_size(trained)))
    return trained_on


def _manifest(
    generation: int, folder: Path, embedder: Embedder, model: str, frames_per_second: float, detect: bool
) -> Manifest:
    return Manifest(
        generation=generation,
        folder=str(folder.resolve()),
        model=model,
        fingerprint=embedder.fingerprint,
        bounds={name: (part.start, part.stop) for name, part in embedder.parts.items()},
        weights=embedder.weights,
        frames_per_second=frames_per_second,
        detect=detect,
    )
