"""Which gallery entries are junk for which query, in searches by an image."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Hashable, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from bdam_reid.data.records import Query, Record

_Asked: TypeAlias = Query | Record


def same_camera(queries: Sequence[Query], gallery: Sequence[Record]) -> Tensor:
    """The same person by the same camera, often the next frame; (Q, G) bool. A camera that is not known has taken this
    one image only: what is junk then is the query itself, and copies of it under other names."""
    paths = ([_path(of) for of in asked if of.camera is None] for asked in (queries, gallery))
    of_queries, of_gallery = ({_size(path) for path in own} - {None} for own in paths)
    return _same_person(queries, gallery) & _alike(
        *([_camera(of, of_queries & of_gallery) for of in asked] for asked in (queries, gallery))
    )


def same_camera_or_outfit(queries: Sequence[Query], gallery: Sequence[Record]) -> Tensor:
    """The same person by the same camera or in the same clothes: what is left of a person wears others; (Q, G) bool."""
    clothes = _alike([query.outfit for query in queries], [record.outfit for record in gallery])
    return same_camera(queries, gallery) | _same_person(queries, gallery) & clothes


def _same_person(queries: Sequence[Query], gallery: Sequence[Record]) -> Tensor:
    return _alike([query.identity for query in queries], [record.identity for record in gallery])


def _camera(of: _Asked, sizes: Container[int | None]) -> Hashable:
    """What stands for its camera: its number, else the image file, by its content where its size is one of `sizes`, so
    that others need not be read."""
    if of.camera is not None:
        return of.camera
    path = _path(of)
    return hashlib.sha256(path.read_bytes()).digest() if path and _size(path) in sizes else path


def _path(of: _Asked) -> Path | None:
    return of.path if isinstance(of, Record) else of.image


def _size(path: Path | None) -> int | None:
    """Bytes of a file; None if it is not there, as where a set may lack images."""
    return path.stat().st_size if path is not None and path.exists() else None


def _alike(one: Sequence[Hashable], other: Sequence[Hashable]) -> Tensor:
    """Where values are the same, (len(one), len(other)) bool."""
    numbers: dict[Hashable, int] = {}
    rows, columns = (torch.tensor([numbers.setdefault(value, len(numbers)) for value in of]) for of in (one, other))
    return rows[:, None] == columns
