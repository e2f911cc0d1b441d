"""Texts that a multimodal model writes: every way in which its endpoint can fail, and a process that is killed."""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from caption_server import FAULTY, Call, CaptionServer, caption_server, good
from data_files import entries, write_image, write_set
from PIL import Image
from tiny_run import forkserver

from bdam_reid.captions import __main__ as command
from bdam_reid.captions import endpoint as endpoints
from bdam_reid.captions.cost import Prices, image_tokens
from bdam_reid.captions.store import FILE as STORE
from bdam_reid.captions.store import open_store
from bdam_reid.captions.texts import FILE as TEXTS
from bdam_reid.config import ConfigError
from bdam_reid.data.datasets import load_dataset
from bdam_reid.engine.signals import SIGNALS

IMAGES = 10
"""Training images of the set."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A set of ten training images, no two alike."""
    root = write_set(tmp_path / "set", entries())
    for number, path in enumerate(sorted((root / "imgs").rglob("*.jpg"))):
        Image.new("RGB", (24, 48), (12 * number, 100, 255 - 12 * number)).save(path)
    return root


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[CaptionServer]:
    monkeypatch.setattr(endpoints, "FIRST_PAUSE", 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-the-test")
    with caption_server() as server:
        yield server


def arguments(root: Path, server: CaptionServer, *more: str) -> list[str]:
    return ["write", str(root), "--url", server.url, "--model", "stand-in", "--workers", "3", *more]


def write(root: Path, server: CaptionServer, *more: str) -> None:
    assert command.main(arguments(root, server, *more)) == 0


def failure(root: Path, server: CaptionServer, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    with pytest.raises(SystemExit) as stop:
        command.main(arguments(root, server, *more))
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said and "\x1b[31m" not in said
    return said.strip().splitlines()[-1]


def texts(root: Path) -> dict[str, dict[str, str]]:
    return json.loads((root / TEXTS).read_text())


def answers(root: Path) -> list[dict]:
    lines = [json.loads(line) for line in (root / STORE).read_text().splitlines()]
    return [line for line in lines if "key" in line]


def test_every_image_gets_both_texts_with_their_provenance(root: Path, server: CaptionServer) -> None:
    write(root, server)
    records = load_dataset(root).train
    assert len(records) == IMAGES and set(server.counted().values()) == {1} and len(server.calls) == 2 * IMAGES
    images = {call.image for call in server.calls}
    possible = {(good(image, "identity"), good(image, "clothing")) for image in images}
    assert {tuple(record.texts)[:2] for record in records if record.texts} == possible
    assert all(record.texts for record in records)
    one = answers(root)[0]
    assert (one["model"], one["attempt"], one["faults"]) == ("stand-in-1", 1, [])
    assert (one["input_tokens"], one["output_tokens"], len(one["prompt"])) == (300, 20, 16)
    assert all(call.key == "Bearer key-of-the-test" for call in server.calls)
    assert b"key-of-the-test" not in b"".join(path.read_bytes() for path in root.glob("*.json*"))


def test_an_image_goes_without_its_metadata(root: Path, server: CaptionServer) -> None:
    path = next((root / "imgs").rglob("0001_0.jpg"))
    place = Image.Exif()
    place[0x010E] = "taken at home"
    Image.open(path).save(path, exif=place)
    assert b"taken at home" in path.read_bytes()
    write(root, server, "--limit", "1")
    url = server.calls[0].messages[1]["content"][1]["image_url"]["url"]
    assert b"taken at home" not in base64.b64decode(url.split(",")[1]) and len(server.calls) == 2


BAD = ["faulty", "no json", "not openai", "nested", "429", "500", "503", "hang up", "half", "slow"]


def test_whatever_goes_wrong_at_first_all_texts_are_written(root: Path, server: CaptionServer) -> None:
    """Each text meets two ways to fail, all of them are met, and none is met again by the command given again."""

    def behave(call: Call, before: int) -> str:
        first = int(call.image, 16) + len(call.part)
        return BAD[(first + before) % len(BAD)] if before < 2 else "good"

    server.behave = behave
    write(root, server, "--timeout", "0.3")
    assert len(texts(root)) == IMAGES and set(server.counted().values()) == {3}
    paid = [line for line in answers(root) if line["faults"]]
    assert {bool(line["text"]) for line in paid} == {True, False}
    written, calls = texts(root), len(server.calls)
    write(root, server)
    assert texts(root) == written and len(server.calls) == calls


def test_an_answer_without_a_count_of_tokens_is_not_asked_for_again(root: Path, server: CaptionServer) -> None:
    server.behave = lambda call, before: "uncounted"
    write(root, server)
    assert set(server.counted().values()) == {1} and len(texts(root)) == IMAGES
    assert {(line["input_tokens"], line["output_tokens"]) for line in answers(root)} == {(0, 0)}


def test_what_was_wrong_with_answers_is_said(
    root: Path, server: CaptionServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.behave = lambda call, before: "cut" if call.part == "identity" else "faulty"
    assert command.main(arguments(root, server, "--attempts", "1")) == 1
    said = capsys.readouterr().out
    assert f"{IMAGES} x cut, such as: it was cut off at the limit of tokens (--max-tokens)" in said
    assert f"{IMAGES} x other part, such as: it speaks of the person and not of the clothes: " in said


def test_the_folder_of_the_texts_is_made_or_refused_before_the_first_call(
    root: Path, server: CaptionServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as for users other than root
    assert "folder that can be written to" in failure(root, server, capsys)
    monkeypatch.undo()
    assert "File exists" in failure(root, server, capsys, "--output", str(root / "reid_raw.json" / "texts.json"))
    assert not server.calls
    write(root, server, "--limit", "1", "--output", str(root / "new" / "folder" / "texts.json"))
    assert len(json.loads((root / "new" / "folder" / "texts.json").read_text())) == 1


def test_a_repeated_attempt_says_what_was_wrong(root: Path, server: CaptionServer) -> None:
    server.behave = lambda call, before: "good" if before else "faulty"
    write(root, server)
    again = next(call for call in server.calls if len(call.messages) > 2 and call.part == "identity")
    assert json.loads(again.messages[2]["content"])["description"] == FAULTY["identity"]
    reason = again.messages[3]["content"]
    assert "'The image'" in reason and "speaks of clothes: jacket, jeans, sneakers, hat" in reason


def test_attempts_are_bounded_also_over_several_processes(
    root: Path, server: CaptionServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.behave = lambda call, before: "faulty" if call.part == "clothing" else "good"
    for _ in range(2):
        assert command.main(arguments(root, server, "--attempts", "2")) == 1
        said = capsys.readouterr().out
        assert said.endswith("give more --attempts than 2 to ask for the others again\n")
        assert "10 of 20 texts have no answer that can be used" in said and "both texts of 0 images" in said
        assert len(server.calls) == 3 * IMAGES and texts(root) == {}
    server.behave = lambda call, before: "good"
    write(root, server, "--attempts", "3")
    assert len(server.calls) == 4 * IMAGES and len(texts(root)) == IMAGES


@pytest.mark.parametrize(("status", "said"), [("401", "OPENAI_API_KEY is not accepted"), ("404", "look at --model")])
def test_what_no_repetition_mends_ends_the_run_at_once(
    root: Path, server: CaptionServer, capsys: pytest.CaptureFixture[str], status: str, said: str
) -> None:
    server.behave = lambda call, before: status
    assert said in failure(root, server, capsys)
    assert len(server.calls) <= 3


def test_an_endpoint_that_is_down_ends_the_run_and_what_came_is_kept(
    root: Path, server: CaptionServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.behave = lambda call, before: "good" if len(server.calls) <= 6 else "500"
    last = failure(root, server, capsys, "--retries", "1")
    assert "10 calls in a row got no answer" in last and "status 500" in last and "again to go on" in last
    assert len(answers(root)) == 6
    server.behave = lambda call, before: "good"
    write(root, server)
    assert len(texts(root)) == IMAGES and len(answers(root)) == 2 * IMAGES


def test_a_call_that_gets_no_answer_is_counted_and_passed_over(
    root: Path, server: CaptionServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.behave = lambda call, before: "400" if call.image == server.calls[0].image else "good"
    assert command.main(arguments(root, server, "--workers", "1")) == 1
    said = capsys.readouterr().out
    assert "2 x status 400" in said and "2 of 20 texts have no answer" in said and len(texts(root)) == IMAGES - 1
    assert said.endswith("2 texts got no answer: give the same command again to ask for them\n")


def test_all_calls_keep_the_pause_that_the_endpoint_asks_for(root: Path, server: CaptionServer) -> None:
    server.retry_after = "1"
    server.behave = lambda call, before: "429" if len(server.calls) == 1 else "good"
    write(root, server, "--limit", "2", "--workers", "1")
    times = [call.time for call in server.calls]
    assert times[1] - times[0] >= 1 and len(times) == 5


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("7", 7, 7),
        ("", 0, 0),
        ("soon", 0, 0),
        ("-3", 0, 0),
        ("inf", 3600, 3600),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 3600, 3600),
        ("Fri, 01 Jan 2010 00:00:00 GMT", 0, 0),
    ],
)
def test_retry_after_is_a_number_or_a_date(header: str, least: float, most: float) -> None:
    assert least <= endpoints._seconds(header) <= most


def test_calls_begin_no_more_often_than_allowed(root: Path, server: CaptionServer) -> None:
    write(root, server, "--limit", "4", "--requests-per-minute", "1200")
    times = sorted(call.time for call in server.calls)
    assert times[-1] - times[0] > 0.9 * 7 * 0.05


def test_killed_at_any_moment_no_answer_is_asked_for_twice(root: Path, server: CaptionServer) -> None:
    """Calls that a kill cuts short come again; there are as many as workers at most."""
    server.delay = 0.05
    cut_short = 0
    for kill_at in (1, 8, 15):
        child = forkserver().Process(target=command.main, args=(arguments(root, server),))
        child.start()
        while len(server.calls) < kill_at + cut_short and child.is_alive():
            time.sleep(0.005)
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL and not (root / TEXTS).exists()
        time.sleep(2 * server.delay)
        cut_short = len(server.calls) - len(answers(root))
        assert cut_short <= 3 * len(range(1, kill_at + 1, 7))
    write(root, server)
    assert len(answers(root)) == 2 * IMAGES and len(texts(root)) == IMAGES
    assert len(server.calls) - 2 * IMAGES == cut_short


def test_the_run_after_a_kill_says_how_many_calls_were_under_way(
    root: Path, server: CaptionServer, capsys: pytest.CaptureFixture[str]
) -> None:
    write(root, server)
    whole = (root / STORE).read_text()
    assert "was killed" not in capsys.readouterr().out
    (root / STORE).write_text(whole.rsplit("\n", 2)[0] + "\n")
    write(root, server)
    assert "up to 3 calls were under way" in capsys.readouterr().out


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_awaits_calls_under_way_and_keeps_their_answers(
    root: Path, server: CaptionServer, number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    def behave(call: Call, before: int) -> str:
        if len(server.calls) == 6:
            os.kill(os.getpid(), number)
        return "good"

    server.behave, server.delay = behave, 0.1
    before = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as stop:
            command.main(arguments(root, server))
    finally:
        signal.signal(number, before)
    assert stop.value.code == 128 + number
    assert "give the same command again to go on" in capfd.readouterr().err
    assert len(answers(root)) == len(server.calls) < 2 * IMAGES
    server.behave, server.delay = lambda call, before: "good", 0
    write(root, server)
    assert set(server.counted().values()) == {1} and len(texts(root)) == IMAGES


def test_a_line_torn_anywhere_costs_that_line_alone(
    root: Path, server: CaptionServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root, server, "--limit", "1")
    monkeypatch.setattr("bdam_reid.captions.store.os.fsync", lambda _: None)
    whole = (root / STORE).read_bytes()
    lines = whole.splitlines(keepends=True)
    for length in range(len(whole) - len(lines[-1]) - len(lines[-2]), len(whole)):
        (root / STORE).write_bytes(whole[:length])
        with open_store(root / STORE) as store:
            complete = whole[:length].count(b"\n")
            assert sum(map(len, store.answers.values())) == min(complete - 1, 2)
            store.end()
        kept = (root / STORE).read_bytes().splitlines(keepends=True)
        assert kept[:-1] == lines[:complete] and "ended" in json.loads(kept[-1])


def test_a_full_disk_ends_the_run_and_leaves_whole_lines(
    root: Path, server: CaptionServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [5]

    def fsync(_: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("bdam_reid.captions.store.os.fsync", fsync)
        assert "No space left on device. Make room on the disk" in failure(root, server, capsys)
    assert len(answers(root)) == 4 and len(server.calls) <= 4 + 3
    write(root, server)
    assert len(texts(root)) == IMAGES and sum(server.counted().values()) <= 2 * IMAGES + 3


def test_a_damaged_store_and_one_in_use_are_refused(
    root: Path, server: CaptionServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_store(root / STORE):
        assert "another process writes to" in failure(root, server, capsys)
    (root / STORE).write_text('{"key": 3}\n')
    assert f"line 1 of {root / STORE} is damaged" in failure(root, server, capsys)
    (root / STORE).write_text(foreign := '{"cam/0001.jpg": {"identity": "a man"}}')
    assert f"{root / STORE} is no store of answers" in failure(root, server, capsys)
    assert (root / STORE).read_text() == foreign
    assert not server.calls


def test_a_store_of_another_model_is_refused(
    root: Path, server: CaptionServer, capsys: pytest.CaptureFixture[str]
) -> None:
    write(root, server, "--limit", "1")
    said = failure(root, server, capsys, "--model", "another")
    assert "model 'stand-in' then, 'another' now" in said and "give another --store" in said
    assert len(server.calls) == 2


def test_texts_of_others_are_not_overwritten(
    root: Path, server: CaptionServer, capsys: pytest.CaptureFixture[str]
) -> None:
    others = json.dumps({"cam/0001_0.jpg": {"identity": "A man.", "clothing": "A red shirt."}})
    (root / TEXTS).write_text(others)
    assert "texts of 1 images that do not come from" in failure(root, server, capsys)
    assert (root / TEXTS).read_text() == others and not server.calls
    write(root, server, "--output", str(root / "other.json"))
    assert (root / TEXTS).read_text() == others and len(json.loads((root / "other.json").read_text())) == IMAGES


def test_the_cost_is_said_before_the_first_call(
    root: Path, server: CaptionServer, capsys: pytest.CaptureFixture[str]
) -> None:
    write(root, server, "--dry-run", "--prices.input", "2.5", "--prices.output", "10")
    said = capsys.readouterr().out.splitlines()[-1]
    assert not server.calls and not (root / TEXTS).exists() and not (root / STORE).exists()
    assert said.startswith("20 of 20 texts to write: 20 calls, at most 60 with all attempts: about ")
    tokens = int(said.split("about ")[1].split()[0].replace(",", ""))
    assert 20 * (255 + 100) < tokens < 20 * (255 + 500) and "1,600 out, $0.0" in said
    write(root, server)
    write(root, server, "--dry-run")
    assert "0 of 20 texts to write: 0 calls" in capsys.readouterr().out


def test_tokens_and_dollars() -> None:
    """OpenAI's own examples: 1024 x 1024 takes 765 tokens, 2048 x 4096 (sent smaller) 1,105, a crop one tile."""
    assert (image_tokens(1024, 1024), image_tokens(2048, 4096), image_tokens(64, 128)) == (765, 425, 255)
    assert Prices(2.5, 10).of(2_000_000, 100_000) == 6


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--url", "ftp://host"], "--url must be http"),
        (["--url", "http://user:secret@host/v1"], "--url must be http"),
        (["--workers", "0"], "--workers must be at least 1"),
        (["--attempts", "0"], "--attempts must be at least 1"),
        (["--timeout", "nan"], "--timeout must be a finite number"),
        (["--styles", "nowhere.json"], "nowhere.json"),
    ],
)
def test_bad_options_are_refused(
    root: Path, server: CaptionServer, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    line = failure(root, server, capsys, *more)
    assert said in line and "secret" not in line and not server.calls


def test_without_a_key_nothing_is_sent_to_openai(
    root: Path, server: CaptionServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    said = failure(root, server, capsys, "--url", "https://api.openai.com/v1")
    assert "set the environment variable OPENAI_API_KEY" in said
    write(root, server, "--limit", "1")


def test_without_the_client_library_the_extra_is_named(
    root: Path, server: CaptionServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    assert "pip install -e '.[captions]'" in failure(root, server, capsys)


def test_a_set_without_captions_is_refused(tmp_path: Path) -> None:
    for folder, person, camera in (("bounding_box_train", 2, 1), ("query", 7, 1), ("bounding_box_test", 7, 2)):
        for number in range(6 if person == 2 else 2):
            write_image(tmp_path / folder / f"{person + number % 3:04d}_c{camera}s1_{number:06d}_00.jpg")
    with pytest.raises(ConfigError, match=r"expected a set with captions in .*, got market-1501"):
        command._training_images(tmp_path)
