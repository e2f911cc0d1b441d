"""Processor cores."""

from __future__ import annotations

import os


def cores() -> int:
    """How many this process may use; of processes that a launcher started on this machine each has its share."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
