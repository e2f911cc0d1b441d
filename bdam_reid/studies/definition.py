"""What a table of the drafts is: its rows, and what is claimed of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from bdam_reid.studies.budgets import Budget
from bdam_reid.studies.grid import Setting
from bdam_reid.studies.verdicts import Claim


class Study(NamedTuple):
    """A table of the drafts."""

    name: str
    title: str
    note: str
    """What a reader must know of the rows."""
    rows: Callable[[Budget], Sequence[Setting]]
    """By the names that published rows have, where there are such."""
    claims: Sequence[Claim]
    paired: bool = False
    """Whether the rows of a seed share a model, so that they are compared seed by seed."""
