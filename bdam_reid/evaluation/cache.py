"""Keeps features of galleries on disk, for evaluations that come again: `FeatureCache`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import PIL
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from bdam_reid.config import Config
from bdam_reid.data.records import Record
from bdam_reid.engine.environment import environment
from bdam_reid.engine.run import log


class FeatureCache:
    """What a method computes of galleries, in a folder, a file each, named by the digest of all that it depends on:
    weights, config, image files by path, size and time of change, their texts, device, precision, batch size, versions
    and backend of packages, commit of the source tree. Only changes to the source that are not committed go unnoticed;
    what a killed process or a bad disk left is told by its digest, and computed anew.

    Args:
        folder: is made when something is kept. Its files may be deleted at any time.
        config: of the run whose method computes.
    """

    def __init__(self, folder: Path, config: Config) -> None:
        self._folder, self._config = folder, config
        self._weights, self._environment = "", dict[str, Any]()

    def kept(
        self,
        what: str,
        method: nn.Module,
        how: Sequence[Any],
        records: Sequence[Record],
        compute: Callable[[], dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        """Tensors of images by name, kept or from `compute`, which are then kept. A disk that is full is no error: the
        log says that they are not kept.

        Args:
            what: is computed.
            method: whose weights compute it, always the same one.
            how: what else of the computation the result depends on, as JSON has it.
            records: of the images.
            compute: by name, tensors.
        """
        path = self._folder / f"{what}-{self._key(method, how, records)}.safetensors"
        if kept := _read(path):
            log.info(f"{what} of {len(records)} images: those in {path}")
            return kept
        tensors = compute()
        if tensors:
            _write(path, tensors)
        return tensors

    def _key(self, method: nn.Module, how: Sequence[Any], records: Sequence[Record]) -> str:
        self._weights = self._weights or _digest(method.state_dict())
        self._environment = self._environment or environment(next(method.parameters()).device)
        digest, config = hashlib.sha256(), asdict(self._config)
        for value in (
            self._weights,
            [config["method"], config["data"]],
            list(how),
            [self._environment, PIL.__version__],
            *map(_of_record, records),
        ):
            digest.update(json.dumps(value, sort_keys=True).encode() + b"\n")
        return digest.hexdigest()


def _of_record(record: Record) -> list[Any]:
    """What a method may read of it: the image file as it is now, its texts, its camera and its attributes."""
    said = [str(record.path.absolute()), record.captions, record.texts, record.camera, record.attributes]
    try:
        found = os.stat(record.path)
    except (OSError, ValueError):  # a missing file, or a name that no file has
        return said
    return [*said, found.st_size, found.st_mtime_ns]


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Of the names and bytes of tensors."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Tensor] | None:
    """The tensors in a file; None if there is no such file, or another than was written."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            said = file.metadata()
            tensors = {name: file.get_tensor(name) for name in json.loads(said["names"])}
        problem = "" if said["sha256"] == _digest(tensors) else "it is not what was written"
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        problem = str(error)
    if problem:
        log.warning(f"{path} is not used, but computed anew: {problem}")
    return None if problem else tensors


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    said = {"names": json.dumps(list(tensors)), "sha256": _digest(tensors)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, said)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        log.warning(f"{path} cannot be kept: {error}. The evaluation goes on without")
