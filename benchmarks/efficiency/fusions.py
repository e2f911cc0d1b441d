"""What the efficiency study measures: the fusion modules of the drafts and their variants, and the whole model by part.

Source: long, section 4.5 and Fig. 5; icme, Table III.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

import bdam_kernels.flops  # noqa: F401
from bdam_reid.config import DataConfig
from bdam_reid.encoders.config import ImageEncoderConfig, TextEncoderConfig
from bdam_reid.methods.bdam.config import BDAMConfig, DecouplingConfig, FusionConfig
from bdam_reid.methods.bdam.fusion import Fusion
from bdam_reid.methods.bdam.network import Network
from bdam_reid.studies.efficiency import FUSIONS
from benchmarks.measure import DEVICE, Contender

WIDTH = 768
"""Of image and text features in both drafts."""
PATCHES, WORDS = 196, 64
"""Of an image of 224 x 224 in patches of 16 x 16, and of the longest text."""

# The CPU's fused attention, which torch's own list of formulas lacks.
_ATTENTION_ON_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, v, *_, **__: (
        sdpa_backward_flop_count(grad, q, k, v)
    ),
}


def flops(module: nn.Module, inputs: Sequence[Tensor]) -> dict[str, int]:
    """FLOPs of a forward pass, and of one with its backward, by torch's counter, computing nothing."""
    mode = FakeTensorMode()
    named = itertools.chain(module.named_parameters(), module.named_buffers())
    state: dict[str, Tensor] = {name: mode.from_tensor(t) for name, t in named}
    with mode, FlopCounterMode(display=False, custom_mapping=_ATTENTION_ON_CPU) as counter:
        output = _first(functional_call(module, state, tuple(mode.from_tensor(t) for t in inputs)))
        forward = counter.get_total_flops()
        output.backward(torch.ones_like(output))
    return {"forward_flops": forward, "train_flops": counter.get_total_flops()}


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def trained(module: nn.Module, inputs: Sequence[Tensor]) -> Contender:
    """A module, differentiated by its parameters and by those of its inputs that are features."""
    leaves = [t for t in (*inputs, *module.parameters()) if t.requires_grad]
    return Contender(lambda: _first(module(*inputs)), leaves, module)


def _first(outputs: Any) -> Tensor:
    return outputs[0] if isinstance(outputs, tuple) else outputs


@dataclass(frozen=True)
class Size:
    """Of the inputs of a fusion module."""

    batch: int
    patches: int = PATCHES
    words: int = WORDS


def fusion_inputs(config: FusionConfig, size: Size) -> list[Tensor]:
    """Image and text features, or their tokens."""
    if config.tokens == "sequence":
        shapes: list[tuple[int, ...]] = [(size.batch, size.patches, WIDTH), (size.batch, size.words, WIDTH)]
    else:
        shapes = [(size.batch, WIDTH)] * 2
    return [torch.randn(shape, device=DEVICE, requires_grad=True) for shape in shapes]


def fusion(config: FusionConfig) -> Fusion:
    with torch.device(DEVICE):
        return Fusion(config, WIDTH, WIDTH, WIDTH)


def fusions(tokens: Literal["pooled", "pair", "sequence"]) -> dict[str, FusionConfig]:
    """The three fusions on tokens of one kind; the simple one, which reads pooled features only, on those."""
    return {kind: replace(config, tokens="pooled" if kind == "simple" else tokens) for kind, config in FUSIONS.items()}


VARIANTS = {
    "full": FUSIONS["mamba"],
    "w/o Mamba": replace(FUSIONS["mamba"], kind="sum"),
    "w/o gate": replace(FUSIONS["mamba"], gate=False),
    "w/o alignment": replace(FUSIONS["mamba"], alignment=False),
}
"""The fusion module on pooled tokens, whole and without one of its parts, as in the ablation of the drafts."""


def whole_model(small: bool) -> Network:
    """ViT-B/16, BERT-base, BDAM and fusion with random weights; or the same of one layer of each."""
    layers, heads = (1, 2) if small else (12, 12)
    width = 16 if small else WIDTH
    sizes = {"width": width, "layers": layers, "heads": heads}
    vocabulary, positions = (100, 64) if small else (30522, 512)
    config = BDAMConfig(
        image=ImageEncoderConfig(**sizes),
        text=TextEncoderConfig(**sizes),
        decoupling=DecouplingConfig(self_layers=1, cross_layers=1, heads=2) if small else DecouplingConfig(),
    )
    with torch.device(DEVICE):
        return Network(config, DataConfig(max_tokens=positions), vocabulary)


def whole_model_parts(model: Network, batch: int) -> dict[str, tuple[nn.Module, list[Tensor]]]:
    """The parts of the model and what each reads for a batch of images with an identity and a clothing text each."""
    image_width, text_width = model.image_encoder.width, model.text_encoder.width
    ids = torch.randint(0, 100, (2 * batch, WORDS), device=DEVICE)
    mask = torch.ones(2 * batch, WORDS, dtype=torch.bool, device=DEVICE)

    def features(*shape: int) -> Tensor:
        return torch.randn(*shape, device=DEVICE, requires_grad=True)

    projections = nn.ModuleList([model.identity_projection, model.clothing_projection])
    return {
        "image encoder": (model.image_encoder, [torch.randn(batch, 3, 224, 224, device=DEVICE)]),
        "text encoder": (model.text_encoder, [ids, mask]),
        "BDAM": (model.bdam, [features(batch, PATCHES, image_width)]),
        "projections": (_Both(projections), [features(batch, image_width), features(batch, image_width)]),
        "fusion": (model.fusion, [features(batch, image_width), features(batch, text_width)]),
    }


class _Both(nn.Module):
    """Two layers, each with an input of its own."""

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.cat([layer(x) for layer, x in zip(self.layers, inputs, strict=True)])
