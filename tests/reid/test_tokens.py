"""The tokenizer's limits: on words, and on what it remembers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from bdam_reid.data import tokens
from bdam_reid.data.tokens import Tokenize, train_wordpiece

CAPTIONS = ["a man in a red coat", "a woman in a blue coat", "a man with a red bag"]


def test_a_word_without_end_costs_no_time_and_changes_no_vocabulary(tmp_path: Path) -> None:
    expected = train_wordpiece(CAPTIONS, 100, tmp_path / "expected").get_vocab()
    began = time.perf_counter()
    vocabulary = train_wordpiece([*CAPTIONS, "a " + "man" * 400_000, "red" * 34], 100, tmp_path / "long").get_vocab()
    assert time.perf_counter() - began < 5
    assert vocabulary == expected


def test_what_is_remembered_is_bounded_and_stays_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = train_wordpiece(CAPTIONS, 100, tmp_path / "tokenizer")
    expected = [Tokenize(tokenizer, 16)([caption])[0] for caption in CAPTIONS]
    monkeypatch.setattr(tokens, "REMEMBERED", 2)
    tokenize = Tokenize(tokenizer, 16)
    for _ in range(2):
        for caption, ids in zip(CAPTIONS, expected, strict=True):
            assert torch.equal(tokenize([caption])[0], ids)
            assert len(tokenize._known) <= 3
    assert len(tokenize(CAPTIONS)[0]) == 3
