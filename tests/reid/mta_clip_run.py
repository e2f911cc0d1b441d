"""Runs of MTA-CLIP small enough to test with: a random CLIP, two domains of a few grey persons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_files import write_image
from published import write_clip
from tiny_run import forkserver, train_alone

from bdam_reid.config import Config, parse_config
from bdam_reid.methods import PRESETS

OPTIONS = """
    --data.image-height 32 --data.image-width 16 --data.identities-per-batch 2 --data.images-per-identity 2
    --method.prompts.epochs 2 --method.prompts.warmup-epochs 1 --method.prompts.batch 8 --method.images.epochs 2
    --method.images.warmup-epochs 1 --method.images.blocks 1 --method.images.lr 1e-3 --engine.save-every 1
    --engine.validate-every 1
"""
"""Of a run on a CLIP of 16 channels, of which one of two blocks is trained."""


def write_market(root: Path, people: int = 6, shade: int = 40) -> Path:
    """A set in Market-1501's layout: persons of one grey each, 2 images by each of 2 cameras. Every other one is for
    training, and one of those is held out for validation."""
    for person in range(1, 2 * people + 1):
        for number in range(4):
            trained = person % 2
            folder = "bounding_box_train" if trained else "query" if number % 2 else "bounding_box_test"
            name = f"{person:04d}_c{1 + number // 2}s1_{number:06d}_00.jpg"
            write_image(root / folder / name, (shade + 17 * person + number) % 256)
    return root


def write_domains(root: Path) -> Path:
    """Two sets, and a CLIP, in one folder."""
    write_market(root / "one")
    write_market(root / "two", 4, 90)
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
