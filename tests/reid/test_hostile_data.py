"""Data sets that are wrong by accident or on purpose: names, texts and numbers that no published set has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from data_files import entries, entry, write_image, write_set
from image_search import Brightness
from tiny_run import tiny

from bdam_reid.config import ConfigError
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.images import ImageError, decode_image
from bdam_reid.data.printable import printable, shortened
from bdam_reid.data.records import DatasetError
from bdam_reid.data.tokens import Tokenize, train_wordpiece
from bdam_reid.evaluation.attributes import attribute_columns
from bdam_reid.evaluation.disentanglement import probe
from bdam_reid.evaluation.ranking import Embedder

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


# Numbers, texts and ground truth


@pytest.mark.parametrize("identity", [2**63, -(2**63) - 1, 10**40, True, 1.0, None, [1]])
def test_an_id_that_is_no_number_of_64_bits_is_skipped_and_counted(tmp_path: Path, identity: object) -> None:
    root = write_set(tmp_path / "set", [*entries(), entry("test", 1, 9, id=identity)])
    change = {
        "queries": [{"caption": "A man.", "id": person, "outfit": identity} for person in (20, identity)],
        "gallery": [{"file_path": entries()[-4]["file_path"], "id": 20}],
    }
    (root / "clothing_change.json").write_text(json.dumps(change))
    assert found(root)["records without a whole number as id skipped"] == 1
    assert found(root)["clothing_change queries without caption or id skipped"] == 1
    assert load_dataset(root).protocols["clothing_change"].queries[0].outfit is None
    ids = torch.tensor([record.identity for record in load_dataset(root).protocols["test"].gallery])
    assert ids.tolist() == [20, 20, 21, 21]


def test_a_market_name_of_an_endless_number_is_none(tmp_path: Path) -> None:
    for person in (3, 5, 7):
        write_image(tmp_path / "bounding_box_train" / f"{person}_c1.jpg")
        write_image(tmp_path / "bounding_box_train" / f"{person}_c2.jpg")
    write_image(tmp_path / "query" / "2_c1.jpg")
    write_image(tmp_path / "bounding_box_test" / "2_c2.jpg")
    write_image(tmp_path / "bounding_box_test" / f"{2**63}_c1.jpg")
    write_image(tmp_path / "bounding_box_test" / f"2_c{2**63}.jpg")
    assert found(tmp_path)["images whose name has no person and camera skipped"] == 2


def test_halves_of_characters_are_replaced_wherever_they_are(tmp_path: Path) -> None:
    records = entries()
    records[0]["captions"] = ["A \ud83d man \U0001f600."]
    root = write_set(tmp_path / "set", records)
    texts = {records[0]["file_path"]: {"identity": "A man \udc00.", "clothing": "A red shirt."}}
    (root / "texts.json").write_text(json.dumps(texts))
    first = load_dataset(root).train[0]
    assert first.captions == ("A ? man \U0001f600.",) and first.texts is not None
    assert first.texts.identity == "A man ?."
    tokenize = Tokenize(train_wordpiece([*first.captions, *first.texts], 100, tmp_path / "tokenizer"), 16)
    assert tokenize([*first.captions, *first.texts])[0].shape[0] == 3
    assert found(root)["halves of characters in reid_raw.json replaced by ?"] == 1
    assert found(root)["halves of characters in texts.json replaced by ?"] == 1


def test_clothing_change_whose_ids_match_nobody_is_found_when_it_is_read(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", entries())
    gallery = [{"file_path": record["file_path"], "id": 20} for record in entries()[-4:-2]]
    queries = [{"caption": "A man.", "id": 21}, {"caption": "A woman.", "id": 99}]
    (root / "clothing_change.json").write_text(json.dumps({"queries": queries, "gallery": gallery}))
    with pytest.raises(DatasetError, match=r"gallery of clothing_change for some query, got none .* compare the ids"):
        load_dataset(root)
    queries.append({"caption": "A child.", "id": 20})
    (root / "clothing_change.json").write_text(json.dumps({"queries": queries, "gallery": gallery}))
    assert found(root)["clothing_change queries whose person is not in its gallery (they rate nothing)"] == 2


@pytest.mark.parametrize(
    "truth",
    [
        1,
        "x",
        [],
        None,
        {"identity": 1},
        {"outfit": []},
        {"outfit": {"upper": "red"}},
        {"camera": "c1"},
        {"camera": 2**63},
    ],
)
def test_what_is_no_ground_truth_is_ignored_and_counted(tmp_path: Path, truth: object) -> None:
    root = write_set(tmp_path / "set", entries())
    good = {"camera": 1, "outfit_index": 0, "identity": {"sex": "male"}, "outfit": {"upper": {"kind": "shirt"}}}
    first, second = (record["file_path"] for record in entries()[:2])
    (root / "attributes.json").write_text(json.dumps({first: truth, second: good}))
    train = load_dataset(root).train
    assert (train[0].attributes, train[0].camera) == (None, None)
    assert (train[1].attributes, train[1].camera, train[1].outfit) == (good, 1, 0)
    assert found(root)["entries of attributes.json that are no ground truth ignored"] == 1


@pytest.mark.parametrize("truth", [{}, {"camera": 1}, {"identity": {}, "outfit": {}}])
def test_ground_truth_that_says_nothing_is_not_probed(tmp_path: Path, truth: dict) -> None:
    root = write_set(tmp_path / "set", entries())
    (root / "attributes.json").write_text(json.dumps({record["file_path"]: truth for record in entries()}))
    embedder, dataset = Embedder(Brightness(), torch.device("cpu")), load_dataset(root)
    unseen = {split: protocol.gallery for split, protocol in dataset.protocols.items()}
    assert probe(embedder, dataset.train, unseen) == {}


def test_names_of_attributes_are_printed_as_text() -> None:
    columns = attribute_columns([{"identity": {ESCAPE: "male"}, "outfit": {ESCAPE: {"colour": "red"}}}])
    assert all(name.isprintable() for group in columns.values() for name in group)


@pytest.mark.parametrize("damage", ["", "{", "{}", "[]", '{"model": {"type": "WordPiece"}}', None])
def test_a_damaged_tokenizer_is_one_message(tmp_path: Path, damage: str | None) -> None:
    train_wordpiece(["a man", "a woman"], 50, tmp_path / "run" / "tokenizer")
    path = tmp_path / "run" / "tokenizer" / "tokenizer.json"
    path.unlink() if damage is None else path.write_text(damage)
    config = tiny(tmp_path, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"must hold the tokenizer of the run, got: .+ Delete that folder and give"):
        config.method.build(config.data, tmp_path / "run", fresh=False)
