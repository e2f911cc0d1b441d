"""The test gallery of a data set as a folder of photographs and a table, to be indexed."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

from bdam_reid.data.datasets import load_dataset
from bdam_reid.search.table import PATH

PHOTOGRAPHS, TABLE = "photographs", "table.csv"
COLUMNS = ("person", "camera", "outfit")


def write_gallery(root: Path, output: Path) -> int:
    """Copy the photographs of a data set's test persons.

    Args:
        root: folder of the data set.
        output: folder that gets `photographs` and `table.csv`, whose columns are person, camera and outfit.
    Returns: the number of photographs.
    Raises: DatasetError if the data set cannot be read; OSError.
    """
    gallery = load_dataset(root).protocols["test"].gallery
    (output / PHOTOGRAPHS).mkdir(parents=True, exist_ok=True)
    with open(output / TABLE, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow((PATH, *COLUMNS))
        for number, record in enumerate(gallery):
            # Images of one name may lie in several folders.
            name = f"{number:06d}{record.path.suffix.lower()}"
            shutil.copy2(record.path, output / PHOTOGRAPHS / name)
            known = (record.identity, record.camera, record.outfit)
            table.writerow((name, *("" if one is None else one for one in known)))
    return len(gallery)
