"""Which gallery entries are junk for which query, in searches by an image."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from bdam_reid.data.records import Query, Record

_Asked: TypeAlias = Query | Record


def same_camera(queries: Sequence[Query], gallery: Sequence[Record]) -> Tensor:
    """The same person by the same camera, often the next frame; (Q, G) bool. A camera that is not known has taken this
    one image only: what is junk then is the query itself."""
    return _same_person(queries, gallery) & _alike(list(map(_camera, queries)), list(map(_camera, gallery)))


def same_camera_or_outfit(queries: Sequence[Query], gallery: Sequence[Record]) -> Tensor:
    """The same person by the same camera or in the same clothes: what is left of a person wears others; (Q, G) bool."""
    clothes = _alike([query.outfit for query in queries], [record.outfit for record in gallery])
    return same_camera(queries, gallery) | _same_person(queries, gallery) & clothes


def _same_person(queries: Sequence[Query], gallery: Sequence[Record]) -> Tensor:
    return _alike([query.identity for query in queries], [record.identity for record in gallery])


def _camera(of: _Asked) -> int | Path | None:
    """What stands for its camera: its number, else the image file."""
    if of.camera is not None:
        return of.camera
    return of.path if isinstance(of, Record) else of.image


def _alike(one: Sequence[Hashable], other: Sequence[Hashable]) -> Tensor:
    """Where values are the same, (len(one), len(other)) bool."""
    numbers: dict[Hashable, int] = {}
    rows, columns = (torch.tensor([numbers.setdefault(value, len(numbers)) for value in of]) for of in (one, other))
    return rows[:, None] == columns
