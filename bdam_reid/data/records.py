"""Reads CUHK-PEDES, ICFG-PEDES and RSTPReid as they are published, checks them and says what it found.

Official splits only. What a training run can do without is skipped, counted and reported (missing files,
records without a path, empty captions); what would make a result wrong is a DatasetError (identities or
images shared between splits).
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, get_args

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class DatasetError(ValueError):
    """A data set that cannot be used: what was expected, what was found, what to do."""


@dataclass(frozen=True)
class Record:
    """One image with its captions. `identity_text` and `clothing_text` are the sidecar's, None where it has
    none.
    """

    path: Path
    key: str
    identity: int
    captions: tuple[str, ...]
    split: Split
    identity_text: str | None = None
    clothing_text: str | None = None


@dataclass(frozen=True)
class Query:
    """A caption to search with, and who it describes."""

    caption: str
    identity: int


@dataclass(frozen=True)
class ClothingChange:
    """The clothing-change protocol: captions of persons in one outfit, images of the same persons in
    another.
    """

    queries: tuple[Query, ...]
    gallery: tuple[Record, ...]


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with some entries, and was done about it."""

    what: str
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.examples) else ""
        return f"{self.count} {self.what}: {', '.join(self.examples)}{more}"


@dataclass(frozen=True)
class Report:
    """What a data set holds, per split, and what was found in it."""

    images: dict[str, int]
    identities: dict[str, int]
    captions: dict[str, int]
    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        lines = [
            f"{split}: {self.images[split]} images of {self.identities[split]} persons, "
            f"{self.captions[split]} captions"
            for split in SPLITS
        ]
        return "\n".join([*lines, *(str(finding) for finding in self.findings)])


@dataclass(frozen=True)
class Dataset:
    """A data set in memory, without its pixels; `name` is that of its layout."""

    name: str
    root: Path
    train: tuple[Record, ...]
    val: tuple[Record, ...]
    test: tuple[Record, ...]
    report: Report
    clothing_change: ClothingChange | None = None


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
# One training identity in so many is held out where a set has no validation split.
_HOLD_OUT = 10


def load_dataset(root: Path | str, *, name: str = "auto") -> Dataset:
    """Read a data set: its index, the sidecar `texts.json` and the protocol `clothing_change.json` where
    they exist.

    Sets without a validation split (ICFG-PEDES) get every tenth identity of the training split for it, in
    the order of identity numbers, and these are not trained on. Images whose captions are all empty stay in
    a gallery, but are not trained on.

    Args:
        root: the folder with the index file and `imgs/`.
        name: "cuhk-pedes", "icfg-pedes" or "rstpreid", or "auto" to tell by the index file.
    Raises: DatasetError if the set cannot be used.
    """
    root = Path(root).expanduser().absolute()
    name, index = _find_index(root, name)
    findings = _Findings()
    records = _read_records(root, index, _LAYOUTS[name].path_key, findings)
    records = _without_missing_files(records, root, index, findings)
    records = _add_texts(records, root, findings)
    _check_splits(records)
    if not any(record.split == "val" for record in records):
        records = _hold_out(records, findings)
    splits = {split: tuple(r for r in records if r.split == split) for split in SPLITS}
    unnamed = [r.key for r in splits["train"] if not r.captions]
    findings.add("training images without a caption skipped", unnamed)
    splits["train"] = tuple(r for r in splits["train"] if r.captions)
    _check_sizes(splits, index)
    repeated = Counter(caption for record in records for caption in record.captions)
    findings.add("captions that occur more than once (kept)", [c for c, n in repeated.items() if n > 1])
    change = _read_clothing_change(root, splits, findings)
    return Dataset(
        name, root, splits["train"], splits["val"], splits["test"], _report(splits, findings), change
    )


def load_attributes(root: Path | str) -> dict[str, Any] | None:
    """The ground truth attributes of the images by their keys, from `attributes.json`; None if there is no
    such file.
    """
    path = Path(root).expanduser() / "attributes.json"
    return _read_object(path) if path.exists() else None


class _Findings:
    """Collects findings in the order in which they are made."""

    def __init__(self) -> None:
        self.found: dict[str, list[str]] = defaultdict(list)

    def add(self, what: str, examples: Iterable[object]) -> None:
        shown = [str(example) for example in examples]
        if shown:
            self.found[what] += shown

    def listed(self) -> tuple[Finding, ...]:
        return tuple(
            Finding(what, len(found), tuple(_shortened(example) for example in found[:3]))
            for what, found in self.found.items()
        )


def _shortened(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _find_index(root: Path, name: str) -> tuple[str, Path]:
    if name != "auto" and name not in _LAYOUTS:
        raise DatasetError(f"name must be auto, {', '.join(_LAYOUTS)}, got {name!r}")
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise DatasetError(
            f"expected a data set folder, got {root}, which {problem}: give --data.root the folder "
            "of CUHK-PEDES, ICFG-PEDES or RSTPReid, or draw a set with "
            f"`python -m bdam_reid.synthetic {root}`"
        )
    layouts = _LAYOUTS if name == "auto" else {name: _LAYOUTS[name]}
    expected = [(known, root / file) for known, layout in layouts.items() for file in layout.files]
    for known, path in expected:
        if path.is_file():
            return known, path
    files = ", ".join(path.name for _, path in expected)
    raise DatasetError(
        f"expected one of {files} in {root}, found none: is it the folder that holds the index and imgs/?"
    )


def _read_json(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        if not text.strip():
            raise DatasetError(f"{path} is empty: download or write it again")
        return json.loads(text)
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path} is not valid JSON ({error}): download or write it again") from error


def _read_object(path: Path) -> dict[str, Any]:
    value = _read_json(path)
    if not isinstance(value, dict):
        raise DatasetError(f"{path} must hold one JSON object, got {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    return {"dict": "an object", "list": "a list", "str": "a text"}.get(type(value).__name__, repr(value))


def _read_records(root: Path, index: Path, path_key: str, findings: _Findings) -> list[Record]:
    entries = _read_json(index)
    if not isinstance(entries, list):
        raise DatasetError(f"{index} must hold a list of records, got {_kind(entries)}")
    if not entries:
        raise DatasetError(f"{index} holds no records: download or write it again")
    records: dict[str, Record] = {}
    for number, entry in enumerate(entries):
        record = _read_record(root, number, entry, path_key, findings)
        if record is None:
            continue
        earlier = records.get(record.key)
        if earlier is None:
            records[record.key] = record
        elif (earlier.identity, earlier.split) != (record.identity, record.split):
            raise DatasetError(
                f"{index}: image {record.key} is in split {earlier.split} as person {earlier.identity} and "
                f"in split {record.split} as person {record.identity}: remove the wrong record"
            )
        else:
            findings.add("records of an image that has one already skipped", [record.key])
    if not records:
        raise DatasetError(
            f"{index}: none of its {len(entries)} records is complete: "
            f"{'; '.join(map(str, findings.listed()))}"
        )
    return list(records.values())


def _read_record(root: Path, number: int, entry: Any, path_key: str, findings: _Findings) -> Record | None:
    """One record, or None and a finding if it lacks what every record needs."""
    if not isinstance(entry, dict):
        findings.add("entries that are no records skipped", [f"number {number}"])
        return None
    key, identity, split = entry.get(path_key), entry.get("id"), entry.get("split")
    if not isinstance(key, str) or not key:
        findings.add(f"records without {path_key} skipped", [f"number {number}"])
        return None
    if not isinstance(identity, int) or isinstance(identity, bool):
        findings.add("records without a whole number as id skipped", [key])
        return None
    if split not in SPLITS:
        findings.add("records of an unknown split skipped", [key])
        return None
    captions = entry.get("captions")
    captions = captions if isinstance(captions, list) else [captions]
    kept = tuple(caption for caption in captions if isinstance(caption, str) and caption.strip())
    findings.add("empty captions dropped", [key] * (len(captions) - len(kept)))
    return Record(root / "imgs" / key, key, identity, kept, split)


def _without_missing_files(
    records: list[Record], root: Path, index: Path, findings: _Findings
) -> list[Record]:
    there = [record for record in records if record.path.is_file()]
    if not there:
        raise DatasetError(
            f"expected the images of {index} under {root / 'imgs'}, found none of {len(records)}, such as "
            f"{records[0].key}: unpack them there"
        )
    missing = (
        [record.key for record in records if not record.path.is_file()] if len(there) < len(records) else []
    )
    findings.add("records whose file is missing skipped", missing)
    return there


def _add_texts(records: list[Record], root: Path, findings: _Findings) -> list[Record]:
    """The records with the sidecar's texts, where it has them."""
    path = root / "texts.json"
    if not path.exists():
        return records
    texts = _read_object(path)
    described = []
    for record in records:
        entry = texts.get(record.key)
        identity, clothing = (_text_of(entry, part) for part in ("identity", "clothing"))
        described.append(replace(record, identity_text=identity, clothing_text=clothing))
    without = [
        r.key
        for r in described
        if r.split == "train" and (r.identity_text is None or r.clothing_text is None)
    ]
    findings.add("training images without sidecar texts (their captions are used)", without)
    return described


def _text_of(entry: Any, part: str) -> str | None:
    text = entry.get(part) if isinstance(entry, dict) else None
    return text if isinstance(text, str) and text.strip() else None


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


def _hold_out(records: list[Record], findings: _Findings) -> list[Record]:
    people = sorted({record.identity for record in records if record.split == "train"})
    held_out = set(people[::_HOLD_OUT]) if len(people) > 2 else set()
    findings.add("training identities held out for validation, as there is no such split", sorted(held_out))
    return [replace(r, split="val") if r.split == "train" and r.identity in held_out else r for r in records]


def _check_sizes(splits: dict[Split, tuple[Record, ...]], index: Path) -> None:
    people = {split: {record.identity for record in records} for split, records in splits.items()}
    if len(people["train"]) < 2:
        raise DatasetError(
            f"training needs images of two people or more with captions, {index} has {len(people['train'])} "
            "in its train split: nobody can be told apart"
        )
    for split in ("val", "test"):
        if not any(record.captions for record in splits[split]):
            raise DatasetError(f"expected images with captions in the {split} split of {index}, found none")


def _report(splits: dict[Split, tuple[Record, ...]], findings: _Findings) -> Report:
    return Report(
        images={split: len(records) for split, records in splits.items()},
        identities={split: len({r.identity for r in records}) for split, records in splits.items()},
        captions={split: sum(len(r.captions) for r in records) for split, records in splits.items()},
        findings=findings.listed(),
    )


def _read_clothing_change(
    root: Path, splits: dict[Split, tuple[Record, ...]], findings: _Findings
) -> ClothingChange | None:
    path = root / "clothing_change.json"
    if not path.exists():
        return None
    value = _read_object(path)
    entries, captions = value.get("gallery"), value.get("queries")
    if not isinstance(entries, list) or not isinstance(captions, list):
        raise DatasetError(
            f"{path} must hold the lists queries and gallery, got {', '.join(value) or 'neither'}"
        )
    read = (_read_record(root, n, _as_test(e), "file_path", findings) for n, e in enumerate(entries))
    gallery = [record for record in read if record is not None]
    present = _without_missing_files(gallery, root, path, findings) if gallery else []
    queries = [_read_query(entry) for entry in captions]
    incomplete = [f"number {n}" for n, query in enumerate(queries) if query is None]
    findings.add("clothing-change queries without caption or id skipped", incomplete)
    kept = tuple(query for query in queries if query is not None)
    if not present or not kept:
        raise DatasetError(f"{path} must have queries and gallery images, got {len(kept)} and {len(present)}")
    known = {record.identity for split in ("train", "val") for record in splits[split]}
    shared = sorted({record.identity for record in present} & known)
    if shared:
        raise DatasetError(
            f"{path} must have people of the test split only, but person {shared[0]} is in train or val: "
            "a result would be wrong"
        )
    return ClothingChange(kept, tuple(_add_texts(present, root, findings)))


def _as_test(entry: Any) -> Any:
    return {**entry, "split": "test"} if isinstance(entry, dict) else entry


def _read_query(entry: Any) -> Query | None:
    caption, identity = (entry.get("caption"), entry.get("id")) if isinstance(entry, dict) else (None, None)
    if not isinstance(caption, str) or not caption.strip() or not isinstance(identity, int):
        return None
    return Query(caption, identity)
