"""Style embeddings: one vector of unit length for each masked caption (icme III-C, long 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from bdam_reid.captions.masking import mask
from bdam_reid.config import ConfigError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

HASHING = "hashing"
"""The encoder that needs no weights."""
BATCH = 64
DIMENSIONS = 32
"""Principal components of the vectors that are kept: densities and mixtures say little in more."""

Vectors = NDArray[np.float32]


def style_vectors(captions: Sequence[str], encoder: str = HASHING) -> Vectors:
    """The style embeddings of N captions, (N, D), D at most 32.

    Args:
        captions: one or more.
        encoder: "hashing" counts runs of one to three words, without any weights; else the hub name or folder of a
            CLIP text encoder or of a BERT, such as sentence-transformers/all-MiniLM-L6-v2, which comes with the extra
            `pretrained`.
    Raises: ConfigError if there is no such encoder.
    """
    masked = [mask(caption) for caption in captions]
    distinct = list(dict.fromkeys(masked))
    encoded = _hashed(distinct) if encoder == HASHING else _encoded(distinct, encoder)
    place = {text: at for at, text in enumerate(distinct)}
    return _reduced(encoded[[place[text] for text in masked]])


def _hashed(texts: Sequence[str]) -> Vectors:
    """Sentences of one build share their runs of words and marks, whatever fills them."""
    from sklearn.feature_extraction.text import HashingVectorizer

    hashing = HashingVectorizer(n_features=1 << 11, ngram_range=(1, 3), token_pattern=r"[\w'-]+|[,:.;!?]", norm=None)
    counts = hashing.transform(texts)
    counts.data = np.sign(counts.data) * np.log1p(np.abs(counts.data))
    return counts.toarray().astype(np.float32)


def _encoded(texts: Sequence[str], name: str) -> Vectors:
    import torch
    from transformers import BertModel, CLIPModel, CLIPTextModelWithProjection

    from bdam_reid.data.tokens import load_tokenizer
    from bdam_reid.encoders.base import load
    from bdam_reid.encoders.hub import hub_or_cache

    kinds = {"clip": CLIPModel, "clip_text_model": CLIPTextModelWithProjection, "bert": BertModel}
    try:
        model = load("style", name, kinds, None).eval()
        with hub_or_cache(name) as source:
            tokenizer = load_tokenizer(source)
    except ValueError as error:
        raise ConfigError(
            f"{error}. Or give --encoder {HASHING}, or sentence-transformers/all-MiniLM-L6-v2 after "
            "`pip install -e '.[pretrained]'`"
        ) from error
    config = getattr(model.config, "text_config", model.config)
    batches = range(0, len(texts), BATCH)
    rows = []
    for at in tqdm(batches, desc="encoding captions", unit="batch", disable=None, leave=False):
        read = tokenizer(
            list(texts[at : at + BATCH]),
            padding=True,
            truncation=True,
            max_length=config.max_position_embeddings,
            return_tensors="pt",
        )
        with torch.inference_mode():
            rows.append(_embed(model, read["input_ids"], read["attention_mask"]))
    return torch.cat(rows).float().numpy()


def _embed(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> Tensor:
    """Token ids and a mask (B, L) -> (B, D): the embedding that CLIP compares with images, or BERT's mean token."""
    from bdam_reid.encoders.text import masked_mean

    towers: Any = model
    if model.config.model_type == "clip":
        return towers.text_projection(towers.text_model(input_ids=ids, attention_mask=mask).pooler_output)
    output = towers(input_ids=ids, attention_mask=mask)
    if model.config.model_type == "clip_text_model":
        return output.text_embeds
    return masked_mean(output.last_hidden_state, mask.bool())


def _reduced(vectors: Vectors) -> Vectors:
    """The principal components of vectors (N, D), each row of unit length or 0."""
    from sklearn.decomposition import PCA

    if len(vectors) < 2:
        return np.zeros((len(vectors), 1), dtype=np.float32)
    most = min(DIMENSIONS, *vectors.shape)
    reduced = PCA(most, random_state=0).fit_transform(vectors).astype(np.float32)
    lengths = np.linalg.norm(reduced, axis=1, keepdims=True)
    return np.where(lengths > 1e-6, reduced / np.maximum(lengths, 1e-6), 0)
