"""Text encoders from transformers: pre-trained ones by name or folder, or small ones from sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedModel,
    SiglipTextModel,
)

from bdam_reid.encoders.base import (
    PROJECTED_TEXT_MODELS,
    TEXT_MODELS,
    WORD_MODELS,
    Encoded,
    Encoder,
    load,
    sizes,
)
from bdam_reid.encoders.config import TextEncoderConfig

GROUPS = 4
"""Of the texts of a batch, by length."""


class TextEncoder(Encoder):
    """Text transformer that gives all its tokens, special ones included.

    Its global feature is the token that has read the whole text: BERT's first one, CLIP's last one, which ends the
    text, and of SigLIP, which reads texts padded to its full length, what its head makes of the last place. Projected,
    CLIP's tokens and global feature are both after its projection; SigLIP's head is its projection, and the tokens
    stay as they are.

    Args:
        config: what to load or build.
        vocab_size: number of word pieces of the tokenizer.
        max_tokens: length of the longest text in word pieces.
        architecture: folder of `save_architecture`, of the encoder or of the word vectors, if there is one and the
            weights will come from a checkpoint.
        pad_id: the word piece that fills texts up.
    Raises: ValueError if the encoder cannot be loaded, or is too small for the tokenizer or the texts.
    """

    def __init__(
        self,
        config: TextEncoderConfig,
        vocab_size: int,
        max_tokens: int,
        architecture: Path | None = None,
        pad_id: int = 0,
    ) -> None:
        name, words = config.pretrained or config.words, None
        models = PROJECTED_TEXT_MODELS if config.projected else TEXT_MODELS if config.pretrained else WORD_MODELS
        scratch = _clip if config.kind == "clip" else _bert
        model = load("text", name, models, architecture) if name else scratch(config, vocab_size, max_tokens)
        known = model.config.vocab_size
        if config.words and not config.pretrained:
            words, model = WordVectors(model, config), _bert(config, 1, max_tokens)
        width = model.config.hidden_size
        if isinstance(model, CLIPTextModelWithProjection):
            width = model.config.projection_dim
        features = model.config.projection_size if isinstance(model, SiglipTextModel) else width
        super().__init__(model, width, config.frozen, features)
        self.pad_id = pad_id
        self.words = words
        longest: int = model.config.max_position_embeddings
        self.longest = longest
        if known < vocab_size:
            raise ValueError(
                f"text encoder {name!r} knows {known} word pieces: use its tokenizer, got one of {vocab_size}"
            )
        if longest < max_tokens:
            raise ValueError(
                f"text encoder {name!r} reads {longest} word pieces: max_tokens must fit, got {max_tokens}"
            )

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids (B, L), mask (B, L) bool, True = real token, padded on the right -> tokens (B, L, width).

        A CPU, which would compute the padding too, reads texts of about one length together; a graph, which depends on
        no lengths, does not.
        """
        if isinstance(self.model, SiglipTextModel):
            return self._read_padded(ids).tokens
        if torch.compiler.is_exporting() or ids.device.type != "cpu" or len(ids) < 2 * GROUPS:
            return self._read(ids, mask)
        lengths, width = mask.sum(dim=1), ids.shape[1]
        order = lengths.argsort(stable=True)
        read = []
        for rows in order.chunk(GROUPS):
            longest = max(1, int(lengths[rows].max()))
            tokens = self._read(ids[rows, :longest], mask[rows, :longest])
            read.append(F.pad(tokens, (0, 0, 0, width - longest)))
        return torch.cat(read).index_select(0, order.argsort())

    def encode(self, ids: Tensor, mask: Tensor) -> Encoded:
        """As `forward` reads them -> tokens (B, L, width), and global features (B, features)."""
        if isinstance(self.model, SiglipTextModel):
            return self._read_padded(ids)
        tokens = self(ids, mask)
        place = 0 if isinstance(self.model, BertModel) else mask.sum(dim=1) - 1
        return Encoded(tokens, tokens[torch.arange(ids.shape[0], device=ids.device), place])

    def encode_each(self, texts: Sequence[tuple[Tensor, Tensor]]) -> list[Encoded]:
        """Batches of texts, ids and mask of each, with a length L of its own -> what `encode` gives of each.

        A GPU waits for the host to launch what it computes: it reads all of them in one pass, the shorter ones padded.
        """
        if torch.compiler.is_exporting() or texts[0][0].device.type == "cpu":
            return [self.encode(ids, mask) for ids, mask in texts]
        return self._encode_joined(texts)

    def _encode_joined(self, texts: Sequence[tuple[Tensor, Tensor]]) -> list[Encoded]:
        rows, lengths = zip(*(ids.shape for ids, _ in texts), strict=True)
        longest = max(lengths)
        ids = torch.cat([F.pad(ids, (0, longest - ids.shape[1]), value=self.pad_id) for ids, _ in texts])
        mask = torch.cat([F.pad(mask, (0, longest - mask.shape[1])) for _, mask in texts])
        tokens, pooled = (x.split(rows) for x in self.encode(ids, mask))
        return [Encoded(x[:, :length], own) for x, length, own in zip(tokens, lengths, pooled, strict=True)]

    def _read(self, ids: Tensor, mask: Tensor) -> Tensor:
        read = {"input_ids": ids} if self.words is None else {"inputs_embeds": self.words(ids)}
        tokens = self.model(**read, attention_mask=mask).last_hidden_state
        if isinstance(self.model, CLIPTextModelWithProjection):
            return self.model.text_projection(tokens)
        return tokens

    def _read_padded(self, ids: Tensor) -> Encoded:
        """As SigLIP was trained: with padding to the end, which is read too."""
        length = ids.shape[1]
        output = self.model(input_ids=F.pad(ids, (0, self.longest - length), value=self.pad_id))
        return Encoded(output.last_hidden_state[:, :length], output.pooler_output)


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


def _clip(config: TextEncoderConfig, vocab_size: int, max_tokens: int) -> PreTrainedModel:
    kind = CLIPTextModelWithProjection if config.projected else CLIPTextModel
    return kind(
        CLIPTextConfig(
            **sizes("text", config),
            vocab_size=vocab_size,
            max_position_embeddings=max_tokens,
            projection_dim=config.width,
            hidden_act="gelu",
            # The end of a text is where its mask ends.
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
    )
