"""How fast the loader is: `python -m benchmarks.loader data/synthetic [--height 256 --width 128 --workers 4]`.

A GPU is fed as long as its images a second are no more than those a core of this, times the cores that read.
"""

from __future__ import annotations

import time
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage

import torch
import tyro

from bdam_reid.data.ahead import ahead
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.samplers import IdentitySampler
from bdam_reid.data.training import Batches, TrainingSet, nothing


def main(
    root: tyro.conf.Positional[str], height: int = 192, width: int = 96, workers: int = 0, epochs: int = 2
) -> None:
    """Reads a set in batches of 64; in the first epoch images are decoded, later they are in memory, if they fit.

    Args:
        root: folder of a data set.
        height: to which images are resized.
        width: to which images are resized.
        workers: processes that read.
        epochs: how often the set is read.
    """
    torch.set_num_threads(1)
    records = load_dataset(root).train
    items = TrainingSet(records, (height, width), augment=True, erase=0.3, seed=0, describe=nothing)
    batches = Batches(items, IdentitySampler(records, 16, 4, seed=0), lambda read: torch.stack([i.image for i in read]))
    for epoch in range(epochs):
        before, began, images = _processor_seconds(), time.perf_counter(), 0
        for batch in ahead(batches.batches(epoch, 0, workers)):
            images += len(batch)
        wall, processor = time.perf_counter() - began, _processor_seconds() - before
        print(
            f"epoch {epoch + 1}: {images} images of {height} x {width}, {workers} workers: "
            f"{images / wall:.0f} a second, {images / processor:.0f} a second of a core"
        )


def _processor_seconds() -> float:
    """Of this process and its workers that have ended."""
    return sum(usage.ru_utime + usage.ru_stime for usage in map(getrusage, (RUSAGE_SELF, RUSAGE_CHILDREN)))


if __name__ == "__main__":
    tyro.cli(main)
