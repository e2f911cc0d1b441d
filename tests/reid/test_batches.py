"""Training and evaluation batches: what is in them, and that they can go on anywhere."""

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from data_files import entries, write_set
from transformers import PreTrainedTokenizerFast

from bdam_reid.data import (
    Batch,
    DatasetError,
    EvaluationSet,
    IdentitySampler,
    Record,
    Tokenize,
    TrainingSet,
    load_dataset,
    load_image,
    train_wordpiece,
    training_batches,
)
from bdam_reid.data.batches import Draw, Sample

SIZE = (24, 12)


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
