"""The folder of a run: its config, data, log and curves."""

from __future__ import annotations

import logging
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm.auto import tqdm

from bdam_reid import processes
from bdam_reid.config import Config, ConfigError, Presets, differences, from_dict
from bdam_reid.data.records import Dataset
from bdam_reid.engine.checkpoint import (
    STATE,
    WEIGHTS,
    CheckpointError,
    digest,
    find_checkpoint,
    load_into,
    load_state,
    load_weights,
    read_json,
    readable_state,
    remove_leftovers,
    write_json,
)
from bdam_reid.engine.environment import find_device, precision_on
from bdam_reid.engine.exported import FILE, check_files, is_export, read_description
from bdam_reid.engine.fingerprint import changes, fingerprint
from bdam_reid.engine.lock import FILE as LOCK
from bdam_reid.engine.lock import locked
from bdam_reid.methods.method import Method

DATA = "data.json"

log = logging.getLogger("bdam_reid")
log.addHandler(logging.NullHandler())
log.propagate = False


@contextmanager
def open_run(config: Config, presets: Presets, dataset: Dataset) -> Iterator[Path]:
    """Make the run folder of `config`, or take up the one that is there, without a killed process's rests; nobody else
    trains in it meanwhile. A new one in which no step was done is removed again if an error ends it. Of several
    processes the first does so, and logs; the others call this after it, and are let in.

    Raises: ConfigError if the folder belongs to a run of another config or other data, to something else, or another
        process trains in it; CheckpointError if it is damaged.
    """
    run = Path(config.output)
    if not processes.is_main():
        yield run
        return
    _check_folder(run, config, presets)
    made, new = not run.exists(), not (run / "config.json").exists()
    run.mkdir(parents=True, exist_ok=True)
    with locked(run) as unlocked:
        _check_folder(run, config, presets)
        data = fingerprint(dataset)
        check_data(run, config, data, _GO_ON)
        _check_resumable(run)
        try:
            remove_leftovers(run)
            write_json(run / "config.json", asdict(config))
            write_json(run / DATA, data)
            start_log(run)
            if unlocked:
                log.warning(unlocked)
            yield run
        except BaseException:
            if new and not find_checkpoint(run, "last") and not read_curves(run):
                _remove_start(run, made)
            raise


def _check_folder(run: Path, config: Config, presets: Presets) -> None:
    if run.exists() and not run.is_dir():
        raise ConfigError(f"--output must be a folder, got the file {run}")
    if is_export(run):
        raise ConfigError(f"--output must be a new folder or that of a run, got {run}, an export: it is not trained on")
    if (run / "config.json").exists():
        changed = differences(load_config(run, presets), config)
        if changed:
            raise ConfigError(
                f"{run} is a run of another config:\n  " + "\n  ".join(changed) + "\n"
                "Give another --output, or delete that folder, or set these fields as they were to go on"
            )
    elif run.exists() and any(path.suffix != ".tmp" and path.name != LOCK for path in run.iterdir()):
        raise ConfigError(f"--output must be a new folder or that of a run, got {run}, which holds other files")


def _check_resumable(run: Path) -> None:
    """Raise CheckpointError, before anything in it is touched, for a run whose training this version cannot go on
    with."""
    last = find_checkpoint(run, "last")
    if last is None:
        return
    with readable_state(last):
        progress = read_json(last / STATE)["progress"]
    if "stage" not in progress:
        raise CheckpointError(
            f"{run} was trained by an older version, whose checkpoints say less: it can be evaluated, "
            "but not be trained on. Give another --output"
        )


_GO_ON = (
    "Give --data.root a folder with the data as it was to go on (and --data.domains those of the others, in their "
    "order), or another --output to begin anew"
)


def check_data(run: Path, config: Config, found: Mapping[str, Any], mend: str, without: str = "") -> None:
    """Raise ConfigError if a run began with other data. Runs of older versions do not say with which.

    Args:
        run, config: its folder and config.
        found: fingerprint of the data that lies there now.
        mend: what can be done.
        without: the part of the data that does not matter.
    """
    if not (run / DATA).exists():
        return
    then, now = ({part: of for part, of in data.items() if part != without} for data in (read_json(run / DATA), found))
    if changed := changes(then, now):
        raise ConfigError(
            f"the data in {', '.join(config.data.roots)} is not what {run} began with:\n  "
            + "\n  ".join(changed)
            + f"\n{mend}"
        )


def _remove_start(run: Path, made: bool) -> None:
    for path in list(run.iterdir()):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    if made:
        run.rmdir()


def load_config(run: Path, presets: Presets) -> Config:
    """The config of a run, of this version or an older one, or of an export.

    Raises: CheckpointError if `run` is no folder of a run, or a damaged export; ConfigError if its config is not known
        to this version.
    """
    if _is_published(run):
        raise CheckpointError(
            f"{run} is a model in the hub's form, no run and no export of one: training takes it, such as by "
            "--method.clip or --method.image.pretrained"
        )
    if is_export(run):
        check_files(run)
        read_description(run)
    if not (run / "config.json").is_file():
        raise CheckpointError(
            f"{run} is no run: it has no config.json. Give the folder that `python -m bdam_reid.train` wrote"
        )
    return from_dict(read_json(run / "config.json"), presets)


def _is_published(folder: Path) -> bool:
    """Whether a folder is a model of transformers, whose config says of what kind."""
    config = folder / "config.json"
    return config.is_file() and not (folder / FILE).exists() and "model_type" in read_json(config)


def load_best(run: Path, config: Config) -> tuple[Method, dict[str, Any]]:
    """The model of the best checkpoint of a run, or of an export, and what the checkpoint says of itself.

    Raises: CheckpointError, ConfigError.
    """
    exported = is_export(run)
    best = run if exported else find_checkpoint(run, "best")
    if best is None:
        raise CheckpointError(f"{run} has no best checkpoint yet: train it to its first validation at least")
    method = config.method.build(config.data, run, fresh=False)
    if exported:
        method.strip()
    load_into(method, load_weights(best), best)
    state = read_description(run)["best"] if exported else load_state(best, ("epoch",))
    with readable_state(best):
        method.chosen_weights(state)
    return method, state


class Opened(NamedTuple):
    """A run's best model, ready to embed."""

    config: Config
    method: Method
    """With the best weights, on `device`."""
    best: dict[str, Any]
    """What the checkpoint says of itself."""
    device: torch.device
    precision: str
    """"no", "bf16" or "fp16"."""


def open_best(run: Path, presets: Presets, device: str) -> Opened:
    """The best checkpoint of a run, or an export, on a device as torch names it, or "auto".

    Raises: CheckpointError, ConfigError.
    """
    config, place = load_config(run, presets), find_device(device)
    method, best = load_best(run, config)
    return Opened(config, method.to(place), best, place, precision_on(place, config.engine))


def fingerprint_of(run: Path) -> str:
    """What tells the weights of a run's best checkpoint from all others; an export has that of its run.

    Raises: CheckpointError if there is none.
    """
    if is_export(run):
        return str(read_description(run)["checkpoint_sha256"])
    best = find_checkpoint(run, "best")
    if best is None:
        raise CheckpointError(f"{run} has no best checkpoint yet")
    return digest(best / WEIGHTS)


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
    files = list((run / "tensorboard").glob("events.out.tfevents.*"))
    if not files:
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # It warns of files that a kill cut off.
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    sessions = []
    for file in files:
        events = EventAccumulator(str(file), size_guidance={"scalars": 0}, purge_orphaned_data=False)
        events.Reload()
        sessions.append({name: events.Scalars(name) for name in events.Tags()["scalars"]})
    # A run never goes back behind its last checkpoint: what goes on later begins at a later step, whatever the clock
    # said, by which TensorBoard orders files.
    sessions.sort(key=lambda scalars: min(events[0].step for events in scalars.values()) if scalars else 0)
    curves: dict[str, dict[int, float]] = defaultdict(dict)
    for scalars in sessions:
        for name, events in scalars.items():
            curves[name].update((event.step, event.value) for event in events)
    return {name: ([float(step) for step in sorted(c)], [c[step] for step in sorted(c)]) for name, c in curves.items()}
