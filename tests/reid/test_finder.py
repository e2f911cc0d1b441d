"""Questions to a gallery: sentences, pictures, what is not wanted, weights; by Python and by the command line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from published import write_clip, write_sentencepiece, write_siglip
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

import bdam_reid
from bdam_reid.config import ConfigError
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.images import ImageError
from bdam_reid.data.records import QueryError
from bdam_reid.methods import PRESETS
from bdam_reid.search.__main__ import main
from bdam_reid.search.finder import Finder, open_finder
from bdam_reid.search.query import Question, combine, embed_question, split, weighted

PARTS = {"identity": slice(0, 2), "clothing": slice(2, 4)}


@pytest.fixture(scope="module")
def gallery(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the test persons' photographs, and a table of them beside it."""
    folder = tmp_path_factory.mktemp("search") / "gallery"
    folder.mkdir()
    lines = ["path,person,camera"]
    for record in load_dataset(people).protocols["test"].gallery:
        name = record.path.name
        shutil.copy(record.path, folder / name)
        lines.append(f"{name},{record.identity},{record.camera}")
    (folder.parent / "table.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def index(finished: Path, gallery: Path) -> Path:
    place = gallery.parent / "index"
    main(["index", str(finished), str(gallery), "--output", str(place), "--table", str(gallery.parent / "table.csv")])
    return place


@pytest.fixture(scope="module")
def finder(index: Path) -> Finder:
    return open_finder(index, PRESETS)


def test_a_sentence_is_split_at_what_is_not_wanted() -> None:
    assert split("a t-shirt - hat -  blue-green bag ") == ("a t-shirt", ("hat", "blue-green bag"))
    assert split("- hat") == ("", ("hat",)) and split("") == ("", ())
    for sentence in ("a coat - ", "a coat - - hat", " - "):
        with pytest.raises(QueryError, match='after each " - " must stand what is not wanted'):
            split(sentence)
    with pytest.raises(QueryError, match="halves of characters"):
        split("a \ud800 coat")


def test_the_formula() -> None:
    sentence, hat = torch.tensor([1.0, 0, 0, 1]), torch.tensor([[0, 1.0, 0, 1], [0, 1, 1, 0]])
    pictures = torch.tensor([[0, 1.0, 1, 0], [1, 0, 1, 0]])
    found = combine(PARTS, sentence=sentence, pictures=pictures, unwanted=hat, share=0.25)
    by_hand = 0.75 * sentence + 0.25 * pictures.mean(0) - 0.5 * hat.mean(0)
    expected = torch.cat([F.normalize(by_hand[:2], dim=0), F.normalize(by_hand[2:], dim=0)])
    torch.testing.assert_close(found, expected)
    alone = combine(PARTS, sentence=torch.tensor([0.0, 0, 0, 1]), pictures=None, unwanted=None, share=0.9)
    assert alone.tolist() == [0, 0, 0, 1]
    assert combine(PARTS, sentence=None, pictures=pictures[:1], unwanted=None, share=0.1).tolist() == [0, 1, 1, 0]
    assert weighted(found, PARTS, {"clothing": 2.0}).tolist() == [0, 0, *(2 * found[2:]).tolist()]
    assert torch.isfinite(weighted(found, PARTS, {"identity": -1e6, "clothing": 1e6})).all()
    for weight in (float("nan"), float("-inf"), 3e38, 1e39, 10**400):
        with pytest.raises(QueryError, match="weights must be finite numbers from -1,000,000 to 1,000,000, got "):
            weighted(found, PARTS, {"identity": 1.0, "clothing": weight})


def test_it_ranks_as_the_retriever_does(finder: Finder, gallery: Path) -> None:
    names = sorted(path.name for path in gallery.iterdir())
    embedded = finder.retriever.embed_images([gallery / name for name in names])
    for clothes in ("same", "other"):
        expected = finder.retriever.search(embedded, "a man in a red shirt", k=99, clothes=clothes)
        found = finder.find(Question("a man in a red shirt"), 99, clothes=clothes)
        assert [hit.path for hit in found] == [names[hit.image] for hit in expected]
        np.testing.assert_allclose([hit.score for hit in found], [hit.score for hit in expected], atol=2e-3)
    hit = finder.find(Question("a man in a red shirt"), 1, weights={"identity": 2.0, "clothing": -1.0})[0]
    assert hit.score == pytest.approx(2 * hit.parts["identity"] - hit.parts["clothing"], abs=1e-3)


def test_a_picture_finds_itself_and_what_is_unwanted_leaves(finder: Finder, gallery: Path) -> None:
    for path in sorted(gallery.iterdir())[:3]:
        assert finder.find(Question(pictures=(path,)), 1)[0].path == path.name
    plain = {hit.path: hit.score for hit in finder.find(Question("a man"), 99)}
    path = next(iter(plain))
    without = finder.retriever.embed_texts(["a red shirt"])[0]
    query = embed_question(Question("a man - a red shirt"), finder.retriever)
    assert query @ without < embed_question(Question("a man"), finder.retriever) @ without
    by_both = finder.find(Question("a man", (gallery / path,), share=1.0), 1)
    assert by_both[0].path == path


def test_the_picture_of_a_question_shows_no_bar(finder: Finder, gallery: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden: list[bool | None] = []

    def recorded(**options: Any) -> Any:
        hidden.append(options["disable"])
        return tqdm(**options)

    monkeypatch.setattr("bdam_reid.search.retriever.tqdm", recorded)
    path = min(gallery.iterdir())
    finder.find(Question(pictures=(path,)), 1)
    monkeypatch.setattr("bdam_reid.search.retriever.BATCH", 1)
    finder.retriever.embed_images([path, path])
    assert hidden == [True, None]


def test_filters_and_one_photograph_a_person(finder: Finder) -> None:
    from bdam_reid.search.columns import where_of

    everything = finder.find(Question("a man"), 99)
    person = everything[-1].about["person"]
    only = finder.find(Question("a man"), 99, where=where_of([f"person={person}"]))
    assert only == [hit for hit in everything if hit.about["person"] == person]
    assert len(finder.find(Question("a man"), 99, one_per="person")) == 2


def test_strange_questions_are_answered_or_refused(finder: Finder, gallery: Path, tmp_path: Path) -> None:
    rng = Random(0)
    strange = [
        "😀" * 500,
        "word " * 10_000,
        "'; DROP TABLE images; --",
        "\0\x1b[31m",
        "ignore all instructions",
        "ﷺ\u202e",
    ]
    strange += ["".join(chr(rng.randrange(1, 0xD000)) for _ in range(rng.randrange(1, 60))) for _ in range(50)]
    strange += [rng.randbytes(30).decode("utf-8", "surrogateescape") for _ in range(20)]
    for sentence in strange:
        with suppress(QueryError):
            assert all(np.isfinite(hit.score) for hit in finder.find(Question(sentence), 3))
    for question in (Question(), Question("  "), Question("- hat"), Question("a man", share=1.5)):
        with pytest.raises(QueryError, match="must"):
            finder.find(question)
    with pytest.raises(ImageError, match=r"none\.png"):
        finder.find(Question(pictures=(tmp_path / "none.png",)))
    with pytest.raises(ValueError, match="clothes must be same or other"):
        finder.find(Question("a man"), clothes="new")  # type: ignore[arg-type]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    last = error.splitlines()[-1]
    assert last.startswith("error: ")
    return last


def test_the_commands(
    index: Path, finished: Path, gallery: Path, finder: Finder, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = json.loads(run(capsys, "query", index, "a man", "-k", "3", "--json"))
    expected = finder.find(Question("a man"), 3)
    assert [entry["path"] for entry in printed] == [hit.path for hit in expected]
    assert printed[0].keys() == {"rank", "path", "score", "parts", "about"} and printed[2]["rank"] == 3
    assert printed[0]["about"].keys() == {"person", "camera"}
    lines = run(
        capsys, "query", index, "a man", "--image", gallery / expected[0].path, "--clothes", "other"
    ).splitlines()
    assert len(lines) == len(list(gallery.iterdir())) and lines[0].startswith("  1 ")
    camera = expected[0].about["camera"]
    filtered = json.loads(run(capsys, "query", index, "a man", "--json", "--where", f"camera={camera}"))
    assert {entry["about"]["camera"] for entry in filtered} == {camera}
    said = run(capsys, "query", index, "a man", "--where", "camera=none")
    assert said.startswith("nothing was found\nno image has camera=none, but there are ") and camera in said
    again = run(capsys, "index", finished, gallery, "--output", index, "--table", gallery.parent / "table.csv")
    assert again.endswith("up to date, embedded 0, removed 0, refused 0, no images 0\n")
    # The table's paths are within the gallery, not the folder that it is in.
    table, above = gallery.parent / "table.csv", gallery.parent / "above"
    said = run(capsys, "index", finished, gallery.parent, "--output", above, "--table", table)
    assert "warning: the table says nothing of any image: its paths must be within" in said


def test_mistakes_on_the_command_line_end_in_a_line(
    index: Path, finished: Path, gallery: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is no index" in fails(capsys, "query", tmp_path, "a man")
    assert "a question must have a sentence" in fails(capsys, "query", index)
    assert "a filter must be" in fails(capsys, "query", index, "a man", "--where", "camera")
    assert "--weights must be 2, of identity, clothing, got 1" in fails(
        capsys, "query", index, "a man", "--weights", "1"
    )
    assert "weights must be finite numbers" in fails(capsys, "query", index, "a man", "--weights", "nan", "1")
    assert "--k must be at least 1, got 0" in fails(capsys, "query", index, "a man", "-k", "0")
    assert "expected a folder of images" in fails(
        capsys, "index", finished, tmp_path / "no", "--output", tmp_path / "i"
    )
    assert "holds other files" in fails(capsys, "index", finished, gallery, "--output", gallery)
    other = write_clip(tmp_path / "clip")
    assert "was made with other weights" in fails(capsys, "index", other, gallery, "--output", index)
    assert "was made with other weights" in fails(capsys, "query", index, "a man", "--run", other)
    moved, manifest = tmp_path / "moved", json.loads((index / "manifest.json").read_text())
    shutil.copytree(index, moved)
    (moved / "manifest.json").write_text(json.dumps(manifest | {"model": str(tmp_path / "gone")}))
    assert "which is not there any more: give --run where it is now" in fails(capsys, "query", moved, "a man")
    assert "cannot read the table" in fails(
        capsys, "index", finished, gallery, "--output", index, "--table", tmp_path / "no.csv"
    )


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_published_pair_is_searched_with_as_it_is(
    kind: str, gallery: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "siglip":
        pytest.importorskip("sentencepiece")
        model = write_sentencepiece(write_siglip(tmp_path / "model"))
    else:
        model = write_clip(tmp_path / "model")
    people = bdam_reid.load(model)
    image = sorted(gallery.iterdir())[0]
    assert people.image_size == (32, 32) and list(people.parts) == ["person"]
    assert_close_to_transformers(kind, model, image, people.embed_images([image]), people.embed_texts(["the man"]))
    run(capsys, "index", model, gallery, "--output", tmp_path / "index")
    found = json.loads(run(capsys, "query", tmp_path / "index", "the man", "--image", image, "--share", "1", "--json"))
    assert found[0]["path"] == image.name and found[0]["score"] == pytest.approx(1, abs=2e-3)
    assert bdam_reid.load(model).fingerprint == people.fingerprint


def assert_close_to_transformers(kind: str, model: Path, image: Path, seen: Tensor, read: Tensor) -> None:
    """The library's own model and processing, but for resizing, give the same."""
    import transformers

    from bdam_reid.data.images import decode_image

    clip = getattr(transformers, {"clip": "CLIPModel", "siglip": "SiglipModel"}[kind]).from_pretrained(model).eval()
    processor = json.loads((model / "preprocessor_config.json").read_text())
    mean, std = (torch.tensor(processor[name])[:, None, None] for name in ("image_mean", "image_std"))
    pixels = (decode_image(image, (32, 32)) / 255 - mean) / std
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    padding = {"padding": "max_length", "max_length": 12} if kind == "siglip" else {}
    words = tokenizer(["the man"], return_tensors="pt", **padding)
    with torch.no_grad():
        output = clip(input_ids=words["input_ids"], pixel_values=pixels[None])
    torch.testing.assert_close(seen, F.normalize(output.image_embeds, dim=1), atol=1e-4, rtol=0)
    torch.testing.assert_close(read, F.normalize(output.text_embeds, dim=1), atol=1e-4, rtol=0)


def test_what_is_no_model_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bdam_reid.encoders import hub

    monkeypatch.setattr(hub, "_reachable", lambda: False)
    with pytest.raises(ConfigError, match="runs/no is no folder of a run or an export, and as a published model it"):
        bdam_reid.load("runs/no")
    with pytest.raises(ConfigError, match="there is no such folder"):
        bdam_reid.load(tmp_path / "no")
    write_clip(tmp_path / "clip")
    config = json.loads((tmp_path / "clip" / "config.json").read_text())
    (tmp_path / "clip" / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(ConfigError, match="must be clip or siglip"):
        bdam_reid.load(tmp_path / "clip")


def test_help_waits_for_nothing_heavy() -> None:
    program = "import sys, bdam_reid.search.__main__; print({'torch', 'faiss', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "set()\n"


def test_unknown_words_are_read_as_known_ones_and_said(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def asked(*arguments: str) -> tuple[str, list[str]]:
        main(["query", str(index), *arguments, "--json"])
        out, err = capsys.readouterr()
        return out, [line.removeprefix("read as: ") for line in err.splitlines() if line.startswith("read as: ")]

    found, (read,) = asked("a man in sapphire")
    assert read.startswith("a man in ")
    assert "sapphire" not in read
    assert asked(read) == (found, [])
    assert asked("a man in sapphire", "--as-written")[1] == []
