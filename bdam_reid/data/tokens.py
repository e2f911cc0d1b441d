"""Texts to token ids: a WordPiece vocabulary trained on captions, and padding to batches."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from sys import getsizeof
from threading import Lock

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

_SPECIAL = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
REMEMBERED = 1 << 29
"""Bytes of texts and tokens that are kept, about; a set has fewer, a server that is asked forever has not."""
_OF_A_TOKEN = 36
"""Bytes: a number, and its place in a list."""
_LONG_WORD = re.compile(r"\S{101,}")
"""Unknown to the tokenizer, and learning from it takes time quadratic in its length."""
WORD = re.compile(r"[^\W\d_]+")
"""Letters of a text that belong together."""
WORDS = "words.txt"
"""File of a tokenizer's folder with the words of the texts that were learnt from, sorted, a line each."""
_normaliser = normalizers.BertNormalizer(lowercase=True)


def train_wordpiece(captions: Iterable[str], vocab_size: int, path: Path) -> PreTrainedTokenizerFast:
    """Train a BERT-style lower-case WordPiece tokenizer and save it to the folder `path`, whole or not at
    all.

    The same captions give the same vocabulary. `load_tokenizer` reads the folder back.

    Args:
        captions: training captions.
        vocab_size: most entries of the vocabulary, [PAD], [UNK], [CLS], [SEP] and [MASK] among them; all
            letters are in it, even if these alone are more.
    """
    texts = [_LONG_WORD.sub("", caption) for caption in captions]
    learner = _wordpiece({})
    text = _normaliser.normalize_str(" ".join(texts))
    # The trainer numbers the letters that continue a word in an order that differs from run to run, and
    # breaks ties by these numbers: fixing them first makes the vocabulary reproducible.
    letters = sorted({letter for letter in text if not letter.isspace()})
    first = [*_SPECIAL.values(), *(f"##{letter}" for letter in letters)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=first, show_progress=False, min_frequency=2
    )
    learner.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=_wordpiece(learner.get_vocab()), **_SPECIAL)
    save_tokenizer(wrapped, path)
    return wrapped


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Save a tokenizer to the folder `path`, whole or not at all. Raises: OSError if it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        tokenizer.save_pretrained(temporary)
        shutil.rmtree(path, ignore_errors=True)
        temporary.replace(path)
    except Exception as error:  # which the library raises as it is, for a full disk
        raise OSError(f"cannot save the tokenizer to {path}: {error}. Make room on the disk") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def save_words(texts: Iterable[str], folder: Path) -> None:
    """Write the words of texts to `words.txt` in a tokenizer's folder. Raises: OSError if it cannot be written."""
    words = {word.lower() for text in texts for word in WORD.findall(text)}
    temporary = folder / f"{WORDS}.tmp"
    temporary.write_text("".join(f"{word}\n" for word in sorted(words)), encoding="utf-8")
    temporary.replace(folder / WORDS)


def _wordpiece(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = _normaliser
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    if vocabulary:
        ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
        tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer


def load_tokenizer(source: Path | str) -> PreTrainedTokenizerBase:
    """A tokenizer from a folder (one of `train_wordpiece`, or of a pre-trained encoder) or a hub name.

    Raises: ValueError if there is none, it is damaged, it cannot pad, or a package that it takes is not installed.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(source))
    except Exception as error:
        # Of damaged files the library raises anything, Exception itself among it.
        reason = str(error).strip() or type(error).__name__
        if isinstance(error, ImportError) and "sentencepiece" in reason.lower():
            reason = "it takes the package sentencepiece: pip install -e '.[pretrained]'"
        raise ValueError(reason.splitlines()[0].rstrip(".")) from error
    if tokenizer.pad_token_id is None:
        raise ValueError("it has no token for padding")
    return tokenizer


class Tokenize:
    """Turns texts into token ids, (B, L) int64, and a mask, (B, L) bool, True where there is a token.

    L is the length of the longest text in tokens, at most `max_tokens`; longer texts are cut. Words of `left_out` are
    not read, unless a text has no others. Texts come back in every epoch, so their tokens are remembered. Threads may
    share one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_tokens: int, left_out: AbstractSet[str] = frozenset()):
        if max_tokens < 3:
            raise ValueError(f"max_tokens must be at least 3 ([CLS], a word, [SEP]), got {max_tokens}")
        self.vocab_size, self.pad_id = len(tokenizer), int(tokenizer.pad_token_id)
        self._tokenizer, self._max_tokens, self._left_out = tokenizer, max_tokens, left_out
        self._known: dict[str, list[int]] = {}
        self._bytes = 0
        self._lock = Lock()

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        with self._lock:
            rows = self._rows(texts)
        length = max(map(len, rows))
        ids = torch.tensor([row + [self._tokenizer.pad_token_id] * (length - len(row)) for row in rows])
        lengths = torch.tensor([len(row) for row in rows])
        return ids, torch.arange(length) < lengths[:, None]

    def _rows(self, texts: Sequence[str]) -> list[list[int]]:
        if self._bytes > REMEMBERED:
            self._known.clear()
            self._bytes = 0
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            read = [self._without(text) for text in new] if self._left_out else new
            tokens = self._tokenizer(read, truncation=True, max_length=self._max_tokens)["input_ids"]
            self._known.update(zip(new, tokens, strict=True))
            self._bytes += sum(map(getsizeof, new)) + _OF_A_TOKEN * sum(map(len, tokens))
        return [self._known[text] for text in texts]

    def _without(self, text: str) -> str:
        """A text without the words that are left out; as it is if nothing else is in it."""
        kept = [word for word in text.split() if word.lower().strip(",.;:") not in self._left_out]
        return " ".join(kept) or text
