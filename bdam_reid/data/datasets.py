"""Reads a data set of any layout that is known: `load_dataset`."""

from __future__ import annotations

from pathlib import Path

from bdam_reid.data import composed_sets, image_sets, text_sets
from bdam_reid.data.attributes import with_attributes
from bdam_reid.data.checks import check_answers
from bdam_reid.data.records import Dataset, DatasetError


def load_dataset(root: Path | str, *, hold_out: bool = True, allow_missing: bool = False) -> Dataset:
    """Read the data set in a folder, check it and its image files, and say what was found; the files there tell its
    layout.

    Args:
        root: the folder.
        hold_out: whether training persons are held out for validation in a set that has no such split; else it has no
            protocol "val".
        allow_missing: whether evaluation may lack images; else that is an error.
    Raises: DatasetError if there is none, or it cannot be used.
    """
    root = Path(root).expanduser().absolute()
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise DatasetError(
            f"expected a data set folder, got {root}, which {problem}: give --data.root (evaluate: --root) the folder "
            "of CUHK-PEDES, ICFG-PEDES, RSTPReid, Market-1501 or ITCPR, or draw a set with "
            f"`python -m bdam_reid.synthetic {root}`"
        )
    if image_sets.is_market(root):
        return _checked(with_attributes(image_sets.load_market(root, hold_out, allow_missing)))
    if index := text_sets.find_index(root):
        return _checked(text_sets.load_text_set(root, *index, hold_out, allow_missing))
    if composed_sets.is_itcpr(root):
        return _checked(composed_sets.load_itcpr(root, allow_missing))
    raise DatasetError(
        f"expected one of {', '.join(text_sets.INDEX_FILES)}, or {' and '.join(composed_sets.INDEX_FILES)}, or the "
        f"folders {', '.join(image_sets.FOLDERS)} in {root}, found none: is it the folder that holds the index and "
        "imgs/, or those folders?"
    )


def _checked(dataset: Dataset) -> Dataset:
    for protocol in dataset.protocols.values():
        check_answers(protocol)
    return dataset
