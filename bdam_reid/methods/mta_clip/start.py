"""What training takes over from another run: its prompts, and its image tower."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bdam_reid.config import ConfigError
from bdam_reid.engine.exported import is_export
from bdam_reid.methods.mta_clip.people import read_people
from bdam_reid.methods.mta_clip.prompts import AFTER, BEFORE

if TYPE_CHECKING:
    from bdam_reid.methods.mta_clip.method import MTAClip

log = logging.getLogger("bdam_reid")
LAST, BEST = "last", "best"
CAMERAS = "cameras"
"""Name of the cameras' vectors in the image tower."""


class Source(NamedTuple):
    """Another run."""

    run: Path
    plan: str
    epochs: int
    """Of its first stage."""
    stage: int
    epoch: int
    """Epochs of its present stage that are done."""

    @property
    def has_prompts(self) -> bool:
        """Whether its prompts are trained to the end."""
        return self.plan != "images" and (self.stage > 0 or self.epoch >= self.epochs)


def take_over(method: MTAClip, run: Path) -> None:
    """Give a method the prompts of another run, those of its persons if it has the same ones, and the image tower of
    its best checkpoint if the config says so.

    Raises: ConfigError if the other run has not what is wanted.
    """
    config, source = method.config, read_source(run)
    if not (source.has_prompts or config.start.images):
        raise ConfigError(
            f"--method.start.run must be a run whose prompts are trained to the end, got {run}, of the plan "
            f"{source.plan} in epoch {source.epoch} of stage {source.stage + 1}"
        )
    theirs = _weights(run, LAST)
    _check_clip(method, run, theirs)
    if source.has_prompts:
        _take_prompts(method, source, theirs)
    elif config.plan == "images" and config.loss.i2t_weight:
        raise ConfigError(
            f"{run} has no trained prompts, which --method.plan images needs: give --method.loss.i2t-weight 0"
        )
    else:
        log.info(f"{run} has no trained prompts: all words are new")
    if config.start.images:
        _take_tower(method, run)


def _check_clip(method: MTAClip, run: Path, theirs: Mapping[str, Tensor]) -> None:
    """Raise ConfigError if another run's prompts are of another CLIP: published ones differ in their words alone."""
    assert method.prompts is not None
    own = method.prompts.state_dict()
    for name in ("before", "after"):
        if not torch.equal(theirs.get(f"prompts.{name}", torch.empty(0)), own[name]):
            raise ConfigError(
                f"{run} must be of the same CLIP, got one that reads {BEFORE + ' ... ' + AFTER!r} otherwise than "
                f"--method.clip {method.config.clip}"
            )


def _take_prompts(method: MTAClip, source: Source, weights: Mapping[str, Tensor]) -> None:
    assert method.prompts is not None
    same = read_people(source.run).digest == method.people.digest
    if not same and method.config.plan == "images" and method.config.loss.i2t_weight:
        raise ConfigError(
            f"{source.run} was trained on other persons, whose prompts say nothing of these: give --method.plan "
            "progressive, which begins with the words that all prompts share, or --method.loss.i2t-weight 0"
        )
    theirs = _of(weights, "prompts.")
    names = ("shared", "domain", "person") if same else ("shared",)
    own = method.prompts.state_dict()
    for name in names:
        if name not in theirs or theirs[name].shape != own[name].shape:
            raise ConfigError(
                f"the {name} words of the prompts of {source.run} must be {tuple(own[name].shape)}, got "
                f"{tuple(theirs[name].shape) if name in theirs else 'none'}: give the same --method.clip and "
                "--method.prompts"
            )
    method.prompts.load_state_dict(own | {name: theirs[name] for name in names})
    if same:
        taken = "all words, the persons are the same"
    elif len(own["shared"]):
        taken = "the shared words; those of the domains and persons, which are others, are new"
    else:
        taken = "no words, as none are shared, and the persons are others"
    log.info(f"prompts of {source.run}: {taken}")


def _take_tower(method: MTAClip, run: Path) -> None:
    theirs, own = _of(_weights(run, BEST), "image_encoder."), method.image_encoder.state_dict()
    taken = {name: weight for name, weight in theirs.items() if name in own and own[name].shape == weight.shape}
    if read_people(run).digest != method.people.digest:
        taken.pop(CAMERAS, None)  # those of other images, whatever their numbers
    left = [name for name in own if name not in taken]
    if others := [name for name in left if name.startswith("encoder.")]:
        raise ConfigError(
            f"the image tower of {run} is none of --method.clip {method.config.clip!r}: they differ in {others[0]}"
        )
    method.image_encoder.load_state_dict(own | taken)
    without = sorted(theirs.keys() - own.keys())
    log.info(
        f"image tower of {run}"
        + (f", but for {', '.join(left)}, drawn anew" if left else "")
        + (f"; its {', '.join(without)} are left behind" if without else "")
    )


def read_source(run: Path) -> Source:
    """What another run is, and how far. Raises: ConfigError if it is none of MTA-CLIP."""
    if is_export(run):
        raise ConfigError(f"--method.start.run must be a run, got its export {run}, which has no prompts: give the run")
    try:
        method = json.loads((run / "config.json").read_text(encoding="utf-8"))["method"]
        progress = json.loads((run / LAST / "state.json").read_text(encoding="utf-8"))["progress"]
        first = "prompts" if method["plan"] in ("progressive", "prompts") else "images"
        return Source(run, method["plan"], method[first]["epochs"], progress["stage"], progress["epoch"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"--method.start.run must be a run of MTA-CLIP with its last checkpoint, got {run}: "
            f"{error or type(error).__name__}"
        ) from error


def _weights(run: Path, checkpoint: str) -> dict[str, Tensor]:
    path = run / checkpoint / "model.safetensors"
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"the weights that --method.start.run names cannot be read, {path}: {error}") from error


def _of(weights: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
