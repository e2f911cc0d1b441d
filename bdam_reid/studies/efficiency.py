"""Accuracy of the three fusions where the drafts have them, in training: `python -m bdam_reid.studies efficiency`.

Trains the preset demo-icme with each kind of fusion at the drafts' sizes, with the same steps and seeds for all, and
keeps what the official test split says of each run; `python -m benchmarks.report` draws Fig. 5 from it. Source: long,
section 4.5 and Fig. 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from bdam_reid.methods.bdam.config import FusionConfig
from bdam_reid.studies.grid import Setting, run_grid, table
from bdam_reid.studies.measures import MEASURES

FUSIONS: Mapping[str, FusionConfig] = {
    "mamba": FusionConfig(kind="mamba", layers=2),
    "transformer": FusionConfig(kind="transformer", layers=4),
    "simple": FusionConfig(kind="simple"),
}
"""The drafts' fusion module and the two that it is compared with, at the drafts' sizes."""
SETTINGS = tuple(
    Setting(
        name,
        f"demo-icme --method.fusion.kind {of.kind} --method.fusion.layers {of.layers} --method.fusion.width {of.width}",
    )
    for name, of in FUSIONS.items()
)


@dataclass(frozen=True)
class Study:
    """Train the preset demo-icme with each kind of fusion and several seeds; finished runs are not repeated."""

    root: str = "data/synthetic"
    """Folder of the data set."""
    output: Path = Path("runs/efficiency")
    """Folder of the runs; a run that was killed goes on from its last checkpoint."""
    results: Path = Path("benchmarks/results/fusion-accuracy.json")
    """What is kept of the runs; those of another call are added to."""
    epochs: int = 8
    kinds: tuple[str, ...] = tuple(FUSIONS)
    seeds: tuple[int, ...] = (0, 1, 2)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    study = tyro.cli(Study, prog="python -m bdam_reid.studies efficiency", args=arguments)
    # After the arguments: help, or word of a mistake in them, does not wait for torch.
    from bdam_reid.engine.errors import user_errors

    budget = ("--data.root", study.root, "--method.optim.epochs", str(study.epochs))
    with user_errors():
        results = run_grid(SETTINGS, study.kinds, study.seeds, budget, study.output, study.results)
        print(table(results, {name: MEASURES[name] for name in ("R-1", "mAP")}))


if __name__ == "__main__":
    main()
