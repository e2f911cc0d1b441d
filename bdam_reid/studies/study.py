"""The one way to run a table of the drafts as a grid of runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import tyro

from bdam_reid.config import Config, ConfigError, check_config, parse_config
from bdam_reid.data.drawn import is_drawn
from bdam_reid.methods import PRESETS
from bdam_reid.methods.bdam.presets import PRESETS as BDAM_PRESETS
from bdam_reid.studies.budgets import Budget, Name
from bdam_reid.studies.definition import Study
from bdam_reid.studies.grid import Setting, open_results, run_missing


@dataclass(frozen=True)
class Options:
    """Train every row with every seed, and write the table, its claims and a picture; finished runs are not
    repeated."""

    budget: Name = "cpu"
    """smoke: seconds, to try the command; cpu: all tables in about four hours on two cores, on a synthetic set; full:
    the drafts' presets, for a real set and a GPU."""
    root: str | None = None
    """Folder of the data set; that of the budget if it is not given."""
    output: Path | None = None
    """Folder of the runs, which go on from their last checkpoints, and of the tables; runs/studies/NAME if it is not
    given."""
    rows: tuple[str, ...] = ()
    """Which rows are trained now; without any, all."""
    seeds: tuple[int, ...] = (0, 1, 2)


Train = Callable[[str, Config], Path]
"""(name of the row, its config) -> folder of the finished run."""
Keep = Callable[[Path], dict[str, Any]]
"""Folder of a finished run -> what is kept of it: its metrics, and what they may depend on."""


def command(
    study: Study,
    arguments: Sequence[str] | None = None,
    run: Callable[[Any], Any] | None = None,
    kind: type[Options] = Options,
) -> None:
    """The command line of a table, which takes options of a kind and runs it by `run_study`, if not otherwise."""
    options = tyro.cli(kind, prog=f"python -m bdam_reid.studies {study.name}", description=study.title, args=arguments)
    # After the arguments: help, or word of a mistake in them, does not wait for torch.
    from bdam_reid.engine.errors import user_errors

    with user_errors():
        (run or partial(run_study, study))(options)


def run_study(
    study: Study,
    options: Options,
    train: Train | None = None,
    keep: Keep | None = None,
    besides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train what the results file OUTPUT/NAME.json lacks, and write NAME.md, NAME.csv and NAME.png beside it.

    Args:
        study: the table.
        options: of the command line.
        train: how a row is trained, if otherwise than by its config alone.
        keep: what is kept of a run, if otherwise than by `grid.outcome`.
        besides: what else all runs of its table have in common, by name, such as another set.
    Returns: the content of the results file.
    Raises: ConfigError for a row that there is not or that cannot be run, or if the file is of another budget or set;
        and as `bdam_reid.train.train`.
    """
    from bdam_reid.studies.report import write_report

    budget = study.budgets[options.budget]
    root, output = options.root or budget.root, options.output or Path("runs/studies") / study.name
    settings = study.rows(budget)
    lines = {setting.name: whole_line(setting, budget) for setting in settings}
    wanted = options.rows or tuple(lines)
    if unknown := [name for name in wanted if name not in lines]:
        raise ConfigError(f"--rows must be of {', '.join(lines)}, got {', '.join(unknown)}")
    configs = {name: config_of(name, lines[name]) for name in wanted}
    for config in configs.values():
        check_config(config)
    results = output / f"{study.name}.json"
    own = {"budget": options.budget, "set": set_name(root, budget.drawn), "data": digest_of(root), "settings": lines}
    of = {**own, **(besides or {})}
    kept = open_results(results, of, "--output")

    def run(name: str, seed: int) -> Path:
        config = configs[name]
        data, folder = replace(config.data, root=root), str(run_folder(output, name, seed))
        return (train or _train)(name, replace(config, output=folder, seed=seed, data=data))

    run_missing(kept, wanted, options.seeds, results, run, keep)
    print(write_report(study, settings, kept, output))
    return kept


def whole_line(setting: Setting, budget: Budget) -> str:
    """The command line of a row, but for what its runs differ in."""
    preset, *_ = setting.arguments.split()
    bdam = preset in BDAM_PRESETS
    return " ".join(f"{setting.arguments} {budget.common} {budget.bdam if bdam else budget.others}".split())


def config_of(name: str, line: str) -> Config:
    """What the command line of a row means. Raises: ConfigError if this version has no such preset."""
    preset, *_ = arguments = line.split()
    if preset not in PRESETS:
        raise ConfigError(
            f"the row {name!r} needs the preset {preset}, got {', '.join(PRESETS)}: leave the row out by --rows"
        )
    return parse_config(PRESETS, arguments)


def digest_of(root: str) -> str:
    """What tells a data set from others of its name: all that are drawn have one."""
    from bdam_reid.data.datasets import load_dataset
    from bdam_reid.engine.fingerprint import fingerprint

    held = fingerprint(load_dataset(root, hold_out=False, allow_missing=True))
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()


def _train(name: str, config: Config) -> Path:
    from bdam_reid.train import train

    return train(config)


def run_folder(output: Path, name: str, seed: int) -> Path:
    """Where a row is trained."""
    return output / f"{name.replace(' ', '-').replace(',', '')}-{seed}"


def set_name(root: Path | str, drawn: str = "") -> str:
    """What a data set is called in tables: "synthetic" where it was drawn, else its folder's name.

    Args:
        root: its folder.
        drawn: the arguments with which it would be drawn, if it can be.
    Raises: ConfigError if there is no such folder.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            f"expected a data set in {root}, found no such folder: give --root"
            + (f", or draw it with `python -m bdam_reid.synthetic {root} {drawn}`" if drawn else "")
        )
    return "synthetic" if is_drawn(folder) else folder.absolute().name
