"""What data a run is trained on, wherever it lies: counts and digests of what a data set says, not of its pixels."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from bdam_reid.data.records import Dataset, Protocol, Record


def fingerprint(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """The training records and each protocol of a data set: how many of what, and a digest of it. Roots are not in
    it, nor are pixels."""
    train = {
        "images": len(dataset.train),
        "persons": len({record.identity for record in dataset.train}),
        "captions": sum(len(record.captions) for record in dataset.train),
        "sha256": _digest(_of_record(dataset, record) for record in dataset.train),
    }
    return {"train": train} | {_part(dataset, p): _of_protocol(dataset, p) for p in dataset.protocols.values()}


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for each part of a data set that `now` has otherwise than `then`, fingerprints both."""
    return [
        f"{part}: {_counts(then.get(part))} then, {_counts(now.get(part))} now"
        + (", of other content" if _counts(then.get(part)) == _counts(now.get(part)) else "")
        for part in dict.fromkeys((*then, *now))
        if then.get(part) != now.get(part)
    ]


def _part(dataset: Dataset, protocol: Protocol) -> str:
    """What a protocol is called wherever its set lies: folders may be renamed."""
    return f"{dataset.own_name(protocol)} of domain {protocol.domain}" if dataset.several else protocol.name


def _of_protocol(dataset: Dataset, protocol: Protocol) -> dict[str, Any]:
    root = dataset.domains[protocol.domain].root
    queries = (
        [q.text, q.image and os.path.relpath(q.image, root), q.identity, q.camera, q.outfit] for q in protocol.queries
    )
    return {
        "queries": len(protocol.queries),
        "images": len(protocol.gallery),
        "sha256": _digest([*queries, *(_of_record(dataset, record) for record in protocol.gallery)]),
    }


def _of_record(dataset: Dataset, record: Record) -> list[Any]:
    r = record
    return [dataset.own_name(r), r.identity, r.captions, r.camera, r.outfit, r.texts, r.attributes]


def _digest(values: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(json.dumps(value, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def _counts(part: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{count} {what}" for what, count in part.items() if what != "sha256") if part else "none"
