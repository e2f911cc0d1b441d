"""What makes an identity survive a change of clothes: `python -m bdam_reid.studies.clothes`.

Trains the preset `demo` with one part of it left out or changed at a time, all with the same number of steps, on the
synthetic set, and writes what the test split says of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from bdam_reid.studies.grid import Figure, Setting, run_grid, table

SETTINGS = (
    Setting("demo", "demo"),
    Setting(
        "without BDAM",
        "demo --method.decoupling.self-layers 0 --method.decoupling.cross-layers 0 --method.decoupling.gate False",
    ),
    Setting("without cross-attention", "demo --method.decoupling.cross-layers 0"),
    Setting("without gate", "demo --method.decoupling.gate False"),
    Setting(
        "mean pooling",
        "demo --method.decoupling.pooling mean --method.decoupling.merge 1 --method.decoupling.width 0",
    ),
    Setting("without head crop", "demo --method.image.head-crop False"),
    Setting("one-way InfoNCE", "demo --method.loss.symmetric False"),
    Setting("without contrast of outfits", "demo --method.loss.contrast-weight 0"),
    Setting("outfit-aware sampling", "demo --data.across-outfits True"),
    Setting("without decoupling", "demo --method.loss.decouple-weight 0"),
    Setting("strong decoupling", "demo --method.loss.decouple-weight 1"),
    Setting("adversarial clothing loss", "demo --method.loss.clothing adversarial"),
    Setting("conference draft", "demo-icme"),
)
"""The recipe, what it is made of, and where it came from."""


def _rate(protocol: str, how: str, rate: str) -> Figure:
    return lambda metrics: metrics["protocols"][protocol]["results"][how][rate]


def _leak(column: str) -> Figure:
    return lambda metrics: metrics["probes"]["persons"]["test"]["outfit"][column]["linear"]["identity"]


FIGURES: Mapping[str, Figure] = {
    "other clothes R-1": _rate("clothing_change", "other", "r1"),
    "mAP": _rate("clothing_change", "other", "map"),
    "same clothes R-1": _rate("test", "same", "r1"),
    "identity alone": _rate("test", "identity", "r1"),
    "top colour from identity": _leak("top colour"),
    "lower colour": _leak("lower colour"),
}


@dataclass(frozen=True)
class Study:
    """Train every setting with several seeds, and print the table; finished runs are not repeated."""

    root: str = "data/synthetic"
    """Folder of the data set."""
    output: Path = Path("runs/clothes")
    """Folder of the runs; a run that was killed goes on from its last checkpoint."""
    results: Path = Path("benchmarks/results/clothes.json")
    """What is kept of the runs."""
    epochs: int = 2
    settings: tuple[str, ...] = tuple(setting.name for setting in SETTINGS)
    """Which of the rows are trained; --settings demo "without BDAM" are two."""
    seeds: tuple[int, ...] = (0, 1, 2)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    study = tyro.cli(Study, prog="python -m bdam_reid.studies.clothes", args=arguments)
    # After the arguments: help, or word of a mistake in them, does not wait for torch.
    from bdam_reid.engine.errors import user_errors

    budget = ("--data.root", study.root, "--method.optim.epochs", str(study.epochs))
    with user_errors():
        results = run_grid(SETTINGS, study.settings, study.seeds, budget, study.output, study.results)
        print(table(results, FIGURES))


if __name__ == "__main__":
    main()
