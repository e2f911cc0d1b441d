"""The lock on a folder, of a run or an index: one process writes to it at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from multiprocessing.util import register_after_fork
from pathlib import Path

from bdam_reid.config import ConfigError

FILE = "lock"


@contextmanager
def locked(folder: Path, does: str = "trains") -> Iterator[str]:
    """Keep every other process out of a folder that calls this too. The kernel lifts the lock when the process ends,
    however it ends.

    Args:
        folder: there is one.
        does: what the process does in it, for messages.
    Yields: why there is no lock, where the file system has none; else an empty text.
    Raises: ConfigError if another process has the lock.
    """
    with open(folder / FILE, "a+", encoding="utf-8") as file:
        # The worker processes of a data loader must not hold the lock on when this one is killed.
        register_after_fork(file, TextIOWrapper.close)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise ConfigError(
                f"another process, pid {file.read().strip()}, {does} in {folder}: "
                "wait for its end, or stop it, or give another --output"
            ) from error
        except OSError as error:
            yield f"{folder} cannot be locked ({error.strerror}): let no other process write to it"
            return
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield ""
