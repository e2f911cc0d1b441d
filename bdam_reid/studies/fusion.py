"""Accuracy of the three fusions: `python -m bdam_reid.studies.fusion`.

Trains the preset demo-icme with each kind of fusion at the drafts' sizes, with the same steps and seeds for all, and
keeps what the official test split says of each run. Source: long, section 4.5 and Fig. 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro
from tqdm.auto import tqdm

from bdam_reid.config import Config, ConfigError, DataConfig
from bdam_reid.methods.bdam.config import BDAMConfig, FusionConfig, OptimConfig, demo_icme
from bdam_reid.studies.grid import outcome

FUSIONS: Mapping[str, FusionConfig] = {
    "mamba": FusionConfig(kind="mamba", layers=2),
    "transformer": FusionConfig(kind="transformer", layers=4),
    "simple": FusionConfig(kind="simple"),
}
"""The drafts' fusion module and the two that it is compared with, at the drafts' sizes."""


@dataclass(frozen=True)
class Study:
    """Train the preset demo-icme with each kind of fusion and several seeds; finished runs are not repeated."""

    root: str = "data/synthetic"
    """Folder of the data set."""
    output: Path = Path("runs/fusion")
    """Folder of the runs; a run that was killed goes on from its last checkpoint."""
    results: Path = Path("benchmarks/results/fusion-accuracy.json")
    """What is kept of the runs; those of another call are added to."""
    epochs: int = 8
    kinds: tuple[Literal["mamba", "transformer", "simple"], ...] = ("mamba", "transformer", "simple")
    seeds: tuple[int, ...] = (0, 1, 2)


def run_study(study: Study, base: Config) -> dict[str, Any]:
    """Train what the results file lacks, each run kept as soon as it ends; gives the content of that file.

    Args:
        study: what to train.
        base: a config of BDAM, that of all runs but for what the study sets.
    Raises: ConfigError if the file is of another budget; and as `bdam_reid.train.train`.
    """
    from bdam_reid.engine.checkpoint import write_json
    from bdam_reid.train import train

    method = base.method
    assert isinstance(method, BDAMConfig)
    optim = replace(method.optim, epochs=study.epochs)
    base = replace(base, data=replace(base.data, root=study.root))
    results = _open_results(study.results, base, optim)
    wanted = [(kind, seed) for seed in study.seeds for kind in study.kinds]
    with tqdm(wanted, unit="run", disable=None) as bar:
        for kind, seed in bar:
            bar.set_postfix(kind=kind, seed=seed)
            if any((run["kind"], run["seed"]) == (kind, seed) for run in results["runs"]):
                continue
            fused = replace(method, optim=optim, fusion=FUSIONS[kind])
            config = replace(base, output=str(study.output / f"{kind}-{seed}"), seed=seed, method=fused)
            results["runs"].append({"kind": kind, "seed": seed, **outcome(train(config))})
            write_json(study.results, results)
    return results


def _open_results(path: Path, base: Config, optim: OptimConfig) -> dict[str, Any]:
    from bdam_reid.engine.checkpoint import read_json

    budget: dict[str, Any] = {"preset": base.preset, "data": asdict(base.data), "optim": asdict(optim)}
    results: dict[str, Any] = read_json(path) if path.exists() else {"budget": budget, "runs": []}
    try:
        same = _compared(results["budget"]) == _compared(budget)
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{path} holds no results of this study ({error}): give another --results") from error
    if not same:
        raise ConfigError(f"{path} holds runs of another budget, {results['budget']}: give another --results")
    path.parent.mkdir(parents=True, exist_ok=True)
    return results


def _compared(budget: Mapping[str, Any]) -> tuple[str, DataConfig, OptimConfig]:
    """What of a budget decides results. A field that an older file lacks has its default, as in a run's config."""
    data = replace(DataConfig(**budget["data"]), root="", allow_missing=False)
    return budget["preset"], data, OptimConfig(**budget["optim"])


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    study = tyro.cli(Study, prog="python -m bdam_reid.studies.fusion", args=arguments)
    # After the arguments, here and above: help, or word of a mistake in them, does not wait for torch.
    from bdam_reid.engine.errors import user_errors

    with user_errors():
        run_study(study, demo_icme())


if __name__ == "__main__":
    main()
