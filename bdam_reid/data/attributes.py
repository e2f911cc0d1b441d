"""Attribute labels of persons, as they were published for Market-1501 and DukeMTMC-reID, in one form.

A file such as market_attribute.mat holds a struct with a part for train and one for test, each with a column a field
and the persons in image_index, as padded texts. The order of the fields differs by part. Values are 1, 2, ...: of a
field such as backpack no and yes, of others two named states, whose order differs by set (1 is long sleeves on
Market-1501, short ones on DukeMTMC-reID). A colour is spread over a field for each of its names; persons in others have
none.
Source: Lin et al., "Improving person re-identification by attribute and identity learning", 2019.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np

from bdam_reid.data.records import Dataset, DatasetError, Findings, Query, Record

LABELS = "labels"
"""Where the labels stand among the attributes of a record or a query."""
NO_YES = ("no", "yes")
"""The states of what a person has or has not."""
SPLITS = ("train", "test")
PERSONS = "image_index"
FOLDER = "attribute"
"""In the folder of a set, where the file may lie if it is not in that folder itself."""

States: TypeAlias = Mapping[str, int | None]
"""Attribute -> the number of its state; None where it is not known."""
Labels: TypeAlias = Mapping[str, str | None]
"""Attribute -> the name of its state; None where it is not known."""
Labelled = TypeVar("Labelled", Record, Query)


@dataclass(frozen=True)
class Schema:
    """Which attributes a set is labelled with."""

    struct: str
    """Name of the struct, and of the file before its suffix."""
    of: str
    """Name of the layout whose persons it labels."""
    single: Mapping[str, tuple[str, ...]]
    """Attributes with a field of their own name: the states that its values 1, 2, ... stand for."""
    colours: Mapping[str, tuple[str, ...]]
    """By what the fields begin with, the colours that they end with: upblack, upwhite, ... are the attribute upcolour.
    """

    @property
    def states(self) -> dict[str, tuple[str, ...]]:
        """Attribute -> the names of its states."""
        return {**self.single, **{f"{prefix}colour": names for prefix, names in self.colours.items()}}

    @property
    def fields(self) -> list[str]:
        """Names of the fields that hold labels."""
        return [*self.single, *(f"{prefix}{name}" for prefix, names in self.colours.items() for name in names)]


MARKET = Schema(
    struct="market_attribute",
    of="market-1501",
    single={
        "gender": ("male", "female"),
        "age": ("young", "teenager", "adult", "old"),
        "hair": ("short", "long"),
        "up": ("long", "short"),
        "down": ("long", "short"),
        "clothes": ("dress", "pants"),
        **dict.fromkeys(("hat", "backpack", "bag", "handbag"), NO_YES),
    },
    colours={
        "up": ("black", "white", "red", "purple", "yellow", "gray", "blue", "green"),
        "down": ("black", "white", "pink", "purple", "yellow", "gray", "blue", "green", "brown"),
    },
)
DUKE = Schema(
    struct="duke_attribute",
    of="dukemtmc-reid",
    single={
        "gender": ("male", "female"),
        "top": ("short", "long"),
        "shoes": ("dark", "light"),
        **dict.fromkeys(("boots", "hat", "backpack", "bag", "handbag"), NO_YES),
    },
    colours={
        "up": ("black", "white", "red", "purple", "gray", "blue", "green", "brown"),
        "down": ("black", "white", "red", "gray", "blue", "green", "brown"),
    },
)
SCHEMAS = {"market": MARKET, "duke": DUKE}


@dataclass(frozen=True)
class AttributeTable:
    """The labels of a set's persons."""

    schema: Schema
    persons: Mapping[int, States]
    """By identity; every attribute of the schema is there."""
    several_colours: tuple[str, ...] = ()
    """Persons and attributes of which the file says more than one colour: they have none here."""

    def labels(self, identity: int) -> Labels:
        """The states of a person by their names. Raises: KeyError if there is no such person."""
        names = self.schema.states
        return {
            attribute: None if state is None else names[attribute][state]
            for attribute, state in self.persons[identity].items()
        }


def find_attributes(root: Path) -> Path | None:
    """The file of attributes of the set in a folder, which lies there or in its folder "attribute"; None without one.

    Raises: DatasetError if there are several.
    """
    places = (root, root / FOLDER)
    found = [path for at in places for schema in SCHEMAS.values() if (path := at / f"{schema.struct}.mat").exists()]
    if len(found) > 1:
        raise DatasetError(
            f"expected one file of attributes in {root}, got {' and '.join(map(str, found))}: leave that of this set"
        )
    return found[0] if found else None


def read_attributes(path: Path) -> AttributeTable:
    """Read market_attribute.mat or duke_attribute.mat; which of them, the struct in it says.

    Raises: DatasetError if it cannot be read, lacks a part or a field, or if a person or a value cannot be right.
    """
    content = _load(path)
    schema = next((schema for schema in SCHEMAS.values() if schema.struct in content), None)
    if schema is None:
        raise _unfit(path, f"a struct {' or '.join(s.struct for s in SCHEMAS.values())}", _names(content))
    persons: dict[int, States] = {}
    several: list[str] = []
    for split in SPLITS:
        for identity, states in _read_split(path, schema, split, content[schema.struct], several):
            if persons.setdefault(identity, states) != states:
                raise _unfit(path, f"the same labels wherever person {identity} is", "different ones")
    return AttributeTable(schema, persons, tuple(several))


def with_attributes(dataset: Dataset) -> Dataset:
    """The same data set with the labels of its persons on records and queries, if there is a file of attributes in its
    folder, and with what was found in the file in its report.

    Raises: DatasetError as `read_attributes`, or if the file is of another set, or no training person is labelled.
    """
    path = find_attributes(dataset.root)
    if path is None:
        return dataset
    table, findings = read_attributes(path), Findings()
    if table.schema.of != dataset.name:  # whose persons have the same numbers
        raise _unfit(path, f"labels of {dataset.name}, as the names of images there are", f"those of {table.schema.of}")
    labels = {identity: {LABELS: table.labels(identity)} for identity in table.persons}
    splits = {"training": {record.identity for record in dataset.train}}
    for name, protocol in dataset.protocols.items():
        # A distractor is nobody's: only those whom a query shows can have labels.
        splits[name] = {query.identity for query in protocol.queries if query.identity is not None}
    if splits["training"] and not splits["training"] & labels.keys():
        raise _unfit(path, f"labels of the persons of {dataset.root}", "none of a training person: is it another set's")
    for split, people in splits.items():
        findings.add(f"{split} persons without attribute labels", sorted(people - labels.keys()))
    for attribute in table.schema.states:
        unknown = [identity for identity, states in table.persons.items() if states[attribute] is None]
        findings.add(f"persons whose {attribute} is not labelled", unknown)
    findings.add("persons labelled with several colours, which count as none", table.several_colours)

    def labelled(entries: Sequence[Labelled]) -> tuple[Labelled, ...]:
        return tuple(
            replace(entry, attributes={**(entry.attributes or {}), **labels[entry.identity]})
            if entry.identity in labels
            else entry
            for entry in entries
        )

    protocols = {
        name: replace(protocol, queries=labelled(protocol.queries), gallery=labelled(protocol.gallery))
        for name, protocol in dataset.protocols.items()
    }
    report = replace(dataset.report, findings=(*dataset.report.findings, *findings.listed()))
    return replace(dataset, train=labelled(dataset.train), protocols=protocols, report=report)


def labels_of(entry: Record | Query) -> Labels:
    """The labels of who is shown; empty if there are none."""
    return (entry.attributes or {}).get(LABELS, {})


def _load(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat

    try:
        # Structs become dictionaries, whatever the order of their fields.
        return loadmat(path, simplify_cells=True)
    except Exception as error:  # of many kinds: the file may hold anything
        raise DatasetError(
            f"{path} cannot be read as a MATLAB file up to version 7.2 ({str(error).strip() or repr(error)}): get it "
            "again from those who published the labels"
        ) from error


def _read_split(
    path: Path, schema: Schema, split: str, struct: Any, several: list[str]
) -> Iterator[tuple[int, States]]:
    """The persons of a part and their states; several colours of one person are added to `several`."""
    parts = struct if isinstance(struct, Mapping) else {}
    part = parts.get(split)
    if not isinstance(part, Mapping):
        raise _unfit(path, f"parts {' and '.join(SPLITS)} in {schema.struct}", _names(parts))
    if lacking := [name for name in (PERSONS, *schema.fields) if name not in part]:
        raise _unfit(path, f"a field {lacking[0]} in {split}", _names(part))
    identities = [_identity(path, split, text) for text in np.ravel(part[PERSONS])]
    limits = {name: len(schema.single.get(name, NO_YES)) for name in schema.fields}
    columns = {name: _column(path, split, name, part[name], identities, limits[name]) for name in schema.fields}
    for row, identity in enumerate(identities):
        states: dict[str, int | None] = {name: columns[name][row] for name in schema.single}
        for prefix, names in schema.colours.items():
            worn = [state for state, name in enumerate(names) if columns[f"{prefix}{name}"][row]]
            states[f"{prefix}colour"] = worn[0] if len(worn) == 1 else None
            if len(worn) > 1:
                several.append(f"{identity} ({', '.join(prefix + names[state] for state in worn)})")
        yield identity, states


def _identity(path: Path, split: str, text: Any) -> int:
    try:
        return int(str(text).strip())
    except ValueError as error:
        raise _unfit(path, f"numbers of persons in {split}.{PERSONS}", repr(text)) from error


def _column(
    path: Path, split: str, name: str, values: Any, identities: Sequence[int], limit: int
) -> list[int]:  # fmt: skip
    """The states of all persons by a field, from 0."""
    column = np.ravel(values)
    if column.dtype.kind not in "iuf" or len(column) != len(identities):
        raise _unfit(
            path, f"{len(identities)} numbers in {split}.{name}, one a person", f"{len(column)} of {column.dtype}"
        )
    for identity, value in zip(identities, column.tolist(), strict=True):
        if value not in range(1, limit + 1):
            raise _unfit(path, f"1 to {limit} in {split}.{name}", f"{value:g} of person {identity}")
    return [int(value) - 1 for value in column]


def _names(mapping: Mapping[str, Any]) -> str:
    return ", ".join(name for name in mapping if not name.startswith("__")) or "none"


def _unfit(path: Path, expected: str, got: str) -> DatasetError:
    return DatasetError(f"expected {expected} in {path}, got {got}: get the file again, or remove it")
