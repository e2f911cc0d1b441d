"""A training run small enough to test with: 12 synthetic persons, 12 steps, one layer of each kind."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from bdam_reid.config import Config, parse_config
from bdam_reid.synthetic.writer import write_synthetic
from bdam_reid.trainer import train

TINY = """
    --data.identities-per-batch 4 --data.images-per-identity 2 --data.image-height 32 --data.image-width 16
    --data.max-tokens 24 --data.vocab-size 200 --image.width 16 --image.layers 1 --image.heads 2
    --text.width 16 --text.layers 1 --text.heads 2 --bdam.self-layers 1 --bdam.cross-layers 1 --bdam.heads 2
    --fusion.width 16 --fusion.layers 1 --optim.epochs 3 --optim.lr 1e-3 --optim.warmup-steps 2 --save-every 1
    --validate-every 1 --data.augment True --optim.weight-decay 1e-3
"""


def write_people(root: Path) -> Path:
    """Draw 8 persons to train on, that is 4 batches an epoch, and 2 each for validation and test."""
    write_synthetic(root, 12, 0, processes=1)
    return root


def arguments(people: Path, output: Path, *more: str) -> list[str]:
    """The command line of the run."""
    return ["demo", "--data.root", str(people), "--output", str(output), *TINY.split(), *more]


def tiny(people: Path, output: Path, *more: str) -> Config:
    """The config of the run."""
    return parse_config(arguments(people, output, *more))


@contextmanager
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine make steps this small slow."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def train_alone(config: Config) -> Path:
    """Train in one thread."""
    with one_thread():
        return train(config)


def restore_globals() -> None:
    """Undo what a run sets for its whole process."""
    torch.use_deterministic_algorithms(False)
    log = logging.getLogger("bdam_reid")
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
