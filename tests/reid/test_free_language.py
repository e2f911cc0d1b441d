"""The sentences in free language, and the study that searches with them."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from bdam_reid.captions.splitter import phrases
from bdam_reid.studies.free_language import PROTOCOLS, main
from bdam_reid.synthetic import sentences, words, writer

FILE = Path(__file__).parents[2] / "benchmarks" / "free_language.json"


@pytest.fixture(scope="module")
def written() -> list[dict[str, str]]:
    """The sentences of the file."""
    return json.loads(FILE.read_text(encoding="utf-8"))["sentences"]


@pytest.fixture(scope="module")
def pictures() -> dict[str, Any]:
    """The pictures of the test persons of the set that the file names, by key, as records alone."""
    named = json.loads(FILE.read_text(encoding="utf-8"))["set"]
    last, count = named["identities"], named["test_identities"]
    draw = partial(writer._draw_person, Path("unused"), named["seed"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "render", lambda *shot: None)
        patch.setattr(writer, "save", lambda *picture: None)
        people = [draw((identity, "test")) for identity in range(last - count + 1, last + 1)]
    return {picture.key: picture for person in people for picture in person}


def strings(value: Any) -> Iterator[str]:
    """Every string in a constant of a module."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from strings((*value, *value.values()))
    elif isinstance(value, tuple | list | frozenset):
        for part in value:
            yield from strings(part)


def stems(text: str) -> set[str]:
    """The words of a text, without the plural's "s"."""
    return {word.removesuffix("s") for word in re.findall("[a-z]+", text.lower())}


def template_words() -> set[str]:
    """All that a template can say, and what every English text has."""
    constants = (value for module in (words, sentences) for name, value in vars(module).items() if name[:2] != "__")
    return stems(" ".join(strings(list(constants))) + " " + " ".join(ENGLISH_STOP_WORDS))


def test_there_are_two_sentences_for_every_test_person(written: list[dict[str, str]], pictures: dict[str, Any]) -> None:
    shown = [pictures[sentence["file_path"]] for sentence in written]
    assert set(Counter(picture.identity for picture in shown).values()) == {2}
    assert len({sentence["text"] for sentence in written}) == len(written) == 200
    assert not any(picture.changed for picture in shown)


def test_the_sentences_are_in_words_of_no_template(written: list[dict[str, str]], pictures: dict[str, Any]) -> None:
    known = template_words()
    assert {"man", "ginger", "trouser", "knee", "emerald"} <= known
    few = {text: new for text in (s["text"] for s in written) if len(new := stems(text) - known) < 3}
    assert not few
    captions = {caption.text.lower() for picture in pictures.values() for caption in picture.captions}
    assert not captions & {sentence["text"].lower() for sentence in written}


def test_the_splitter_finds_person_and_clothes_in_nearly_all(written: list[dict[str, str]]) -> None:
    both = [all(phrases(sentence["text"])) for sentence in written]
    assert sum(both) >= 0.9 * len(both)


@pytest.fixture
def asked(people: Path, tmp_path: Path) -> Path:
    """A file of sentences about the tiny set's test persons: of each two pictures."""
    keys = [r["file_path"] for r in json.loads((people / "reid_raw.json").read_text()) if r["split"] == "test"]
    entries = [{"file_path": key, "text": f"Bloke number {n} in a frock"} for n, key in enumerate(keys[::2])]
    (tmp_path / "asked.json").write_text(json.dumps({"sentences": entries}))
    return tmp_path / "asked.json"


def test_sentences_stand_beside_captions(
    finished: Path, people: Path, asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = f"{finished} --root {people} --sentences {asked} --device cpu --worst 1 --output {tmp_path / 'out.json'}"
    main(options.split())
    found, trained = (json.loads(path.read_text()) for path in (tmp_path / "out.json", finished / "metrics.json"))
    entries = json.loads(asked.read_text())["sentences"]
    assert tuple(found) == PROTOCOLS
    for name, of in found.items():
        clothes = trained["protocols"][name]["clothes"]
        assert of["captions"] == trained["protocols"][name]["results"][clothes]
        assert of["sentences"]["queries"] == len(entries) == 4
        assert sorted((one["file_path"], one["text"]) for one in of["ranks"]) == sorted(
            (entry["file_path"], entry["text"]) for entry in entries
        )
        ranks = [one["rank"] for one in of["ranks"]]
        assert ranks == sorted(ranks, reverse=True) and ranks[-1] >= 1
        assert of["sentences"]["r1"] == 100 * ranks.count(1) / len(ranks)
    said = capsys.readouterr().out
    assert "worst sentences, other clothes" in said and found["test"]["ranks"][0]["text"] in said


def failure(capsys: pytest.CaptureFixture[str], *options: object) -> str:
    """What the study says of what it must refuse."""
    with pytest.raises(SystemExit):
        main([str(option) for option in options])
    return capsys.readouterr().err


def test_what_cannot_be_searched_is_one_message(
    finished: Path, people: Path, asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = (finished, "--root", people, "--sentences")
    assert "run the study from a checkout, or give --sentences" in failure(capsys, *given, tmp_path / "none.json")
    assert "which lacks 200 of 200 pictures: draw it with" in failure(capsys, *given, FILE)
    assert "--worst must be at least 1, got 0" in failure(capsys, *given, asked, "--worst", 0)
    shutil.copytree(people, tmp_path / "people")
    (tmp_path / "people" / "clothing_change.json").unlink()
    given = (finished, "--root", tmp_path / "people", "--sentences", asked)
    assert "which lacks the protocol of other clothes" in failure(capsys, *given)
