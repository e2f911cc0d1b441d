"""Training runs small enough to test with: 12 synthetic persons, a dozen steps, one layer of each kind."""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch

from bdam_reid.config import Config, parse_config
from bdam_reid.data.datasets import load_dataset
from bdam_reid.engine.checkpoint import CheckpointError, load_state, load_weights
from bdam_reid.engine.environment import make_accelerator
from bdam_reid.engine.trainer import Trainer, make_method
from bdam_reid.methods import PRESETS
from bdam_reid.synthetic.writer import write_synthetic
from bdam_reid.train import train

TINY = """
    --data.identities-per-batch 4 --data.images-per-identity 2 --data.image-height 32 --data.image-width 16
    --data.max-tokens 24 --data.vocab-size 200 --data.augment True --method.image.width 16 --method.image.layers 1
    --method.image.heads 2 --method.text.width 16 --method.text.layers 1 --method.text.heads 2
    --method.decoupling.self-layers 1 --method.decoupling.cross-layers 1 --method.decoupling.heads 2
    --method.fusion.width 16 --method.fusion.layers 1 --method.optim.epochs 3 --method.optim.lr 1e-3
    --method.optim.warmup-steps 2 --method.optim.weight-decay 1e-3 --engine.save-every 1 --engine.validate-every 1
"""
"""Of the conference draft's model."""
TINY_DEMO = """
    --data.identities-per-batch 4 --data.images-per-identity 2 --data.image-height 48 --data.image-width 24
    --data.max-tokens 24 --data.vocab-size 200 --data.augment True --data.erase 0.3 --method.image.width 16
    --method.image.layers 2 --method.text.width 16 --method.text.heads 2 --method.decoupling.width 8
    --method.decoupling.heads 2 --method.decoupling.slots 4 --method.decoupling.features 16 --method.optim.epochs 2
    --method.optim.warmup-steps 2 --engine.save-every 1 --engine.validate-every 1
"""
"""Of the best recipe, with its own architecture."""


def write_people(root: Path, seed: int = 0) -> Path:
    """Draw 8 persons to train on, that is 4 batches an epoch, and 2 each for validation and test.

    Of the ground truth two attributes stay, since probing all takes twice as long as everything else of a run."""
    write_synthetic(root, 12, seed, processes=1)
    truth = json.loads((root / "attributes.json").read_text())
    for image in truth.values():
        upper = {name: image["outfit"]["upper"][name] for name in ("kind", "colour")}
        image |= {"identity": {"sex": image["identity"]["sex"]}, "outfit": {"upper": upper}}
    (root / "attributes.json").write_text(json.dumps(truth))
    return root


def arguments(people: Path, output: Path, *more: str) -> list[str]:
    """The command line of the run."""
    return ["demo-icme", "--data.root", str(people), "--output", str(output), *TINY.split(), *more]


def tiny(people: Path, output: Path, *more: str) -> Config:
    """The config of the run."""
    return parse_config(PRESETS, arguments(people, output, *more))


def tiny_demo(people: Path, output: Path, *more: str) -> Config:
    """The config of a run of preset "demo"."""
    command = ["demo", "--data.root", str(people), "--output", str(output), *TINY_DEMO.split(), *more]
    return parse_config(PRESETS, command)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Compute with so many; with another number last bits are others."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_thread() -> AbstractContextManager[None]:
    """Threads that wait for each other on a busy machine make steps this small slow."""
    return threads(1)


def make_trainer(config: Config, before: Callable[[], object] = lambda: None) -> Trainer:
    """A trainer that takes single steps, without validation; `before` is called just before it is made."""
    run = Path(config.output)
    run.mkdir(exist_ok=True)
    dataset = load_dataset(config.data.root)
    method, accelerator = make_method(config, run, dataset), make_accelerator(config.engine)
    before()
    return Trainer(config, run, method, dataset, accelerator, None)


def train_alone(config: Config) -> Path:
    """Train in one thread."""
    with one_thread():
        return train(config)


def forkserver() -> Any:
    """What makes processes that are forked from one that has everything imported, and never trained itself.

    Tests share that one, which imports what the first of them names: all have to name everything."""
    context = multiprocessing.get_context("forkserver")
    modules = (
        "engine.trainer",
        "evaluation.evaluator",
        "methods.bdam.method",
        "captions.writing",
        "engine.errors",
        "search.index.update",
    )
    context.set_forkserver_preload(["openai", *(f"bdam_reid.{module}" for module in modules)])
    return context


def start(config: Config) -> Any:
    """Train in a process of its own."""
    process = forkserver().Process(target=train_alone, args=(config,))
    process.start()
    return process


def train_apart(config: Config) -> Path:
    """Train in a process of its own, to the end."""
    process = start(config)
    process.join()
    assert process.exitcode == 0
    return Path(config.output)


def steps_done(run: Path) -> int:
    """Of a run that another process is training; 0 if it has no checkpoint, or replaces it just now."""
    try:
        return int(load_state(run / "last")["progress"]["step"])
    except CheckpointError:
        return 0


def tensors_of(run: Path) -> dict[str, torch.Tensor]:
    """All that is in the checkpoints of a run, by checkpoint and name."""
    return {f"{name}/{key}": value for name in ("best", "last") for key, value in load_weights(run / name).items()}


def restore_globals() -> None:
    """Undo what a run sets for its whole process."""
    torch.use_deterministic_algorithms(False)
    log = logging.getLogger("bdam_reid")
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
