"""Makes the parts of a run from its config, with errors that speak of the config."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from bdam_reid.config import Config, ConfigError
from bdam_reid.data import Record, load_tokenizer, train_wordpiece
from bdam_reid.models import BDAMReID


def make_accelerator(config: Config) -> Accelerator:
    """Device and precision; on a CPU only algorithms that give the same bits every time.

    Raises: ConfigError for a precision that the device has not, or several processes.
    """
    precision = config.optim.mixed_precision
    if precision == "fp16" and not torch.cuda.is_available():
        raise ConfigError("--optim.mixed-precision fp16 needs a GPU: take bf16 or no")
    accelerator = Accelerator(mixed_precision=precision)
    if accelerator.num_processes > 1:
        raise ConfigError(
            f"training runs in one process, got {accelerator.num_processes}: start it without a launcher"
        )
    if accelerator.device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return accelerator


def make_tokenizer(config: Config, run: Path, records: Sequence[Record]) -> PreTrainedTokenizerBase:
    """The run's tokenizer: the one in its folder, else the text encoder's own, else one trained on `records`.

    Raises: ConfigError if the text encoder's cannot be loaded.
    """
    folder = run / "tokenizer"
    if folder.exists():
        return load_tokenizer(folder)
    if not config.text.pretrained:
        texts = [text for r in records for text in (*r.captions, r.identity_text, r.clothing_text) if text]
        return train_wordpiece(texts, config.data.vocab_size, folder)
    try:
        tokenizer = load_tokenizer(config.text.pretrained)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ConfigError(
            f"the tokenizer of --text.pretrained {config.text.pretrained!r} could not be loaded ({reason}): "
            "give a Hugging Face hub name (network or a filled cache needed) or a folder that holds one"
        ) from error
    temporary = run / "tokenizer.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    tokenizer.save_pretrained(temporary)
    os.replace(temporary, folder)
    return tokenizer


def make_model(config: Config, vocab_size: int) -> BDAMReID:
    """The model of a config. Raises: ConfigError if it cannot be built or its encoders cannot be loaded."""
    try:
        return BDAMReID(config, vocab_size)
    except ValueError as error:
        raise ConfigError(str(error)) from error
