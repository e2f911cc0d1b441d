"""Loaders, texts and images, on small files of the published forms."""

import json
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
import torch
from data_files import entries, entry, write_image, write_set
from PIL import Image
from transformers import PreTrainedTokenizerFast

from bdam_reid.captions.texts import Texts
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.images import ImageError, augment, load_image
from bdam_reid.data.records import DatasetError, Query
from bdam_reid.data.tokens import Tokenize, load_tokenizer, train_wordpiece

SIZE = (24, 12)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_set(tmp_path / "set", entries())


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    captions = [caption for record in entries() for caption in record["captions"]]
    return train_wordpiece(captions, 100, tmp_path_factory.mktemp("tokenizer") / "wordpiece")


def findings(root: Path) -> dict[str, int]:
    return {finding.what: finding.count for finding in load_dataset(root).report.findings}


def test_cuhk_pedes(root: Path) -> None:
    dataset = load_dataset(str(root))
    assert dataset.name == "cuhk-pedes"
    assert dataset.report.images == {"train": 10, "val": 4, "test": 4}
    assert dataset.report.identities == {"train": 4, "val": 2, "test": 2}
    assert dataset.report.captions == {"train": 20, "val": 8, "test": 8}
    assert "train: 10 images of 4 persons, 20 captions" in str(dataset.report)
    first = dataset.train[0]
    assert (first.key, first.identity, first.split) == ("cam/0001_0.jpg", 1, "train")
    assert first.path == root / "imgs" / "cam" / "0001_0.jpg"
    assert first.path.is_absolute()
    assert first.captions == ("A man 1 with black hair.", "A man in a red shirt 0.")
    assert first.texts is first.attributes is first.camera is first.outfit is None
    assert list(dataset.protocols) == ["val", "test"]


def test_every_caption_of_a_split_searches_all_of_its_images(root: Path) -> None:
    protocol = load_dataset(root).protocols["test"]
    assert protocol.name == "test" and protocol.junk is None
    assert [record.identity for record in protocol.gallery] == [20, 20, 21, 21]
    asked = [(query.text, query.identity) for query in protocol.queries]
    assert asked == [(caption, r.identity) for r in protocol.gallery for caption in r.captions]


@pytest.mark.parametrize("index", ["ICFG-PEDES.json", "ICFG_PEDES.json"])
def test_icfg_pedes_gets_a_validation_split_of_its_own(tmp_path: Path, index: str) -> None:
    records = [entry("train", i, n, captions=["One caption."]) for i in range(20) for n in range(2)]
    root = write_set(tmp_path / "icfg", [*records, entry("test", 100)], index)
    dataset = load_dataset(root)
    assert dataset.name == "icfg-pedes"
    held_out = dataset.protocols["val"].gallery
    assert {record.identity for record in held_out} == {0, 10}
    assert {record.identity for record in dataset.train} == set(range(20)) - {0, 10}
    assert all(record.split == "val" for record in held_out)
    assert any("held out for validation" in finding for finding in findings(root))
    assert load_dataset(root) == dataset


def test_rstpreid(tmp_path: Path) -> None:
    records = [{key: value for key, value in record.items() if key != "file_path"} for record in entries()]
    for number, record in enumerate(records):
        record["img_path"] = f"{number:04d}_c1.jpg"
    dataset = load_dataset(write_set(tmp_path / "rstp", records, "data_captions.json", "img_path"))
    assert dataset.name == "rstpreid"
    assert dataset.train[3].key == "0003_c1.jpg"


def test_texts_and_attributes(root: Path) -> None:
    texts = {"cam/0001_0.jpg": {"identity": "A man.", "clothing": "A red shirt.", "style": "concise"}}
    (root / "texts.json").write_text(json.dumps({**texts, "cam/0002_0.jpg": {"identity": " ", "clothing": "Red."}}))
    attributes = {"camera": 1, "outfit_index": 2, "identity": {"sex": "male"}}
    (root / "attributes.json").write_text(json.dumps({"cam/0001_0.jpg": attributes}))
    first, second, *_ = load_dataset(root).train
    assert first.texts == Texts("A man.", "A red shirt.") and second.texts is None
    assert (first.attributes, first.camera, first.outfit) == (attributes, 1, 2)
    assert (second.attributes, second.camera, second.outfit) == (None, None, None)
    assert findings(root)["training images without texts in texts.json (their captions are used)"] == 9


def write_change(root: Path, gallery: list[dict], queries: list[dict], name: str = "clothing_change") -> None:
    (root / f"{name}.json").write_text(json.dumps({"queries": queries, "gallery": gallery}))
    for record in gallery:
        write_image(root / "imgs" / record["file_path"])


def test_clothing_change(root: Path) -> None:
    query = {"caption": "A man in blue.", "id": 20, "outfit": 0}
    write_change(root, [entry("test", 20, 7)], [query, {"caption": " ", "id": 21}])
    change = load_dataset(root).protocols["clothing_change"]
    assert change.queries == (Query(text="A man in blue.", identity=20, outfit=0),)
    assert [record.key for record in change.gallery] == ["cam/0020_7.jpg"]
    assert (change.split, change.clothes) == ("test", "other")
    found = findings(root)
    assert found["clothing_change queries without caption or id skipped"] == 1


def test_clothing_change_of_validation_persons(root: Path) -> None:
    query = {"caption": "A man in blue.", "id": 10, "outfit": 0, "file_path": "cam/0010_0.jpg"}
    write_change(root, [entry("test", 10, 7)], [query], "clothing_change_val")
    protocols = load_dataset(root).protocols
    asked = {name: (protocol.split, protocol.clothes) for name, protocol in protocols.items()}
    assert asked == {"val": ("val", "same"), "test": ("test", "same"), "clothing_change_val": ("val", "other")}
    change = protocols["clothing_change_val"]
    assert {record.split for record in change.gallery} == {"val"}
    assert change.queries[0].described == protocols["val"].gallery[0].path
    write_change(root, [entry("val", 20, 7)], [query], "clothing_change_val")
    with pytest.raises(DatasetError, match="must have people of the val split only, but person 20 is in train or test"):
        load_dataset(root)


def test_clothing_change_of_a_training_person_is_an_error(root: Path) -> None:
    write_change(root, [entry("test", 1, 7)], [{"caption": "A man in blue.", "id": 20}])
    with pytest.raises(DatasetError, match="person 1 is in train or val"):
        load_dataset(root)


@pytest.mark.parametrize("text", ['{"queries": []}', "[]", '{"queries": [], "gallery": []}', "{"])
def test_a_broken_clothing_change_file_is_an_error(root: Path, text: str) -> None:
    (root / "clothing_change.json").write_text(text)
    with pytest.raises(DatasetError, match=r"clothing_change\.json"):
        load_dataset(root)


def test_what_a_run_can_do_without_is_skipped_and_counted(tmp_path: Path) -> None:
    records = entries()
    records[1]["captions"] = ["  ", "A man.", None]
    records[2]["captions"] = []
    records[-1]["captions"] = [""]
    del records[3]["file_path"]
    records[4]["id"] = "five"
    records[5]["split"] = "gallery"
    records += [entry("train", 4, 9), 7, entry("train", 4, 8), entry("train", 4, 8)]
    root = write_set(tmp_path / "set", records)
    (root / "imgs/cam/0004_9.jpg").unlink()
    dataset = load_dataset(root)
    found = findings(root)
    assert found["empty captions dropped"] == 3
    assert found["training images without a caption skipped"] == 1
    assert found["records without file_path skipped"] == 1
    assert found["records without a whole number as id skipped"] == 1
    assert found["records of an unknown split skipped"] == 1
    assert found["entries that are no records skipped"] == 1
    assert found["records of an image that has one already (their captions are added to its)"] == 1
    assert found["train images missing (not trained on)"] == 1
    assert len(dataset.train) == 7
    # An image without captions is still somebody who can be found.
    gallery = dataset.protocols["test"].gallery
    assert gallery[-1].captions == ()
    assert len(gallery) == 4


def test_records_of_one_image_are_one_with_all_their_captions(tmp_path: Path) -> None:
    more = entry("test", 20, 0, captions=["A man in a hat.", entries()[-4]["captions"][0]])
    dataset = load_dataset(write_set(tmp_path / "set", [*entries(), more]))
    gallery, queries = dataset.protocols["test"].gallery, dataset.protocols["test"].queries
    assert len(gallery) == 4
    assert gallery[0].captions == ("A man 20 with black hair.", "A man in a red shirt 0.", "A man in a hat.")
    assert [query.text for query in queries[:3]] == list(gallery[0].captions)
    assert findings(tmp_path / "set")["records of an image that has one already (their captions are added to its)"] == 1


def spoil(root: Path, change: str) -> None:
    index = root / "reid_raw.json"
    records = json.loads(index.read_text())
    if change == "nothing":
        index.unlink()
    elif change == "empty":
        index.write_text("")
    elif change == "no list":
        index.write_text('{"a": 1}')
    elif change == "no records":
        index.write_text("[]")
    elif change == "no json":
        index.write_text('[{"split": ')
    elif change == "binary":
        index.write_bytes(b"\xff\xfe\x00")
    elif change == "junk":
        index.write_text("[1, 2]")
    elif change == "no images":
        (root / "imgs").rename(root / "images")
    elif change == "shared id":
        index.write_text(json.dumps([*records[:-1], {**records[-1], "id": 1}]))
    elif change == "shared image":
        index.write_text(json.dumps([*records, {**records[-1], "file_path": records[0]["file_path"]}]))
    elif change == "one identity":
        index.write_text(json.dumps([r for r in records if r["split"] != "train" or r["id"] == 1]))
    elif change == "no test":
        index.write_text(json.dumps([r for r in records if r["split"] != "test"]))
    elif change == "texts":
        (root / "texts.json").write_text("[]")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("nothing", r"expected in .* found none of: .* bounding_box_test; .* reid_raw\.json or "),
        ("empty", "is empty: download"),
        ("no list", "must hold a list of records, got an object"),
        ("no records", "holds no records"),
        ("no json", "is not valid JSON"),
        ("binary", "is not valid JSON"),
        ("junk", "none of its 2 records is complete"),
        ("no images", "found none of 18.*unpack them there"),
        ("shared id", r"1 ids are in both train and test \(1\)"),
        ("shared image", "remove the wrong record"),
        ("one identity", "training needs images of two people or more"),
        ("no test", "captions in the test split"),
        ("texts", r"texts\.json must hold one JSON object, got a list"),
    ],
)
def test_what_would_make_a_result_wrong_is_one_clear_error(root: Path, change: str, message: str) -> None:
    spoil(root, change)
    with pytest.raises(DatasetError, match=message) as error:
        load_dataset(root)
    assert "\n" not in str(error.value)


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"does not exist: give --data\.root"):
        load_dataset(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="which is not a folder"):
        load_dataset(tmp_path / "file")


# Market-1501


def write_market(root: Path, **names: list[str]) -> Path:
    for folder, images in names.items():
        (root / folder).mkdir(parents=True)
        for name in images:
            write_image(root / folder / name)
    return root


@pytest.fixture
def market(tmp_path: Path) -> Path:
    people = (f"{person:04d}_c{camera}s1_{n}.jpg" for person in (3, 5, 7) for camera in (1, 2) for n in (0, 1))
    return write_market(
        tmp_path / "market",
        bounding_box_train=[*people, "0000_c1s1_0.jpg"],
        query=["0002_c1s1_0.jpg", "0002_c3s1_0.jpg"],
        bounding_box_test=["-1_c1s1_0.jpg", "0000_c1s1_1.jpg", "0002_c1s1_1.jpg", "0002_c3s1_1.jpg", "who.jpg"],
    )


def test_market(market: Path) -> None:
    (market / "bounding_box_test" / "Thumbs.db").touch()
    dataset = load_dataset(market)
    assert dataset.name == "market-1501"
    assert {record.identity for record in dataset.train} == {5, 7} and len(dataset.train) == 8
    val, test = dataset.protocols["val"], dataset.protocols["test"]
    assert [(query.image.name, query.camera) for query in val.queries] == [  # type: ignore[union-attr]
        ("0003_c1s1_0.jpg", 1),
        ("0003_c2s1_0.jpg", 2),
    ]
    assert len(val.gallery) == 4 and {record.split for record in val.gallery} == {"val"}
    assert [(record.identity, record.camera) for record in test.gallery] == [(0, 1), (2, 1), (2, 3)]
    assert [(query.identity, query.camera) for query in test.queries] == [(2, 1), (2, 3)]
    assert test.junk is not None
    assert test.junk(test.queries, test.gallery).tolist() == [[False, True, False], [False, False, True]]
    assert findings(market) == {
        "images whose name has no person and camera skipped": 1,
        "images of nobody (person 0) in training or query skipped": 1,
        "training identities held out for validation, as there is no such split": 1,
    }
    assert "test: 5 images of 2 persons" in str(dataset.report) and "captions" not in str(dataset.report)


def test_a_market_set_that_would_make_a_result_wrong_is_an_error(market: Path) -> None:
    write_image(market / "query" / "0005_c1s1_9.jpg")
    with pytest.raises(
        DatasetError,
        match=r"1 ids of .* are in both train and test, such as that of bounding_box_train/0005_c1s1_0\.jpg",
    ):
        load_dataset(market)


def test_a_market_set_of_too_few_people_is_an_error(tmp_path: Path) -> None:
    root = write_market(tmp_path / "m", bounding_box_train=["0001_c1.jpg"], query=[], bounding_box_test=[])
    with pytest.raises(DatasetError, match=r"three people or more .* got images of 1 people and 0 queries"):
        load_dataset(root)


# Texts


def test_the_vocabulary_is_reproducible_and_survives_the_disk(tmp_path: Path) -> None:
    rng = Random(0)
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(2, 7))) for _ in range(300)]
    captions = [" ".join(rng.choices(words, k=12)) for _ in range(300)]
    first = train_wordpiece(captions, 200, tmp_path / "first")
    second = train_wordpiece(captions, 200, tmp_path / "second")
    assert first.get_vocab() == second.get_vocab()
    assert len(first) == 200
    loaded = load_tokenizer(tmp_path / "first")
    text = f"{captions[0].upper()} unseenword, ü"
    assert loaded(text)["input_ids"] == first(text)["input_ids"]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["first", "second"]


def test_tokens_are_lower_case_with_ends_and_padding(tokenizer: PreTrainedTokenizerFast) -> None:
    ids, mask = Tokenize(tokenizer, 16)(["A MAN with black hair", "a man"])
    assert ids.dtype == torch.int64 and mask.dtype == torch.bool
    assert ids.shape == mask.shape == (2, 7)
    assert mask.tolist() == [[True] * 7, [True] * 4 + [False] * 3]
    assert ids[1].tolist() == tokenizer.convert_tokens_to_ids(["[CLS]", "a", "man", "[SEP]", *["[PAD]"] * 3])
    again, _ = Tokenize(tokenizer, 16)(["a man with black hair", "a man"])
    assert torch.equal(again, ids)


def test_long_texts_are_cut(tokenizer: PreTrainedTokenizerFast) -> None:
    ids, mask = Tokenize(tokenizer, 16)(["a man " * 5000, "a"])
    assert ids.shape == (2, 16)
    assert mask.sum(dim=1).tolist() == [16, 3]
    with pytest.raises(ValueError, match=r"at least 3.*got 2"):
        Tokenize(tokenizer, 2)


# Images


def test_images_are_resized_and_normalised(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", 0)
    image = load_image(tmp_path / "a.png", SIZE)
    assert image.shape == (3, *SIZE) and image.dtype == torch.float32
    assert image[:, 0].eq(1).all() and image[:, -1].eq(-1).all()
    Image.new("L", (7, 9), 255).save(tmp_path / "grey.png")
    assert load_image(tmp_path / "grey.png", SIZE).eq(1).all()
    with Image.open(tmp_path / "a.png") as opened:
        assert torch.equal(load_image(opened, SIZE), image)


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    write_image(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    broken = {"truncated.jpg": whole[: len(whole) // 2], "text.jpg": b"not an image", "empty.jpg": b""}
    for name, data in broken.items():
        (tmp_path / name).write_bytes(data)
    for name in (*broken, "missing.jpg"):
        with pytest.raises(ImageError, match=name):
            load_image(tmp_path / name, SIZE)


def test_augmentation_repeats_and_keeps_the_range() -> None:
    image = torch.randint(256, (3, *SIZE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    original = image.clone()
    views = [augment(image, Random(seed), 0.3) for seed in range(40)]
    assert torch.equal(image, original)
    for seed, view in enumerate(views):
        assert view.shape == image.shape
        assert view.abs().max() <= 1
        assert torch.equal(view, augment(image, Random(seed), 0.3))
    assert not any(torch.equal(a, b) for a, b in pairwise(views))
