"""The folder of a run: its config, log and curves."""

from __future__ import annotations

import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from bdam_reid.config import Config, ConfigError, Presets, differences, from_dict
from bdam_reid.engine.checkpoint import (
    CheckpointError,
    find_checkpoint,
    load_into,
    load_state,
    load_weights,
    read_json,
    readable_state,
    remove_leftovers,
    write_json,
)
from bdam_reid.methods.method import Method

log = logging.getLogger("bdam_reid")
log.addHandler(logging.NullHandler())
log.propagate = False


def open_run(config: Config, presets: Presets) -> Path:
    """Make the run folder of `config`, or take up the one that is there, without a killed process's rests.

    Raises: ConfigError if the folder belongs to a run of another config, or to something else.
    """
    run = Path(config.output)
    if run.exists() and not run.is_dir():
        raise ConfigError(f"--output must be a folder, got the file {run}")
    if (run / "config.json").exists():
        changed = differences(load_config(run, presets), config)
        if changed:
            raise ConfigError(
                f"{run} is a run of another config:\n  " + "\n  ".join(changed) + "\n"
                "Give another --output, or delete that folder, or set these fields as they were to go on"
            )
    elif run.exists() and any(path.suffix != ".tmp" for path in run.iterdir()):
        raise ConfigError(f"--output must be a new folder or that of a run, got {run}, which holds other files")
    run.mkdir(parents=True, exist_ok=True)
    remove_leftovers(run)
    write_json(run / "config.json", asdict(config))
    return run


def load_config(run: Path, presets: Presets) -> Config:
    """The config of a run, of this version or an older one.

    Raises: CheckpointError if `run` is no folder of a run; ConfigError if its config is not known to this version.
    """
    if not (run / "config.json").is_file():
        raise CheckpointError(
            f"{run} is no run: it has no config.json. Give the folder that `python -m bdam_reid.train` wrote"
        )
    return from_dict(read_json(run / "config.json"), presets)


def load_best(run: Path, config: Config) -> tuple[Method, dict[str, Any]]:
    """The model of the best checkpoint of a run, and what the checkpoint says of itself.

    Raises: CheckpointError, ConfigError.
    """
    best = find_checkpoint(run, "best")
    if best is None:
        raise CheckpointError(f"{run} has no best checkpoint yet: train it to its first validation at least")
    method = config.method.build(config.data, run, fresh=False)
    load_into(method, load_weights(best), best)
    state = load_state(best, ("epoch",))
    with readable_state(best):
        method.chosen_weights(state)
    return method, state


class _Console(logging.Handler):
    """Prints above the progress bar, where there is one; errors end the process and are printed then."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.ERROR:
            tqdm.write(self.format(record), file=sys.stdout)


def start_log(run: Path) -> None:
    """Send the package's log to the terminal and, with times, to the run's log.txt."""
    file = logging.FileHandler(run / "log.txt", encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    log.addHandler(_Console())
    log.addHandler(file)
    log.setLevel(logging.INFO)


def read_curves(run: Path) -> dict[str, tuple[list[float], list[float]]]:
    """The scalars that a run wrote for TensorBoard, name -> (steps, values); of repeated steps the latest. Empty where
    there are none."""
    if not (run / "tensorboard").is_dir():
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # It warns of the steps that a resumed run repeats, which is what it is asked to sort out.
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    curves = {}
    for name in events.Tags()["scalars"]:
        latest = {event.step: event.value for event in events.Scalars(name)}
        steps = sorted(latest)
        curves[name] = ([float(step) for step in steps], [latest[step] for step in steps])
    return curves
