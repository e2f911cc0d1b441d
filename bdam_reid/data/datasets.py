"""Reads data sets of any layout that is known: `load_dataset`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol

from bdam_reid.data.checks import check_answers
from bdam_reid.data.domains import join
from bdam_reid.data.drawn import is_drawn
from bdam_reid.data.layouts import folders, itcpr, ltcc, market, msmt17, prcc, table, text_sets
from bdam_reid.data.records import Dataset, DatasetError


class Layout(Protocol):
    """What a file in `layouts` has."""

    SIGNS: str
    """By what a folder is known to have it, in words."""

    def is_here(self, root: Path) -> bool:
        """Whether a folder has this layout."""

    def load(self, root: Path, hold_out: bool, allow_missing: bool) -> Dataset:
        """The set in such a folder; arguments and errors are those of `load_dataset`."""


LAYOUTS: tuple[Layout, ...] = (market, msmt17, text_sets, itcpr, prcc, ltcc, table, folders)
"""The first that is there is the set's."""


def load_dataset(root: Path | str, *others: Path | str, hold_out: bool = True, allow_missing: bool = False) -> Dataset:
    """Read the data set in a folder, check it and its image files, and say what was found; the files there tell its
    layout. One that is drawn is named synthetic. Several are read into one, each a domain (see `Dataset`).

    Args:
        root: the folder.
        others: folders of further sets.
        hold_out: whether training persons are held out for validation in a set that has no such split; else it has no
            protocol "val".
        allow_missing: whether evaluation may lack images; else that is an error.
    Raises: DatasetError if there is none, or it cannot be used, or if sets do not go together.
    """
    sets = [_load(Path(each).expanduser().absolute(), hold_out, allow_missing) for each in (root, *others)]
    return join(sets) if others else sets[0]


def _load(root: Path, hold_out: bool, allow_missing: bool) -> Dataset:
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise DatasetError(
            f"expected a data set folder, got {root}, which {problem}: give --data.root (evaluate: --root) the folder "
            f"of a set, or draw one with `python -m bdam_reid.synthetic {root}`"
        )
    for layout in LAYOUTS:
        if layout.is_here(root):
            dataset = layout.load(root, hold_out, allow_missing)
            if is_drawn(root):
                dataset = replace(dataset, name=f"synthetic {dataset.name}")
            for protocol in dataset.protocols.values():
                check_answers(protocol)
            return dataset
    raise DatasetError(
        f"expected in {root} what tells a data set's layout, found none of: "
        f"{'; '.join(layout.SIGNS for layout in LAYOUTS)}. Give the folder that these lie in"
    )
