"""The convolutional image encoder against a direct transcription in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from naive import close, random
from torch import Tensor
from torch.nn import functional as F

from bdam_reid.encoders.config import ImageEncoderConfig
from bdam_reid.encoders.convolutions import Convolutions, _halved
from bdam_reid.encoders.image import image_encoder

SIZES = [(48, 24), (47, 25), (33, 21), (50, 31)]


def encoder_of(size: tuple[int, int], *, head_crop: bool = True, layers: int = 2) -> Convolutions:
    """An encoder in float64 that has seen a few images, so that no norm is at its first values."""
    torch.manual_seed(0)
    config = ImageEncoderConfig(kind="convolutions", width=8, layers=layers, head_crop=head_crop)
    encoder = Convolutions(config, size).double()
    for layer in encoder.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(layer.weight, 1, 0.3)
            torch.nn.init.normal_(layer.bias, 0, 0.3)
    encoder(random(4, 3, *size, seed=9))
    return encoder


def naive_tower(tower: Any, images: Tensor, training: bool) -> Tensor:
    for convolution, norm, _ in zip(tower[::3], tower[1::3], tower[2::3], strict=True):
        images = F.conv2d(images, convolution.weight, stride=2, padding=1)
        mean, var = norm.running_mean, norm.running_var
        if training:
            mean, var = images.mean((0, 2, 3)), images.var((0, 2, 3), correction=0)
        mean, var, weight, bias = (x[:, None, None] for x in (mean, var, norm.weight, norm.bias))
        images = (images - mean) / (var + norm.eps).sqrt() * weight + bias
        images = torch.where(images > 0, images, 0.0)
    return images


def naive_tokens(encoder: Convolutions, images: Tensor, *, head_crop: bool) -> tuple[Tensor, list[tuple[int, int]]]:
    """Tokens one by one, row by row, and the grids that they come from."""
    height, width = images.shape[2:]
    views = [images]
    if head_crop:
        quarter = width // 4
        views = [F.avg_pool2d(images, 2), images[:, :, : round(height * 5 / 12), quarter : width - quarter]]
    maps = [naive_tower(tower, v, encoder.training) for tower, v in zip(encoder.towers, views, strict=True)]
    tokens = [m[:, :, y, x] for m in maps for y in range(m.shape[2]) for x in range(m.shape[3])]
    return torch.stack(tokens, dim=1), [(m.shape[2], m.shape[3]) for m in maps]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("head_crop", [False, True], ids=["whole", "head"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_convolutions(size: tuple[int, int], head_crop: bool, training: bool) -> None:
    encoder, images = encoder_of(size, head_crop=head_crop).train(training), random(3, 3, *size)
    expected, grids = naive_tokens(encoder, images, head_crop=head_crop)
    actual = encoder(images)
    close(actual, expected)
    assert list(encoder.grids) == grids
    assert actual.shape == (3, sum(rows * columns for rows, columns in grids), encoder.width)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_grids_are_those_of_the_tokens(size: tuple[int, int], layers: int) -> None:
    encoder = encoder_of(size, layers=layers)
    tokens = encoder(random(2, 3, *size))
    assert tokens.shape == (2, sum(rows * columns for rows, columns in encoder.grids), 8)
    assert len(encoder.grids) == 2


@pytest.mark.parametrize("size", [(6, 4), (7, 4), (6, 5), (7, 5), (3, 3), (2, 2)], ids=str)
def test_halving_is_average_pooling_that_crops_an_odd_last_row_and_column(size: tuple[int, int]) -> None:
    images = random(2, 3, *size).requires_grad_()
    actual, expected = _halved(images), F.avg_pool2d(images, 2)
    close(actual, expected)
    weights = random(*expected.shape, seed=1)
    close(*(torch.autograd.grad(x, images, weights, retain_graph=True)[0] for x in (actual, expected)))


def channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def every_other_column(images: Tensor) -> Tensor:
    return torch.stack((images, -images), dim=-1).flatten(-2)[..., ::2]


def transposed(images: Tensor) -> Tensor:
    return images.transpose(2, 3).contiguous().transpose(2, 3)


@pytest.mark.parametrize("head_crop", [False, True], ids=["whole", "head"])
@pytest.mark.parametrize("layout", [channels_last, every_other_column, transposed])
def test_the_layout_of_images_in_memory_does_not_matter(layout: Any, head_crop: bool) -> None:
    encoder, images = encoder_of((47, 25), head_crop=head_crop).eval(), random(3, 3, 47, 25)
    other = layout(images)
    assert torch.equal(other, images) and not other.is_contiguous()
    close(encoder(other), encoder(images))


def test_every_weight_is_trained_and_pixels_have_gradients() -> None:
    encoder, images = encoder_of((33, 21)).train(), random(3, 3, 33, 21).requires_grad_()
    encoder(images).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in encoder.parameters())
    assert images.grad is not None and images.grad.isfinite().all()


def test_the_head_has_tokens_of_its_own() -> None:
    """What is below the head changes no token of the head; what is in it changes some of both."""
    encoder, images = encoder_of((48, 24)).eval(), random(1, 3, 48, 24)
    first = encoder.grids[0][0] * encoder.grids[0][1]
    before, below, within = encoder(images), images.clone(), images.clone()
    below[:, :, 20:] += 1
    within[:, :, 5:10, 10:14] += 1
    assert torch.equal(encoder(below)[:, first:], before[:, first:])
    assert not torch.equal(encoder(below)[:, :first], before[:, :first])
    for part in (slice(None, first), slice(first, None)):
        assert not torch.equal(encoder(within)[:, part], before[:, part])


@pytest.mark.parametrize(
    ("size", "head_crop", "layers", "got"),
    [
        ((16, 7), False, 3, r"\(16, 7\)"),
        ((7, 16), False, 3, r"\(7, 16\)"),
        ((48, 15), True, 3, r"\(24, 7\)"),
        ((17, 24), True, 3, r"\(7, 12\)"),
    ],
)
def test_images_too_small_are_refused(size: tuple[int, int], head_crop: bool, layers: int, got: str) -> None:
    with pytest.raises(ValueError, match=f"{layers} layers of stride 2 need at least 8 pixels a side, got {got}"):
        encoder_of(size, head_crop=head_crop, layers=layers)


@pytest.mark.parametrize("head_crop", [False, True], ids=["whole", "head"])
def test_the_config_chooses_the_encoder(head_crop: bool) -> None:
    config = ImageEncoderConfig(kind="convolutions", width=8, layers=2, head_crop=head_crop)
    encoder = image_encoder(config, (48, 24))
    assert isinstance(encoder, Convolutions) and encoder.width == 8
    assert len(encoder.grids) == len(encoder.towers) == 1 + head_crop
    patches = image_encoder(ImageEncoderConfig(width=8, layers=1, heads=2, patch_height=8, patch_width=4), (48, 24))
    assert patches.grids == ((6, 6),)
    assert patches(random(1, 3, 48, 24).float()).shape == (1, 36, 8)
