"""Fusion against the formulas of both drafts in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from naive import close, linear, norm, random
from torch import Tensor, nn
from torch.nn import functional as F

from bdam_reid.methods.bdam.config import FusionConfig
from bdam_reid.methods.bdam.fusion import Fusion


def fusion(image_width: int = 6, text_width: int = 5, **options: Any) -> Fusion:
    torch.manual_seed(0)
    config = FusionConfig(width=16, **options)
    return Fusion(config, image_width, text_width, out_width=7).double().eval()


def align(mlp: nn.Sequential, x: Tensor) -> Tensor:
    hidden = linear(mlp[0], x)
    return linear(mlp[3], hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5)))


def weighted(module: Fusion, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """w = softmax(W [f_img; f_txt]), w_1 f_img, w_2 f_txt."""
    f_img, f_txt = align(module.align_image, image), align(module.align_text, text)
    scores = linear(module.gate, torch.cat((f_img, f_txt), dim=-1)).exp()
    w = scores / scores.sum(-1, keepdim=True)
    return w, w[:, :1] * f_img, w[:, 1:] * f_txt


def mamba_stack(module: Fusion, tokens: Tensor) -> Tensor:
    """f^(l+1) = Mamba(f^(l)) + f^(l)."""
    for layer in module.mixer.layers:  # type: ignore[union-attr]
        tokens = layer(tokens) + tokens
    return tokens


def test_fusion_is_the_formula_of_both_drafts() -> None:
    module, image, text = fusion(), random(3, 6), random(3, 5, seed=1)
    fused, weights = module(image, text)
    w, f_img, f_txt = weighted(module, image, text)
    close(weights, w)
    close(weights.sum(1), torch.ones(3).double())
    close(fused, linear(module.out, mamba_stack(module, (f_img + f_txt)[:, None])[:, 0]))
    assert len(module.mixer.layers) == 2


def test_fusion_of_a_pair_of_tokens() -> None:
    module, image, text = fusion(tokens="pair"), random(3, 6), random(3, 5, seed=1)
    fused, weights = module(image, text)
    w, f_img, f_txt = weighted(module, image, text)
    close(weights, w)
    mixed = mamba_stack(module, torch.stack((f_img, f_txt), dim=1))
    close(fused, linear(module.out, (mixed[:, 0] + mixed[:, 1]) / 2))


def test_fusion_of_a_sequence() -> None:
    module, image, text = fusion(tokens="sequence"), random(3, 4, 6), random(3, 5, 5, seed=1)
    lengths = [5, 3, 1]
    fused, weights = module(image, text, torch.arange(5) < torch.tensor(lengths)[:, None])
    for i, length in enumerate(lengths):
        f_img, f_txt = align(module.align_image, image[i]), align(module.align_text, text[i, :length])
        scores = linear(module.gate, torch.cat((f_img.mean(0), f_txt.mean(0)))).exp()
        w = scores / scores.sum()
        close(weights[i], w)
        mixed = mamba_stack(module, torch.cat((w[0] * f_img, w[1] * f_txt))[None])
        close(fused[i], linear(module.out, mixed[0].mean(0)))


def test_simple_fusion() -> None:
    module, image, text = fusion(kind="simple"), random(3, 6), random(3, 5, seed=1)
    fused, weights = module(image, text)
    w, f_img, f_txt = weighted(module, image, text)
    close(weights, w)
    close(fused, norm(module.out[1], linear(module.out[0], torch.cat((f_img, f_txt), dim=1))))


@pytest.mark.parametrize("kind", ["mamba", "transformer"])
def test_fusion_does_not_see_the_padding(kind: str) -> None:
    module, image, text = fusion(tokens="sequence", kind=kind), random(3, 4, 6), random(3, 5, 5, seed=1)
    mask = torch.arange(5) < torch.tensor([[5], [3], [1]])
    fused, weights = module(image, text, mask)
    noise = torch.where(mask[..., None], text, 100 * random(3, 5, 5, seed=2))
    for other_text, other_mask in ((noise, mask), (F.pad(text, (0, 0, 0, 3)), F.pad(mask, (0, 3)))):
        other, other_weights = module(image, other_text, other_mask)
        close(other, fused)
        close(other_weights, weights)
    close(module(image, text)[0][:1], fused[:1])


@pytest.mark.parametrize("tokens", ["pooled", "pair", "sequence"])
def test_transformer_fusion(tokens: str) -> None:
    module = fusion(kind="transformer", tokens=tokens, layers=4, heads=4)
    assert len(module.mixer.layers.layers) == 4
    shape = (4,) if tokens == "sequence" else ()
    fused, weights = module(random(3, *shape, 6), random(3, *shape, 5, seed=1))
    assert fused.shape == (3, 7)
    close(weights.sum(1), torch.ones(3).double())


def test_fusion_refuses_what_it_cannot_read() -> None:
    with pytest.raises(ValueError, match="reads 'pooled' tokens only, got 'pair'"):
        fusion(kind="simple", tokens="pair")
    with pytest.raises(ValueError, match="must divide the width 16, got 5 heads"):
        fusion(kind="transformer", heads=5)
    with pytest.raises(ValueError, match=r"reads 2-dimensional image and text, got \(3, 4, 6\)"):
        fusion()(random(3, 4, 6), random(3, 5))
    with pytest.raises(ValueError, match="reads 3-dimensional"):
        fusion(tokens="sequence")(random(3, 6), random(3, 5))
