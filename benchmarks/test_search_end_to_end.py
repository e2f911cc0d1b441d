"""Search from photographs and sentences on, with the demo's model: `pytest benchmarks/test_search_end_to_end.py`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bdam_reid.data.datasets import load_dataset
from bdam_reid.engine.trainer import make_method
from bdam_reid.methods.bdam.presets import demo
from bdam_reid.search.finder import Finder
from bdam_reid.search.index.reader import open_index
from bdam_reid.search.index.update import update_index
from bdam_reid.search.query import Question
from bdam_reid.search.retriever import Retriever
from bdam_reid.search.table import Table
from bdam_reid.synthetic.writer import write_synthetic
from benchmarks.measure import figures
from benchmarks.test_end_to_end import one_layer_of

K = 10
ASKED = 300
"""Questions, at most."""


def test_search_from_photographs_and_sentences(
    small: bool, tmp_path: Path, keep: Callable[[dict[str, Any]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Image files embedded into an index, and questions by themselves, from the sentence to the names of the ten
    photographs. Weights are random, which costs as much."""
    write_synthetic(tmp_path / "set", 12 if small else 200, 0)
    dataset = load_dataset(tmp_path / "set")
    (tmp_path / "run").mkdir()
    method = make_method(one_layer_of(demo()) if small else demo(), tmp_path / "run", dataset).eval()
    retriever = Retriever(method, method.default_weights(), torch.device("cpu"), "no", "random")
    began = time.perf_counter()
    report = update_index(tmp_path / "index", tmp_path / "set", retriever, "nowhere", Table())
    speed = report.embedded / (time.perf_counter() - began)
    finder = Finder(open_index(tmp_path / "index"), retriever)
    sentences = [query.text or "" for query in dataset.protocols["test"].queries][: 5 if small else ASKED]
    # The first one warms up.
    times = [_milliseconds(finder, sentence) for sentence in [sentences[0], *sentences]][1:]
    row = {"images_s": speed, "p99_ms": float(np.quantile(times, 0.99)), "forward": figures(times)}
    with capsys.disabled():
        print(f"{report.images:,} images, {K} asked for: {row}")
    size = f"{report.images:,} images, k = {K}"
    keep({"op": "search from a sentence on, demo preset", "size": size, "contenders": {"ours": row}})
    assert len(finder.find(Question(sentences[0]), K)) == K


def _milliseconds(finder: Finder, sentence: str) -> float:
    began = time.perf_counter()
    finder.find(Question(sentence), K)
    return 1e3 * (time.perf_counter() - began)
