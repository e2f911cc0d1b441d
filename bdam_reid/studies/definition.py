"""What a table is: its rows, what is measured of them, and what is claimed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from bdam_reid.studies.budgets import BUDGETS, Budget, Name
from bdam_reid.studies.grid import Figure, Setting
from bdam_reid.studies.measures import JUDGED, MEASURES
from bdam_reid.studies.verdicts import Claim


class Study(NamedTuple):
    """A table of the drafts, or another method's."""

    name: str
    title: str
    note: str
    """What a reader must know of the rows."""
    rows: Callable[[Budget], Sequence[Setting]]
    """By the names that published rows have, where there are such."""
    claims: Sequence[Claim]
    paired: bool = False
    """Whether the rows of a seed share a model, so that they are compared seed by seed."""
    claimants: str = "The drafts'"
    """Whose claims they are."""
    budgets: Mapping[Name, Budget] = BUDGETS
    measures: Mapping[str, Figure] = MEASURES
    """What the table shows of a run, in percent."""
    judged: Sequence[str] = JUDGED
    """The measures by which claims are judged, and that are drawn: the higher the better."""
