"""The store of all that a multimodal model has answered: texts.jsonl, to which lines are only ever added.

An answer is on the disk before anything else is done with it, so that a killed process loses only the answers that had
not come yet. A line that was torn by a kill or a full disk is cut off when the store is opened again.

    {"began": "2026-01-31T12:00:00+00:00", "model": "...", "prompts": "...", "workers": 8}
    {"key": "cam/0001_0.jpg", "part": "identity", "style": "brief", "answer": "...", "text": "...", "faults": [], ...}
    {"ended": "2026-01-31T12:10:00+00:00"}
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from io import FileIO
from pathlib import Path
from typing import Any, TypeAlias

from bdam_reid.captions.prompts import PARTS, Part
from bdam_reid.config import ConfigError

FILE = "texts.jsonl"
_STARTS = (b'{"began": ', b'{"key": ', b'{"ended": ')
"""Of its lines. What begins otherwise nobody tore: it is another file, from which nothing is cut."""


@dataclass(frozen=True)
class Answer:
    """One answer for one text of one image, and where it comes from."""

    key: str
    """Of the image."""
    part: Part
    style: str
    attempt: int
    """From 1 on."""
    answer: str
    """As it came."""
    text: str
    """What it says, or "" if it is not of the form asked for."""
    faults: tuple[str, ...]
    """Why it cannot be used; none if it is used."""
    model: str
    """As the endpoint names it."""
    prompt: str
    """Short name of what was asked, as `prompts.digest` gives it."""
    input_tokens: int
    output_tokens: int
    seconds: float
    """From the call to the answer."""
    time: str
    """When it came, in UTC."""


Answers: TypeAlias = dict[tuple[str, Part], list[Answer]]
"""By image key and part, in the order in which they came."""


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class Store:
    """Answers in memory and in an open file that no other process has."""

    def __init__(self, path: Path, file: FileIO):
        self.path = path
        self.answers: Answers = {}
        self.in_flight = 0
        """Calls that may have been under way when the process that wrote the store was killed."""
        self._file = file
        self._began: Mapping[str, Any] | None = None
        self._end = 0
        *lines, torn = file.readall().split(b"\n")
        if not any(torn[: len(start)] == start[: len(torn)] for start in _STARTS):
            raise ConfigError(
                f"{path} is no store of answers: its last line does not begin as one does. Give another --store, or "
                "move the file away"
            )
        for number, line in enumerate(lines, start=1):
            self._take(number, line)
            self._end += len(line) + 1
        file.truncate(self._end)

    def check(self, model: str, prompts: str) -> None:
        """Raise ConfigError if the answers there are of another model or to other prompts."""
        now_asked = {"model": model, "prompts": prompts}
        then = self._began or now_asked
        if changed := [name for name, value in now_asked.items() if then[name] != value]:
            listed = ", ".join(f"{name} {then[name]!r} then, {now_asked[name]!r} now" for name in changed)
            raise ConfigError(
                f"{self.path} holds answers to something else ({listed}): give another --store to ask anew, or "
                "the same --model or --local, and --styles, as before to go on"
            )

    def begin(self, model: str, prompts: str, workers: int) -> None:
        """Say that calls follow, and with what."""
        self._append({"began": now(), "model": model, "prompts": prompts, "workers": workers})

    def add(self, answer: Answer) -> None:
        """Keep an answer for good. Raises: OSError if it cannot be written; the store is then as it was."""
        self._append(asdict(answer))
        self.answers.setdefault((answer.key, answer.part), []).append(answer)

    def end(self) -> None:
        """Say that no call is under way."""
        self._append({"ended": now()})

    def texts(self) -> dict[str, dict[str, str]]:
        """The content of texts.json: of all images of which both texts can be used."""
        usable = {place: all_[-1] for place, all_ in self.answers.items() if not all_[-1].faults}
        return {
            key: {**{part: usable[key, part].text for part in PARTS}, "style": usable[key, PARTS[0]].style}
            for key in dict.fromkeys(key for key, _ in usable)
            if all((key, part) in usable for part in PARTS)
        }

    def _append(self, entry: Mapping[str, Any]) -> None:
        line = f"{json.dumps(entry)}\n".encode()
        try:
            self._file.seek(self._end)
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(self._end)
            raise OSError(f"cannot write to {self.path}: {error}. Make room on the disk, then go on") from error
        self._end += len(line)

    def _take(self, number: int, line: bytes) -> None:
        try:
            entry = json.loads(line)
            if "began" in entry:
                self._began = {name: entry[name] for name in ("model", "prompts")}
                self.in_flight = int(entry["workers"])
            elif "ended" in entry:
                self.in_flight = 0
            else:
                answer = Answer(**{field.name: entry[field.name] for field in fields(Answer)})
                self.answers.setdefault((answer.key, answer.part), []).append(answer)
        except (ValueError, LookupError, TypeError) as error:
            raise ConfigError(f"line {number} of {self.path} is damaged ({error!r}): remove it, then go on") from error


@contextmanager
def open_store(path: Path) -> Iterator[Store]:
    """The store in a file, which is made if there is none and goes if it stays empty, for one process alone.

    Raises: ConfigError if another process has it, or it is damaged; OSError if it cannot be read or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without a buffer, from which later might be written what could not be written before.
    with FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+") as raw:
        try:
            fcntl.flock(raw, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"another process writes to {path}: wait for its end or stop it, or give another --store"
            ) from error
        try:
            yield Store(path, raw)
        finally:
            if not os.fstat(raw.fileno()).st_size:
                path.unlink(missing_ok=True)
