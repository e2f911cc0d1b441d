"""The tokenizer's limits: on words, and on what it remembers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from bdam_reid.captions.splitter import FUNCTION_WORDS
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
    monkeypatch.setattr(tokens, "REMEMBERED", 600)
    tokenize = Tokenize(tokenizer, 16)
    for _ in range(2):
        for caption, ids in zip(CAPTIONS, expected, strict=True):
            assert torch.equal(tokenize([caption])[0], ids)
            assert len(tokenize._known) <= 2
    assert len(tokenize(CAPTIONS)[0]) == 3
    # Of long texts fewer.
    monkeypatch.setattr(tokens, "REMEMBERED", 100_000)
    for number in range(10):
        tokenize([f"{number} {'red ' * 10_000}"])
    assert len(tokenize._known) <= 3


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a man in a red coat", "man red coat"),
        ("A man, in a RED coat.", "man, RED coat."),
        ("Man a, in. with; a: coat", "Man coat"),
        ("a in with a", "a in with a"),
        ("a", "a"),
        ("man", "man"),
        ("an inn", "an inn"),
    ],
)
def test_words_that_are_left_out(tmp_path: Path, text: str, read: str) -> None:
    tokenizer = train_wordpiece([*CAPTIONS, "an inn"], 100, tmp_path / "tokenizer")
    plain, leaving = Tokenize(tokenizer, 16), Tokenize(tokenizer, 16, frozenset({"a", "in", "with"}))
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(leaving([text]), plain([read]), strict=True))
    assert leaving.vocab_size == plain.vocab_size


def test_words_that_are_left_out_take_no_room(tmp_path: Path) -> None:
    """And a batch has texts of either kind, each in its place."""
    tokenizer = train_wordpiece(CAPTIONS, 100, tmp_path / "tokenizer")
    leaving = Tokenize(tokenizer, 5, frozenset({"a", "in"}))
    ids, mask = leaving(["in a in a in a red coat", "in a", "man"])
    expected = [tokenizer(text)["input_ids"] for text in ("red coat", "in a", "man")]
    assert [row[there].tolist() for row, there in zip(ids, mask, strict=True)] == expected


def test_function_words_say_nothing_of_a_person() -> None:
    """Sex and absence are said by words of the same kind."""
    assert FUNCTION_WORDS.isdisjoint({"without", "he", "she", "his", "her", "man", "coat", "red", "tall", "hand"})
    assert {"a", "an", "the", "and", "with", "in", "of", "is", "wearing", "carrying", "has"} <= FUNCTION_WORDS
    assert all(word == word.lower() for word in FUNCTION_WORDS)
