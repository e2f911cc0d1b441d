"""What image and text encoders have in common: loading a published one, and the sizes of one from scratch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    BertModel,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    Dinov2Model,
    Dinov2WithRegistersModel,
    PretrainedConfig,
    PreTrainedModel,
    SiglipTextModel,
    SiglipVisionModel,
    ViTModel,
)
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils import logging

from bdam_kernels.compat.attention import FUSED
from bdam_reid.encoders.config import EncoderConfig
from bdam_reid.encoders.hub import hub_or_cache
from bdam_reid.encoders.stem_clip import StemCLIPVisionModel, StemCLIPVisionModelWithProjection

Models: TypeAlias = Mapping[str, type[PreTrainedModel]]
"""By the type that a published encoder's config.json states."""

IMAGE_MODELS: Models = {
    "vit": ViTModel,
    "clip": CLIPVisionModel,
    "clip_vision_model": CLIPVisionModel,
    "stem_clip": StemCLIPVisionModel,
    "siglip": SiglipVisionModel,
    "siglip_vision_model": SiglipVisionModel,
    "dinov2": Dinov2Model,
    "dinov2_with_registers": Dinov2WithRegistersModel,
}
PROJECTED_IMAGE_MODELS: Models = {
    "clip": CLIPVisionModelWithProjection,
    "clip_vision_model": CLIPVisionModelWithProjection,
    "stem_clip": StemCLIPVisionModelWithProjection,
    "siglip": SiglipVisionModel,
    "siglip_vision_model": SiglipVisionModel,
}
WORD_MODELS: Models = {"bert": BertModel}
TEXT_MODELS: Models = {
    **WORD_MODELS,
    "clip": CLIPTextModel,
    "clip_text_model": CLIPTextModel,
    "stem_clip": CLIPTextModel,
    "siglip": SiglipTextModel,
    "siglip_text_model": SiglipTextModel,
}
PROJECTED_TEXT_MODELS: Models = {
    "clip": CLIPTextModelWithProjection,
    "clip_text_model": CLIPTextModelWithProjection,
    "stem_clip": CLIPTextModelWithProjection,
    "siglip": SiglipTextModel,
    "siglip_text_model": SiglipTextModel,
}
WITH_POOLER: tuple[type[PreTrainedModel], ...] = (ViTModel, BertModel)
PREPROCESSOR = "preprocessor_config.json"


class Encoded(NamedTuple):
    """What an encoder gives of B images or texts."""

    tokens: Tensor
    """Of patches or word pieces, (B, L, width)."""
    pooled: Tensor
    """Global features, (B, features)."""


class Encoder(nn.Module):
    """A network that is trained on; a frozen one has no gradients and no dropout, and stays in evaluation mode.

    Args:
        model: the network.
        width: of the tokens.
        features: width of the global feature; that of the tokens if None.
        frozen: whether it stays as it is.
    """

    def __init__(self, model: nn.Module, width: int, frozen: bool, features: int | None = None) -> None:
        super().__init__()
        self.model = model
        self.frozen = frozen
        self.width = width
        self.features = width if features is None else features
        if frozen:
            self.model.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Encoder:
        """Switch dropout on or off."""
        super().train(mode and not self.frozen)
        return self


def sizes(kind: str, config: EncoderConfig) -> dict[str, Any]:
    """The sizes of an encoder from scratch as transformers calls them. Raises: ValueError if they do not fit."""
    if config.width % config.heads:
        raise ValueError(f"{kind} encoder's heads must divide its width {config.width}, got {config.heads} heads")
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": 4 * config.width,
        "attn_implementation": FUSED,
    }


def save_architecture(name: str, folder: Path) -> None:
    """Keep in `folder` all of a published encoder but its weights, whole or not at all; what is there stays.

    From it and a checkpoint the encoder can be had without a network.

    Args:
        name: a hub name or folder; empty, for an encoder from scratch, keeps nothing.
    Raises: ValueError if there is no such encoder.
    """
    if not name or folder.exists():
        return
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        check_name(name)
        with hub_or_cache(name) as source:
            AutoConfig.from_pretrained(source, trust_remote_code=False).save_pretrained(temporary)
            processor = preprocessor(source)
    except (OSError, ValueError) as error:
        raise ValueError(_explained("an", name, error, tuple({**IMAGE_MODELS, **TEXT_MODELS}))) from error
    if processor:
        (temporary / PREPROCESSOR).write_text(json.dumps(processor), encoding="utf-8")
    temporary.replace(folder)


def preprocessor(name: str) -> Mapping[str, Any]:
    """What a published encoder says of the images that it wants; empty if it says nothing."""
    try:
        processor, _ = BaseImageProcessor.get_image_processor_dict(name)
    except (OSError, ValueError):
        return {}
    return {key: processor[key] for key in ("image_mean", "image_std") if key in processor}


def load(kind: str, name: str, models: Models, architecture: Path | None) -> PreTrainedModel:
    """A published encoder in float32, or, with random weights, the one whose architecture was saved in a folder.

    Raises: ValueError if it cannot be loaded, or is of none of the types of `models`.
    """
    verbosity = logging.get_verbosity()
    # The library warns of weights that the encoder does not want; those that the file lacks are looked for.
    logging.set_verbosity_error()
    try:
        if architecture is not None:
            return _from_folder(architecture, models)
        check_name(name)
        with hub_or_cache(name) as source:
            return _from_pretrained(source, models)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(_explained(kind, name, error, tuple(models))) from error
    finally:
        logging.set_verbosity(verbosity)


def check_name(name: str) -> None:
    """Raise ValueError for the name of a folder that does not exist, rather than look for it on the hub."""
    if not Path(name).is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ValueError("there is no such folder")


def _explained(kind: str, name: str, error: Exception, types: tuple[str, ...]) -> str:
    reason = (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")
    return (
        f"{kind} encoder {name!r} could not be loaded ({reason}): give a Hugging Face hub name (needs "
        f"network or a filled cache) or a folder with config.json and model.safetensors, of type "
        f"{' or '.join(types)}"
    )


def _from_folder(folder: Path, models: Models) -> PreTrainedModel:
    model_class, config = _class_and_config(str(folder), models)
    config._attn_implementation = FUSED
    return model_class(config, **_options(model_class))


def _from_pretrained(name: str, models: Models) -> PreTrainedModel:
    model_class, config = _class_and_config(name, models)
    loaded: Any = model_class.from_pretrained(
        name,
        config=config,
        use_safetensors=True,
        trust_remote_code=False,
        attn_implementation=FUSED,
        output_loading_info=True,
        **_options(model_class),
    )
    model, report = loaded
    if absent := sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"]))):
        raise ValueError(f"its file lacks {len(absent)} of its weights, {absent[0]} among them")
    return model.float()


def _class_and_config(source: str, models: Models) -> tuple[type[PreTrainedModel], PretrainedConfig]:
    """What to build, and from what: of a pair of an image and a text encoder, the config of the one."""
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    if config.model_type not in models:
        raise ValueError(f"its type is {config.model_type!r}")
    model_class = models[config.model_type]
    config_class: Any = model_class.config_class
    for part in (getattr(config, f"{side}_config", None) for side in ("vision", "text")):
        if part is not None and isinstance(part, config_class):
            if hasattr(config, "projection_dim"):
                # The pair's is that of the weights; the parts state one of their own.
                part.projection_dim = config.projection_dim
            return model_class, part
    return model_class, config


def _options(model_class: type[PreTrainedModel]) -> dict[str, Any]:
    return {"add_pooling_layer": False} if model_class in WITH_POOLER else {}
