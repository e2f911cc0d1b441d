"""The Hugging Face hub, where published encoders come from: whether it can be reached is found out first, since the
library itself tries for most of a minute."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.utils import get_session

log = logging.getLogger("bdam_reid")
TIMEOUT = 3.0
"""Seconds to wait for the hub."""


@contextmanager
def hub_or_cache(name: str) -> Iterator[None]:
    """Where `name`, if it is no folder, is loaded from the hub, or, if that cannot be reached, from its cache alone."""
    if Path(name).is_dir() or constants.HF_HUB_OFFLINE or _reachable():
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = False


@cache
def _reachable() -> bool:
    log.info(f"trying to reach {constants.ENDPOINT} for published encoders")
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT)
    except Exception as error:  # its client is another in each version of the library
        log.info(f"it cannot be reached ({error}): looking in the cache")
        return False
    return True
