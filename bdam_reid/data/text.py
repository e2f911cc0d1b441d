"""Texts to token ids: a WordPiece vocabulary trained on captions, and padding to batches."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

_SPECIAL = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}


def train_wordpiece(captions: Iterable[str], vocab_size: int, path: Path) -> PreTrainedTokenizerFast:
    """Train a BERT-style lower-case WordPiece tokenizer and save it to the folder `path`, whole or not at
    all.

    The same captions give the same vocabulary. `load_tokenizer` reads the folder back.

    Args:
        captions: training captions.
        vocab_size: most entries of the vocabulary, [PAD], [UNK], [CLS], [SEP] and [MASK] among them; rare
        characters may make it
            larger.
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=list(_SPECIAL.values()), show_progress=False, min_frequency=2
    )
    tokenizer.train_from_iterator(captions, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_SPECIAL)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        wrapped.save_pretrained(temporary)
        shutil.rmtree(path, ignore_errors=True)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return wrapped


def load_tokenizer(source: Path | str) -> PreTrainedTokenizerBase:
    """A tokenizer from a folder (one of `train_wordpiece`, or of a pre-trained encoder) or a hub name."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(source))
    return tokenizer


class Tokenize:
    """Turns texts into token ids, (B, L) int64, and a mask, (B, L) bool, True where there is a token.

    L is the length of the longest text in tokens, at most `max_tokens`; longer texts are cut.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_tokens: int):
        if max_tokens < 3:
            raise ValueError(f"max_tokens must be at least 3 ([CLS], a word, [SEP]), got {max_tokens}")
        self._tokenizer, self._max_tokens = tokenizer, max_tokens

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        tokens = self._tokenizer(
            list(texts), padding="longest", truncation=True, max_length=self._max_tokens, return_tensors="pt"
        )
        return tokens["input_ids"].to(torch.int64), tokens["attention_mask"].bool()
