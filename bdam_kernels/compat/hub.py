"""Configurations and weights of mamba_ssm's models, from a folder or a name on the Hugging Face hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def load_config_hf(model_name: str) -> dict[str, Any]:
    """The model's config.json."""
    from transformers.utils import cached_file

    config: dict[str, Any] = json.loads(Path(str(cached_file(model_name, "config.json"))).read_text())
    return config


def load_state_dict_hf(
    model_name: str, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """The model's model.safetensors or pytorch_model.bin, on a device.

    Args:
        dtype: has no effect; a model that loads this converts it, and what it keeps in float32 stays as it is.
    """
    from safetensors.torch import load_file
    from transformers.utils import cached_file

    weights = cached_file(model_name, "model.safetensors", _raise_exceptions_for_missing_entries=False)
    if weights is not None:
        return load_file(weights, device=str(device or "cpu"))
    found = str(cached_file(model_name, "pytorch_model.bin"))
    state: dict[str, Tensor] = torch.load(found, map_location=device or "cpu", weights_only=True)
    return state
