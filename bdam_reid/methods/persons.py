"""How many training persons a run's classifier tells apart, as its folder keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bdam_reid.config import ConfigError

if TYPE_CHECKING:
    from bdam_reid.data.records import Dataset

PERSONS = "persons"
"""The file of a run folder."""


def write_persons(dataset: Dataset, folder: Path) -> None:
    """Write their number into a run folder, whole or not at all; what is there stays."""
    if not (folder / PERSONS).exists():
        temporary = folder / f"{PERSONS}.tmp"
        temporary.write_text(str(len({record.identity for record in dataset.train})), encoding="utf-8")
        temporary.replace(folder / PERSONS)


def read_persons(folder: Path) -> int:
    """Their number in a run folder. Raises: ConfigError if it is not there."""
    try:
        return int((folder / PERSONS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder / PERSONS} must hold the number of training persons, got: {error}. Copy the run with all files"
        ) from error
