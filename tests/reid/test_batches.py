"""Training and evaluation batches: what is in them, and that they can go on anywhere."""

import json
import os
import signal
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random
from threading import Event

import pytest
import torch
from data_files import entries, write_set
from torch.utils.data import get_worker_info
from transformers import PreTrainedTokenizerFast

from bdam_reid.captions.splitter import split_caption
from bdam_reid.captions.texts import Texts
from bdam_reid.config import DataConfig
from bdam_reid.data import training
from bdam_reid.data.ahead import ahead
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.images import load_image
from bdam_reid.data.records import DatasetError, Record
from bdam_reid.data.samplers import Draw, IdentitySampler
from bdam_reid.data.tokens import Tokenize, train_wordpiece
from bdam_reid.data.training import Batches, Item, LoaderError, TrainingSet
from bdam_reid.methods.bdam.batches import UNKNOWN, Batch, Description, collate, describe, make_batches
from bdam_reid.processes import Share

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


def training_set(
    root: Path, probability: float = 0.5, *, augment: bool = True, erase: float = 0.3, seed: int = 5
) -> TrainingSet[Description]:
    records = load_dataset(root).train
    return TrainingSet(records, SIZE, augment, erase, seed, partial(describe, probability=probability))


def training_batches(root: Path, tokenize: Tokenize, people: int = 2, images: int = 1) -> Batches[Texts, Batch]:
    items = training_set(root)
    return Batches(items, IdentitySampler(items.records, people, images, seed=0), partial(collate, tokenize))


def equal(one: Batch, other: Batch) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in one.__dataclass_fields__)


def same_sample(one: Item, other: Item) -> bool:
    return torch.equal(one.image, other.image) and replace(one, image=None) == replace(other, image=None)  # type: ignore[arg-type]


def test_items_depend_on_seed_epoch_and_index_only(root: Path) -> None:
    dataset, other = training_set(root), training_set(root)
    draws = [Draw(index, epoch, repeat) for epoch in (0, 3) for index in range(10) for repeat in (0, 1)]
    backwards = {draw: other[draw] for draw in reversed(draws)}
    assert all(same_sample(dataset[draw], backwards[draw]) for draw in draws)
    assert not torch.equal(dataset[Draw(0, 0)].image, dataset[Draw(0, 1)].image)
    assert not torch.equal(dataset[Draw(0, 0)].image, dataset[Draw(0, 0, 1)].image)
    assert not torch.equal(dataset[Draw(0, 0)].image, training_set(root, seed=6)[Draw(0, 0)].image)
    plain = training_set(root, augment=False)
    assert torch.equal(plain[Draw(2, 0)].image, load_image(plain.records[2].path, SIZE))


def test_what_is_erased_is_a_box_of_a_varied_image(root: Path) -> None:
    whole, erased, sometimes = (training_set(root, erase=chance) for chance in (0.0, 1.0, 0.3))
    plain = training_set(root, augment=False, erase=1.0)
    draws = [Draw(index, epoch) for epoch in range(20) for index in range(10)]
    hit = 0
    for draw in draws:
        image = whole[draw].image
        changed = (erased[draw].image != image).any(0)
        rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
        box = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
        assert 0 < changed[box].numel() < 0.25 * changed.numel()
        assert not erased[draw].image[:, box[0], box[1]].any()
        hit += not torch.equal(sometimes[draw].image, image)
        assert torch.equal(plain[draw].image, load_image(plain.records[draw.index].path, SIZE))
        assert whole[draw].description == erased[draw].description == sometimes[draw].description
    # Five standard deviations of a share of 200.
    assert abs(hit / len(draws) - 0.3) <= 5 * (0.3 * 0.7 / len(draws)) ** 0.5


def test_the_chance_of_erasing_is_that_of_the_config(root: Path, tokenize: Tokenize) -> None:
    data = DataConfig(image_height=SIZE[0], image_width=SIZE[1], identities_per_batch=2, images_per_identity=2)
    whole, erased = (
        next(iter(make_batches(load_dataset(root).train, replace(data, erase=chance), tokenize, 0).batches(0))).images
        for chance in (0.0, 1.0)
    )
    assert all(not torch.equal(a, b) for a, b in zip(whole, erased, strict=True))


def test_outfits_are_known_or_not(root: Path) -> None:
    record = load_dataset(root).train[0]
    for outfit, number in ((None, UNKNOWN), (0, 0), (3, 3)):
        described = describe(replace(record, outfit=outfit), Random(0), probability=0.5)
        assert described.outfit == number and described.texts == describe(record, Random(0), probability=0.5).texts


@pytest.mark.parametrize(("room", "processes", "kept"), [(1, 1, 10), (2, 2, 10), (1.99, 2, 0), (0.99, 1, 0)])
def test_decoded_images_are_kept_if_those_of_all_processes_fit(
    root: Path, monkeypatch: pytest.MonkeyPatch, room: float, processes: int, kept: int
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setattr(training, "CACHE_BYTES", int(room * 10 * 3 * SIZE[0] * SIZE[1]))
    dataset, decoded = training_set(root), Counter[str]()

    def counted(path: Path, size: tuple[int, int]) -> torch.Tensor:
        decoded[path.name] += 1
        return honest(path, size)

    honest = training.decode_image
    monkeypatch.setattr(training, "decode_image", counted)
    first = [dataset[Draw(index, 0)] for index in range(10)]
    again = [dataset[Draw(index, 0)] for index in range(10)]
    assert all(same_sample(one, other) for one, other in zip(first, again, strict=True))
    assert set(decoded.values()) == {1 if kept else 2}


@pytest.mark.parametrize("room", [0, 1 << 30])
def test_batches_of_worker_processes_are_the_same_with_and_without_room(
    root: Path, tokenize: Tokenize, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    whole = list(training_batches(root, tokenize).batches(1))
    monkeypatch.setattr(training, "CACHE_BYTES", room)
    batches = training_batches(root, tokenize)
    assert all(equal(one, other) for one, other in zip(batches.batches(1, 0, 2), whole, strict=True))


def test_workers_share_the_decoded_images(root: Path, tokenize: Tokenize, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = training_batches(root, tokenize)
    whole = list(batches.batches(1, 0, 2))

    def gone(path: Path, size: tuple[int, int]) -> torch.Tensor:
        raise AssertionError("decoded again")

    monkeypatch.setattr(training, "decode_image", gone)
    assert all(equal(one, other) for one, other in zip(batches.batches(1), whole, strict=True))


def ending(record: Record, rng: Random, *, code: int) -> None:
    """A description that ends its process, if that is a worker, at the last image: by SIGKILL or with a code."""
    if record.key.endswith("last.jpg") and get_worker_info() is not None:
        os.kill(os.getpid(), signal.SIGKILL) if code == 0 else os._exit(code)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (0, r"was ended by SIGKILL, as a system does that runs out of memory\."),
        (3, r"exited with code 3\."),
    ],
)
def test_a_worker_that_ends_is_named(root: Path, code: int, said: str) -> None:
    records = [replace(record, key=f"{n}.jpg") for n, record in enumerate(load_dataset(root).train)]
    records[-1] = replace(records[-1], key="last.jpg")
    items = TrainingSet(records, SIZE, True, 0.3, 0, partial(ending, code=code))
    batches = Batches(items, IdentitySampler(records, 2, 4, seed=0), list)
    with pytest.raises(
        LoaderError, match=rf"^of 1 processes that read images number 1 \(pid \d+\) {said}.*--engine.workers"
    ):
        list(batches.batches(0, 0, 1))


def test_shares_of_a_batch_are_the_batch(root: Path, tokenize: Tokenize) -> None:
    batches = training_batches(root, tokenize, 4)
    whole, first, second = (next(batches.batches(2, 0, 0, s)) for s in (Share(), Share(0, 2), Share(1, 2)))
    assert torch.equal(torch.cat((first.images, second.images)), whole.images)
    assert torch.equal(torch.cat((first.identities, second.identities)), whole.identities)
    assert batches.size == len(whole.images) == 4
    shown = [path for number in range(len(batches)) for path in batches.images(2, number)]
    drawn = [draw.index for batch in batches.sampler.batches(2) for draw in batch]
    assert shown == [batches.items.records[index].path for index in drawn]


def test_the_next_value_is_made_while_one_is_used() -> None:
    made, closed = [Event() for _ in range(3)], Event()

    def values() -> Generator[int, None, None]:
        try:
            for number, event in enumerate(made):
                event.set()
                yield number
            raise DatasetError("no more")
        finally:
            closed.set()

    with closing(ahead(values())) as batches:
        assert next(batches) == 0 and made[1].wait(10) and not made[2].is_set()
        assert [next(batches), next(batches)] == [1, 2]
        with pytest.raises(DatasetError, match="no more"):
            next(batches)
    with closing(ahead(values())) as batches:
        closed.clear()
        next(batches)
    assert closed.is_set()


def test_texts_come_from_texts_json_or_the_split_caption(root: Path) -> None:
    text = {"identity": "The model's man.", "clothing": "The model's shirt."}
    (root / "texts.json").write_text(json.dumps({record["file_path"]: text for record in entries()[1:]}))
    draws = [Draw(1, epoch) for epoch in range(200)]
    for probability in (0.0, 0.3, 1.0):
        dataset = training_set(root, probability)
        texts = [dataset[draw].description.texts for draw in draws]
        share = sum(text.identity == "The model's man." for text in texts) / len(texts)
        # Five standard deviations of a share of 200.
        assert abs(share - probability) <= 5 * (probability * (1 - probability) / 200) ** 0.5
        for identity, clothing in texts:
            assert ("model" in identity) == ("model" in clothing)
        assert "model" not in dataset[Draw(0, 0)].description.texts.identity


def test_every_caption_of_an_image_is_drawn(root: Path) -> None:
    dataset = training_set(root, 0.0)
    drawn = {dataset[Draw(1, epoch)].description.texts.clothing for epoch in range(30)}
    assert drawn == {split_caption(caption)[1] for caption in dataset.records[1].captions}


def test_batches_have_p_identities_with_k_images_each(root: Path, tokenize: Tokenize) -> None:
    dataset = training_set(root)
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


def test_images_of_a_person_show_different_outfits_where_that_is_asked() -> None:
    outfits = [0, 0, 0, 1, 1, 2]
    records = [Record(Path("x"), str(n), person, "train", outfit=outfits[n]) for person in (1, 2) for n in range(6)]
    sampler = IdentitySampler(records, 2, 2, seed=0, across_outfits=True)
    for epoch in range(20):
        first = next(sampler.batches(epoch))
        worn = [records[draw.index].outfit for draw in first]
        assert worn[0] != worn[1] and worn[2] != worn[3]
        assert sorted(draw.index for batch in sampler.batches(epoch) for draw in batch) == list(range(12))


@pytest.mark.parametrize("images", [1, 2, 3, 5])
def test_the_length_is_the_same_in_all_epochs(root: Path, tokenize: Tokenize, images: int) -> None:
    sampler = IdentitySampler(load_dataset(root).train, 2, images, seed=1)
    epochs = [list(sampler.batches(epoch)) for epoch in range(8)]
    assert {len(batches) for batches in epochs} == {len(sampler)}
    assert epochs[0] == list(sampler.batches(0))
    assert any(a != b for a, b in pairwise([[d.index for b in e for d in b] for e in epochs]))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_can_go_on_at_any_batch(root: Path, tokenize: Tokenize, workers: int) -> None:
    batches = training_batches(root, tokenize)
    whole = list(batches.batches(epoch=4))
    assert len(whole) == len(batches) == 4
    state = torch.get_rng_state()
    for start in range(len(whole) + 1) if workers == 0 else (2,):
        rest = list(training_batches(root, tokenize).batches(4, start, workers))
        assert len(rest) == len(whole) - start
        assert all(equal(one, other) for one, other in zip(rest, whole[start:], strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_batches_are_tensors_of_the_stated_shapes(root: Path, tokenize: Tokenize) -> None:
    data = DataConfig(image_height=SIZE[0], image_width=SIZE[1], identities_per_batch=4, images_per_identity=2)
    batch = next(iter(make_batches(load_dataset(root).train, data, tokenize, 0).batches(0))).to("cpu")
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


def test_unreadable_images_are_replaced_and_counted(root: Path) -> None:
    dataset, again = training_set(root), training_set(root)
    by_person = {record.identity: record for record in dataset.records}
    lonely, last = by_person[1], by_person[4]
    for record in (lonely, last):
        spoil_image(record)
    at = {record.key: index for index, record in enumerate(dataset.records)}
    item = dataset[Draw(at[last.key], 0)]
    assert dataset.skipped == {last.key} and item.skipped == (last.key,)
    assert item.identity == dataset.classes[4]
    # The only image of person 1 gives way to another person's, with that person's label and texts.
    stand_in = dataset[Draw(at[lonely.key], 0)]
    assert dataset.skipped == {last.key, lonely.key}
    assert stand_in.identity == dataset.classes[2]
    captions = by_person[2].captions + dataset.records[at[lonely.key] + 1].captions
    assert stand_in.description.texts in [split_caption(caption) for caption in captions]
    assert same_sample(stand_in, again[Draw(at[lonely.key], 0)])
    assert same_sample(stand_in, dataset[Draw(at[lonely.key], 0)])


@pytest.mark.parametrize("workers", [0, 1])
def test_skipped_images_reach_the_trainer(root: Path, tokenize: Tokenize, workers: int) -> None:
    batches = training_batches(root, tokenize, 4)
    spoil_image(batches.items.records[0])
    assert len(list(batches.batches(0, 0, workers))) == len(batches)
    assert batches.items.skipped == {batches.items.records[0].key}


@pytest.mark.parametrize("workers", [0, 1])
def test_more_than_half_unreadable_is_an_error(root: Path, tokenize: Tokenize, workers: int) -> None:
    batches = training_batches(root, tokenize, 4, 3)
    for record in batches.items.records[:6]:
        spoil_image(record)
    with pytest.raises(DatasetError, match=r"6 of 10 training images cannot be read.*unpack it again$") as error:
        list(batches.batches(0, 0, workers))
    assert "\n" not in str(error.value)


def test_a_caption_of_ten_thousand_words_goes_through(tmp_path: Path) -> None:
    records = entries()
    records[0]["captions"] = ["a man with a red shirt and " * 1700]
    item = training_set(write_set(tmp_path / "set", records))[Draw(0, 0)]
    assert len(item.description.texts.clothing.split()) > 5_000
