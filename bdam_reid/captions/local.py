"""Calls to a multimodal model in this process: any that transformers knows as an image-text-to-text model.

Calls that are under way at a time are answered in one batch. Nothing holds such a model to JSON: an answer of another
form is rejected like any other fault.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any, NamedTuple, TypeAlias

import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoProcessor, BatchFeature

from bdam_reid.captions.model import CallError, ModelError, Reply
from bdam_reid.config import ConfigError
from bdam_reid.data.printable import printable
from bdam_reid.encoders.base import check_name
from bdam_reid.encoders.hub import hub_or_cache
from bdam_reid.engine.environment import find_device

Messages: TypeAlias = list[dict[str, Any]]


class _Call(NamedTuple):
    """A call under way."""

    messages: Messages
    reply: asyncio.Future[Reply]


class LocalModel:
    """Asks a model that lies in this process's memory, on the GPU where there is one. An asynchronous context manager.

    Args:
        name: its hub name or folder, which holds config.json, model.safetensors and what its processor needs.
        temperature: of sampling; 0 always takes the likeliest token, None leaves it to the model's own settings.
        max_tokens: of an answer, not None.
        stopped: whether no more calls shall be answered.
    Raises: ConfigError if it cannot be loaded, or has no limit of tokens.
    """

    def __init__(
        self, name: str, temperature: float | None, max_tokens: int | None, stopped: Callable[[], bool] = lambda: False
    ):
        if max_tokens is None:
            raise ConfigError("--max-tokens must be a number for a --local model, got None")
        self._name, self._stopped = name, stopped
        self._model, self._processor = _load(name, find_device("auto"))
        self._padding = self._processor.tokenizer.pad_token_id
        self._options = {"max_new_tokens": max_tokens, "pad_token_id": self._padding, **_sampling(temperature)}
        self._under_way: list[_Call] = []
        self._answering: asyncio.Task[None] | None = None

    async def __aenter__(self) -> LocalModel:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    async def ask(self, messages: Messages) -> Reply:
        """The answer to a call, together with all others that are asked before the model is free.

        Raises: CallError if memory does not suffice, or the work has been stopped; ModelError if the model cannot be
            asked so.
        """
        if self._stopped():
            raise CallError("stopped")
        call = _Call(messages, asyncio.get_running_loop().create_future())
        self._under_way.append(call)
        if self._answering is None:
            self._answering = asyncio.create_task(self._answer())
        return await call.reply

    async def _answer(self) -> None:
        """Answer all calls, until there are no more."""
        while self._under_way:
            calls, self._under_way = self._under_way, []
            try:
                replies = await asyncio.to_thread(self._replies, [call.messages for call in calls])
            except Exception as error:  # a model's own code may raise anything
                for call in calls:
                    call.reply.set_exception(self._explained(error, len(calls)))
            else:
                for call, reply in zip(calls, replies, strict=True):
                    call.reply.set_result(reply)
            # Whoever has got an answer asks the next question before this goes on.
            await asyncio.sleep(0)
        self._answering = None

    def _replies(self, batch: Sequence[Messages]) -> list[Reply]:
        began = time.monotonic()
        asked = self._read(batch)
        with torch.inference_mode():
            written = self._model.generate(**asked, **self._options)
        if not self._model.config.is_encoder_decoder:
            written = written[:, asked["input_ids"].shape[1] :]
        seconds = round(time.monotonic() - began, 3)
        contents = self._processor.batch_decode(written, skip_special_tokens=True)
        lengths = ((asked["input_ids"] != self._padding).sum(dim=1), (written != self._padding).sum(dim=1))
        counted = zip(contents, *(tokens.tolist() for tokens in lengths), strict=True)
        return [Reply(content, self._name, read, length, seconds) for content, read, length in counted]

    def _read(self, batch: Sequence[Messages]) -> BatchFeature:
        """What the model reads of calls: token ids (B, L), padded on the left, and pixels."""
        conversations = [_conversation(messages) for messages in batch]
        if self._processor.chat_template:
            texts = self._processor.apply_chat_template(conversations, add_generation_prompt=True, tokenize=False)
        else:
            texts = [_plain(conversation, self._processor) for conversation in conversations]
        start = self._processor.tokenizer.bos_token
        # A template may have written what the tokenizer would write again.
        once = {"add_special_tokens": False} if start and texts[0].startswith(start) else {}
        images = [[_picture(messages)] for messages in batch]
        read = self._processor(text=texts, images=images, padding=True, return_tensors="pt", **once)
        return read.to(self._model.device, self._model.dtype)

    def _explained(self, error: Exception, calls: int) -> Exception:
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return CallError(f"the device has too little memory for {calls} at a time: lower --workers")
        reason = printable(" ".join(f"{type(error).__name__}: {error}".split())[:300])
        return ModelError(f"{self._name} cannot be asked to describe an image ({reason}): give another --local")


def _sampling(temperature: float | None) -> dict[str, Any]:
    if temperature is None:
        return {}
    return {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}


def _load(name: str, device: torch.device) -> tuple[Any, Any]:
    """A model in evaluation mode, and its processor, which pads on the left."""
    try:
        check_name(name)
        with hub_or_cache(name) as source:
            processor: Any = AutoProcessor.from_pretrained(source, trust_remote_code=False)
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                source, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
        model, report = loaded
        if absent := sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"]))):
            raise ValueError(f"its file lacks {len(absent)} of its weights, {absent[0]} among them")
        if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
            raise ValueError(f"its processor, {type(processor).__name__}, does not read images with text")
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        reason = printable(" ".join(str(error).split())[:300]).rstrip(".")
        raise ConfigError(
            f"--local {name} could not be loaded ({reason}): give the hub name (needs network or a filled cache) or "
            "the folder of an image-text-to-text model of transformers, with its weights in model.safetensors"
        ) from error
    tokenizer = processor.tokenizer
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    # Most CPUs are many times slower in bfloat16, which files often have.
    return (model.float() if device.type == "cpu" else model).to(device).eval(), processor


def _conversation(messages: Messages) -> Messages:
    """Messages as chat templates take them. What the system says begins the user's message, since some templates take
    no system's beside an image."""
    system, asked, *later = messages
    words = f"{system['content']}\n\n{asked['content'][0]['text']}"
    first = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": words}]}
    return [first, *({**one, "content": [{"type": "text", "text": one["content"]}]} for one in later)]


def _plain(conversation: Messages, processor: Any) -> str:
    """A conversation for a model without a chat template."""
    words = [part["text"] for message in conversation for part in message["content"] if part["type"] == "text"]
    # Those that say where the image is by a word want it in the text; others bring it themselves.
    image = getattr(processor, "image_token", "")
    return "\n\n".join([image, *words] if isinstance(image, str) and image else words)


def _picture(messages: Messages) -> Image.Image:
    """The image of a call, out of its data URL."""
    url = messages[1]["content"][1]["image_url"]["url"]
    return Image.open(BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")
