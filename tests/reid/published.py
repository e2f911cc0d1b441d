"""Small published encoders with random weights, in the hub's format: whole pairs, tokenizers and all."""

from __future__ import annotations

import json
import string
from pathlib import Path

import torch
import transformers
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
VISION = SIZES | {"image_size": 32, "patch_size": 8}
START, END = "<|startoftext|>", "<|endoftext|>"
LETTERS = string.ascii_lowercase + string.digits + string.punctuation
MERGES = ("t h", "th e</w>", "m a", "ma n</w>", "r e", "re d</w>")


def write_clip(folder: Path, projection: int = 24, longest: int = 77, seed: int = 0) -> Path:
    """A CLIP with its tokenizer, whose word pieces are letters and a few words, the width of the shared space, how
    many tokens it reads, and a seed of the weights."""
    torch.manual_seed(seed)
    vocabulary = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), *(m.replace(" ", "") for m in MERGES), START, END]
    ids = {piece: number for number, piece in enumerate(vocabulary)}
    ends = {"bos_token_id": ids[START], "eos_token_id": ids[END], "pad_token_id": ids[END]}
    # The projection_dim of the parts is not that of the pair: it is what a published CLIP may state, and means nothing.
    config = transformers.CLIPConfig(
        vision_config=VISION,
        text_config=SIZES | ends | {"vocab_size": len(ids), "max_position_embeddings": longest},
        projection_dim=projection,
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]))
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": longest} | special)
    )
    write_processor(folder, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
    return folder


def write_siglip(folder: Path) -> Path:
    """A SigLIP, without a tokenizer; width 16 in the shared space."""
    torch.manual_seed(1)
    config = transformers.SiglipConfig(
        vision_config=VISION, text_config=SIZES | {"vocab_size": 40, "max_position_embeddings": 12}
    )
    transformers.SiglipModel(config).save_pretrained(folder)
    write_processor(folder, [0.5] * 3, [0.5] * 3)
    return folder


def write_processor(folder: Path, mean: list[float], std: list[float]) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": list(mean), "image_std": list(std)}))


def write_sentencepiece(folder: Path) -> Path:
    """SigLIP's kind of tokenizer, with a few word pieces; padding is the end of a text. Needs sentencepiece."""
    from sentencepiece import SentencePieceTrainer

    folder.mkdir(parents=True, exist_ok=True)
    learnt_from = ["the man in a red coat", "a woman with blue jeans", "the boy wears a green shirt and a hat"]
    with (folder / "spiece.model").open("wb") as file:
        SentencePieceTrainer.train(
            sentence_iterator=iter(50 * learnt_from), model_writer=file, vocab_size=40, hard_vocab_limit=False,
            pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
        )  # fmt: skip
    special = {"pad_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "SiglipTokenizer", "model_max_length": 12} | special)
    )
    return folder
