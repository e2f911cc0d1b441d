"""Reads CUHK-PEDES, ICFG-PEDES and RSTPReid as they are published, checks them and says what it found.

Official splits only. What a training run can do without is skipped, counted and reported (missing training images,
records without a path, empty captions); what would make a result wrong is a DatasetError (identities or images shared
between splits, missing images of an evaluation).
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from bdam_reid.captions.texts import FILE, read_texts
from bdam_reid.data.checks import check_images
from bdam_reid.data.entries import is_number, kind, read_attributes, read_beside, read_json, read_object, read_records
from bdam_reid.data.records import (
    SPLITS,
    Dataset,
    DatasetError,
    Findings,
    Protocol,
    Query,
    Record,
    Report,
    held_out,
)


@dataclass(frozen=True)
class _Layout:
    """The index files by which a published set is known, and the key of an image's path in them."""

    files: tuple[str, ...]
    path_key: str


_LAYOUTS = {
    "cuhk-pedes": _Layout(("reid_raw.json",), "file_path"),
    "icfg-pedes": _Layout(("ICFG-PEDES.json", "ICFG_PEDES.json"), "file_path"),
    "rstpreid": _Layout(("data_captions.json",), "img_path"),
}
_Evaluated = Literal["val", "test"]
_CHANGES: Mapping[str, _Evaluated] = {"clothing_change": "test", "clothing_change_val": "val"}
"""Protocols of persons in other clothes, each a file of that name, and the split of its persons."""
INDEX_FILES = tuple(file for layout in _LAYOUTS.values() for file in layout.files)
SIGNS = " or ".join(INDEX_FILES)


def is_here(root: Path) -> bool:
    """Whether a folder has the index file of one of these sets."""
    return bool(_indices(root))


def _indices(root: Path) -> list[tuple[str, Path]]:
    """The names of the layouts of which a folder has an index file, and these files."""
    files = ((name, root / file) for name, layout in _LAYOUTS.items() for file in layout.files)
    return [(name, file) for name, file in files if file.is_file()]


def load(root: Path, hold_out: bool, allow_missing: bool) -> Dataset:
    """Read a set of images with captions: its index and, where they exist, `texts.json`, `attributes.json`,
    `ceilings.json` and the protocols of persons in other clothes, `clothing_change.json` of the test split and
    `clothing_change_val.json` of the validation split.

    Sets without a validation split (ICFG-PEDES) get every tenth identity of the training split for it, in the order of
    identity numbers, unless all are to be trained on. Images whose captions are all empty stay in a gallery, but are
    not trained on. Every caption of a split is a query, all of its images are the gallery.

    Args:
        root: the folder with the index file and `imgs/`.
        hold_out: whether a set without a validation split gets one; else it has no protocol "val".
        allow_missing: whether evaluation may lack images.
    Raises: DatasetError if the set cannot be used.
    """
    findings, ((name, index), *others) = Findings(), _indices(root)
    findings.add("further index files, which are not read", [path.name for _, path in others])
    records = _read_index(root, index, _LAYOUTS[name].path_key, findings)
    attributes, texts = read_attributes(root / "attributes.json", findings), read_beside(root / FILE, findings)
    records = _described(records, texts, attributes)
    _check_splits(records)
    if hold_out and not any(record.split == "val" for record in records):
        records = _hold_out(records, findings)
    splits: dict[str, tuple[Record, ...]] = {s: tuple(r for r in records if r.split == s) for s in SPLITS}
    changes = [_read_clothing_change(root, name, split, splits, findings) for name, split in _CHANGES.items()]
    changed = {change.name: change for change in changes if change}
    galleries = {name: change.gallery for name, change in changed.items()}
    splits["train"] = check_images({**splits, **galleries}, allow_missing, findings)
    if texts is not None:
        without = [r.key for r in splits["train"] if r.texts is None]
        findings.add(f"training images without texts in {FILE} (their captions are used)", without)
    unnamed = [r.key for r in splits["train"] if not r.captions]
    findings.add("training images without a caption skipped", unnamed)
    splits["train"] = tuple(r for r in splits["train"] if r.captions)
    evaluated: tuple[_Evaluated, ...] = ("val", "test") if hold_out or splits["val"] else ("test",)
    _check_sizes(splits, evaluated, index)
    repeated = Counter(caption for record in records for caption in record.captions)
    findings.add("captions that occur more than once (kept)", [c for c, n in repeated.items() if n > 1])
    protocols: dict[str, Protocol] = {split: _standard(split, splits[split]) for split in evaluated}
    for name_of_change, change in changed.items():
        gallery = tuple(_described(change.gallery, texts, attributes))
        protocols[name_of_change] = replace(change, gallery=gallery)
    ceilings = _read_ceilings(root / "ceilings.json", findings)
    protocols = {name: replace(protocol, ceiling=ceilings.get(name)) for name, protocol in protocols.items()}
    return Dataset(name, root, splits["train"], protocols, Report.of(splits, findings))


def _standard(split: _Evaluated, records: Sequence[Record]) -> Protocol:
    """All captions of a split against all of its images."""
    queries = [
        Query(text=caption, identity=r.identity, camera=r.camera, outfit=r.outfit, described=r.path)
        for r in records
        for caption in r.captions
    ]
    return Protocol(split, tuple(queries), tuple(records), split=split)


def _read_index(root: Path, index: Path, path_key: str, findings: Findings) -> list[Record]:
    entries = read_json(index, findings)
    if not isinstance(entries, list):
        raise DatasetError(f"{index} must hold a list of records, got {kind(entries)}")
    if not entries:
        raise DatasetError(f"{index} holds no records: download or write it again")
    records = read_records(index, entries, root / "imgs", path_key, findings)
    if not records:
        raise DatasetError(
            f"{index}: none of its {len(entries)} records is complete: {'; '.join(map(str, findings.listed()))}"
        )
    return records


def _described(records: Sequence[Record], texts: Mapping[str, Any] | None, truth: Mapping[str, Any]) -> list[Record]:
    """The records with their texts, attributes, camera and outfit, where these are known."""
    known = read_texts(texts or {})
    return [
        replace(
            record,
            texts=known.get(record.key),
            attributes=truth.get(record.key),
            camera=truth.get(record.key, {}).get("camera"),
            outfit=truth.get(record.key, {}).get("outfit_index"),
        )
        for record in records
    ]


def _check_splits(records: Sequence[Record]) -> None:
    people: dict[str, set[int]] = {split: set() for split in SPLITS}
    for record in records:
        people[record.split].add(record.identity)
    for one, other in combinations(SPLITS, 2):
        shared = sorted(people[one] & people[other])
        if shared:
            listed = ", ".join(map(str, shared[:5])) + (", ..." if len(shared) > 5 else "")
            raise DatasetError(
                f"splits must have different people, but {len(shared)} ids are in both {one} and {other} "
                f"({listed}): a result would be wrong, use the official splits"
            )


def _hold_out(records: list[Record], findings: Findings) -> list[Record]:
    people = held_out(record.identity for record in records if record.split == "train")
    findings.add("training identities held out for validation, as there is no such split", sorted(people))
    return [replace(r, split="val") if r.split == "train" and r.identity in people else r for r in records]


def _check_sizes(splits: Mapping[str, tuple[Record, ...]], evaluated: Sequence[str], index: Path) -> None:
    people = {split: {record.identity for record in records} for split, records in splits.items()}
    if len(people["train"]) < 2:
        raise DatasetError(
            f"training needs images of two people or more with captions, {index} has {len(people['train'])} "
            "in its train split: nobody can be told apart"
        )
    for split in evaluated:
        if not any(record.captions for record in splits[split]):
            raise DatasetError(f"expected images with captions in the {split} split of {index}, found none")


def _read_clothing_change(
    root: Path, name: str, split: _Evaluated, splits: Mapping[str, tuple[Record, ...]], findings: Findings
) -> Protocol | None:
    """Captions of persons of a split in one outfit, images of the same persons in another; None if the set has no such
    file."""
    path = root / f"{name}.json"
    if not path.exists():
        return None
    value = read_object(path, findings)
    entries, captions = value.get("gallery"), value.get("queries")
    if not isinstance(entries, list) or not isinstance(captions, list):
        raise DatasetError(f"{path} must hold the lists queries and gallery, got {', '.join(value) or 'neither'}")
    entries = [{**entry, "split": split} if isinstance(entry, dict) else entry for entry in entries]
    gallery = read_records(path, entries, root / "imgs", "file_path", findings)
    images = {record.key: record.path for record in splits[split]}
    queries = [_read_query(entry, images) for entry in captions]
    incomplete = [f"number {n}" for n, query in enumerate(queries) if query is None]
    findings.add(f"{name} queries without caption or id skipped", incomplete, wrong=True)
    kept = tuple(query for query in queries if query is not None)
    if not gallery or not kept:
        raise DatasetError(f"{path} must have queries and gallery images, got {len(kept)} and {len(gallery)}")
    elsewhere = [other for other in SPLITS if other != split]
    shared = {r.identity for r in gallery} & {r.identity for other in elsewhere for r in splits[other]}
    if shared:
        raise DatasetError(
            f"{path} must have people of the {split} split only, but person {min(shared)} is in "
            f"{' or '.join(elsewhere)}: a result would be wrong"
        )
    there = {record.identity for record in gallery}
    unanswerable = [query.text for query in kept if query.identity not in there]
    findings.add(f"{name} queries whose person is not in its gallery (they rate nothing)", unanswerable)
    return Protocol(name, kept, tuple(gallery), split=split, clothes="other")


def _read_ceilings(path: Path, findings: Findings) -> dict[str, Mapping[str, float]]:
    """What the best of the perfect readers of a drawn set reaches, by protocol; empty for a set that does not say."""
    if not path.exists():
        return {}
    found = read_object(path, findings)
    try:
        return {name: {"r1": of["likely"]["R-1"], "map": of["likely"]["mAP"]} for name, of in found.items()}
    except (KeyError, TypeError):
        raise DatasetError(
            f"{path} must be what python -m bdam_reid.synthetic.ceiling {path.parent} --json {path} writes, got "
            "something else: write it again, or delete it"
        ) from None


def _read_query(entry: Any, images: Mapping[str, Path]) -> Query | None:
    caption, identity = (entry.get("caption"), entry.get("id")) if isinstance(entry, dict) else (None, None)
    if not isinstance(caption, str) or not caption.strip() or not is_number(identity):
        return None
    described = images.get(posixpath.normpath(str(entry.get("file_path"))))
    outfit = entry["outfit"] if is_number(entry.get("outfit")) else None
    return Query(text=caption, identity=identity, outfit=outfit, described=described)
