"""What tests of person search share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mta_clip_run import config_of, start, write_domains
from tiny_run import one_thread, restore_globals, tiny, train_alone, write_people
from torch.utils.data._utils import signal_handling

from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.records import Dataset
from bdam_reid.evaluation import page, pictures


@pytest.fixture(scope="session", autouse=True)
def _no_handler_of_ended_workers() -> None:
    """torch's raises wherever the main thread is when a loader's worker has ended, which may be in pytest itself.
    Training has none: a thread makes its batches."""
    signal_handling._SIGCHLD_handler_set = True


@pytest.fixture(autouse=True)
def _untouched_globals() -> Iterator[None]:
    """Models are tiny, and a run sets some things for its whole process."""
    with one_thread():
        yield
    restore_globals()


@pytest.fixture
def charts() -> None:
    """For tests of the charts on a page, which other tests do without: drawing them takes longer than all the rest of
    a tiny run's evaluation."""


@pytest.fixture(autouse=True)
def _small_pages(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages show three queries, two beside each other and one below, in coarse pictures."""
    monkeypatch.setattr(page, "QUERIES", 3)
    monkeypatch.setitem(pictures.STYLE, "savefig.dpi", 40)
    if "charts" not in request.fixturenames:
        monkeypatch.setattr(page, "_draw", lambda *_: {})


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn persons. Tests that change them take a copy."""
    return write_people(tmp_path_factory.mktemp("data") / "people")


@pytest.fixture(scope="session")
def finished(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on them. Tests that change it take a copy."""
    return train_alone(tiny(people, tmp_path_factory.mktemp("runs") / "finished"))


@pytest.fixture(scope="session")
def domains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains and a CLIP in a folder. Tests that change them take a copy."""
    return write_domains(tmp_path_factory.mktemp("domains"))


@pytest.fixture(scope="session")
def both(domains: Path) -> Dataset:
    """The two domains as one set."""
    return load_dataset(domains / "one", domains / "two")


@pytest.fixture(scope="session")
def clip_run(domains: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of MTA-CLIP on both domains that nobody interrupted. Tests that change it take a copy."""
    output = tmp_path_factory.mktemp("runs") / "run"
    process = start(config_of("mta-clip", domains, output))
    process.join()
    assert process.exitcode == 0
    return output
