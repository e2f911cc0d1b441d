"""How a set gets onto the disk: whole or not at all, with as many processes as there are cores."""

from __future__ import annotations

import multiprocessing
import secrets
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from PIL import Image
from tqdm import tqdm

from bdam_reid.cores import cores

Job = TypeVar("Job")
Result = TypeVar("Result")


class SyntheticError(RuntimeError):
    """The set cannot be written as asked: one sentence that says why and what to do."""


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its place at the end, and disappears if anything fails."""
    out = out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SyntheticError(
            f"expected a new or empty folder, got {out}, which is in use: delete it or choose another one"
        )
    folder = out.with_name(f".{out.name}-{secrets.token_hex(4)}")
    try:
        folder.mkdir(parents=True)
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
        shutil.rmtree(folder, ignore_errors=True)


def save(image: Image.Image, path: Path) -> None:
    """Write a picture as JPEG, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=88)


@contextmanager
def draw_all(work: Callable[[Job], Result], jobs: Sequence[Job], processes: int | None) -> Iterator[Iterator[Result]]:
    """Gives an iterator over what the work makes of every person, in order and as it comes, by so many processes (by
    default one a core), with a progress bar; they end with the block.
    """
    processes = cores() if processes is None else processes
    if processes < 1:
        raise SyntheticError(f"expected one drawing process or more, got {processes}")
    with (
        closing(_in_parallel(work, jobs, processes)) as results,
        tqdm(results, total=len(jobs), desc="Drawing people", unit=" id", disable=None) as shown,
    ):
        yield iter(shown)


def _in_parallel(work: Callable[[Job], Result], jobs: Sequence[Job], processes: int) -> Generator[Result, None, None]:
    if processes == 1:
        yield from map(work, jobs)
        return
    # Spawned rather than forked: the caller may hold threads (of torch, say) that do not survive a fork.
    pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield from pool.map(work, jobs, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)
