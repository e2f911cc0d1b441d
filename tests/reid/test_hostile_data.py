"""Data sets that are wrong by accident or on purpose: names, texts and numbers that no published set has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from data_files import entries, entry, write_image, write_set

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


# Paths


@pytest.mark.parametrize("key", ["/etc/hostname", "../secret.jpg", "cam/../../secret.jpg", ".."])
def test_no_record_reaches_outside_the_folder(tmp_path: Path, key: str) -> None:
    write_image(tmp_path / "set" / "secret.jpg")
    root = write_set(tmp_path / "set", [*entries(), entry("train", 4, 7)])
    records = json.loads((root / "reid_raw.json").read_text())
    records[-1]["file_path"] = key
    (root / "reid_raw.json").write_text(json.dumps(records))
    with pytest.raises(
        DatasetError, match=r"reid_raw\.json: record number 18 must name a file below .* correct its path"
    ):
        load_dataset(root)
    change = {"queries": [{"caption": "A man.", "id": 20}], "gallery": [{"file_path": key, "id": 20}]}
    (root / "reid_raw.json").write_text(json.dumps(records[:-1]))
    (root / "clothing_change.json").write_text(json.dumps(change))
    with pytest.raises(DatasetError, match=r"clothing_change\.json: record number 0 must name a file below"):
        load_dataset(root)


def test_an_image_has_one_name(tmp_path: Path) -> None:
    records = entries()
    records[0]["file_path"] = "./cam//x/../0001_0.jpg"
    root = write_set(tmp_path / "set", records)
    (root / "texts.json").write_text('{"cam/./0001_0.jpg": {"identity": "A man.", "clothing": "A red shirt."}}')
    first = load_dataset(root).train[0]
    assert first.key == "cam/0001_0.jpg" and first.texts is not None
    twice = [*entries(), entry("test", 30, file_path="./cam/0001_0.jpg")]
    with pytest.raises(DatasetError, match=r"image cam/0001_0\.jpg is in split train as person 1 and in split test"):
        load_dataset(write_set(tmp_path / "twice", twice))


def test_a_name_that_is_too_long_is_a_missing_file(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", entries())
    records = [*entries(), entry("train", 4, file_path="a" * 5000 + ".jpg")]
    (root / "reid_raw.json").write_text(json.dumps(records))
    assert found(root)["train images missing (not trained on)"] == 1
