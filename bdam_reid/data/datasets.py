"""Reads a data set of any layout that is known: `load_dataset`."""

from __future__ import annotations

from pathlib import Path

from bdam_reid.data import image_sets, text_sets
from bdam_reid.data.records import Dataset, DatasetError


def load_dataset(root: Path | str) -> Dataset:
    """Read the data set in a folder, check it, and say what was found; the files there tell its layout.

    Raises: DatasetError if there is none, or it cannot be used.
    """
    root = Path(root).expanduser().absolute()
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise DatasetError(
            f"expected a data set folder, got {root}, which {problem}: give --data.root (evaluate: --root) the folder "
            "of CUHK-PEDES, ICFG-PEDES, RSTPReid or Market-1501, or draw a set with "
            f"`python -m bdam_reid.data.synthetic {root}`"
        )
    if image_sets.is_market(root):
        return image_sets.load_market(root)
    if index := text_sets.find_index(root):
        return text_sets.load_text_set(root, *index)
    raise DatasetError(
        f"expected one of {', '.join(text_sets.INDEX_FILES)} or the folders {', '.join(image_sets.FOLDERS)} in "
        f"{root}, found none: is it the folder that holds the index and imgs/, or those folders?"
    )
