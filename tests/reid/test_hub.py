"""Published encoders without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import bdam_reid

PROJECT = Path(bdam_reid.__file__).parents[1]


def test_without_a_network_a_published_encoder_is_refused_at_once(tmp_path: Path) -> None:
    """Nobody listens at the port, where the library alone tries for most of a minute."""
    code = """
import logging, sys, time
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
from bdam_reid.config import ConfigError
from bdam_reid.methods.bdam.method import _pretrained_tokenizer
from bdam_reid.encoders.base import load, save_architecture
from pathlib import Path
began = time.perf_counter()
for attempt in (
    lambda: _pretrained_tokenizer("bert-base-uncased"),
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
