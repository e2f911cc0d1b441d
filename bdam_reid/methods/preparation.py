"""What methods that read texts keep in a run folder besides weights: the tokenizer, and published encoders'
architectures."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from bdam_reid.captions.splitter import FUNCTION_WORDS
from bdam_reid.config import ConfigError, DataConfig
from bdam_reid.data.records import Dataset, DatasetError
from bdam_reid.data.tokens import WORDS, Tokenize, load_tokenizer, save_tokenizer, save_words, train_wordpiece
from bdam_reid.encoders.base import save_architecture
from bdam_reid.encoders.config import EFFICIENTNET, PREPARED, ImageEncoderConfig, TextEncoderConfig
from bdam_reid.encoders.efficientnet import save_efficientnet
from bdam_reid.encoders.hub import hub_or_cache

TOKENIZER, IMAGE, TEXT = PREPARED
PROMPT = "A photo of a person."
"""The form of what a CLIP is asked and tuned with; a CLIP from scratch reads it before some of its captions."""


def prepare(
    method: str, image: ImageEncoderConfig, text: TextEncoderConfig, data: DataConfig, dataset: Dataset, folder: Path
) -> None:
    """Write the tokenizer into a run folder: the text encoder's own, else one trained on the texts of the set; and the
    architectures of published encoders. What is there stays.

    Args:
        method: its name, for messages.
    Raises: ConfigError if the text encoder's tokenizer or a published encoder cannot be had; DatasetError for training
        images without a caption; OSError if they cannot be written.
    """
    if without := [record.key for record in dataset.train if not record.captions]:
        raise DatasetError(
            f"{method} learns from captions, and {len(without)} of {len(dataset.train)} training images of "
            f"{dataset} have none, such as {without[0]}: give --data.root a set with captions"
        )
    if not (folder / TOKENIZER / WORDS).exists():
        texts = [text for r in dataset.train for text in (*r.captions, *(r.texts or ()))]
        if not (folder / TOKENIZER).exists():
            _prepare_tokenizer(text, data.vocab_size, texts, folder / TOKENIZER)
        save_words(texts, folder / TOKENIZER)
    try:
        if image.pretrained == EFFICIENTNET:
            save_efficientnet(folder / IMAGE)
        else:
            save_architecture(image.pretrained, folder / IMAGE)
        save_architecture(text.pretrained or text.words, folder / TEXT)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _prepare_tokenizer(text: TextEncoderConfig, vocab_size: int, texts: list[str], folder: Path) -> None:
    """Write the text encoder's own tokenizer, else one trained on texts."""
    if name := text.pretrained or text.words:
        field = "pretrained" if text.pretrained else "words"
        save_tokenizer(pretrained_tokenizer(name, f"method.text.{field}"), folder)
    else:
        asked = [PROMPT, PROMPT] if text.kind == "clip" else []  # what comes once is not learnt as a whole
        train_wordpiece([*texts, *asked], vocab_size, folder)


def architecture(folder: Path | None, name: str) -> Path | None:
    """Where a run folder keeps the architecture of a published encoder; None where there is no folder, or the encoder
    is from scratch."""
    return folder / name if folder and (folder / name).exists() else None


def tokenize_of(text: TextEncoderConfig, data: DataConfig, folder: Path) -> Tokenize:
    """What makes tokens of texts in a prepared run folder. Raises: ConfigError if its tokenizer is not there or
    damaged."""
    if not (folder / TOKENIZER).is_dir():
        raise ConfigError(f"{folder} has no folder tokenizer, which training writes: copy the run with all its folders")
    try:
        return Tokenize(load_tokenizer(folder / TOKENIZER), data.max_tokens, words_left_out(text))
    except ValueError as error:
        raise ConfigError(
            f"{folder / TOKENIZER} must hold the tokenizer of the run, got: {error}. Delete that folder and give the "
            "command of its training again, which writes it anew"
        ) from error


def words_left_out(text: TextEncoderConfig) -> frozenset[str]:
    """Words that are not read."""
    return frozenset() if text.function_words else FUNCTION_WORDS


def pretrained_tokenizer(name: str, field: str = "method.text.pretrained") -> PreTrainedTokenizerBase:
    """The tokenizer of a published encoder, which a field of the config names. Raises: ConfigError."""
    try:
        with hub_or_cache(name) as source:
            return load_tokenizer(source)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the tokenizer of --{field} {name!r} could not be loaded ({error}): "
            "give a Hugging Face hub name (network or a filled cache needed) or a folder that holds one"
        ) from error
