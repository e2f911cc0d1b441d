"""What a user can mend ends a command with one message, and no traceback."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import torch
import torch.distributed as dist

from bdam_kernels import BackendUnavailable
from bdam_reid.config import ConfigError
from bdam_reid.data.images import ImageError
from bdam_reid.data.records import DatasetError, QueryError
from bdam_reid.data.training import LoaderError
from bdam_reid.engine.checkpoint import CheckpointError
from bdam_reid.engine.run import log
from bdam_reid.engine.signals import Interrupted, handled_by, interrupt


class TrainingError(RuntimeError):
    """Training that cannot go on."""


USER_ERRORS = (
    ConfigError,
    CheckpointError,
    DatasetError,
    ImageError,
    LoaderError,
    QueryError,
    TrainingError,
    BackendUnavailable,
    OSError,
)


@contextmanager
def user_errors(batch: str = "--data.identities-per-batch") -> Iterator[None]:
    """End the process with one message for what its user can mend, and for signals that ask it to end.

    Args:
        batch: the option that says how much is computed at a time.
    """
    try:
        with handled_by(interrupt):
            yield
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, Interrupted) else signal.SIGINT
        name = signal.Signals(number).name
        _end(f"interrupted by {name}: give the same command again to go on", 128 + number)
    except USER_ERRORS as error:
        _end(f"error: {error}", 1)
    except (MemoryError, RuntimeError) as error:
        if _is_out_of_memory(error):
            _end(f"error: the device has too little memory: lower {batch}", 1)
        if _has_lost_a_process(error):
            _end("error: another process of this run has ended: see what it says", 1)
        raise


def _is_out_of_memory(error: Exception) -> bool:
    # torch has no class of its own for memory of the CPU.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def _has_lost_a_process(error: Exception) -> bool:
    # gloo has no class of its own for it.
    lost = ("Connection closed by peer", "Connection reset by peer")
    return isinstance(error, dist.DistError) or (dist.is_initialized() and any(words in str(error) for words in lost))


def _end(message: str, code: int) -> NoReturn:
    log.error(message)
    print(message, file=sys.stderr)
    sys.exit(code)
