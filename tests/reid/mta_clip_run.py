"""Runs of MTA-CLIP small enough to test with: a random CLIP, two domains of a few persons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from published import write_clip
from tiny_run import forkserver, train_alone

from bdam_reid.config import Config, parse_config
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.records import Dataset
from bdam_reid.engine.environment import make_accelerator
from bdam_reid.engine.trainer import Trainer, make_method
from bdam_reid.methods import PRESETS
from bdam_reid.methods.mta_clip.method import MTAClip

OPTIONS = """
    --data.image-height 32 --data.image-width 16 --data.identities-per-batch 2 --data.images-per-identity 2
    --method.prompts.epochs 2 --method.prompts.warmup-epochs 1 --method.prompts.batch 8 --method.images.epochs 2
    --method.images.warmup-epochs 1 --method.images.blocks 1 --method.images.lr 1e-3 --engine.save-every 1
    --engine.validate-every 1
"""
"""Of a run on a CLIP of 16 channels, of which one of two blocks is trained."""


def write_market(root: Path, people: int = 6, seed: int = 0) -> Path:
    """A set in Market-1501's layout: persons of a few coloured squares, 2 images by each of 2 cameras. So many are for
    training, of whom one is held out for validation, and as many others for the test."""
    for person in range(1, 2 * people + 1):
        squares = np.random.default_rng((seed, person)).integers(40, 215, (4, 2, 3)).repeat(5, 0).repeat(5, 1)
        for number in range(4):
            folder = "bounding_box_train" if person % 2 else "query" if number % 2 else "bounding_box_test"
            path = root / folder / f"{person:04d}_c{1 + number // 2}s1_{number:06d}_00.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng((seed, person, number)).integers(-40, 40, squares.shape)
            Image.fromarray((squares + noise).astype(np.uint8)).save(path)
    return root


def write_domains(root: Path) -> Path:
    """Two sets, and a CLIP, in one folder."""
    write_market(root / "one")
    write_market(root / "two", 4, 1)
    write_clip(root / "clip")
    return root


def config_of(preset: str, domains: Path, output: Path, more: str = "", only: str = "") -> Config:
    """The config of a run on both domains, or on the one that `only` names."""
    data = (
        f"--data.root {domains / only}" if only else f"--data.root {domains / 'one'} --data.domains {domains / 'two'}"
    )
    more = f"{data} --output {output} --method.clip {domains / 'clip'} {OPTIONS} {more}"
    return parse_config(PRESETS, [preset, *more.split()])


def start(config: Config) -> Any:
    """Train in a process of its own."""
    process = forkserver().Process(target=train_alone, args=(config,))
    process.start()
    return process


def trainer_of(config: Config, dataset: Dataset) -> tuple[Trainer, MTAClip]:
    """A trainer that takes single steps, without validation."""
    run = Path(config.output)
    run.mkdir(exist_ok=True)
    method = make_method(config, run, dataset)
    assert isinstance(method, MTAClip)
    return Trainer(config, run, method, dataset, make_accelerator(config.engine), None), method


def untrained(preset: str, domains: Path, tmp_path: Path, more: str = "") -> MTAClip:
    config = config_of(preset, domains, tmp_path / "run", more, "one")
    (tmp_path / "run").mkdir(parents=True)
    method = make_method(config, tmp_path / "run", load_dataset(domains / "one")).eval()
    assert isinstance(method, MTAClip)
    return method
