"""What MTA-CLIP's adapter costs beside the image tower that it is in: parameters, FLOPs, memory and time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import CLIPConfig

from bdam_reid.methods.mta_clip.config import TowerConfig
from bdam_reid.methods.mta_clip.tower import ImageTower
from benchmarks.efficiency.fusions import flops, parameters, trained
from benchmarks.measure import DEVICE

Contest = Callable[..., None]
ADAPTERS = {
    "class token": TowerConfig(adapter="none"),
    "and patches": TowerConfig(adapter="identity"),
    "and adapter": TowerConfig(adapter="sga"),
}


class Projected(nn.Module):
    """A tower of which the projected feature is read."""

    def __init__(self, tower: ImageTower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, images: Tensor) -> Tensor:
        return self.tower(images).projected


@pytest.fixture(scope="module")
def architecture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a CLIP ViT-B/16; or of a small one."""
    vision = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    if request.config.getoption("--small"):
        vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    folder = tmp_path_factory.mktemp("clip")
    CLIPConfig(vision_config={**vision, "image_size": 224, "patch_size": 16}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("batch", [1, 16])
def test_adapter(contest: Contest, small: bool, architecture: Path, batch: int) -> None:
    """Persons of 256 x 128 pixels, 128 patches. All blocks are trained, which costs the tower most."""
    image_size = (32, 16) if small else (256, 128)
    images = torch.randn(batch, 3, *image_size, device=DEVICE)
    with torch.device(DEVICE):
        towers = {
            name: Projected(ImageTower("", config, image_size, 0, architecture)) for name, config in ADAPTERS.items()
        }
    facts = {name: {"parameters": parameters(tower), **flops(tower, [images])} for name, tower in towers.items()}
    contest(
        {name: trained(tower, [images]) for name, tower in towers.items()},
        facts=facts, op="image tower", size=f"256 x 128, B = {batch}", batch=batch,
    )  # fmt: skip
