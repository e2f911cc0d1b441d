"""Text encoders from transformers: pre-trained ones by name or folder, or small ones from sizes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel, PreTrainedModel

from bdam_reid.encoders.base import TEXT_MODELS, Encoder, load, sizes
from bdam_reid.encoders.config import TextEncoderConfig


class TextEncoder(Encoder):
    """BERT that gives all its tokens, special ones included.

    Args:
        config: what to load or build.
        vocab_size: number of word pieces of the tokenizer.
        max_tokens: length of the longest text in word pieces.
        architecture: folder of `save_architecture`, of the encoder or of the word vectors, if there is one and the
            weights will come from a checkpoint.
    Raises: ValueError if the encoder cannot be loaded, or is too small for the tokenizer or the texts.
    """

    def __init__(
        self, config: TextEncoderConfig, vocab_size: int, max_tokens: int, architecture: Path | None = None
    ) -> None:
        name, words = config.pretrained or config.words, None
        model = load("text", name, TEXT_MODELS, architecture) if name else _bert(config, vocab_size, max_tokens)
        known = model.config.vocab_size
        if config.words and not config.pretrained:
            words, model = WordVectors(model, config), _bert(config, 1, max_tokens)
        super().__init__(model, config.frozen)
        self.words = words
        longest = model.config.max_position_embeddings
        if known < vocab_size:
            raise ValueError(
                f"text encoder {name!r} knows {known} word pieces: use its tokenizer, got one of {vocab_size}"
            )
        if longest < max_tokens:
            raise ValueError(
                f"text encoder {name!r} reads {longest} word pieces: max_tokens must fit, got {max_tokens}"
            )

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids (B, L), mask (B, L) bool, True = real token -> tokens (B, L, width)."""
        read = {"input_ids": ids} if self.words is None else {"inputs_embeds": self.words(ids)}
        return self.model(**read, attention_mask=mask).last_hidden_state


class WordVectors(nn.Module):
    """The word vectors of a published BERT, frozen and normalised, projected to the width of an encoder from scratch.

    Noise in training keeps the encoder from telling words apart that mean the same.
    """

    table: Tensor

    def __init__(self, published: PreTrainedModel, config: TextEncoderConfig) -> None:
        super().__init__()
        vectors = published.get_parameter("embeddings.word_embeddings.weight").detach()
        # Half precision: the table is most of a checkpoint.
        self.register_buffer("table", F.layer_norm(vectors, vectors.shape[1:]).half())
        self.project = nn.Linear(vectors.shape[1], config.width)
        self.noise = config.noise

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, L) -> (B, L, width)."""
        vectors = self.table[ids].to(self.project.weight.dtype)
        if self.training and self.noise:
            vectors = vectors + self.noise * torch.randn_like(vectors)
        return self.project(vectors)


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean of tokens (B, L, D) where mask (B, L) is True; 0 for a row without any."""
    weights = mask.to(tokens.dtype)
    return torch.einsum("bld,bl->bd", tokens, weights) / weights.sum(dim=1, keepdim=True).clamp(min=1)


def _bert(config: TextEncoderConfig, vocab_size: int, max_tokens: int) -> PreTrainedModel:
    return BertModel(
        BertConfig(
            **sizes("text", config),
            vocab_size=vocab_size,
            max_position_embeddings=max_tokens,
            # Dropout of attention weights would rule out the fused attention kernels of the CPU.
            attention_probs_dropout_prob=0.0,
        ),
        add_pooling_layer=False,
    )
