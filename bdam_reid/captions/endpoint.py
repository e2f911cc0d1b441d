"""Calls to a multimodal model behind any endpoint that speaks OpenAI's protocol: ChatGPT, vLLM, Ollama and others.

How often a call is repeated, and when, is decided here; the client library's own retries are off. A call that the
endpoint turns away (429, 5xx) or that breaks off is repeated after a growing pause, or after the one that the endpoint
asks for; the latter all calls keep.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Annotated, Any
from urllib.parse import urlsplit

from bdam_reid.captions.model import CallError, ModelError, Reply
from bdam_reid.captions.prompts import SCHEMA
from bdam_reid.config import ConfigError, Range
from bdam_reid.data.printable import printable

OPENAI = "https://api.openai.com/v1"
KEY = "OPENAI_API_KEY"
"""Environment variable of the key, which is given nowhere else."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before a call is repeated, doubled each time."""
LONGEST_WAIT = 3600.0
"""Seconds that an endpoint may ask to wait."""
_HOPELESS = {
    401: f"the key in {KEY} is not accepted",
    402: "it wants to be paid",
    403: f"the key in {KEY} may not use this",
    404: "there is no such model or address: look at --model and --url",
}
"""What no repetition mends."""


@dataclass(frozen=True)
class EndpointConfig:
    """Which model answers, and how it is asked."""

    model: str = ""
    """Its name at the endpoint, such as gpt-4o."""
    url: str | None = None
    """Of the endpoint, OpenAI's if it is not given; vLLM's is http://HOST:8000/v1, Ollama's http://HOST:11434/v1. The
    key is read from the environment variable OPENAI_API_KEY."""
    temperature: float | None = 0.7
    """None leaves it to the endpoint, or to a local model's own settings."""
    max_tokens: int | None = 300
    """Of an answer; None leaves it to the endpoint."""
    timeout: Annotated[float, Range(0.01)] = 120.0
    """Seconds for a call, from its beginning to the last byte of its answer."""
    retries: Annotated[int, Range(0)] = 6
    """How often a call that the endpoint turned away or broke off is repeated before it is given up."""
    requests_per_minute: float = 0.0
    """Calls that may begin in a minute; 0 is no limit."""


class Endpoint:
    """Asks a model. An asynchronous context manager: the connections are closed at its end.

    Args:
        config: which, and how.
        stopped: whether no more calls shall be made; looked at while waiting.
    Raises: ConfigError if it cannot be asked: no client library, no key, no such URL.
    """

    def __init__(self, config: EndpointConfig, stopped: Callable[[], bool] = lambda: False):
        self._config, self._stopped = config, stopped
        self._client = _client(config)
        self._next = 0.0  # when the next call may begin, by the clock

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.close()

    async def ask(self, messages: list[dict[str, Any]]) -> Reply:
        """The answer to a call, repeated as often as the config allows.

        Raises: CallError if there is none, or the work has been stopped; ModelError if there will be none for any.
        """
        pause = FIRST_PAUSE
        for attempt in range(self._config.retries + 1):
            if attempt:
                await self._wait(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, LONGEST_PAUSE)
            await self._turn()
            try:
                return await self._call(messages)
            except _Again as again:
                problem = str(again)
                self._next = max(self._next, time.monotonic() + again.after)
        raise CallError(f"given up after {self._config.retries + 1} calls, the last of which ended so: {problem}")

    async def _call(self, messages: list[dict[str, Any]]) -> Reply:
        import openai

        options: dict[str, Any] = {"temperature": self._config.temperature, "max_tokens": self._config.max_tokens}
        options = {name: value for name, value in options.items() if value is not None}
        began = time.monotonic()
        try:
            call = self._client.chat.completions.create(
                model=self._config.model, messages=messages, response_format=SCHEMA, **options
            )
            # The library's own limit is between two bytes: an endpoint that sends one now and then would hold us.
            answer = await asyncio.wait_for(call, self._config.timeout)
        except openai.APIStatusError as error:
            raise _turned_away(error.status_code, error.message, error.response.headers) from error
        except (asyncio.TimeoutError, openai.APITimeoutError) as error:
            raise _Again(f"no whole answer within {self._config.timeout:g} s") from error
        except (openai.APIError, ValueError, RecursionError) as error:
            raise _Again(f"{error} ({error.__cause__ or type(error).__name__})") from error
        return _read(answer, time.monotonic() - began)

    async def _turn(self) -> None:
        """Wait until this call may begin."""
        await self._wait(0)
        while (wait := self._next - time.monotonic()) > 0:
            await self._wait(wait)
        rate = self._config.requests_per_minute
        self._next = time.monotonic() + (60 / rate if rate else 0.0)

    async def _wait(self, seconds: float) -> None:
        """Sleep. Raises: CallError as soon as the work is stopped."""
        until = time.monotonic() + seconds
        while not self._stopped():
            if (left := until - time.monotonic()) <= 0:
                return
            await asyncio.sleep(min(left, 0.2))
        raise CallError("stopped")


class _Again(Exception):
    """A call that may be repeated, after so many seconds at the earliest."""

    def __init__(self, problem: str, after: float = 0.0):
        super().__init__(printable(problem))
        self.after = after


def _client(config: EndpointConfig) -> Any:
    try:
        import openai
    except ImportError as error:
        raise ConfigError("writing texts needs `pip install -e '.[captions]'`") from error
    address = OPENAI if config.url is None else config.url
    url = urlsplit(address)
    if url.scheme not in ("http", "https") or not url.hostname or url.username or url.query:
        raise ConfigError(f"--url must be http(s)://HOST[:PORT]/PATH, without a key in it, got one of {url.hostname}")
    key = os.environ.get(KEY, "").strip()
    if not key and url.hostname == "api.openai.com":
        raise ConfigError(f"{url.hostname} wants a key: set the environment variable {KEY}")
    if not key.isascii() or not key.isprintable():
        raise ConfigError(f"the environment variable {KEY} must be one line of ASCII: copy the key again")
    return openai.AsyncOpenAI(base_url=address, api_key=key or "none", max_retries=0, timeout=config.timeout)


def _turned_away(status: int, message: str, headers: Mapping[str, str]) -> Exception:
    """What a status other than 200 means: an error to raise."""
    said = f"status {status}: {printable(' '.join(message.split())[:300])}"
    if status in _HOPELESS or "insufficient_quota" in message:
        return ModelError(f"the endpoint answers no call: {_HOPELESS.get(status, 'the quota is used up')} ({said})")
    if status in (408, 409, 429) or status >= 500:
        return _Again(said, _seconds(headers.get("retry-after", "")))
    return CallError(said)


def _seconds(after: str) -> float:
    """Seconds that a Retry-After header asks to wait, which is a number or a date; 0 if it is neither."""
    try:
        asked = float(after)
    except ValueError:
        try:
            asked = parsedate_to_datetime(after).timestamp() - time.time()
        except ValueError:
            return 0.0
    return min(max(0.0, asked), LONGEST_WAIT)


def _read(answer: Any, seconds: float) -> Reply:
    """The parts of an answer. A server may call anything a success.

    Raises: _Again if it is of another form.
    """
    try:
        choice = answer.choices[0]
        message, cut = choice.message, getattr(choice, "finish_reason", None) == "length"
        content = message.content or getattr(message, "refusal", None) or ""
        used = (_tokens(answer, "prompt_tokens"), _tokens(answer, "completion_tokens"))
        return Reply(str(content), str(answer.model), *used, round(seconds, 3), cut)
    except (AttributeError, IndexError, TypeError) as error:
        raise _Again(f"an answer of another form than OpenAI's ({type(error).__name__})") from error


def _tokens(answer: Any, name: str) -> int:
    """How many an answer says that it took; 0 if it says nothing that can be read, for which no answer that is paid is
    asked for again."""
    try:
        return max(0, int(getattr(answer.usage, name)))
    except (AttributeError, TypeError, ValueError, OverflowError):
        return 0
