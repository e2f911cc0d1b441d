"""MoSAIC-ReID's parts: experts, the router that chooses among them, and the tower that has them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from published import VISION, write_clip, write_siglip
from torch import Tensor, nn
from torch.nn import functional as F

from bdam_reid.config import DataConfig
from bdam_reid.data.attributes import DUKE, MARKET
from bdam_reid.encoders.config import ImageEncoderConfig
from bdam_reid.encoders.image import ImageEncoder
from bdam_reid.methods.mosaic.config import ExpertsConfig, MosaicConfig
from bdam_reid.methods.mosaic.experts import ExpertLinear, weighted
from bdam_reid.methods.mosaic.method import Mosaic
from bdam_reid.methods.mosaic.router import UNKNOWN, Router, shares
from bdam_reid.methods.mosaic.tower import ExpertTower

B, L, WIDE, NARROW, E, R = 4, 5, 7, 6, 3, 2


def experts_of(layer: ExpertLinear) -> list[tuple[Tensor, Tensor]]:
    """A_e and B_e of each expert."""
    rows = [slice(e * layer.rank, (e + 1) * layer.rank) for e in range(layer.down.shape[0] // layer.rank)]
    return [(layer.down[own], layer.up[:, own]) for own in rows]


def run_with(layer: ExpertLinear, x: Tensor, weights: Tensor) -> Tensor:
    with weighted(weights):
        return layer(x)


def some_layer() -> ExpertLinear:
    torch.manual_seed(0)
    layer = ExpertLinear(nn.Linear(WIDE, NARROW), E, R).double()
    nn.init.normal_(layer.up)
    return layer


def test_one_product_is_the_sum_over_experts_and_so_are_its_gradients() -> None:
    layer, x = some_layer(), torch.randn(B, L, WIDE, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]], dtype=torch.bool)
    scale = 0.75

    def loop() -> Tensor:
        """The equation, an image and an expert at a time."""
        rows = []
        for image, on in zip(x, mask, strict=True):
            y = F.linear(image, layer.linear.weight, layer.linear.bias)
            for m, (down, up) in zip(on.tolist(), experts_of(layer), strict=True):
                y = y + m * scale / max(1, int(on.sum())) * image @ down.T @ up.T
            rows.append(y)
        return torch.stack(rows)

    leaves = [x, *layer.parameters()]
    ours, theirs = run_with(layer, x, shares(mask, scale)), loop()
    # The weights are float32: 1 / 3 is rounded.
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    outer = torch.randn_like(ours)
    for got, expected in zip(
        torch.autograd.grad(ours, leaves, outer), torch.autograd.grad(theirs, leaves, outer), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_only_experts_that_read_an_image_have_gradients() -> None:
    layer, x = some_layer(), torch.randn(B, L, WIDE, dtype=torch.float64)
    mask = torch.tensor([[1, 0, 0]] * B, dtype=torch.bool)
    run_with(layer, x, shares(mask, 1.0)).square().sum().backward()
    assert layer.down.grad is not None and layer.up.grad is not None
    used = [bool(layer.down.grad[e * R : (e + 1) * R].any()) for e in range(E)]
    assert used == [bool(layer.up.grad[:, e * R : (e + 1) * R].any()) for e in range(E)] == [True, False, False]


@pytest.mark.parametrize("weights", [[0.5, 0.0, 0.25], [0.0, 0.0, 0.0]])
def test_images_of_the_same_experts_are_read_by_one_matrix(weights: list[float]) -> None:
    layer, x = some_layer(), torch.randn(B, L, WIDE, dtype=torch.float64)
    outer = torch.randn(B, L, NARROW, dtype=torch.float64)

    def computed(rows: int) -> list[Tensor]:
        """What it gives, and its gradients, by so many rows of the same weights."""
        y = run_with(layer, x, torch.tensor([weights]).expand(rows, -1))
        return [y, *torch.autograd.grad(y, [layer.down, layer.up], outer)]

    torch.testing.assert_close(computed(1), computed(B))


def test_one_expert_is_an_adapter_of_peft() -> None:
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(1)
    plain, alpha = nn.Sequential(nn.Linear(WIDE, NARROW)), 6.0
    ours = ExpertLinear(nn.Linear(WIDE, NARROW), 1, R)
    ours.linear.load_state_dict(plain[0].state_dict())
    config = LoraConfig(r=R, lora_alpha=alpha, target_modules=["0"], init_lora_weights=False)
    theirs = inject_adapter_in_model(config, plain)
    down, up = (getattr(theirs[0], name)["default"].weight for name in ("lora_A", "lora_B"))
    with torch.no_grad():
        ours.down.copy_(down)
        ours.up.copy_(up)
    x = torch.randn(B, L, WIDE)
    weights = shares(torch.ones(B, 1, dtype=torch.bool), alpha / R)
    y, expected = run_with(ours, x, weights), theirs(x)
    torch.testing.assert_close(y, expected)
    for got, want in zip(
        torch.autograd.grad(y.sum(), [ours.down, ours.up]), torch.autograd.grad(expected.sum(), [down, up]), strict=True
    ):
        torch.testing.assert_close(got, want)


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("towers")
    write_clip(root / "clip")
    write_siglip(root / "siglip")
    torch.manual_seed(2)
    transformers.ViTModel(transformers.ViTConfig(**VISION)).save_pretrained(root / "vit")
    return root


@pytest.mark.parametrize(("name", "projected"), [("clip", False), ("clip", True), ("vit", False)])
@pytest.mark.parametrize("layers", [1, 2])
def test_without_experts_the_tower_is_as_it_was(towers: Path, name: str, projected: bool, layers: int) -> None:
    config = ImageEncoderConfig(pretrained=str(towers / name), projected=projected, frozen=True)
    images, size = torch.rand(3, 3, 32, 16) * 2 - 1, (32, 16)
    expected = ImageEncoder(config, size).encode(images).pooled
    tower = ExpertTower(config, size, layers, E, R)
    some, none = torch.rand(3, E), torch.zeros(3, E)
    plain = tower(images)
    torch.testing.assert_close(plain, expected)
    # Experts begin without an effect, and those that are switched off never have one.
    assert torch.equal(tower(images, some), plain)
    for up in tower.new()[1::2]:
        nn.init.normal_(up)
    assert torch.equal(tower(images, none), plain)
    changed = tower(images, torch.cat([some[:1], none[1:]]))
    assert torch.equal(changed[1:], plain[1:]) and not torch.allclose(changed[0], plain[0])
    # What is below them does not know them.
    assert torch.equal(tower.above(tower.below(images), some), tower(images, some))
    # A frozen tower trains its experts alone, and stays in evaluation mode.
    trained = {id(p) for p in tower.parameters() if p.requires_grad}
    assert trained == set(map(id, tower.new())) and len(trained) == 2 * 4 * layers
    assert not any(part.training for part in tower.train().encoder.modules())


def test_a_tower_without_experts_reads_no_labels(towers: Path) -> None:
    config, images = ImageEncoderConfig(pretrained=str(towers / "clip"), frozen=True), torch.rand(2, 3, 32, 32)
    tower = ExpertTower(config, (32, 32), 0, E, R)
    assert torch.equal(tower(images, torch.rand(2, E)), ImageEncoder(config, (32, 32)).encode(images).pooled)
    method = MosaicConfig(image=config, experts=ExpertsConfig(layers=0))
    assert not Mosaic(method, DataConfig(image_height=32, image_width=32), 2).oracle


def test_other_towers_and_too_many_layers_are_errors(towers: Path) -> None:
    for name, layers, said in (("siglip", 1, "must be a CLIP or ViT"), ("vit", 3, "must be at most 2, .*got 3")):
        with pytest.raises(ValueError, match=said):
            ExpertTower(ImageEncoderConfig(pretrained=str(towers / name)), (32, 32), layers, E, R)


def test_the_router_follows_labels_and_switches() -> None:
    router = Router(MARKET)
    assert (router.experts, Router(DUKE).experts) == (35, 26)
    told = dict.fromkeys(MARKET.states, None) | {"age": "old", "hat": "yes", "bag": "no", "upcolour": "red"}
    states = router.read([told, {}, {"age": "unheard of", "downcolour": "pink"}])
    assert (states[1] == UNKNOWN).all()

    def on(row: int) -> set[tuple[str, str]]:
        """The experts that read an image, by attribute and state."""
        chosen = router(states)[row].nonzero().flatten().tolist()
        names = [router.names[router.attribute[e]] for e in chosen]
        return {(name, MARKET.states[name][router.state[e]]) for name, e in zip(names, chosen, strict=True)}

    assert on(0) == {("age", "old"), ("hat", "yes"), ("upcolour", "red")}
    assert on(1) == set() and on(2) == {("downcolour", "pink")}
    router.switch(["upcolour", "bag"])
    assert on(0) == {("upcolour", "red")} and on(2) == set()
    router.switch([])
    assert not router(states).any()
    router.switch(router.names)
    assert len(on(0)) == 3
    # The share of each of them, and no division by zero.
    weights = shares(router(states), 0.5)
    assert weights[0].max() == pytest.approx(0.5 / 3) and weights.sum(dim=1).tolist() == pytest.approx([0.5, 0, 0.5])
    with pytest.raises(ValueError, match="got hats"):
        router.switch(["hats"])
