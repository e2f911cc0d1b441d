"""Who is trained on: what a run keeps of its training persons."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from bdam_reid.config import ConfigError
from bdam_reid.data.records import Dataset
from bdam_reid.methods.mta_clip.config import PERSONS


@dataclass(frozen=True)
class People:
    """The training persons of a run, in the order of their class indices, and the cameras that saw them."""

    domains: tuple[int, ...]
    """The domain of each, from 0 on."""
    cameras: tuple[int, ...]
    """Numbers of the known cameras, ascending."""
    digest: str
    """Of who is on which image: the same for the same persons alone, whatever the folders of their sets are called."""

    @classmethod
    def of(cls, dataset: Dataset) -> People:
        """Those of a data set."""
        records = dataset.train
        domains = {record.identity: record.domain for record in records}
        ranks = {domain: rank for rank, domain in enumerate(sorted(set(domains.values())))}
        shown = hashlib.sha256()
        for record in records:
            shown.update(json.dumps([dataset.own_name(record), record.identity, record.domain]).encode() + b"\n")
        return cls(
            tuple(ranks[domains[person]] for person in sorted(domains)),
            tuple(sorted({record.camera for record in records if record.camera is not None})),
            shown.hexdigest(),
        )

    @property
    def of_domains(self) -> list[list[int]]:
        """The class indices of each domain's persons, ascending."""
        return [
            [person for person, domain in enumerate(self.domains) if domain == number]
            for number in range(max(self.domains) + 1)
        ]


def write_people(people: People, folder: Path) -> None:
    """Write them into a run folder, whole or not at all; what is there stays."""
    if not (folder / PERSONS).exists():
        temporary = folder / f"{PERSONS}.tmp"
        temporary.write_text(json.dumps(asdict(people)), encoding="utf-8")
        temporary.replace(folder / PERSONS)


def read_people(folder: Path) -> People:
    """Those of a run folder. Raises: ConfigError if they are not there."""
    try:
        said = json.loads((folder / PERSONS).read_text(encoding="utf-8"))
        return People(tuple(said["domains"]), tuple(said["cameras"]), said["digest"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{folder / PERSONS} must hold the training persons of a run, got: {error}. Copy the run with all files"
        ) from error
