"""Opens what embeds images and sentences: a run, an export, or a published CLIP or SigLIP as it is."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig
from transformers.image_processing_utils import BaseImageProcessor

from bdam_reid.config import ConfigError, DataConfig, Presets
from bdam_reid.data.tokens import Tokenize
from bdam_reid.encoders.base import PROJECTED_IMAGE_MODELS, check_name
from bdam_reid.encoders.config import ImageEncoderConfig, TextEncoderConfig
from bdam_reid.encoders.hub import hub_or_cache
from bdam_reid.engine.checkpoint import CheckpointError, read_json
from bdam_reid.engine.environment import find_device
from bdam_reid.methods.dual_encoder.config import DualEncoderConfig
from bdam_reid.methods.dual_encoder.method import DualEncoder
from bdam_reid.methods.preparation import pretrained_tokenizer
from bdam_reid.search.retriever import Retriever, open_retriever


def open_model(name: str, device: str, presets: Presets) -> Retriever:
    """The retriever of a run, an export, or a published pair of encoders.

    Args:
        name: a folder, or a name on the hub.
        device: as torch names it; "auto" is the GPU where there is one.
        presets: where the preset of a run is looked up.
    Raises: CheckpointError, ConfigError.
    """
    folder = Path(name)
    if folder.exists() and not _is_published(folder):
        return open_retriever(folder, device, presets)
    return open_published(name, device)


def open_published(name: str, device: str) -> Retriever:
    """The retriever of a CLIP or SigLIP, or what `python -m bdam_reid.export --hub` wrote, without any training.

    Images are brought to the size that it says it wants, a square unless both sides are stated: whole, as a person
    whose head and feet are cropped is another one.

    Args:
        name: of the hub, or a folder in the hub's form.
        device: as torch names it, or "auto".
    Raises: ConfigError if there is none, or it is of another kind.
    """
    place = find_device(device)
    try:
        check_name(name)
        with hub_or_cache(name) as source:
            size, longest = _sizes(source)
        data = DataConfig(image_height=size[0], image_width=size[1], max_tokens=longest)
        config = DualEncoderConfig(
            image=ImageEncoderConfig(pretrained=name, projected=True),
            text=TextEncoderConfig(pretrained=name, projected=True, pooling="own"),
        )
        method = DualEncoder(config, data, Tokenize(pretrained_tokenizer(name, "run"), longest), persons=0)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{name} is no folder of a run or an export, and as a published model it cannot be opened: "
            f"{(str(error).strip() or repr(error)).splitlines()[0]}"
        ) from error
    method.strip()
    return Retriever(
        method.to(place).eval(), method.default_weights(), place, "no", _digest_of(method, size)
    )  # fmt: skip


def _is_published(folder: Path) -> bool:
    """Whether a folder's config.json is that of transformers."""
    try:
        return "model_type" in read_json(folder / "config.json")
    except (CheckpointError, TypeError):
        return False


def _sizes(source: str) -> tuple[tuple[int, int], int]:
    """Height and width of the images that a published pair wants, and how many word pieces it reads."""
    config: Any = AutoConfig.from_pretrained(source, trust_remote_code=False)
    if config.model_type not in PROJECTED_IMAGE_MODELS or not hasattr(config, "text_config"):
        raise ValueError(f"its type must be clip or siglip, both encoders in one, got {config.model_type!r}")
    processor, _ = BaseImageProcessor.get_image_processor_dict(source)
    stated = processor.get("size")
    native = config.vision_config.image_size
    if isinstance(stated, dict) and {"height", "width"} <= stated.keys() and not processor.get("do_center_crop"):
        native = (stated["height"], stated["width"])
    height, width = (native, native) if isinstance(native, int) else native
    return (int(height), int(width)), int(config.text_config.max_position_embeddings)


def _digest_of(method: nn.Module, size: tuple[int, int]) -> str:
    """SHA-256 of weights, and of how large the images are that they see."""
    found = hashlib.sha256(repr(size).encode())
    for name, tensor in sorted(method.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()
