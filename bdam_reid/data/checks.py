"""Checks before anything is computed: whether the images of a set are there, and whether queries have answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from tqdm.auto import tqdm

from bdam_reid.data.images import image_problem
from bdam_reid.data.printable import shortened
from bdam_reid.data.records import DatasetError, Findings, Protocol, Record

CHUNK, CELLS = 1024, 1 << 24
"""Queries, and pairs of a query and an image, that are looked at at a time."""


def check_images(splits: Mapping[str, Sequence[Record]], allow_missing: bool, findings: Findings) -> tuple[Record, ...]:
    """Look at the image files of all splits, in a fraction of a millisecond each.

    Args:
        splits: records by the name of their split or protocol, "train" among them.
        allow_missing: whether the others may lack images too. These records stay: evaluation leaves them out of its
            galleries and counts them.
        findings: what is missing or unreadable, and not refused, is added to them.
    Returns: the training records whose image is there.
    Raises: DatasetError if there is no image at all, if more than half of the training images cannot be used, or if an
        evaluation lacks an image, unless it may.
    """
    bad = _look(splits)
    total = sum(map(len, splits.values()))
    if sum(len(keys) for problems in bad.values() for keys in problems.values()) == total:
        first = next(record for records in splits.values() for record in records)
        raise DatasetError(f"found none of {total} images, such as {first.path}: unpack them there")
    refused = [
        _said(name, problems, len(splits[name]))
        for name, problems in bad.items()
        if name != "train" or 2 * sum(map(len, problems.values())) > len(splits[name])
    ]
    if refused and not allow_missing:
        raise missing_images("; ".join(refused))
    for name, problems in bad.items():
        for problem, keys in problems.items():
            use = "not trained on" if name == "train" else "left out of the gallery"
            findings.add(f"{name} images {problem} ({use})", keys, wrong=name != "train")
    gone = {key for keys in bad.get("train", {}).values() for key in keys}
    return tuple(record for record in splits["train"] if record.key not in gone)


def missing_images(which: str) -> DatasetError:
    """The error of images without which a result would be wrong; `which` says how many of how many, and some names."""
    return DatasetError(
        f"{which}: a result would be wrong. Unpack the set again, or give --allow-missing (in training "
        "--data.allow-missing True) to leave them out, counted in metrics.json and every table"
    )


def named(keys: Sequence[str]) -> str:
    """The first few of some names."""
    return ", ".join([*map(shortened, keys[:3]), *["..."] * (len(keys) > 3)])


def check_answers(protocol: Protocol) -> None:
    """Raise DatasetError if no query of a protocol has an image of its person to find."""
    identities = torch.tensor([record.identity for record in protocol.gallery])
    at_once = min(CHUNK, max(1, CELLS // max(1, len(identities))))
    for at in range(0, len(protocol.queries), at_once):
        queries = protocol.queries[at : at + at_once]
        right = torch.tensor([query.identity for query in queries])[:, None] == identities
        if protocol.junk:
            right &= ~protocol.junk(queries, protocol.gallery)
        if right.any():
            return
    held = " (persons held out of training may have too few images: --data.hold-out False)"
    raise DatasetError(
        f"expected an image of its person in the gallery of {protocol.name} for some query, got none for all "
        f"{len(protocol.queries)} queries and {len(protocol.gallery)} images: compare the ids of both"
        + (held if protocol.split == "val" else "")
    )


def _look(splits: Mapping[str, Sequence[Record]]) -> dict[str, dict[str, list[str]]]:
    """Keys of bad images by split and problem."""
    bad: dict[str, dict[str, list[str]]] = {}
    total = sum(map(len, splits.values()))
    with tqdm(total=total, desc="looking at images", unit="image", disable=None, leave=False) as bar:
        for name, records in splits.items():
            for record in records:
                if problem := image_problem(record.path):
                    bad.setdefault(name, {}).setdefault(problem, []).append(record.key)
                bar.update()
    return bad


def _said(name: str, problems: Mapping[str, Sequence[str]], total: int) -> str:
    counts = " and ".join(f"{len(keys)} {problem}" for problem, keys in problems.items())
    return f"{counts} of {total} {name} images ({named([key for keys in problems.values() for key in keys])})"
