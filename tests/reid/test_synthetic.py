"""The synthetic pedestrian set: reproducible, valid, and true to its own ground truth."""

import errno
import json
import re
import resource
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bdam_reid.captions.splitter import phrases
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.records import DatasetError, Record
from bdam_reid.studies.study import set_name
from bdam_reid.synthetic import SyntheticError, write_market, write_synthetic, writer
from bdam_reid.synthetic.__main__ import main
from bdam_reid.synthetic.ceiling import READERS, ceilings, expected
from bdam_reid.synthetic.ceiling import main as print_ceilings
from bdam_reid.synthetic.drawing import render
from bdam_reid.synthetic.market import DOMAINS
from bdam_reid.synthetic.people import (
    VIEWPOINTS,
    Item,
    Outfit,
    Person,
    Shot,
    sample_person,
    sample_shots,
)
from bdam_reid.synthetic.sentences import write_captions, write_texts
from bdam_reid.synthetic.shapes import points
from bdam_reid.synthetic.visible import visible_items, visible_slots, visible_traits
from bdam_reid.synthetic.wardrobe import differs, sample_outfit, sample_wardrobe
from bdam_reid.synthetic.words import (
    AGE_WORDS,
    BEARD_WORDS,
    BUILD_WORDS,
    COLOUR_WORDS,
    HAIR_ADJECTIVES,
    HAIR_COLOUR_WORDS,
    HAIR_PHRASES,
    ITEM_WORDS,
    NOUNS,
    POSTURE_WORDS,
    SKIN_WORDS,
)

IDENTITIES = 8


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "set"
    write_synthetic(out, IDENTITIES, seed=3, processes=1)
    return out


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_processes(root: Path, tmp_path: Path) -> None:
    write_synthetic(tmp_path / "again", IDENTITIES, seed=3, processes=2)
    assert contents(tmp_path / "again") == contents(root)


def test_another_seed_gives_other_people(root: Path, tmp_path: Path) -> None:
    write_synthetic(tmp_path / "other", 6, seed=4, processes=1)
    ours, theirs = (json.loads((path / "reid_raw.json").read_text()) for path in (root, tmp_path / "other"))
    assert ours[0]["captions"] != theirs[0]["captions"]


def standard(root: Path) -> list[Record]:
    """The pictures of the three splits."""
    dataset = load_dataset(root)
    return [*dataset.train, *dataset.protocols["val"].gallery, *dataset.protocols["test"].gallery]


def attributes_of(record: Record) -> dict[str, Any]:
    assert record.attributes is not None
    return dict(record.attributes)


def test_the_layout_is_that_of_cuhk_pedes(root: Path) -> None:
    dataset = load_dataset(root)
    assert dataset.name == "synthetic cuhk-pedes"
    assert dataset.report.findings == ()
    assert dataset.report.identities == {"train": 4, "val": 2, "test": 2}
    for record in standard(root):
        assert len(record.captions) == 2
        assert record.texts
        with Image.open(record.path) as image:
            assert (image.format, image.size) == ("JPEG", (96, 192))
    raw = json.loads((root / "reid_raw.json").read_text())
    assert {entry["id"] for entry in raw} == set(range(1, IDENTITIES + 1))
    assert all(set(entry) == {"split", "captions", "file_path", "processed_tokens", "id"} for entry in raw)


def test_everything_that_is_drawn_is_indexed(root: Path) -> None:
    drawn = {str(path.relative_to(root / "imgs")) for path in (root / "imgs").rglob("*.jpg")}
    assert set(json.loads((root / "attributes.json").read_text())) == drawn
    assert set(json.loads((root / "texts.json").read_text())) == drawn


def test_people_keep_their_identity_attributes_in_all_pictures(root: Path) -> None:
    dataset = load_dataset(root)
    seen = defaultdict(list)
    for record in (*standard(root), *dataset.protocols["clothing_change"].gallery):
        seen[record.identity].append(attributes_of(record)["identity"])
    assert all(other == own[0] for own in seen.values() for other in own)
    outfits = defaultdict(set)
    for record in dataset.train:
        outfits[record.identity].add(record.outfit)
    assert all(len(numbers) >= 2 for numbers in outfits.values())


def test_the_clothing_change_gallery_is_a_change_and_apart_from_the_standard_protocol(root: Path) -> None:
    protocols = load_dataset(root).protocols
    change, test = protocols["clothing_change"], protocols["test"].gallery
    test_ids = {record.identity for record in test}
    assert {record.identity for record in change.gallery} == test_ids
    assert {query.identity for query in change.queries} == test_ids
    assert len(change.queries) == sum(len(record.captions) for record in test)
    assert not {record.key for record in change.gallery} & {record.key for record in test}
    worn = {record.identity: attributes_of(record)["outfit"] for record in test}
    for record in change.gallery:
        before, after = worn[record.identity], attributes_of(record)["outfit"]
        pairs = [{(item["kind"], item["colour"]) for item in outfit.values()} for outfit in (before, after)]
        assert not pairs[0] & pairs[1]
        assert before.get("outer", before["upper"])["colour"] != after.get("outer", after["upper"])["colour"]


def test_validation_persons_change_clothes_as_test_persons_do(root: Path) -> None:
    raw = json.loads((root / "reid_raw.json").read_text())
    change = {
        split: json.loads((root / name).read_text())
        for split, name in (("test", "clothing_change.json"), ("val", "clothing_change_val.json"))
    }
    for split, protocol in change.items():
        first = [entry for entry in raw if entry["split"] == split]
        captions = [(entry["id"], caption) for entry in first for caption in entry["captions"]]
        assert [(query["id"], query["caption"]) for query in protocol["queries"]] == captions
        assert Counter(entry["id"] for entry in protocol["gallery"]) == dict.fromkeys({e["id"] for e in first}, 2)
        assert {entry["outfit"] for entry in protocol["gallery"]} == {1}
        assert all(entry["file_path"].startswith("clothing_change/") for entry in protocol["gallery"])
        assert all((root / "imgs" / entry["file_path"]).is_file() for entry in protocol["gallery"])
    assert change["val"].keys() == change["test"].keys()


def test_wardrobes_differ_and_fit_the_person() -> None:
    for seed in range(60):
        rng = Random(seed)
        person = sample_person(rng)
        first, second, third = sample_wardrobe(rng, person, 3)
        assert differs(first, second) and differs(second, third) and differs(first, third)
        assert not differs(first, first)
        if person.sex == "male":
            assert all(outfit.lower is not None and "skirt" not in outfit.lower.kind for outfit in (first, second))
        else:
            assert person.beard == "none"


def looks(count: int, seed: str) -> list:
    found = []
    for number in range(count):
        rng = Random(f"{seed}/{number}")
        person = sample_person(rng)
        outfit = sample_outfit(rng, person)
        shot = sample_shots(rng, 1, f"{seed}/{number}")[0]
        found.append((person, outfit, shot))
    return found


def captions_of(person: Person, outfit: Outfit, shot: Shot) -> list[str]:
    return [caption.text for caption in write_captions(person, outfit, shot)]


def mentions(text: str, phrase: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(phrase.lower())}(?![\w-])", text.lower()) is not None


def without_longer(text: str, words: dict[str, tuple[str, ...]]) -> set[str]:
    """Keys whose words occur in a text, but for words inside longer known ones ("coat" in "long coat")."""
    every = sorted(((word, key) for key, own in words.items() for word in own), key=lambda pair: -len(pair[0]))
    found = set()
    for word, key in every:
        if mentions(text, word):
            found.add(key)
            text = re.sub(rf"(?<![\w-]){re.escape(word.lower())}(?![\w-])", "#", text.lower())
    return found


def test_captions_name_only_what_can_be_seen() -> None:
    for person, outfit, shot in looks(150, "true"):
        seen = visible_items(person, outfit, shot)
        texts = [*captions_of(person, outfit, shot), write_texts(person, outfit, shot)["clothing"]]
        for text in texts:
            assert without_longer(re.sub("(jacket|top):", "", text), ITEM_WORDS) <= {
                item.kind for item in seen.values()
            }
            if shot.viewpoint == "back":
                assert "glasses" not in text and "beard" not in text and "moustache" not in text


def test_captions_name_the_true_colours_and_the_true_sex() -> None:
    for person, outfit, shot in looks(150, "colours"):
        true = {item.colour for item in outfit.items().values()}
        true |= {item.second for item in outfit.items().values() if item.second}
        texts = write_texts(person, outfit, shot)
        assert without_longer(texts["clothing"], COLOUR_WORDS) <= true
        for text in (*captions_of(person, outfit, shot), texts["identity"]):
            own = NOUNS[person.sex]
            assert any(mentions(text, noun) for noun in own)
            others = set(NOUNS["female" if person.sex == "male" else "male"]) - set(own)
            assert not any(mentions(text, noun) for noun in others)
        if any(mentions(texts["identity"], word) for word in ("hair", "bun", "bob", "ponytail", "curls")):
            words = HAIR_COLOUR_WORDS[person.hair_colour]
            assert "no hair" in texts["identity"] or any(mentions(texts["identity"], word) for word in words)


def test_most_captions_name_the_garment_above_and_its_colour() -> None:
    named = 0
    for person, outfit, shot in looks(100, "useful"):
        item = outfit.outer or outfit.upper
        caption = captions_of(person, outfit, shot)[0]
        named += any(mentions(caption, word) for word in ITEM_WORDS[item.kind]) and any(
            mentions(caption, word) for word in COLOUR_WORDS[item.colour]
        )
    assert named >= 90


def test_texts_keep_identity_and_clothing_apart() -> None:
    for person, outfit, shot in looks(100, "apart"):
        texts = write_texts(person, outfit, shot)
        assert not without_longer(texts["identity"], ITEM_WORDS)
        assert not any(mentions(texts["clothing"], noun) for nouns in NOUNS.values() for noun in nouns)
        assert "hair" not in texts["clothing"] and "glasses" not in texts["clothing"]


def words_of(text: str) -> list[str]:
    return re.findall(r"[\w-]+", text.lower())


# Words of persons, but for those that are said of clothes, too.
EITHER = """a an the in with no very down to that is tied cut back up whose colour shoulders short long light medium
dark brown olive tan straight average normal full thick pair of fair pale"""
PERSON_TABLES = (NOUNS, AGE_WORDS, BUILD_WORDS, SKIN_WORDS, HAIR_ADJECTIVES, HAIR_PHRASES, BEARD_WORDS, POSTURE_WORDS)
OF_PERSONS = {
    word for table in PERSON_TABLES for listed in table.values() for phrase in listed for word in words_of(phrase)
} - set(words_of(EITHER))


def test_the_splitter_parts_every_caption_into_person_and_clothes() -> None:
    of_clothes = {word for table in ITEM_WORDS.values() for word in table}
    for person, outfit, shot in looks(300, "split"):
        for caption in write_captions(person, outfit, shot):
            identity, clothing = phrases(caption.text)
            assert not [word for word in of_clothes if mentions(identity, word)], caption.text
            assert not OF_PERSONS & set(words_of(clothing)), caption.text
            assert OF_PERSONS & set(words_of(caption.text)) <= set(words_of(identity)), caption.text


def test_captions_state_only_what_is_true_and_visible() -> None:
    for person, outfit, shot in looks(200, "stated"):
        seen = visible_traits(person, outfit, shot)
        worn = {name: vars(item) for name, item in outfit.items().items()}
        for caption in write_captions(person, outfit, shot):
            assert set(caption.identity) <= set(seen)
            assert all(getattr(person, name) == value for name, value in caption.identity.items())
            assert set(caption.clothing) <= set(visible_slots(person, outfit, shot))
            for name, stated in caption.clothing.items():
                fields = {"second" if field == "second_colour" else field: value for field, value in stated.items()}
                assert fields.items() <= worn[name].items()
                told = [ITEM_WORDS[stated["kind"]]] if "kind" in stated else []
                for listed in (*told, COLOUR_WORDS[stated["colour"]]):
                    assert any(mentions(caption.text, word) for word in listed), (caption.text, stated)


def person_with(**values: Any) -> Person:
    rng = Random("visible")
    return replace(sample_person(rng), **values)


@pytest.mark.parametrize(
    ("person", "outfit", "viewpoint", "hidden"),
    [
        ({"hairstyle": "short"}, "", "front", set()),
        ({"hairstyle": "short"}, "", "back", {"skin", "glasses", "beard"}),
        ({"hairstyle": "short"}, "upper:t-shirt", "back", {"glasses", "beard"}),
        ({"hairstyle": "short"}, "lower:shorts", "back", {"glasses", "beard"}),
        ({"hairstyle": "bald"}, "", "front", {"hair_colour"}),
        ({"hairstyle": "bald"}, "", "back", {"hair_colour", "age", "glasses", "beard"}),
        ({"hairstyle": "bald"}, "hat:cap", "left", {"hair_colour", "hairstyle"}),
        ({"hairstyle": "short"}, "hat:cap", "front", {"hair_colour", "hairstyle"}),
        ({"hairstyle": "bun"}, "hat:cap", "back", {"hairstyle", "skin", "glasses", "beard"}),
        ({"hairstyle": "cropped"}, "hat:cap", "back", {"hair_colour", "hairstyle", "age", "skin", "glasses", "beard"}),
        ({"hairstyle": "long"}, "hat:cap", "back", {"skin", "glasses", "beard"}),
        ({"hairstyle": "curly"}, "hat:cap", "right", {"hairstyle"}),
    ],
)
def test_what_can_be_seen_of_a_person(person: dict, outfit: str, viewpoint: str, hidden: set[str]) -> None:
    slot, _, kind = outfit.partition(":")
    items: dict[str, Any] = {"upper": Item("sweater", "red", (200, 0, 0)), "lower": Item("jeans", "blue", (0, 0, 200))}
    items |= {"shoes": Item("sneakers", "white", (240, 240, 240))}
    items |= {slot: Item(kind, "green", (0, 160, 0))} if slot else {}
    shot = Shot(0, viewpoint, "none", "shot")
    traits = {"sex", "age", "build", "height", "skin", "hair_colour", "hairstyle", "posture", "glasses", "beard"}
    assert traits - set(visible_traits(person_with(**person), Outfit(**items), shot)) == hidden


@pytest.mark.parametrize(
    ("worn", "viewpoint", "hidden"),
    [
        ({}, "front", set()),
        ({}, "left", {"bag"}),
        ({"bag": "backpack"}, "left", set()),
        ({"bag": "handbag"}, "left", {"bag"}),
        ({"bag": "handbag"}, "right", set()),
        ({"outer": "jacket"}, "back", {"upper"}),
        ({"outer": "jacket", "upper": "dress"}, "back", set()),
        ({"outer": "coat", "upper": "dress"}, "back", {"upper"}),
        ({"outer": "coat", "lower": "shorts"}, "back", {"upper", "lower"}),
        ({"outer": "coat", "lower": "shorts"}, "front", set()),
        ({"scarf": "scarf"}, "back", {"scarf"}),
    ],
)
def test_what_can_be_seen_of_the_clothes(worn: dict[str, str], viewpoint: str, hidden: set[str]) -> None:
    kinds = {"upper": "sweater", "lower": "jeans", "shoes": "sneakers"} | worn
    outfit = Outfit(**{slot: Item(kind, "green", (0, 160, 0)) for slot, kind in kinds.items()})  # type: ignore[arg-type]
    person, slots = person_with(hairstyle="long"), {"outer", "upper", "lower", "shoes", "bag", "hat", "scarf"}
    unseen = slots - set(visible_slots(person, outfit, Shot(0, viewpoint, "none", "shot")))
    assert unseen - {"scarf"} == hidden - {"scarf"}
    assert ("scarf" in unseen) == (viewpoint == "back")
    below = visible_slots(person, outfit, Shot(0, viewpoint, "low", "shot"))
    assert slots - set(below) == unseen | {"shoes"}


def test_what_shows_below_an_open_jacket_is_a_top_without_its_print() -> None:
    upper = Item("hoodie", "red", (200, 0, 0), "printed", "white")
    shoes, lower = Item("boots", "black", (9, 9, 9)), Item("jeans", "blue", (0, 0, 200))
    shot = Shot(0, "front", "none", "shot")
    bare, below = (
        visible_items(person_with(), Outfit(upper, lower, shoes, outer), shot)["upper"]
        for outer in (None, Item("jacket", "green", (0, 160, 0)))
    )
    assert bare == upper
    assert (below.kind, below.colour, below.pattern, below.second) == ("top", "red", "plain", None)


def test_captions_of_a_shot_differ_and_repeat() -> None:
    person, outfit, shot = looks(1, "repeat")[0]
    first, second = captions_of(person, outfit, shot)
    assert first != second
    assert captions_of(person, outfit, shot) == [first, second]


def test_outlines_are_measured_on_the_body() -> None:
    assert points("hips*.5+.006,.4 -neck-hips,1", {"hips": 0.25, "neck": 0.5}) == [(0.131, 0.4), (-0.75, 1.0)]
    with pytest.raises(ValueError, match="expected a number such as"):
        points(".5*hips,0", {"hips": 0.25})


def test_pictures_show_garments_where_the_body_is() -> None:
    """The colour of a plain red top dominates where the torso of a person of this height is."""
    rng = Random("picture")
    person = sample_person(rng)
    while person.posture == "stooped":
        person = sample_person(rng)
    outfit = sample_outfit(rng, person)
    while outfit.upper.colour != "red" or outfit.upper.pattern != "plain" or outfit.outer or outfit.bag or outfit.scarf:
        outfit = sample_outfit(rng, person)
    for viewpoint in VIEWPOINTS:
        pixels = np.asarray(render(person, outfit, Shot(0, viewpoint, "none", "shot"), seed=0)).astype(int)
        assert pixels.shape == (192, 96, 3)
        top = 192 * (0.972 - person.stature)
        middle = pixels[round(top + 0.32 * person.stature * 192), 44:52].mean(axis=0)
        assert middle[0] > 1.8 * middle[1] and middle[0] > 1.8 * middle[2]


def test_a_folder_in_use_is_refused(root: Path) -> None:
    before = contents(root)
    with pytest.raises(SyntheticError, match="in use: delete it or choose another"):
        write_synthetic(root, IDENTITIES, seed=3)
    assert contents(root) == before


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    write_synthetic(tmp_path / "set", 6, seed=0, processes=1)
    assert load_dataset(tmp_path / "set").report.identities["train"] == 2


@pytest.mark.parametrize(("identities", "test"), [(5, None), (0, None), (10, 5), (10, 1), (-3, None)])
def test_too_few_identities_are_refused(tmp_path: Path, identities: int, test: int | None) -> None:
    with pytest.raises(SyntheticError, match="needs 2 identities or more, got"):
        write_synthetic(tmp_path / "set", identities, seed=0, test_identities=test)
    assert list(tmp_path.iterdir()) == []


def test_the_number_of_test_identities_can_be_chosen(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "set", 9, seed=0, test_identities=3, processes=1)
    assert load_dataset(tmp_path / "set").report.identities == {"train": 3, "val": 3, "test": 3}


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, pictures: list) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer, "_write_index", full)
    with pytest.raises(SyntheticError, match=r"No space left on device.*make room"):
        write_synthetic(tmp_path / "set", 6, seed=0, processes=1)
    assert list(tmp_path.iterdir()) == []


def command(*arguments: str, limit: int | None = None) -> subprocess.CompletedProcess:
    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    line = [sys.executable, "-m", "bdam_reid.synthetic", *arguments]
    return subprocess.run(line, capture_output=True, text=True, preexec_fn=limited)


def test_the_command_writes_a_set(tmp_path: Path) -> None:
    done = command(str(tmp_path / "set"), "--identities", "6", "--seed", "1")
    assert done.returncode == 0, done.stderr
    assert "synthetic pictures of 6 persons" in done.stdout
    assert load_dataset(tmp_path / "set").report.findings == ()


def test_the_command_fails_in_one_line_when_it_cannot_write(tmp_path: Path) -> None:
    done = command(str(tmp_path / "set"), "--identities", "6", limit=2000)
    assert done.returncode == 1
    assert "error: cannot write the synthetic set" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


MARKET_NAME = re.compile(r"(-1|\d{4})_c(\d)s(\d)_(\d{6})_(\d{2})\.jpg")


@pytest.fixture(scope="module", params=[0, 1])
def market(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("market") / "set"
    write_market(out, IDENTITIES, seed=3, domain=request.param, processes=1)
    return out


def seen(market: Path, folder: str) -> list[tuple[int, int]]:
    """The person and the camera of every picture in a folder."""
    names = [MARKET_NAME.fullmatch(path.name) for path in sorted((market / folder).iterdir())]
    assert all(names)
    return [(int(name[1]), int(name[2])) for name in names if name]


def test_market_separates_the_persons_of_training_and_test(market: Path) -> None:
    train, query, gallery = (seen(market, folder) for folder in ("bounding_box_train", "query", "bounding_box_test"))
    assert {person for person, _ in train} == {1, 2, 3, 4}
    assert {person for person, _ in query} == {5, 6, 7, 8}
    assert {person for person, _ in gallery} - {0, -1} == {5, 6, 7, 8}
    assert len([person for person, _ in gallery if person in (0, -1)]) == IDENTITIES // 4
    assert {camera for _, camera in train + query + gallery} <= set(range(1, 7))


def test_market_has_one_query_a_camera_and_a_match_by_another(market: Path) -> None:
    query, gallery = seen(market, "query"), seen(market, "bounding_box_test")
    assert len(query) == len(set(query))
    assert set(query) == {(person, camera) for person, camera in gallery if person > 0}
    for person in {person for person, _ in query}:
        assert len({camera for other, camera in query if other == person}) >= 2


def test_market_is_the_same_for_any_number_of_processes_and_differs_by_domain(tmp_path: Path) -> None:
    for name, domain, processes in (("once", 0, 1), ("again", 0, 2), ("other", 1, 1)):
        write_market(tmp_path / name, 4, seed=3, domain=domain, processes=processes)
    once, again, other = (contents(tmp_path / name) for name in ("once", "again", "other"))
    assert once == again
    assert not set(once.values()) & set(other.values())


def test_market_domains_differ_in_dress() -> None:
    rng = Random(0)
    outfits = [[sample_outfit(rng, sample_person(rng), domain.season) for _ in range(300)] for domain in DOMAINS]
    summer, winter = (sum(outfit.outer is not None for outfit in of) / len(of) for of in outfits)
    assert summer < 0.3 < 0.5 < winter
    bright, dark = ({outfit.upper.colour for outfit in of} for of in outfits)
    assert bright & dark == {"beige"}


def test_market_domains_differ_in_what_cameras_see(tmp_path: Path) -> None:
    """The domain of a picture can be told from the means and deviations of its border by the picture that is nearest
    among those of other persons, which cannot tell the persons of one domain apart in two halves."""
    seen, domains, persons = [], [], []
    for domain in (0, 1):
        write_market(tmp_path / str(domain), 6, seed=3, domain=domain, processes=1)
        for path in sorted((tmp_path / str(domain)).rglob("[0-9]*.jpg")):
            with Image.open(path) as picture:
                border = np.asarray(picture, dtype=float)[:, [*range(12), *range(-12, 0)]]
            seen.append([*border.mean(axis=(0, 1)), *border.std(axis=(0, 1))])
            domains.append(domain)
            persons.append((domain, int(path.name[:4])))
    distances = np.linalg.norm(np.array(seen)[:, None] - np.array(seen), axis=-1)
    own = np.array([[one == other for other in persons] for one in persons])
    nearest = np.where(own, np.inf, distances).argmin(axis=1)
    assert np.mean(np.array(domains)[nearest] == domains) > 0.9
    halves = np.array([number % 2 for _, number in persons])
    assert np.mean(halves[nearest] == halves) < 0.75


def test_market_marks_pictures_that_are_cut_and_refuses_too_few_people(tmp_path: Path) -> None:
    write_market(tmp_path / "set", IDENTITIES, seed=1, processes=1)
    assert {-1, 0} < {person for person, _ in seen(tmp_path / "set", "bounding_box_test")}
    for identities, test in ((3, None), (6, 1), (6, 5)):
        with pytest.raises(SyntheticError, match="training and test need 2 identities or more each"):
            write_market(tmp_path / "none", identities, seed=0, test_identities=test)


def test_the_command_refuses_a_domain_of_the_layout_that_has_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["synthetic", "out", "--domain", "0"])
    with pytest.raises(SystemExit):
        main()
    assert "--domain does not go with --layout" in capsys.readouterr().err


def test_the_command_writes_market(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = "--layout market --identities 5 --test-identities 2 --domain 1 --processes 1"
    monkeypatch.setattr(sys, "argv", ["synthetic", str(tmp_path / "set"), *options.split()])
    assert main() == 0
    written = {path.name for path in (tmp_path / "set").iterdir()}
    assert written == {"bounding_box_train", "query", "bounding_box_test", "attribute", "synthetic.json"}
    assert set_name(tmp_path / "set") == "synthetic"
    assert {person for person, _ in seen(tmp_path / "set", "bounding_box_train")} == {1, 2, 3}
    assert {person for person, _ in seen(tmp_path / "set", "query")} == {4, 5}


def test_ties_are_broken_in_expectation() -> None:
    """Against the mean over all orders of the ties."""
    counts, relevant = np.array([1, 0, 1, 1, 2, 0]), np.array([1, 0, 1, 0, 1, 0])
    scores = []
    for order in permutations(range(6)):
        if list(counts[list(order)]) == sorted(counts):
            ranked = relevant[list(order)]
            precisions = [ranked[: i + 1].mean() for i in range(6) if ranked[i]]
            scores.append((float(ranked[0]), sum(precisions) / 3))
    assert expected(counts, relevant == 1) == pytest.approx(np.mean(scores, axis=0))


def person_of(age: str, shirt: str, *, visible: Sequence[str] = ("sex", "age")) -> dict[str, Any]:
    outfit = {"upper": {"kind": "shirt", "colour": shirt, "pattern": "plain", "second_colour": None}}
    identity = {"sex": "female", "age": age}
    return {"identity": identity, "outfit": outfit, "visible": list(visible), "visible_slots": ["upper"]}


def test_the_ceiling_of_a_set_by_hand(tmp_path: Path) -> None:
    """Two women, of whom the captions tell the shirt, or the age."""
    truth = {
        "a.jpg": person_of("young", "red"),
        "b.jpg": person_of("elderly", "blue"),
        "a2.jpg": person_of("young", "green", visible=["sex"]),
        "b2.jpg": person_of("elderly", "white"),
    }
    shirt = {"identity": {"sex": "female"}, "clothing": {"upper": {"colour": "red"}}}
    age = {"identity": {"age": "elderly"}, "clothing": {}}
    raw = [
        {"split": split, "id": number, "file_path": key, "captions": [""]}
        for split in ("test", "val")
        for number, key in ((1, "a.jpg"), (2, "b.jpg"))
    ]
    change = {"queries": [], "gallery": [{"id": 1, "file_path": "a2.jpg"}, {"id": 2, "file_path": "b2.jpg"}]}
    files = {"attributes": truth, "reid_raw": raw, "statements": {"a.jpg": [shirt], "b.jpg": [age]}}
    for name, content in (files | {"clothing_change": change, "clothing_change_val": change}).items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    found = ceilings(tmp_path)
    assert found["test"] == found["val"]
    assert {reader: found["test"][reader]["R-1"] for reader in READERS} == dict.fromkeys(READERS, 100.0)
    # In other clothes the red shirt says nothing: a tie of two. The age tells, but where it cannot be seen.
    after = found["clothing_change"]
    assert after["attributes"] == {"R-1": 100.0, "mAP": 100.0}
    assert after["captions"] == {"R-1": 75.0, "mAP": 87.5}
    assert after["visible"] == {"R-1": 50.0, "mAP": 75.0}
    # Of her whose age is hidden one in two would be elderly, and of the other everyone.
    assert after["likely"] == {"R-1": 75.0, "mAP": 87.5}
    assert (after["queries"], after["gallery"]) == (2, 2)


def test_the_command_prints_the_ceilings_of_a_drawn_set(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["ceiling", str(root), "--json", str(tmp_path / "ceiling.json")])
    assert print_ceilings() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["protocol", *json.loads((tmp_path / "ceiling.json").read_text())]
    assert lines[1].split()[1:3] == ["16", "8"] and lines[2].split()[1:3] == ["16", "4"]
    monkeypatch.setattr(sys, "argv", ["ceiling", str(tmp_path / "none")])
    assert print_ceilings() == 1
    assert "Expected a set with captions, drawn by" in capsys.readouterr().err


def test_an_evaluation_knows_the_ceiling_of_a_drawn_set(root: Path, tmp_path: Path) -> None:
    found, protocols = ceilings(root), load_dataset(root).protocols
    assert {name: protocol.ceiling for name, protocol in protocols.items()} == {
        name: {"r1": of["likely"]["R-1"], "map": of["likely"]["mAP"]} for name, of in found.items()
    }
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    (copy / "ceilings.json").write_text('{"test": {"visible": 3}}')
    with pytest.raises(DatasetError, match=r"ceilings\.json must be what .* writes"):
        load_dataset(copy)
    (copy / "ceilings.json").unlink()
    assert {protocol.ceiling for protocol in load_dataset(copy).protocols.values()} == {None}
