"""A multimodal model that is asked for texts, wherever it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Reply:
    """What a model answered to a call that went through; what it cost, 0 where an endpoint does not say so."""

    content: str
    model: str
    input_tokens: int
    output_tokens: int
    seconds: float
    cut: bool = False
    """Whether it ended at the limit of tokens."""


class ModelError(OSError):
    """A model that will not answer any call."""


class CallError(RuntimeError):
    """A call that got no answer, while others may."""


class Model(Protocol):
    """Answers calls, several of which may be under way. An asynchronous context manager: what it holds open is closed
    at its end."""

    async def __aenter__(self) -> Model: ...

    async def __aexit__(self, *error: object) -> None: ...

    async def ask(self, messages: list[dict[str, Any]]) -> Reply:
        """The answer to what `prompts.messages` gives.

        Raises: CallError if there is none; ModelError if there will be none for any call.
        """
