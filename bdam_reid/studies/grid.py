"""Grids of runs: settings times seeds, each run kept as soon as it ends, and none repeated."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import tyro
from tqdm.auto import tqdm

from bdam_reid.config import ConfigError, parse_config
from bdam_reid.methods import PRESETS
from bdam_reid.studies.papers import Published


class Setting(NamedTuple):
    """One row of a table."""

    name: str
    arguments: str
    """What is trained, as on the command line of training: a preset and the fields that differ from it."""
    published: Published | None = None
    """What the drafts print of this row."""


Figure = Callable[[Mapping[str, Any]], float | None]
"""Reads a figure from the content of a metrics.json; None where it has none."""


@dataclass(frozen=True)
class Options:
    """Train every row with several seeds, and print the table; finished runs are not repeated."""

    root: str = "data/synthetic"
    """Folder of the data set."""
    output: Path = Path("runs/grid")
    """Folder of the runs, which go on from their last checkpoints."""
    results: Path = Path("benchmarks/results/grid.json")
    """What is kept of the runs; those of another call are added to."""
    epochs: int = 2
    """Of every run."""
    rows: tuple[str, ...] = ()
    """Which rows are trained now; without any, all."""
    seeds: tuple[int, ...] = (0, 1, 2)


def command(
    name: str,
    settings: Sequence[Setting],
    figures: Mapping[str, Figure],
    results: str,
    epochs: int,
    arguments: Sequence[str] | None = None,
    root: str = Options.root,
) -> None:
    """The command line of a grid of one preset's variants.

    Args:
        name: of the study.
        settings: its rows.
        figures: what the printed table shows.
        results: name of its file in benchmarks/results.
        epochs: of its runs.
        arguments: those of the process if None.
        root: folder of its data set.
    """
    defaults = Options(root, Path("runs") / name, Path("benchmarks/results") / results, epochs)
    options = tyro.cli(Options, prog=f"python -m bdam_reid.studies {name}", args=arguments, default=defaults)
    # After the arguments: help, or word of a mistake in them, does not wait for torch.
    from bdam_reid.engine.errors import user_errors

    budget = ("--data.root", options.root, "--method.optim.epochs", str(options.epochs))
    rows = options.rows or tuple(setting.name for setting in settings)
    with user_errors():
        print(table(run_grid(settings, rows, options.seeds, budget, options.output, options.results), figures))


def run_grid(
    settings: Sequence[Setting],
    wanted: Sequence[str],
    seeds: Sequence[int],
    budget: Sequence[str],
    output: Path,
    results: Path,
) -> dict[str, Any]:
    """Train and evaluate what a results file lacks; gives its content.

    Args:
        settings: all rows of the study.
        wanted: names of those to train now.
        seeds: of each row.
        budget: arguments that all runs have in common.
        output: folder of the runs; one that was killed goes on from its last checkpoint.
        results: file that keeps, of each run, metrics, environment and processor seconds, evaluation included.
    Raises: ConfigError for a row that there is not, or if the file is of another study or budget; and as
        `bdam_reid.train.train`.
    """
    from bdam_reid.train import train

    arguments = {setting.name: setting.arguments for setting in settings}
    if unknown := [name for name in wanted if name not in arguments]:
        raise ConfigError(f"--rows must be of {', '.join(arguments)}, got {', '.join(unknown)}")
    kept = open_results(results, {"budget": list(budget), "settings": arguments})

    def run(name: str, seed: int) -> Path:
        folder = output / f"{name.replace(' ', '-')}-{seed}"
        line = [*arguments[name].split(), *budget, "--output", str(folder), "--seed", str(seed)]
        return train(parse_config(PRESETS, line))

    run_missing(kept, wanted, seeds, results, run)
    return kept


def open_results(path: Path, study: Mapping[str, Any], option: str = "--results") -> dict[str, Any]:
    """The content of a results file, with no runs if there is none yet. Raises: ConfigError if it is of another study.

    Args:
        path: the file.
        study: what its runs have in common, and "settings", its rows, by name; what a file of an older version lacks
            is taken to be the same.
        option: by which another file is given.
    """
    from bdam_reid.engine.checkpoint import read_json

    study = json.loads(json.dumps(study))  # as the file has it: of tuples lists
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        return {**study, "runs": []}
    kept: dict[str, Any] = read_json(path)
    if changed := [name for name, value in study.items() if kept.get(name, value) != value]:
        raise ConfigError(
            f"{path} holds results of another study or budget, with which these cannot stand in one table ("
            f"{', '.join(changed)} {'is' if len(changed) == 1 else 'are'} not the same): give another {option}"
        )
    return {**study, **kept}


def run_missing(
    kept: dict[str, Any],
    names: Sequence[str],
    seeds: Sequence[int],
    results: Path,
    run: Callable[[str, int], Path],
    keep: Callable[[Path], dict[str, Any]] | None = None,
) -> None:
    """Add to `kept` the settings and seeds that it lacks, and write it to `results` after each.

    Args:
        kept: as `open_results` gives it.
        names: of settings.
        seeds: of each.
        results: the file.
        run: (name of the setting, seed) -> folder of the finished run.
        keep: its folder -> what is kept of it; `outcome` if there is none.
    """
    from bdam_reid.engine.checkpoint import write_json

    wanted = list(dict.fromkeys((name, seed) for seed in seeds for name in names))
    done = {(entry["setting"], entry["seed"]) for entry in kept["runs"]}
    with tqdm(wanted, unit="run", disable=None) as bar:
        for name, seed in bar:
            bar.set_postfix(setting=name, seed=seed)
            if (name, seed) in done:
                continue
            began = time.process_time()
            folder = run(name, seed)
            seconds = round(time.process_time() - began, 1)
            kept["runs"].append({"setting": name, "seed": seed, "seconds": seconds, **(keep or outcome)(folder)})
            write_json(results, kept)


def table(results: Mapping[str, Any], figures: Mapping[str, Figure]) -> str:
    """A row for each setting of a results file in Markdown: mean and standard deviation over its seeds of each figure,
    and the mean of the processor seconds."""
    lines = [f"| setting | {' | '.join(figures)} | seeds | processor seconds |", "|---|" + "---:|" * (len(figures) + 2)]
    for name in results["settings"]:
        runs = [run for run in results["runs"] if run["setting"] == name]
        if runs:
            found = ([figure(run["metrics"]) for run in runs] for figure in figures.values())
            cells = [spread([value for value in values if value is not None]) for values in found]
            seconds = [run["seconds"] for run in runs if run.get("seconds")]  # Old files lack them.
            spent = f"{fmean(seconds):.0f}" if seconds else "-"
            lines.append(f"| {name} | {' | '.join(cells)} | {len(runs)} | {spent} |")
    return "\n".join(lines)


def asked(metrics: Mapping[str, Any], clothes: str) -> dict[str, Any] | None:
    """What metrics.json says of the first protocol that asks for persons in the same or in other clothes."""
    return next((found for found in metrics["protocols"].values() if found["clothes"] == clothes), None)


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation in words."""
    if not values:
        return "-"
    return f"{fmean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def outcome(run: Path) -> dict[str, Any]:
    """What is kept of a finished run: its metrics, and what they may depend on."""
    from bdam_reid.engine.checkpoint import read_json

    metrics, environment = read_json(run / "metrics.json"), read_json(run / "environment.json")
    kept = ("commit", "packages", "device", "threads", "backend", "cpu_isa", "precision", "data")
    return {"metrics": metrics, "environment": {name: environment[name] for name in kept}}
