"""Image and text encoders from transformers: pre-trained ones by name or folder, or small ones from sizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    BertConfig,
    BertModel,
    CLIPVisionModel,
    PreTrainedModel,
    ViTConfig,
    ViTModel,
)
from transformers.utils import logging

from bdam_reid.config import EncoderConfig

IMAGE_MODELS: Mapping[str, type[PreTrainedModel]] = {
    "vit": ViTModel,
    "clip": CLIPVisionModel,
    "clip_vision_model": CLIPVisionModel,
}
TEXT_MODELS: Mapping[str, type[PreTrainedModel]] = {"bert": BertModel}
WITH_POOLER: tuple[type[PreTrainedModel], ...] = (ViTModel, BertModel)


class _Encoder(nn.Module):
    def __init__(self, model: PreTrainedModel, frozen: bool) -> None:
        super().__init__()
        self.model = model
        self.frozen = frozen
        self.width: int = model.config.hidden_size
        if frozen:
            self.model.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> _Encoder:
        super().train(mode and not self.frozen)
        return self


class ImageEncoder(_Encoder):
    """Vision transformer that gives the patch tokens, without [CLS].

    A pre-trained encoder sees images of another size than its own through interpolated position embeddings.

    Args:
        config: what to load or build.
        image_size: (height, width) of the images in pixels.
    Raises: ValueError if the encoder cannot be loaded, or the images do not fit it.
    """

    def __init__(self, config: EncoderConfig, image_size: tuple[int, int]) -> None:
        name = config.pretrained
        model = _load("image", name, IMAGE_MODELS) if name else _vit(config, image_size)
        super().__init__(model, config.frozen)
        patch, native = _pair(model.config.patch_size), _pair(model.config.image_size)
        rows, columns = image_size[0] // patch[0], image_size[1] // patch[1]
        if rows == 0 or columns == 0:
            raise ValueError(f"images (height, width) must hold a patch of {patch}, got {image_size}")
        self.patches = rows * columns
        self.interpolate = image_size != native
        if self.interpolate and (native[0] != native[1] or patch[0] != patch[1]):
            raise ValueError(
                f"image encoder {name!r} is made for images of {native} in patches of {patch}, and only "
                f"square ones can be used at another size: set the image size to that, got {image_size}"
            )

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W), normalised -> patch tokens (B, L, width), row by row."""
        output = self.model(pixel_values=images, interpolate_pos_encoding=self.interpolate)
        return output.last_hidden_state[:, -self.patches :]


class TextEncoder(_Encoder):
    """BERT that gives all its tokens, special ones included.

    Args:
        config: what to load or build.
        vocab_size: number of word pieces of the tokenizer.
        max_tokens: length of the longest text in word pieces.
    Raises: ValueError if the encoder cannot be loaded, or is too small for the tokenizer or the texts.
    """

    def __init__(self, config: EncoderConfig, vocab_size: int, max_tokens: int) -> None:
        name = config.pretrained
        model = _load("text", name, TEXT_MODELS) if name else _bert(config, vocab_size, max_tokens)
        super().__init__(model, config.frozen)
        known, longest = model.config.vocab_size, model.config.max_position_embeddings
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
        return self.model(input_ids=ids, attention_mask=mask).last_hidden_state


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean of tokens (B, L, D) where mask (B, L) is True; 0 for a row without any."""
    weights = mask.to(tokens.dtype)
    return torch.einsum("bld,bl->bd", tokens, weights) / weights.sum(dim=1, keepdim=True).clamp(min=1)


def _vit(config: EncoderConfig, image_size: tuple[int, int]) -> PreTrainedModel:
    return ViTModel(
        ViTConfig(
            **_sizes("image", config),
            image_size=image_size,
            patch_size=(config.patch_height, config.patch_width),
        ),
        add_pooling_layer=False,
    )


def _bert(config: EncoderConfig, vocab_size: int, max_tokens: int) -> PreTrainedModel:
    return BertModel(
        BertConfig(
            **_sizes("text", config),
            vocab_size=vocab_size,
            max_position_embeddings=max_tokens,
            # Dropout of attention weights would rule out the fused attention kernels of the CPU.
            attention_probs_dropout_prob=0.0,
        ),
        add_pooling_layer=False,
    )


def _sizes(kind: str, config: EncoderConfig) -> dict[str, Any]:
    if config.width % config.heads:
        raise ValueError(f"{kind} encoder's heads must divide its width {config.width}, got {config.heads} heads")
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": 4 * config.width,
        "attn_implementation": "sdpa",
    }


def _load(kind: str, name: str, models: Mapping[str, type[PreTrainedModel]]) -> PreTrainedModel:
    verbosity = logging.get_verbosity()
    # The library warns of weights that the encoder does not want; those that the file lacks are looked for.
    logging.set_verbosity_error()
    try:
        return _from_pretrained(name, models)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")
        raise ValueError(
            f"{kind} encoder {name!r} could not be loaded ({reason}): give a Hugging Face hub name (needs "
            f"network or a filled cache) or a folder with config.json and model.safetensors, of type "
            f"{' or '.join(models)}"
        ) from error
    finally:
        logging.set_verbosity(verbosity)


def _from_pretrained(name: str, models: Mapping[str, type[PreTrainedModel]]) -> PreTrainedModel:
    if not Path(name).is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ValueError("there is no such folder")
    model_type = AutoConfig.from_pretrained(name, trust_remote_code=False).model_type
    if model_type not in models:
        raise ValueError(f"its type is {model_type!r}")
    model_class = models[model_type]
    options: dict[str, Any] = {"add_pooling_layer": False} if model_class in WITH_POOLER else {}
    loaded: Any = model_class.from_pretrained(
        name,
        use_safetensors=True,
        trust_remote_code=False,
        attn_implementation="sdpa",
        output_loading_info=True,
        **options,
    )
    model, report = loaded
    if absent := sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"]))):
        raise ValueError(f"its file lacks {len(absent)} of its weights, {absent[0]} among them")
    return model.float()


def _pair(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
