"""Reads image sets in Market-1501's layout, checks them and says what was found.

Folders and names: bounding_box_train, query, bounding_box_test, in each of them PERSON_cCAMERA... .jpg. Person -1 marks
detections of nobody, which are left out; person 0 marks distractors, which stay in the gallery and are nobody's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from bdam_reid.data.checks import check_images
from bdam_reid.data.records import (
    Dataset,
    DatasetError,
    Findings,
    Protocol,
    Query,
    Record,
    Report,
    Split,
    held_out,
)

FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
_NAME = re.compile(r"(-?\d{1,18})_c(\d{1,18})(?!\d)")
_SUFFIXES = (".jpg", ".jpeg", ".png")
_NOBODY, _DISTRACTOR = -1, 0


def is_market(root: Path) -> bool:
    """Whether a folder has Market-1501's layout."""
    return all((root / folder).is_dir() for folder in FOLDERS)


def load_market(root: Path, hold_out: bool, allow_missing: bool) -> Dataset:
    """Read a set in Market-1501's layout.

    Every tenth identity of the training folder, in the order of their numbers, is held out for validation: the first
    image of a person by each camera searches all images of these persons.

    Args:
        root: the folder that has FOLDERS.
        hold_out: whether there is a protocol "val"; else all are trained on.
        allow_missing: whether evaluation may lack images.
    Raises: DatasetError if the set cannot be used.
    """
    findings = Findings()
    found = _read(root, FOLDERS[0], "train", findings)
    queries, gallery = (_read(root, folder, "test", findings) for folder in FOLDERS[1:])
    known = [r for r in found if r.identity != _DISTRACTOR]
    findings.add("training images of nobody (person 0) skipped", [r.key for r in found if r.identity == _DISTRACTOR])
    if shared := sorted({r.identity for r in known} & {r.identity for r in queries}):
        raise DatasetError(
            f"splits must have different people, but {len(shared)} ids of {root} are in both train and test, such as "
            f"{shared[0]}: a result would be wrong, use the official folders"
        )
    people = held_out(r.identity for r in known) if hold_out else set()
    findings.add("training identities held out for validation, as there is no such split", sorted(people))
    val = tuple(Record(r.path, r.key, r.identity, "val", camera=r.camera) for r in known if r.identity in people)
    rest = [r for r in known if r.identity not in people]
    splits = {"train": rest, "val": val, "query": queries, "test": gallery}
    train = check_images(splits, allow_missing, findings) if any(splits.values()) else ()
    if len({r.identity for r in train}) < 2 or (hold_out and not val) or not queries:
        raise DatasetError(
            f"expected images of four people or more in {FOLDERS[0]} of {root} and one or more in {FOLDERS[1]}, "
            f"got {len(known)} and {len(queries)} images"
        )
    first = {(r.identity, r.camera): r for r in reversed(val)}
    asked = [r for r in val if first[r.identity, r.camera] is r]
    protocols = {"val": Protocol("val", _queries(asked), val, same_camera, "val")} if hold_out else {}
    protocols["test"] = Protocol("test", _queries(queries), tuple(gallery), same_camera)
    report = Report.of({"train": train, "val": val, "test": (*queries, *gallery)}, findings)
    return Dataset("market-1501", root, train, protocols, report)


def same_camera(queries: Sequence[Query], gallery: Sequence[Record]) -> Tensor:
    """Junk of image -> image: the same person by the same camera, often the next frame; (Q, G) bool."""
    rows, columns = (
        [torch.tensor([getattr(x, name) for x in side]) for name in ("identity", "camera")]
        for side in (queries, gallery)
    )
    same = [row[:, None] == column for row, column in zip(rows, columns, strict=True)]
    return same[0] & same[1]


def _queries(records: Sequence[Record]) -> tuple[Query, ...]:
    return tuple(Query(image=r.path, identity=r.identity, camera=r.camera) for r in records)


def _read(root: Path, folder: str, split: Split, findings: Findings) -> list[Record]:
    """The records of a folder in the order of their names, without those of nobody."""
    records, unnamed = [], []
    for path in sorted((root / folder).iterdir()):
        if path.suffix.lower() not in _SUFFIXES:
            continue
        name = _NAME.match(path.name)
        if name is None:
            unnamed.append(f"{folder}/{path.name}")
        elif int(name[1]) != _NOBODY:
            records.append(Record(path, f"{folder}/{path.name}", int(name[1]), split, camera=int(name[2])))
    findings.add("images whose name has no person and camera skipped", unnamed)
    return records
