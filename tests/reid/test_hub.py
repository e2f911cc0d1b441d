"""Published encoders without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import bdam_reid
from bdam_reid.encoders import hub
from bdam_reid.encoders.hub import PACKAGES, hub_or_cache

PROJECT = Path(bdam_reid.__file__).parents[1]


def test_without_a_network_a_published_encoder_is_refused_at_once(tmp_path: Path) -> None:
    """Nobody listens at the port, where the library alone tries for most of a minute."""
    code = """
import logging, sys, time
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
from bdam_reid.config import ConfigError
from bdam_reid.methods.preparation import pretrained_tokenizer
from bdam_reid.encoders.base import load, save_architecture
from pathlib import Path
began = time.perf_counter()
for attempt in (
    lambda: pretrained_tokenizer("bert-base-uncased"),
    lambda: save_architecture("bert-base-uncased", Path("nowhere")),
    lambda: load("text", "bert-base-uncased", {}, None),
):
    try:
        attempt()
    except ValueError as error:
        print(str(error)[:60])
print("seconds", time.perf_counter() - began)
"""
    away = {"HF_ENDPOINT": "http://127.0.0.1:1", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | away, capture_output=True, text=True, cwd=PROJECT, timeout=300
    )
    said = done.stdout.splitlines()
    assert said[0] == "trying to reach http://127.0.0.1:1 for published encoders"
    assert said[1].startswith("it cannot be reached (")
    assert [line[:35] for line in said[2:-1]] == [
        "the tokenizer of --method.text.pret",
        "an encoder 'bert-base-uncased' coul",
        "text encoder 'bert-base-uncased' co",
    ]
    assert float(said[-1].split()[1]) < 10


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whether the hub was asked for, without asking it."""
    asked: list[str] = []
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_reachable", lambda: bool(asked.append("asked")))
    return asked


@pytest.mark.parametrize("name", PACKAGES)
def test_an_installed_package_is_where_a_published_encoder_is_loaded_from(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unreachable: list[str]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / PACKAGES[name] / "model").mkdir(parents=True)
    (tmp_path / PACKAGES[name] / "__init__.py").write_text("raise ImportError('it is not imported')")
    with hub_or_cache(name) as source:
        assert source == str(tmp_path / PACKAGES[name] / "model")
    assert not unreachable and PACKAGES[name] not in sys.modules


@pytest.mark.parametrize("installed", ["nothing", "a module"])
def test_without_the_package_the_name_is_that_of_the_hub(
    installed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unreachable: list[str]
) -> None:
    (name,) = PACKAGES
    monkeypatch.setitem(PACKAGES, name, "no_such_package_of_an_encoder")
    monkeypatch.syspath_prepend(tmp_path)
    if installed == "a module":
        (tmp_path / "no_such_package_of_an_encoder.py").touch()
    for asked in (name, "bert-base-uncased"):
        with hub_or_cache(asked) as source:
            assert source == asked and hub.constants.HF_HUB_OFFLINE
        assert not hub.constants.HF_HUB_OFFLINE
    assert len(unreachable) == 2
    with hub_or_cache(str(tmp_path)) as source:
        assert source == str(tmp_path)
    assert len(unreachable) == 2
