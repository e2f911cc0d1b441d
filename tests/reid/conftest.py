"""What tests of person search share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_run import one_thread, restore_globals, tiny, train_alone, write_people


@pytest.fixture(autouse=True)
def _untouched_globals() -> Iterator[None]:
    """Models are tiny, and a run sets some things for its whole process."""
    with one_thread():
        yield
    restore_globals()


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn persons. Tests that change them take a copy."""
    return write_people(tmp_path_factory.mktemp("data") / "people")


@pytest.fixture(scope="session")
def finished(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on them. Tests that change it take a copy."""
    return train_alone(tiny(people, tmp_path_factory.mktemp("runs") / "finished", "--engine.save-every", "0"))
