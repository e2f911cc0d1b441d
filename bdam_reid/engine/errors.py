"""What a user can mend ends a command with one message, and no traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import torch

from bdam_kernels import BackendUnavailable
from bdam_reid.config import ConfigError
from bdam_reid.data.images import ImageError
from bdam_reid.data.records import DatasetError, QueryError
from bdam_reid.engine.checkpoint import CheckpointError
from bdam_reid.engine.run import log


class TrainingError(RuntimeError):
    """Training that cannot go on."""


USER_ERRORS = (
    ConfigError,
    CheckpointError,
    DatasetError,
    ImageError,
    QueryError,
    TrainingError,
    BackendUnavailable,
    OSError,
)


@contextmanager
def user_errors() -> Iterator[None]:
    """End the process with one message for what its user can mend."""
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
