"""Writes the set to disk, whole or not at all, with as many processes as there are cores."""

from __future__ import annotations

import json
import multiprocessing
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from tqdm import tqdm

from bdam_reid.synthetic.drawing import render
from bdam_reid.synthetic.people import (
    Item,
    Outfit,
    Person,
    Shot,
    sample_person,
    sample_shots,
)
from bdam_reid.synthetic.sentences import write_captions, write_texts
from bdam_reid.synthetic.wardrobe import sample_wardrobe

# Shots of the outfits of one person; the rarely seen third outfit of a training person is drawn by chance.
_TRAIN_SHOTS, _THIRD_OUTFIT = (3, 2), 0.3
_TEST_SHOTS, _CHANGED_SHOTS = 4, 2
_QUALITY = 88


class SyntheticError(RuntimeError):
    """The set cannot be written as asked: one sentence that says why and what to do."""


@dataclass(frozen=True)
class _Picture:
    """One picture in all files but its own: `changed` if it belongs to the clothing-change gallery only."""

    key: str
    identity: int
    split: str
    changed: bool
    captions: tuple[str, str]
    texts: dict[str, str]
    attributes: dict[str, Any]


def write_synthetic(
    out: Path, identities: int, seed: int, *, test_identities: int | None = None, processes: int | None = None
) -> int:
    """Write a synthetic pedestrian set in CUHK-PEDES' layout; see the package for its files.

    Args:
        out: a folder that does not exist yet, or is empty.
        identities: persons in all three splits together.
        seed: the same seed gives the same bytes, for any number of processes.
        test_identities: persons in the test split, and as many in the validation split; an eighth by default.
        processes: by default one for each core that this process may use.
    Returns: the number of pictures.
    Raises: SyntheticError if the arguments do not fit, `out` is in use, or the disk is full; nothing is
    left then.
    """
    held_out = max(2, identities // 8) if test_identities is None else test_identities
    if held_out < 2 or identities - 2 * held_out < 2:
        raise SyntheticError(
            f"each of the three splits needs 2 identities or more, got {held_out} each for validation and "
            f"test of {identities} in all: raise --identities, or change --test-identities"
        )
    splits = ["train"] * (identities - 2 * held_out) + ["val"] * held_out + ["test"] * held_out
    processes = _cores() if processes is None else processes
    if processes < 1:
        raise SyntheticError(f"expected one drawing process or more, got {processes}")
    with _new_folder(out) as folder:
        work = partial(_write_identity, folder, seed)
        pictures: list[_Picture] = []
        with tqdm(total=identities, desc="Drawing people", unit=" id", disable=None) as bar:
            for drawn in _in_parallel(work, list(enumerate(splits, start=1)), processes):
                pictures += drawn
                bar.update()
        _write_index(folder, pictures)
    return len(pictures)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its place at the end, and disappears if anything fails."""
    out = out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SyntheticError(
            f"expected a new or empty folder, got {out}, which is in use: delete it or choose another one"
        )
    folder: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = out.with_name(f".{out.name}-{secrets.token_hex(4)}")
        folder.mkdir()
        yield folder
        folder.replace(out)
    except OSError as error:
        raise SyntheticError(
            f"cannot write the synthetic set to {out}: {error.strerror or error}. Nothing was kept: make "
            "room (about 60 KB an identity) or choose another folder"
        ) from error
    except BrokenProcessPool as error:
        raise SyntheticError(
            f"a drawing process was killed, nothing was kept in {out}: free some memory or use --processes 1"
        ) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _in_parallel(
    work: Callable[[tuple[int, str]], list[_Picture]], jobs: list[tuple[int, str]], processes: int
) -> Iterable[list[_Picture]]:
    """The results of all jobs in their order."""
    if processes == 1:
        yield from map(work, jobs)
        return
    # Spawned rather than forked: the caller may hold threads (of torch, say) that do not survive a fork.
    pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield from pool.map(work, jobs, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)


def _write_identity(root: Path, seed: int, job: tuple[int, str]) -> list[_Picture]:
    """Draw all pictures of one person; everything follows from the seed and the identity's number."""
    identity, split = job
    rng = Random(f"{seed}/person/{identity}")
    person = sample_person(rng)
    counts = _TRAIN_SHOTS if split == "train" else (_TEST_SHOTS, _CHANGED_SHOTS) if split == "test" else (_TEST_SHOTS,)
    if split == "train" and rng.random() < _THIRD_OUTFIT:
        counts = (*counts, 1)
    pictures = []
    for number, (outfit, count) in enumerate(zip(sample_wardrobe(rng, person, len(counts)), counts, strict=True)):
        for index, shot in enumerate(sample_shots(rng, count, f"{seed}/{identity}/{number}")):
            changed = split == "test" and number > 0
            folder = "clothing_change" if changed else f"camera{shot.camera + 1}"
            key = f"{folder}/{identity:05d}_{number}{index}.jpg"
            path = root / "imgs" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            render(person, outfit, shot, seed).save(path, quality=_QUALITY)
            pictures.append(
                _Picture(
                    key=key,
                    identity=identity,
                    split=split,
                    changed=changed,
                    captions=write_captions(person, outfit, shot),
                    texts=write_texts(person, outfit, shot),
                    attributes=_attributes(person, outfit, number, shot),
                )
            )
    return pictures


def _attributes(person: Person, outfit: Outfit, number: int, shot: Shot) -> dict[str, Any]:
    drawn = ("stature", "skin_rgb", "hair_rgb")
    return {
        "identity": {name: value for name, value in asdict(person).items() if name not in drawn},
        "outfit": {name: _item_attributes(item) for name, item in outfit.items().items()},
        "outfit_index": number,
        "bag_side": outfit.bag_side if outfit.bag is not None else None,
        "camera": shot.camera + 1,
        "viewpoint": shot.viewpoint,
        "occluded": shot.occluder != "none",
    }


def _item_attributes(item: Item) -> dict[str, str | None]:
    return {"kind": item.kind, "colour": item.colour, "pattern": item.pattern, "second_colour": item.second}


def _write_index(folder: Path, pictures: list[_Picture]) -> None:
    records = [
        {
            "split": p.split,
            "captions": list(p.captions),
            "file_path": p.key,
            "processed_tokens": [caption.lower().rstrip(".").split() for caption in p.captions],
            "id": p.identity,
        }
        for p in pictures
        if not p.changed
    ]
    queries = [
        {"caption": caption, "id": p.identity, "outfit": p.attributes["outfit_index"], "file_path": p.key}
        for p in pictures
        if p.split == "test" and not p.changed
        for caption in p.captions
    ]
    gallery = [
        {
            "captions": list(p.captions),
            "id": p.identity,
            "outfit": p.attributes["outfit_index"],
            "file_path": p.key,
        }
        for p in pictures
        if p.changed
    ]
    files = {
        "reid_raw.json": records,
        "texts.json": {p.key: p.texts for p in pictures},
        "attributes.json": {p.key: p.attributes for p in pictures},
        "clothing_change.json": {"queries": queries, "gallery": gallery},
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
