"""Loaders, texts, images, training batches and evaluation batches, on small files of the published forms."""

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from bdam_reid.data import (
    Batch,
    DatasetError,
    EvaluationSet,
    IdentitySampler,
    ImageError,
    Query,
    Record,
    Tokenize,
    TrainingSet,
    load_attributes,
    load_dataset,
    load_image,
    load_tokenizer,
    train_wordpiece,
    training_batches,
)
from bdam_reid.data.batches import Draw, Sample
from bdam_reid.data.images import augment

SIZE = (24, 12)


def write_image(path: Path, shade: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((20, 10, 3), shade, np.uint8)
    pixels[:10] = 255 - shade
    Image.fromarray(pixels).save(path)


def entry(split: str, identity: int, number: int = 0, **changes: object) -> dict:
    """A record in the form of CUHK-PEDES."""
    return {
        "split": split,
        "captions": [f"A man {identity} with black hair.", f"A man in a red shirt {number}."],
        "file_path": f"cam/{identity:04d}_{number}.jpg",
        "processed_tokens": [[], []],
        "id": identity,
        **changes,
    }


def entries() -> list[dict]:
    """Four training persons with one to four images, two of each other split with two images."""
    train = [entry("train", 1 + i, n) for i in range(4) for n in range(i + 1)]
    people = ((split, 10 * k + i) for k, split in ((1, "val"), (2, "test")) for i in range(2))
    return train + [entry(split, person, n) for split, person in people for n in range(2)]


def write_set(root: Path, records: list, index: str = "reid_raw.json", path_key: str = "file_path") -> Path:
    for number, record in enumerate(records):
        if isinstance(record, dict) and isinstance(record.get(path_key), str):
            write_image(root / "imgs" / record[path_key], 40 + 7 * (number % 25))
    root.mkdir(exist_ok=True)
    (root / index).write_text(json.dumps(records))
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_set(tmp_path / "set", entries())


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    captions = [caption for record in entries() for caption in record["captions"]]
    return train_wordpiece(captions, 100, tmp_path_factory.mktemp("tokenizer") / "wordpiece")


@pytest.fixture
def tokenize(tokenizer: PreTrainedTokenizerFast) -> Tokenize:
    return Tokenize(tokenizer, 16)


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
    assert first.identity_text is None and first.clothing_text is None
    assert dataset.clothing_change is None
    assert load_attributes(root) is None


@pytest.mark.parametrize("index", ["ICFG-PEDES.json", "ICFG_PEDES.json"])
def test_icfg_pedes_gets_a_validation_split_of_its_own(tmp_path: Path, index: str) -> None:
    records = [entry("train", i, n, captions=["One caption."]) for i in range(20) for n in range(2)]
    root = write_set(tmp_path / "icfg", [*records, entry("test", 100)], index)
    dataset = load_dataset(root)
    assert dataset.name == "icfg-pedes"
    assert {record.identity for record in dataset.val} == {0, 10}
    assert {record.identity for record in dataset.train} == set(range(20)) - {0, 10}
    assert all(record.split == "val" for record in dataset.val)
    assert any("held out for validation" in finding for finding in findings(root))
    assert load_dataset(root) == dataset


def test_rstpreid(tmp_path: Path) -> None:
    records = [{key: value for key, value in record.items() if key != "file_path"} for record in entries()]
    for number, record in enumerate(records):
        record["img_path"] = f"{number:04d}_c1.jpg"
    dataset = load_dataset(write_set(tmp_path / "rstp", records, "data_captions.json", "img_path"))
    assert dataset.name == "rstpreid"
    assert dataset.train[3].key == "0003_c1.jpg"
    assert load_dataset(tmp_path / "rstp", name="rstpreid") == dataset


def test_sidecar_texts_and_attributes(root: Path) -> None:
    texts = {"cam/0001_0.jpg": {"identity": "A man.", "clothing": "A red shirt.", "style": "concise"}}
    (root / "texts.json").write_text(json.dumps({**texts, "cam/0002_0.jpg": {"identity": " "}}))
    (root / "attributes.json").write_text('{"cam/0001_0.jpg": {"camera": 1}}')
    dataset = load_dataset(root)
    assert (dataset.train[0].identity_text, dataset.train[0].clothing_text) == ("A man.", "A red shirt.")
    assert dataset.train[1].identity_text is None and dataset.train[1].clothing_text is None
    assert findings(root)["training images without sidecar texts (their captions are used)"] == 9
    assert load_attributes(root) == {"cam/0001_0.jpg": {"camera": 1}}


def write_change(root: Path, gallery: list[dict], queries: list[dict]) -> None:
    (root / "clothing_change.json").write_text(json.dumps({"queries": queries, "gallery": gallery}))
    for record in gallery:
        write_image(root / "imgs" / record["file_path"])


def test_clothing_change(root: Path) -> None:
    query = {"caption": "A man in blue.", "id": 20, "outfit": 0}
    write_change(root, [entry("test", 20, 7), entry("test", 21, 8)], [query, {"caption": " ", "id": 21}])
    (root / "imgs/cam/0021_8.jpg").unlink()
    change = load_dataset(root).clothing_change
    assert change is not None
    assert change.queries == (Query("A man in blue.", 20),)
    assert [record.key for record in change.gallery] == ["cam/0020_7.jpg"]
    found = findings(root)
    assert found["records whose file is missing skipped"] == 1
    assert found["clothing-change queries without caption or id skipped"] == 1


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
    assert found["records of an image that has one already skipped"] == 1
    assert found["records whose file is missing skipped"] == 1
    assert len(dataset.train) == 7
    # An image without captions is still somebody who can be found.
    assert dataset.test[-1].captions == ()
    assert len(dataset.test) == 4


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
    elif change == "sidecar":
        (root / "texts.json").write_text("[]")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("nothing", r"expected one of reid_raw\.json, .* found none"),
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
        ("sidecar", r"texts\.json must hold one JSON object, got a list"),
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


def test_an_unknown_name_is_an_error(root: Path) -> None:
    with pytest.raises(DatasetError, match="got 'market'"):
        load_dataset(root, name="market")
    with pytest.raises(DatasetError, match=r"expected one of data_captions\.json"):
        load_dataset(root, name="rstpreid")


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
    image = torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    original = image.clone()
    views = [augment(image, Random(seed)) for seed in range(40)]
    assert torch.equal(image, original)
    for seed, view in enumerate(views):
        assert view.shape == image.shape
        assert view.abs().max() <= 1
        assert torch.equal(view, augment(image, Random(seed)))
    assert not any(torch.equal(a, b) for a, b in pairwise(views))


# Training batches


def training_set(root: Path, tokenize: Tokenize, **changes: object) -> TrainingSet:
    arguments = {"augment": True, "seed": 5, **changes}
    return TrainingSet(load_dataset(root).train, tokenize, SIZE, **arguments)


def equal(one: Batch, other: Batch) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in one.__dataclass_fields__)


def same_sample(one: Sample, other: Sample) -> bool:
    return torch.equal(one.image, other.image) and replace(one, image=None) == replace(other, image=None)  # type: ignore[arg-type]


def test_items_depend_on_seed_epoch_and_index_only(root: Path, tokenize: Tokenize) -> None:
    dataset, other = training_set(root, tokenize), training_set(root, tokenize)
    draws = [Draw(index, epoch, repeat) for epoch in (0, 3) for index in range(10) for repeat in (0, 1)]
    backwards = {draw: other[draw] for draw in reversed(draws)}
    assert all(same_sample(dataset[draw], backwards[draw]) for draw in draws)
    assert not torch.equal(dataset[Draw(0, 0)].image, dataset[Draw(0, 1)].image)
    assert not torch.equal(dataset[Draw(0, 0)].image, dataset[Draw(0, 0, 1)].image)
    assert not torch.equal(dataset[Draw(0, 0)].image, training_set(root, tokenize, seed=6)[Draw(0, 0)].image)
    plain = training_set(root, tokenize, augment=False)
    assert torch.equal(plain[Draw(2, 0)].image, load_image(plain.records[2].path, SIZE))


def test_texts_come_from_sidecar_or_split_caption(root: Path, tokenize: Tokenize) -> None:
    text = {"identity": "The sidecar's man.", "clothing": "The sidecar's shirt."}
    (root / "texts.json").write_text(json.dumps({record["file_path"]: text for record in entries()[1:]}))
    draws = [Draw(1, epoch) for epoch in range(200)]
    for probability in (0.0, 0.3, 1.0):
        dataset = training_set(root, tokenize, sidecar_probability=probability)
        samples = [dataset[draw] for draw in draws]
        share = sum(sample.identity_text == "The sidecar's man." for sample in samples) / len(samples)
        # Five standard deviations of a share of 200.
        assert abs(share - probability) <= 5 * (probability * (1 - probability) / 200) ** 0.5
        for sample in samples:
            assert sample.caption in dataset.records[1].captions
            assert ("sidecar" in sample.identity_text) == ("sidecar" in sample.clothing_text)
        assert {sample.caption for sample in samples} == set(dataset.records[1].captions)
        assert "sidecar" not in dataset[Draw(0, 0)].identity_text


def test_batches_have_p_identities_with_k_images_each(root: Path, tokenize: Tokenize) -> None:
    dataset = training_set(root, tokenize)
    sampler = IdentitySampler(dataset.records, 2, 2, seed=0)
    batches = list(sampler.batches(epoch=0))
    # Two images a group: persons with 1, 2, 3 and 4 images have 1, 1, 1 and 2 groups.
    assert len(batches) == len(sampler) == 2
    for batch in batches:
        counts = Counter(dataset.records[draw.index].identity for draw in batch)
        assert list(counts.values()) == [2, 2]
        assert len(set(batch)) == 4
    drawn = {draw.index for epoch in range(30) for batch in sampler.batches(epoch) for draw in batch}
    assert drawn == set(range(10))


@pytest.mark.parametrize("images", [1, 2, 3, 5])
def test_the_length_is_the_same_in_all_epochs(root: Path, tokenize: Tokenize, images: int) -> None:
    sampler = IdentitySampler(load_dataset(root).train, 2, images, seed=1)
    epochs = [list(sampler.batches(epoch)) for epoch in range(8)]
    assert {len(batches) for batches in epochs} == {len(sampler)}
    assert epochs[0] == list(sampler.batches(0))
    assert any(a != b for a, b in pairwise([[d.index for b in e for d in b] for e in epochs]))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_can_go_on_at_any_batch(root: Path, tokenize: Tokenize, workers: int) -> None:
    dataset = training_set(root, tokenize)
    sampler = IdentitySampler(dataset.records, 2, 1, seed=0)
    whole = list(training_batches(dataset, sampler, epoch=4))
    assert len(whole) == len(sampler) == 4
    state = torch.get_rng_state()
    for start in range(len(whole) + 1) if workers == 0 else (2,):
        fresh = training_set(root, tokenize)
        rest = list(training_batches(fresh, sampler, epoch=4, start=start, num_workers=workers))
        assert len(rest) == len(whole) - start
        assert all(equal(one, other) for one, other in zip(rest, whole[start:], strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_batches_are_tensors_of_the_stated_shapes(root: Path, tokenize: Tokenize) -> None:
    dataset = training_set(root, tokenize)
    sampler = IdentitySampler(dataset.records, 4, 2, seed=0)
    batch = next(iter(training_batches(dataset, sampler, epoch=0))).to("cpu")
    assert batch.images.shape == (8, 3, *SIZE)
    assert sorted(batch.identities.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
    for ids, mask in ((batch.identity_ids, batch.identity_mask), (batch.clothing_ids, batch.clothing_mask)):
        assert ids.shape == mask.shape and ids.shape[0] == 8
        assert (ids[~mask] == 0).all() and (ids[mask] != 0).all()


def test_a_batch_larger_than_the_set_says_what_to_set(root: Path) -> None:
    records = load_dataset(root).train
    with pytest.raises(DatasetError, match=r"has 4: set --data\.identities-per-batch to 4 or less"):
        IdentitySampler(records, 5, 2, seed=0)
    with pytest.raises(DatasetError, match="got 1 and 4"):
        IdentitySampler(records, 1, 4, seed=0)


def spoil_image(record: Record) -> None:
    record.path.write_bytes(record.path.read_bytes()[:200])


def test_unreadable_images_are_replaced_and_counted(root: Path, tokenize: Tokenize) -> None:
    dataset = training_set(root, tokenize)
    by_person = {record.identity: record for record in dataset.records}
    lonely, last = by_person[1], by_person[4]
    for record in (lonely, last):
        spoil_image(record)
    at = {record.key: index for index, record in enumerate(dataset.records)}
    sample = dataset[Draw(at[last.key], 0)]
    assert dataset.skipped == {last.key} and sample.skipped == (last.key,)
    assert sample.identity == dataset.classes[4]
    # The only image of person 1 gives way to another person's, with that person's label and texts.
    stand_in = dataset[Draw(at[lonely.key], 0)]
    assert dataset.skipped == {last.key, lonely.key}
    assert stand_in.identity == dataset.classes[2]
    assert "2" in stand_in.caption or stand_in.caption == "A man in a red shirt 0."
    assert same_sample(stand_in, training_set(root, tokenize)[Draw(at[lonely.key], 0)])
    assert same_sample(stand_in, dataset[Draw(at[lonely.key], 0)])


@pytest.mark.parametrize("workers", [0, 1])
def test_skipped_images_reach_the_trainer(root: Path, tokenize: Tokenize, workers: int) -> None:
    dataset = training_set(root, tokenize)
    spoil_image(dataset.records[0])
    sampler = IdentitySampler(dataset.records, 4, 1, seed=0)
    batches = list(training_batches(dataset, sampler, epoch=0, num_workers=workers))
    assert len(batches) == len(sampler)
    assert dataset.skipped == {dataset.records[0].key}


@pytest.mark.parametrize("workers", [0, 1])
def test_more_than_half_unreadable_is_an_error(root: Path, tokenize: Tokenize, workers: int) -> None:
    dataset = training_set(root, tokenize)
    for record in dataset.records[:6]:
        spoil_image(record)
    sampler = IdentitySampler(dataset.records, 4, 3, seed=0)
    with pytest.raises(
        DatasetError, match=r"6 of 10 training images cannot be read.*unpack it again$"
    ) as error:
        list(training_batches(dataset, sampler, epoch=0, num_workers=workers))
    assert "\n" not in str(error.value)


# Evaluation


def test_every_caption_of_a_split_is_a_query(root: Path, tokenize: Tokenize) -> None:
    records = load_dataset(root).test
    evaluation = EvaluationSet.of_split(records, tokenize, SIZE, batch_size=3)
    galleries, queries = list(evaluation.gallery_batches()), list(evaluation.query_batches())
    assert [len(batch.images) for batch in galleries] == [3, 1]
    assert torch.equal(galleries[0].images[1], load_image(records[1].path, SIZE))
    assert torch.cat([batch.identities for batch in galleries]).tolist() == [20, 20, 21, 21]
    assert tuple(record for batch in galleries for record in batch.records) == records
    assert [len(batch.identities) for batch in queries] == [3, 3, 2]
    asked = [query.caption for batch in queries for query in batch.queries]
    assert asked == [caption for record in records for caption in record.captions]
    expected, _ = tokenize(["A man 20 with black hair.", "A man.", "A man 20 with black hair."])
    assert torch.equal(queries[0].identity_ids, expected)
    expected, _ = tokenize(["A man 20 with black hair.", "in a red shirt 0.", "A man 20 with black hair."])
    assert torch.equal(queries[0].clothing_ids, expected)


def test_unreadable_gallery_images_are_left_out_and_counted(root: Path, tokenize: Tokenize) -> None:
    records = load_dataset(root).test
    spoil_image(records[1])
    evaluation = EvaluationSet.of_split(records, tokenize, SIZE, batch_size=1)
    found = [batch.records for batch in evaluation.gallery_batches()]
    assert found == [(record,) for record in records if record is not records[1]]
    assert evaluation.skipped == {records[1].key}
    for record in records[2:]:
        spoil_image(record)
    with pytest.raises(DatasetError, match="3 of 4 gallery images"):
        list(evaluation.gallery_batches())


def test_a_caption_of_ten_thousand_words_goes_through(tmp_path: Path, tokenize: Tokenize) -> None:
    records = entries()
    records[0]["captions"] = ["a man with a red shirt and " * 1700]
    records[-1]["captions"] = ["black hair and a red shirt " * 1700]
    root = write_set(tmp_path / "set", records)
    sample = training_set(root, tokenize)[Draw(0, 0)]
    assert len(sample.caption.split()) > 10_000
    dataset = load_dataset(root)
    batches = list(EvaluationSet.of_split(dataset.test, tokenize, SIZE).query_batches())
    assert batches[0].identity_ids.shape[1] == 16
