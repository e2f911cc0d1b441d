"""The folder of a run: its config, environment, log and curves."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch
from tqdm.auto import tqdm

from bdam_kernels import BackendUnavailable, dispatch
from bdam_reid.checkpoint import CheckpointError, read_json, remove_leftovers, write_json
from bdam_reid.config import Config, ConfigError, differences, from_dict
from bdam_reid.data import DatasetError, ImageError

log = logging.getLogger("bdam_reid")
log.addHandler(logging.NullHandler())
log.propagate = False


class TrainingError(RuntimeError):
    """Training that cannot go on."""


USER_ERRORS = (
    ConfigError,
    CheckpointError,
    DatasetError,
    ImageError,
    TrainingError,
    BackendUnavailable,
    OSError,
)
PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "safetensors", "numpy", "bdam-kernels")


def open_run(config: Config) -> Path:
    """Make the run folder of `config`, or take up the one that is there, without a killed process's rests.

    Raises: ConfigError if the folder belongs to a run of another config, or to something else.
    """
    run = Path(config.output)
    if run.exists() and not run.is_dir():
        raise ConfigError(f"--output must be a folder, got the file {run}")
    if (run / "config.json").exists():
        changed = differences(load_config(run), config)
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


def load_config(run: Path) -> Config:
    """The config of a run.

    Raises: CheckpointError if `run` is no folder of a run; ConfigError if its config is not of this version.
    """
    if not (run / "config.json").is_file():
        raise CheckpointError(
            f"{run} is no run: it has no config.json. Give the folder that `python -m bdam_reid.train` wrote"
        )
    return from_dict(read_json(run / "config.json"), Config())


def environment(device: torch.device) -> dict[str, Any]:
    """What a result may depend on besides the config: versions, machine, kernels. No host and no user."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "backend": chosen_backend(device),
        "backends": dispatch.backends(),
        "cpu_isa": dispatch.cpu_isa() if not dispatch.backends()["cpu"] else "",
        "commit": _commit(),
    }


def chosen_backend(device: torch.device) -> str:
    """The backend of the kernels: the forced one, or the first choice of those that run on `device`.

    Raises: BackendUnavailable, ConfigError if the forced one cannot run.
    """
    try:
        return dispatch.best(device)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The commit of the source tree, "+" where files differ from it; empty outside of a repository."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", here, *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


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


@contextmanager
def user_errors() -> Iterator[None]:
    """End the process with one message, and no traceback, for what its user can mend."""
    try:
        yield
    except KeyboardInterrupt:
        _end("interrupted: give the same command again to go on", 130)
    except torch.OutOfMemoryError:
        _end("error: the device has too little memory: lower --data.identities-per-batch", 1)
    except USER_ERRORS as error:
        _end(f"error: {error}", 1)


def _end(message: str, code: int) -> NoReturn:
    log.error(message)
    print(message, file=sys.stderr)
    sys.exit(code)


def read_curves(run: Path) -> dict[str, tuple[list[float], list[float]]]:
    """The scalars that a run wrote for TensorBoard, name -> (steps, values); of repeated steps the latest."""
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
