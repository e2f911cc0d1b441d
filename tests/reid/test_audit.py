"""`python -m bdam_reid.data check`: what it finds in sets and between them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from data_files import entries, entry, write_image, write_set
from PIL import Image

from bdam_reid.data.__main__ import main


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_set(tmp_path / "set", entries())


def check(capsys: pytest.CaptureFixture[str], *arguments: Path | str) -> tuple[int, list[str]]:
    """Exit code and lines, without the spaces before them."""
    code = main(["check", *map(str, arguments)])
    return code, [line.strip() for line in capsys.readouterr().out.splitlines()]


def found(lines: Sequence[str], words: str) -> str:
    """The one line with some words."""
    (line,) = [line for line in lines if words in line]
    return line


def image(root: Path, person: int, number: int = 0) -> Path:
    return root / "imgs" / "cam" / f"{person:04d}_{number}.jpg"


def test_a_set_without_faults(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = check(capsys, root)
    assert code == 0
    assert lines[0] == f"cuhk-pedes at {root}"
    assert [line.split() for line in lines[1:5]] == [
        ["images", "persons", "captions"],
        ["train", "10", "4", "20"],
        ["val", "4", "2", "8"],
        ["test", "4", "2", "8"],
    ]
    assert lines[-1] == "nothing that makes results wrong"
    assert not any("WRONG" in line for line in lines)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": "1"}, "records without a whole number as id skipped"),
        ({"file_path": None}, "records without file_path skipped"),
        ({"split": "tset"}, "records of an unknown split skipped"),
    ],
)
def test_a_record_that_is_skipped_makes_results_wrong_unless_it_is_trained_on(
    root: Path, capsys: pytest.CaptureFixture[str], change: dict[str, str | None], words: str
) -> None:
    index = root / "reid_raw.json"
    records = json.loads(index.read_text())
    for split in ("train", "test"):
        at = next(number for number, record in enumerate(records) if record["split"] == split)
        changed = [{**record, **change} if number == at else record for number, record in enumerate(records)]
        index.write_text(json.dumps(changed))
        # Of a record without a split nobody knows.
        wrong = split == "test" or "split" in change
        code, lines = check(capsys, root)
        assert code == wrong and found(lines, words).startswith("WRONG" if wrong else "note")


def test_missing_and_unreadable_images(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image(root, 1).unlink()
    assert check(capsys, root)[0] == 0
    image(root, 20).unlink()
    image(root, 10).write_bytes(b"no image")
    code, lines = check(capsys, root)
    assert code == 1
    assert found(lines, "train images missing").startswith("note  1 train images missing (not trained on)")
    assert found(lines, "test images missing").startswith("WRONG  1 test images missing")
    assert found(lines, "val images").startswith("WRONG  1 val images unreadable")
    assert lines[-1].startswith("2 of ")


def test_damage_inside_an_image_is_found_by_decoding(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.effect_noise((16, 32), 50).save(image(root, 20), format="PNG")
    data = image(root, 20).read_bytes()
    image(root, 20).write_bytes(data[:60] + data[-12:])
    assert check(capsys, root)[0] == 0
    code, lines = check(capsys, root, "--decode")
    assert code == 1 and "WRONG  1 test images that are damaged inside: imgs/cam/0020_0.jpg" in lines


def test_images_in_two_splits_of_two_persons_and_of_one(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(image(root, 1), image(root, 20))
    shutil.copy(image(root, 10), image(root, 11))
    shutil.copy(image(root, 3, 0), image(root, 3, 1))
    shutil.copy(image(root, 4, 0), image(root, 2, 0))
    code, lines = check(capsys, root)
    assert code == 1
    assert "WRONG  1 images in train and in test: imgs/cam/0001_0.jpg = imgs/cam/0020_0.jpg" in lines
    assert found(lines, "WRONG  1 val images of different persons at once").endswith("imgs/cam/0011_0.jpg")
    assert found(lines, "note  1 train images of different persons at once")
    assert found(lines, "note  1 train images that are there again under another name")


def test_pixels_tell_what_bytes_do_not(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Image.open(image(root, 1)) as picture:
        picture.save(image(root, 20), format="PNG")
    assert check(capsys, root)[0] == 0
    code, lines = check(capsys, root, "--decode")
    assert code == 1 and found(lines, "images in train and in test")


def test_captions_that_are_empty_or_repeated_or_of_several_persons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = entries()
    records[0]["captions"].append(" ")
    code, lines = check(capsys, write_set(tmp_path / "set", records))
    assert code == 0
    assert found(lines, "empty captions dropped").startswith("note  1 ")
    assert found(lines, "captions that occur more than once").startswith("note")
    # "A man in a red shirt 0." and "... 1." are of two persons each.
    assert found(lines, "test captions that describe several persons").startswith("note  2 ")


@pytest.mark.parametrize("change", ["shared id", "no set", "broken"])
def test_a_set_that_cannot_be_used_says_why(root: Path, capsys: pytest.CaptureFixture[str], change: str) -> None:
    index = root / "reid_raw.json"
    if change == "no set":
        index.unlink()
    else:
        records = [*json.loads(index.read_text()), entry("test", 1, 9)]
        index.write_text(json.dumps(records) if change == "shared id" else "{")
    code, lines = check(capsys, root)
    assert code == 1 and lines[0] == f"unusable set at {root}"
    reason = {"shared id": "1 ids are in both train and test (1)", "no set": "found none of", "broken": "JSON"}
    assert reason[change] in found(lines, "WRONG")
    (root.parent / "other").mkdir()
    assert check(capsys, root, root.parent / "other")[1][-2] == "not compared"


def test_sets_that_are_used_together(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "market"
    for person in (3, 5, 7):
        for camera in (1, 2):
            write_image(other / "bounding_box_train" / f"{person:04d}_c{camera}.jpg", 180 + 9 * person + camera)
    for folder in ("query", "bounding_box_test"):
        for camera in (1, 2):
            write_image(other / folder / f"0002_c{camera}.jpg", 250 + camera)
    code, lines = check(capsys, root, other, root)
    assert code == 0 and lines[-2] == "no image in both"
    assert f"cuhk-pedes at {root} and market-1501 at {other}" in lines
    shutil.copy(image(root, 2), other / "bounding_box_train" / "0005_c1.jpg")
    assert check(capsys, root, other)[0] == 0
    shutil.copy(image(root, 1), other / "query" / "0002_c1.jpg")
    code, lines = check(capsys, root, other)
    assert code == 1
    expected = "WRONG  1 train images of the one that are test images of the other: imgs/cam/0001_0.jpg"
    assert expected in lines and found(lines, "note  1 train images of the one that are train images of the other")
    assert lines[-1].startswith("1 of ")


def test_what_it_prints_steers_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = entries()
    for record in records:
        record["captions"] = ["\x1b[2J A man."]
    _, lines = check(capsys, write_set(tmp_path / "set", records))
    assert all(line.isprintable() for line in lines)
