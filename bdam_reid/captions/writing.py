"""Writes texts of images with a multimodal model: calls, validation, attempts, and what came of them."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from bdam_reid.captions.model import CallError, Model, ModelError
from bdam_reid.captions.prompts import PARTS, Part, data_url, digest, messages, style_of
from bdam_reid.captions.store import Answer, Store, now
from bdam_reid.captions.styles import Style
from bdam_reid.captions.validation import Fault, faults, read_answer
from bdam_reid.config import ConfigError

if TYPE_CHECKING:
    from bdam_reid.data.records import Record

IN_A_ROW = 10
"""Calls that are given up one after the other before the model is."""


@dataclass(frozen=True)
class Job:
    """A text that is to be written."""

    record: Record
    part: Part
    style: Style | None
    made: int
    """Attempts that an earlier process made."""


def jobs_of(records: Sequence[Record], styles: Sequence[Style], store: Store, attempts: int) -> list[Job]:
    """The texts that a store lacks, and for which attempts are left."""
    jobs = []
    for record in records:
        for part in PARTS:
            answers = store.answers.get((record.key, part), [])
            if len(answers) < attempts and not (answers and not answers[-1].faults):
                jobs.append(Job(record, part, style_of(record.key, styles), len(answers)))
    return jobs


class Writer:
    """Writes texts, several at a time, and adds all that is answered to a store.

    A call that gets no answer, and an image that cannot be read, are counted in `problems` and passed over. What would
    be so for every call ends the work: calls under way are awaited, and `error` says why.

    Args:
        store: where it is said already that calls follow.
        styles: those of the jobs.
        attempts: calls for a text, until one is answered well.
        workers: calls under way at a time.
        stopped: whether the work shall end early; calls under way are awaited.
    """

    def __init__(self, store: Store, styles: Sequence[Style], attempts: int, workers: int, stopped: Callable[[], bool]):
        self.problems: Counter[str] = Counter()
        self.error: Exception | None = None
        self.input_tokens = self.output_tokens = self.rejected = 0
        self.faults: dict[str, list[str]] = {}
        """What was wrong with answers, by kind."""
        self._store, self._prompts = store, digest(styles)
        self._attempts, self._workers, self._asked_to_stop = attempts, workers, stopped
        self.unanswered = 0
        """Texts whose calls were given up, which another process would ask for again."""
        self._given_up = 0  # calls in a row

    def write(self, jobs: Sequence[Job], model: Model) -> None:
        """Do all jobs; the model is closed then."""
        asyncio.run(self._write(jobs, model))

    async def _write(self, jobs: Sequence[Job], model: Model) -> None:
        with tqdm(total=len(jobs), desc="writing texts", unit="text", disable=None, smoothing=0.05) as bar:
            async with model:
                queue = iter(jobs)
                await asyncio.gather(*(self._work(model, queue, bar) for _ in range(self._workers)))

    async def _work(self, model: Model, queue: Iterator[Job], bar: tqdm) -> None:
        while not self.stopped() and (job := next(queue, None)):
            try:
                await self._finish(model, job)
                self._given_up = 0
            except CallError as error:
                if not self.stopped():
                    self._give_up(str(error))
            except OSError as error:
                self.error = self.error or error
            bar.update()
            bar.set_postfix(
                tokens=self.input_tokens + self.output_tokens, rejected=self.rejected, problems=self.problems.total()
            )

    async def _finish(self, model: Model, job: Job) -> None:
        """Ask until an answer is good, or no attempt is left."""
        from bdam_reid.data.images import ImageError

        try:
            image = data_url(job.record.path)
        except ImageError as error:
            self.problems[str(error)] += 1
            return
        while len(answers := self._store.answers.get((job.record.key, job.part), [])) < self._attempts:
            rejected = (answers[-1].answer, "; ".join(answers[-1].faults)) if answers else None
            reply = await model.ask(messages(job.part, job.style, image, rejected))
            text = read_answer(reply.content)
            found = faults(text, job.part)
            if found and reply.cut:
                found = [Fault("cut", "it was cut off at the limit of tokens (--max-tokens)")]
            self._store.add(
                Answer(
                    key=job.record.key,
                    part=job.part,
                    style=job.style.name if job.style else "",
                    attempt=len(answers) + 1,
                    answer=reply.content,
                    text=text,
                    faults=tuple(map(str, found)),
                    model=reply.model,
                    prompt=self._prompts,
                    input_tokens=reply.input_tokens,
                    output_tokens=reply.output_tokens,
                    seconds=reply.seconds,
                    time=now(),
                )
            )
            self.input_tokens += reply.input_tokens
            self.output_tokens += reply.output_tokens
            if not found:
                return
            self.rejected += 1
            for fault in found:
                self.faults.setdefault(fault.kind, []).append(fault.what)

    def _give_up(self, problem: str) -> None:
        self.problems[problem] += 1
        self.unanswered += 1
        self._given_up += 1
        if self._given_up >= IN_A_ROW:
            self.error = self.error or ModelError(
                f"{self._given_up} calls in a row got no answer, the last was {problem}. Give the same command again "
                "to go on when that is mended"
            )

    def stopped(self) -> bool:
        """Whether no call shall begin any more."""
        return self.error is not None or self._asked_to_stop()


def missing(records: Sequence[Record], store: Store) -> Counter[str]:
    """How many texts of images a store lacks, and why."""
    last = [store.answers.get((record.key, part), [])[-1:] for record in records for part in PARTS]
    return Counter(
        "have no answer that can be used" if answers else "have no answer"
        for answers in last
        if not answers or answers[0].faults
    )


def check_free(path: Path, store: Store) -> None:
    """Make the folder of a texts.json, before anything is paid for what could not be written then.

    Raises: ConfigError if the file holds texts that are not in the store, which would be lost, or nothing can be
        written into the folder; OSError if it cannot be made.
    """
    from bdam_reid.data.entries import read_object
    from bdam_reid.data.records import Findings

    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"--output must be in a folder that can be written to, got {path}: give another file")
    if not path.exists():
        return
    known = store.texts()
    foreign = sum(entry != known.get(key) for key, entry in read_object(path, Findings()).items())
    if foreign:
        raise ConfigError(
            f"{path} holds the texts of {foreign} images that do not come from {store.path}: move it away, or give "
            "--output another file"
        )
