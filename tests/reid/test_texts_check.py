"""What is wrong with texts, and the whole way from captions to a model that was trained on what a server wrote."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from caption_server import FAULTY, GOOD, caption_server
from tiny_run import tiny, train_alone

from bdam_reid.captions import __main__ as command
from bdam_reid.captions.prompts import PARTS, digest, instruction, messages, style_of
from bdam_reid.captions.styles import read_styles
from bdam_reid.captions.validation import faults, read_answer
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.tokens import load_tokenizer

IDENTITY = "A tall young woman with long dark hair, fair skin and glasses"
CLOTHING = "The person wears a light-blue denim jacket with slim black jeans and white sneakers"


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("number", range(3))
def test_the_stand_in_answers_well_and_badly(part: str, number: int) -> None:
    assert faults(GOOD[part][number], part) == []
    assert faults(FAULTY[part], part) != []


@pytest.mark.parametrize(
    ("part", "text", "kinds"),
    [
        ("identity", IDENTITY, []),
        ("clothing", CLOTHING, []),
        ("identity", "The person is an adult male of medium build with a short haircut on top of his head.", []),
        (
            "clothing",
            "The person in gray trousers carries a large bag and wears tall brown boots, which feature laces.",
            [],
        ),
        ("identity", "", ["form"]),
        ("identity", f"{IDENTITY}\x1b[31m.", ["form", "leftover"]),
        ("identity", f"{IDENTITY} \ud800", ["form"]),
        ("identity", "A young woman, tall.", ["length"]),
        ("identity", " and ".join([IDENTITY] * 12), ["length"]),
        ("identity", f"The image shows {IDENTITY.lower()}", ["leftover"]),
        ("identity", f"I'm sorry, but {IDENTITY.lower()}", ["leftover"]),
        ("identity", f"```json {IDENTITY}```", ["leftover"]),
        ("identity", f"{IDENTITY}, the shoes are not visible", ["leftover", "other part"]),
        ("identity", f"{IDENTITY} who wears a red coat", ["other part"]),
        ("identity", "Somebody who seems to be walking slowly along the street in the evening.", ["coverage"]),
        (
            "clothing",
            "Somebody who seems to be walking slowly along the street in the evening.",
            ["coverage", "coverage"],
        ),
        ("clothing", "The person wears a shirt with trousers and a pair of shoes.", ["coverage"]),
        ("clothing", CLOTHING.replace("The person", "The old woman"), ["other part"]),
        ("clothing", CLOTHING.replace("The person", "The tall person"), ["other part"]),
        ("clothing", f"{CLOTHING} below her long hair", ["other part"]),
    ],
)
def test_faults(part: str, text: str, kinds: list[str]) -> None:
    assert [fault.kind for fault in faults(text, part)] == kinds


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ('{"description": " A man.\\n Tall. "}', "A man. Tall."),
        ('{"description": 3}', ""),
        ('{"text": "A man."}', ""),
        ('["A man."]', ""),
        ("A man.", ""),
        ('{"description": "A m', ""),
        ("[" * 100_000, ""),
        ("", ""),
    ],
)
def test_only_the_form_that_was_asked_for_is_read(answer: str, text: str) -> None:
    assert read_answer(answer) == text


def test_check_says_what_is_wrong_and_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "texts.json"
    good = {"identity": IDENTITY, "clothing": CLOTHING}
    path.write_text(json.dumps({"a.jpg": good}))
    assert command.main(["check", str(path)]) == 0
    wrong = {"identity": FAULTY["identity"], "clothing": " "}
    path.write_text(json.dumps({"a.jpg": good, "\x1bb.jpg": wrong, "c.jpg": wrong, "d.jpg": 3}))
    assert command.main(["check", str(tmp_path / "texts.json"), "--examples", "1"]) == 1
    said = capsys.readouterr().out
    assert "2 x identity: leftover" in said and "3 x clothing: absent" in said and "1 x identity: absent" in said
    assert "\\x1bb.jpg: it says 'The image'" in said and "\x1b" not in said and "c.jpg" not in said
    assert "texts of 4 images, 10 faults" in said


@pytest.mark.parametrize("content", [None, "", "[]", "{"])
def test_check_refuses_what_is_no_texts_json(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "texts.json").write_text(content)
    with pytest.raises(SystemExit) as stop:
        command.main(["check", str(tmp_path)])
    assert stop.value.code == 1 and "Traceback" not in capsys.readouterr().err


def test_from_captions_to_a_model_trained_on_texts_of_a_server(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server alone says "fuchsia": the model has learnt the word."""
    root = tmp_path / "people"
    shutil.copytree(people, root)
    (root / "texts.json").unlink()
    monkeypatch.setattr("bdam_reid.captions.style_picture.POINTS", 40)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert command.main(["styles", str(root), "--by", "agglomerative", "--clusters", "3"]) == 0
    styles = read_styles(root / "styles.json")
    with caption_server() as server:
        server.behave = lambda call, before: "good" if before else "faulty" if call.part == "identity" else "500"
        more = ["--styles", str(root / "styles.json"), "--url", server.url, "--model", "stand-in"]
        assert command.main(["write", str(root), *more]) == 0
        asked = {call.messages[1]["content"][0]["text"] for call in server.calls}
    assert asked == {instruction(part, style) for part in PARTS for style in styles}
    capsys.readouterr()
    assert command.main(["check", str(root)]) == 0
    said = capsys.readouterr().out
    assert all(f"{style.name} (" in said for style in styles)
    dataset = load_dataset(root)
    written = json.loads((root / "texts.json").read_text())
    assert written.keys() == {record.key for record in dataset.train}
    assert all(style_of(key, styles).name == entry["style"] for key, entry in written.items())
    config = tiny(
        root,
        tmp_path / "run",
        "--data.texts-probability",
        "1",
        "--data.vocab-size",
        "1000",
        "--method.optim.epochs",
        "1",
    )
    run = train_alone(config)
    assert json.loads((run / "metrics.json").read_text())
    (tokenizer,) = (load_tokenizer(path.parent) for path in run.rglob("tokenizer.json"))
    assert "fuchsia" in tokenizer.get_vocab()


def test_all_styles_come_alike_often_and_change_the_prompts(tmp_path: Path) -> None:
    entries = [
        {"name": name, "share": share, "prompt": f"Write {name}.", "examples": ["a person in a garment."]}
        for name, share in (("long", 0.9), ("short", 0.06), ("odd", 0.04))
    ]
    (tmp_path / "styles.json").write_text(json.dumps({"styles": entries}))
    styles = read_styles(tmp_path / "styles.json")
    counts = [sum(style_of(f"cam/{n}.jpg", styles) is style for n in range(600)) for style in styles]
    assert all(150 < count < 250 for count in counts)
    assert len({digest(()), digest(styles), digest(styles[:2])}) == 3
    assert "Write odd. Take the manner" in instruction("identity", styles[2]) and style_of("a", ()) is None


@pytest.mark.parametrize("subcommand", [[], ["styles"], ["write"], ["check"]])
def test_help(subcommand: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        command.main([*subcommand, "--help"])
    assert stop.value.code == 0 and "python -m bdam_reid.captions" in capsys.readouterr().out


def test_what_a_model_answered_can_always_be_sent_back() -> None:
    sent = messages("identity", None, "", ('{"description": "\ud800"}', "it has halves of characters"))
    assert json.dumps(sent, ensure_ascii=False).encode() and len(sent) == 4
