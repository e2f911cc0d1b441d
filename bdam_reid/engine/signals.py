"""What SIGINT, SIGTERM and SIGHUP do to a command. Nothing heavy is imported: an import can be interrupted too."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, TypeAlias

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Handler: TypeAlias = Callable[[int, FrameType | None], object]


class Interrupted(KeyboardInterrupt):
    """A signal that ends the process came; `number` says which."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def handled_by(handler: Handler) -> Iterator[None]:
    """Let `handler` take the signals, but for those that are ignored, as `nohup` has it. Python lets the main thread do
    so only; in others nothing changes."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        wanted = (number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN)
        before = {number: signal.signal(number, handler) for number in wanted}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)


def leave(number: int, frame: FrameType | None = None) -> NoReturn:
    """A handler that ends the process at once, with one line: where nothing is lost, or nobody would wait."""
    _say(f"interrupted by {signal.Signals(number).name}")
    os._exit(128 + number)


def interrupt(number: int, frame: FrameType | None = None) -> NoReturn:
    """A handler that raises Interrupted."""
    raise Interrupted(number)


class Interruption:
    """A handler for work that must not end in the middle: the first signal is kept in `number` until someone asks, or
    raises Interrupted in `awaited`; a second one ends the process at once."""

    def __init__(self) -> None:
        self.number = 0
        self._awaited = False

    @property
    def came(self) -> bool:
        """Whether there was a signal."""
        return self.number != 0

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        """Take a signal."""
        if self.came:
            leave(number)
        self.number = number
        _say(f"{signal.Signals(number).name}: saving, then leaving; one more signal ends the process at once")
        if self._awaited:
            raise Interrupted(number)

    def raise_if_any(self) -> None:
        """Raise Interrupted if there was a signal."""
        if self.came:
            raise Interrupted(self.number)

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Where a signal, or one that came before, raises Interrupted at once."""
        self._awaited = True
        try:
            self.raise_if_any()
            yield
        finally:
            self._awaited = False


def _say(line: str) -> None:
    # A handler may come while a stream is being written to, and these refuse a second writer. On a line of its own: a
    # progress bar may stand there.
    os.write(2, f"\n{line}\n".encode())
