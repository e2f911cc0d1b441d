"""What an index is on the disk: generations, of which a small manifest names the current one.

    manifest.json           the current generation, the gallery's folder, the model; replaced by a rename
    generation-00000007/    never changed once the manifest names it
        vectors.npy         embeddings (N, E) float16, memory-mapped
        rows.npz            of each image its path, size and time of change, and the codes of its columns
        about.json          the texts of the columns; files that were refused
        trained.faiss, codes.npy   of a large gallery, see neighbours.py
    pending/                embeddings of an update that is under way, or was killed
    lock                    one process writes at a time

An update writes a new generation beside the current one, then the manifest, then removes what is not current. Killed at
any moment it leaves the generation before or the one after, whole. Who has a generation open keeps it: on POSIX systems
removed files live on as long as they are mapped.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from bdam_reid.data.records import Clothes
from bdam_reid.engine.checkpoint import CheckpointError, read_json, sync, write_json
from bdam_reid.search.columns import Column
from bdam_reid.search.files import ImageFile, Refused
from bdam_reid.search.index.paths import Paths
from bdam_reid.search.query import Parts

MANIFEST, PENDING = "manifest.json", "pending"
VECTORS, ROWS, ABOUT = "vectors.npy", "rows.npz", "about.json"
FORMAT = 1
"""Of an index; greater in a version whose indexes this one cannot read."""
BLOCK = 16_384
"""Rows that are copied at a time."""

Vectors = NDArray[np.float16]


class GalleryError(CheckpointError):
    """An index that cannot be read or written."""


@dataclass(frozen=True)
class Manifest:
    """What an index is of."""

    generation: int
    folder: str
    """Of the images."""
    model: str
    """The run, export or published model, as it was named."""
    fingerprint: str
    """Of the model's weights."""
    bounds: Mapping[str, tuple[int, int]]
    """Of the parts of an embedding, by name."""
    weights: Mapping[Clothes, Mapping[str, float]]
    """Of the parts, for each question."""
    trained_on: int = 0
    """Images that the quantisers of a large gallery were trained for; 0 where there are none."""
    frames_per_second: float = 1.0
    """Of videos."""
    detect: bool = False
    """Whether persons were looked for in images and frames."""
    format: int = FORMAT

    @property
    def parts(self) -> Parts:
        """Names and places of the parts of an embedding."""
        return {name: slice(*bounds) for name, bounds in self.bounds.items()}


class Generation(NamedTuple):
    """The images of a gallery, N of them, and what is known of them."""

    vectors: Vectors
    """(N, E), memory-mapped."""
    paths: Paths
    """Within the gallery's folder."""
    sizes: NDArray[np.int64]
    changed: NDArray[np.int64]
    columns: Mapping[str, Column]
    refused: list[Refused]

    def files(self) -> Iterator[ImageFile]:
        """The images as they were when they were embedded."""
        return map(ImageFile, self.paths, self.sizes.tolist(), self.changed.tolist())


def read_manifest(index: Path) -> Manifest:
    """Raises: GalleryError if there is no index, or this version does not know its format."""
    if not (index / MANIFEST).exists():
        raise GalleryError(
            f"{index} is no index: it has no {MANIFEST}. Make one with "
            f"`python -m bdam_reid.search index RUN FOLDER --output {index}`"
        )
    values = read_json(index / MANIFEST)
    found = values.get("format") if isinstance(values, Mapping) else None
    if found != FORMAT:
        raise GalleryError(f"{index / MANIFEST} must be of format {FORMAT}, got {found!r}: make the index again")
    try:
        return manifest_of(values)
    except (KeyError, TypeError, AttributeError) as error:
        raise damaged(index, error) from error


def manifest_of(values: Mapping[str, Any]) -> Manifest:
    """The manifest of its JSON. Raises: KeyError, TypeError or AttributeError if that is of another form."""
    return Manifest(**{**values, "bounds": {name: tuple(of) for name, of in values["bounds"].items()}})


def folder_of(index: Path, number: int) -> Path:
    """Where a generation lies."""
    return index / f"generation-{number:08d}"


def read_generation(folder: Path) -> Generation:
    """Raises: GalleryError if it is damaged, or not there any more."""
    try:
        with np.load(folder / ROWS, allow_pickle=False) as rows:
            held = {name: rows[name] for name in rows.files}
        about = read_json(folder / ABOUT)
        columns = {name: Column(held[f"column:{name}"], values) for name, values in about["columns"].items()}
        paths = Paths(held["paths"], held["ends"])
        refused = [_refused(*entry) for entry in about["refused"]]
        vectors = np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False)
        if not {len(paths)} == {len(vectors), *(len(c.codes) for c in columns.values()), len(held["sizes"])}:
            raise ValueError("its files are of different numbers of images")
    except (OSError, EOFError, BadZipFile, ValueError, KeyError, TypeError, CheckpointError) as error:
        raise damaged(folder.parent, error) from error
    return Generation(vectors, paths, held["sizes"], held["changed"], columns, refused)


def _refused(path: str, reason: str, file: list[Any] | None = None) -> Refused:
    """Of its JSON, which had no file in older versions."""
    return Refused(path, reason, ImageFile(*file) if file else None)


def write_generation(folder: Path, rows: Generation, blocks: Iterable[Vectors], shape: tuple[int, int]) -> None:
    """Write all of a generation but what neighbours.py adds.

    Args:
        folder: its place, where nothing is but what a killed process left.
        rows: whose vectors are not looked at.
        blocks: the vectors, in order.
        shape: (N, E) of them.
    Raises: OSError.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_array(folder / VECTORS, blocks, shape, np.dtype(np.float16))
    codes: dict[str, Any] = {f"column:{name}": column.codes for name, column in rows.columns.items()}
    np.savez(
        folder / ROWS, paths=rows.paths.text, ends=rows.paths.ends, sizes=rows.sizes, changed=rows.changed, **codes
    )
    sync(folder / ROWS)
    columns = {name: column.values for name, column in rows.columns.items()}
    write_json(folder / ABOUT, {"columns": columns, "refused": rows.refused})


def write_array(path: Path, blocks: Iterable[NDArray[Any]], shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
    """Write a .npy file of (rows, width) block by block, and flush it to the disk."""
    with open(path, "wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        written = 0
        for block in blocks:
            written += len(block)
            file.write(np.ascontiguousarray(block, dtype=dtype).data)
    if written != shape[0]:
        raise ValueError(f"expected {shape[0]} rows of {path.name}, got {written}")
    sync(path)


def commit(index: Path, manifest: Manifest) -> None:
    """Make a generation that is written the current one, and remove all others and what was pending."""
    folder = folder_of(index, manifest.generation)
    sync(folder)
    sync(index)
    write_json(index / MANIFEST, asdict(manifest))
    sync(index)
    for path in [*index.glob("generation-*"), index / PENDING]:
        if path != folder:
            shutil.rmtree(path, ignore_errors=True)


def damaged(index: Path, error: Exception) -> GalleryError:
    """The error for an index that is not what was written."""
    return GalleryError(f"{index} is damaged ({error}): delete it, and make it again")
