"""Data sets that are wrong by accident or on purpose: names, texts and numbers that no published set has."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_files import entries, entry, write_set

from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.images import ImageError, decode_image
from bdam_reid.data.printable import printable, shortened
from bdam_reid.data.records import DatasetError

ESCAPE = "\x1b]0;owned\x07\x1b[2J"


def found(root: Path) -> dict[str, int]:
    return {finding.what: finding.count for finding in load_dataset(root).report.findings}


# What is printed


@pytest.mark.parametrize("text", [ESCAPE, "a\nvalidation r1 100", "\u202egnp.exe", "\udc80", "\x9b31m", "a\u2028b"])
def test_nothing_that_steers_a_terminal_is_printed(text: str) -> None:
    assert printable(text).isprintable() and "\\" in printable(text)


def test_what_can_be_read_stays() -> None:
    assert printable("A man, 走る人, größer") == "A man, 走る人, größer"
    assert shortened("b" * 60) == "b" * 60 and shortened("b" * 61) == "b" * 57 + "..."
    assert len(shortened("\x00" * 5000)) == 60


def test_captions_keys_and_ids_reach_the_terminal_as_text(tmp_path: Path) -> None:
    records = [*entries(), entry("train", 4, 7, file_path=f"cam/{ESCAPE}.jpg", id="five")]
    records[0]["captions"] = [f"A man. {ESCAPE}"] * 2
    report = str(load_dataset(write_set(tmp_path / "set", records)).report)
    assert "owned" in report and all(line.isprintable() for line in report.splitlines())
    twice = [*entries(), entry("test", 1, file_path=f"{ESCAPE}.jpg"), entry("val", 1, file_path=f"{ESCAPE}.jpg")]
    with pytest.raises(DatasetError, match="owned") as error:
        load_dataset(write_set(tmp_path / "twice", twice))
    assert str(error.value).isprintable()
    with pytest.raises(ImageError, match="owned") as unread:
        decode_image(tmp_path / f"{ESCAPE}.jpg", (8, 4))
    assert str(unread.value).isprintable()
