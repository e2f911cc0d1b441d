"""Writes a run's best checkpoint as a folder that works wherever it is copied, whose form is `engine/exported.py`'s."""

from __future__ import annotations

import glob
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bdam_reid.config import ConfigError, Presets
from bdam_reid.data.images import MEAN, STD
from bdam_reid.engine.checkpoint import WEIGHTS, CheckpointError, digest, find_checkpoint, read_json, write_json
from bdam_reid.engine.environment import environment
from bdam_reid.engine.exported import (
    CARD,
    FILE,
    FORMAT,
    check_files,
    is_export,
    new_folder,
    portable,
    read_description,
    seal,
    write_weights,
)
from bdam_reid.engine.run import Opened, open_best
from bdam_reid.evaluation.tables import checkpoint_text, metrics_table
from bdam_reid.search.card import card, figures_text
from bdam_reid.search.towers import check_packages, write_towers


def export_run(run: Path, out: Path, *, onnx: bool, presets: Presets) -> str:
    """Write an export, and say what was done; one of the same checkpoint that is there is checked and stays.

    Args:
        run: folder that training wrote.
        out: a new folder, which is written whole or not at all.
        onnx: whether graphs of the encoders are written.
        presets: where the run's preset is looked up.
    Raises: CheckpointError, ConfigError.
    """
    if is_export(run):
        raise ConfigError(f"{run} is an export: copy that folder, or give the folder of the run that it came from")
    if onnx:
        check_packages()
    opened = open_best(run, presets, "cpu")
    description = _describe(run, opened)
    if _is_there(out, description, onnx):
        return f"{out} is an export of {run} already, and whole"
    figures = _figures(run, opened, description["best"]["metrics"])
    method = opened.method
    method.strip()
    with new_folder(out) as folder:
        write_json(folder / "config.json", portable(opened.config))
        write_weights(folder, method.state_dict())
        for name in opened.config.method.prepared:
            if (run / name).is_dir():
                shutil.copytree(run / name, folder / name)
            elif (run / name).exists():
                shutil.copyfile(run / name, folder / name)
        if onnx:
            description["onnx"] = write_towers(method, folder)
        write_json(folder / FILE, description)
        text = card(out.resolve().name, description, checkpoint_text(opened.best), figures)
        (folder / CARD).write_text(text, encoding="utf-8")
        seal(folder)
    return "\n".join([f'{out}: open it with bdam_reid.load("{out}")', *_said_of_graphs(description), *_leftovers(out)])


def _describe(run: Path, opened: Opened) -> dict[str, Any]:
    """The content of export.json, but for ONNX graphs."""
    method, best, tower = opened.method, opened.best, opened.method.text_tower()
    checkpoint = find_checkpoint(run, "best")
    assert checkpoint is not None  # it was opened
    height, width = method.image_size
    return {
        "format": FORMAT,
        "preset": opened.config.preset,
        "checkpoint_sha256": digest(checkpoint / WEIGHTS),
        "best": {
            "epoch": best["epoch"],
            "metrics": best.get("metrics", {}),
            "weights": {clothes: dict(weights) for clothes, weights in method.chosen_weights(best).items()},
            "reranks": list(best.get("reranks", ())),
        },
        "parts": {name: [part.start, part.stop] for name, part in method.parts.items()},
        "image": {
            "height": height,
            "width": width,
            "colours": "RGB",
            "interpolation": "bilinear",
            "mean": [MEAN] * 3,
            "std": [STD] * 3,
        },
        "text": tower and {"texts": list(tower.texts), "max_tokens": tower.max_tokens, **tower.reading},
        "packages": environment(opened.device)["packages"],
    }


def _is_there(out: Path, description: Mapping[str, Any], onnx: bool) -> bool:
    """Whether the export is there and whole. Raises: ConfigError if it is another, or no export; ExportError."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not out.is_dir() or not is_export(out):
        raise ConfigError(f"expected a new folder for the export, got {out}, which is in use: give another one")
    check_files(out, graphs=True)
    found = read_description(out)
    if other := [name for name in description if name != "packages" and found.get(name) != description[name]]:
        raise ConfigError(
            f"{out} is an export of another run or checkpoint, they differ in {', '.join(other)}: delete it, or give "
            "another folder"
        )
    if onnx and "onnx" not in found:
        raise ConfigError(f"{out} is an export of this run without --onnx: delete it, or give another folder")
    return True


def _figures(run: Path, opened: Opened, validation: Mapping[str, float]) -> str:
    """What was measured, in Markdown. Raises: CheckpointError if metrics.json is none of this version."""
    path = run / "metrics.json"
    metrics = read_json(path) if path.exists() else {}
    try:
        table = metrics_table(metrics) if metrics else ""
    except (LookupError, TypeError, AttributeError, StopIteration, ValueError) as error:
        raise CheckpointError(
            f"{path} is not what this version writes ({error!r}): evaluate the run again with "
            f"`python -m bdam_reid.evaluate {run}`, or remove that file"
        ) from error
    data = " + ".join(Path(root).name for root in opened.config.data.roots)
    # Only drawn persons come with the ground truth that probes read.
    synthetic = "synthetic" in data or "probes" in metrics
    return figures_text(data, validation, table, synthetic=synthetic, oracle=opened.method.oracle)


def _said_of_graphs(description: Mapping[str, Any]) -> list[str]:
    if "onnx" not in description:
        return []
    found = description["onnx"]
    differences = ", ".join(f"{name} {value:.1e}" for name, value in found["largest_difference"].items())
    return [f"largest difference of an embedding in onnxruntime: {differences}; {found['bound']:.0e} would do"]


def _leftovers(out: Path) -> list[str]:
    """Folders that exports to the same place left when they were killed: what they are is not certain enough to remove
    them."""
    place = out.resolve()
    left = place.parent.glob(f".{glob.escape(place.name)}-????????")
    return [f"{path} is left of an export that was killed, unless another one is at work: delete it" for path in left]
