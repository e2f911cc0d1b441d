"""What the semantic grouping adapter costs beside the image tower that it is added to: "negligible", says its paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig

from bdam_reid.methods.mta_clip.adapter import SemanticGrouping
from bdam_reid.methods.mta_clip.config import TowerConfig
from bdam_reid.methods.mta_clip.tower import ImageTower
from benchmarks.measure import DEVICE, Contender, Outputs

Contest = Callable[..., None]
IMAGE = (256, 128)
BLOCKS = 6
"""That preset `mta-clip` trains."""
PEER = "the tower alone"


def write_architecture(folder: Path, layers: int, heads: int) -> Path:
    """That of a CLIP ViT-B/16, or of a smaller one: the tower's weights are random, and nothing is fetched."""
    width = 64 * heads
    CLIPVisionConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads,
        patch_size=16, projection_dim=512, architectures=["CLIPVisionModelWithProjection"],
    ).save_pretrained(folder)  # fmt: skip
    return folder


def tower_of(folder: Path, adapter: str) -> ImageTower:
    return ImageTower(str(folder), TowerConfig(adapter=adapter), IMAGE, 0, folder).to(DEVICE)  # type: ignore[arg-type]


def facts(module: nn.Module, step: Callable[[], object], images: int) -> dict[str, float]:
    """Parameters, and the GFLOP of all products in a forward pass of one image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        step()
    return {
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "GFLOP an image": counter.get_total_flops() / images / 1e9,
    }


def contender(module: nn.Module, leaves: Sequence[Tensor], function: Callable[[], Outputs]) -> Contender:
    return Contender(function, leaves, module)


def test_adapter(contest: Contest, small: bool, tmp_path: Path) -> None:
    """The tower with the adapter, the tower alone, and the adapter alone on the patches of the same images; training
    differentiates by what is trained."""
    batch, layers, heads = (2, 2, 2) if small else (4, 12, 12)
    folder = write_architecture(tmp_path / "clip", layers, heads)
    with_adapter, alone = tower_of(folder, "sga"), tower_of(folder, "none")
    adapter = SemanticGrouping(alone.width, TowerConfig.groups).to(DEVICE)
    images = torch.rand(batch, 3, *IMAGE, device=DEVICE) * 2 - 1
    rows, columns = alone.grid
    patches = torch.randn(batch, rows * columns, alone.width, device=DEVICE, requires_grad=True)
    trained = {tower: list(tower.last(min(BLOCKS, layers))) for tower in (with_adapter, alone)}
    contenders = {
        "ours": contender(
            with_adapter, [*trained[with_adapter], *with_adapter.new()], lambda: tuple(with_adapter(images))
        ),
        PEER: contender(alone, trained[alone], lambda: tuple(alone(images))),
        "the adapter alone": contender(adapter, [patches, *adapter.parameters()], lambda: adapter(patches)),
    }
    contest(
        contenders,
        facts={name: facts(of.module, of.forward, batch) for name, of in contenders.items() if of.module is not None},
        op="an image tower with SGA", size=f"{batch} images of 256 x 128, CLIP ViT-B/16, 6 blocks trained", peer=PEER,
    )  # fmt: skip
