"""The next batch is made while the present one is used."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

T = TypeVar("T")


def ahead(values: Generator[T, None, None]) -> Generator[T, None, None]:
    """What a generator gives, each value but the first made by a thread while the one before is used.

    It is closed with this one, whose user must close it (`contextlib.closing`) unless it comes to its end.
    """
    with closing(values), ThreadPoolExecutor(1, "ahead") as thread:
        coming = thread.submit(next, values, None)
        while (value := coming.result()) is not None:
            coming = thread.submit(next, values, None)
            yield value
