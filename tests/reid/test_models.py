"""The whole model: what its features are, and what each loss trains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from naive import HEADS, WIDTH, close, linear
from torch import Tensor
from torch.nn import functional as F

from bdam_reid.config import BDAMConfig, Config, DataConfig, EncoderConfig, FusionConfig, LossConfig
from bdam_reid.losses import losses
from bdam_reid.models import BDAMReID


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """At these sizes two threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass
class FakeBatch:
    images: Tensor
    identities: Tensor
    identity_ids: Tensor
    identity_mask: Tensor
    clothing_ids: Tensor
    clothing_mask: Tensor


CONFIG = Config(
    data=DataConfig(image_height=32, image_width=16, max_tokens=12),
    image=EncoderConfig(width=WIDTH, layers=1, heads=2, patch_height=8, patch_width=8),
    text=EncoderConfig(width=10, layers=1, heads=2),
    bdam=BDAMConfig(self_layers=1, cross_layers=2, heads=HEADS),
    fusion=FusionConfig(width=8),
)


def make_batch() -> FakeBatch:
    torch.manual_seed(1)
    words = torch.randint(1, 40, (2, 6, 9))
    masks = torch.arange(9) < torch.randint(2, 10, (2, 6, 1))
    return FakeBatch(
        images=torch.randn(6, 3, 32, 16),
        identities=torch.tensor([0, 0, 1, 1, 2, 2]),
        identity_ids=words[0],
        identity_mask=masks[0],
        clothing_ids=words[1, :, :7],
        clothing_mask=masks[1, :, :7],
    )


def make_model(config: Config = CONFIG) -> BDAMReID:
    torch.manual_seed(0)
    return BDAMReID(config, vocab_size=40)


def test_pooled_last_layer_leaves_no_tokens() -> None:
    model, batch = make_model(replace(CONFIG, bdam=replace(CONFIG.bdam, pooled_last=True))), make_batch()
    image, _, fused, _ = model(batch)
    assert image.tokens is None
    assert image.identity.shape == (6, WIDTH) and fused.shape == (6, 10)
    fused.sum().backward()
    assert all(p.grad is not None for p in model.bdam.cross_layers.parameters())


def test_features_of_the_model() -> None:
    model, batch = make_model().double().eval(), make_batch()
    image, text, fused, weights = model(replace(batch, images=batch.images.double()))
    assert image.identity.shape == image.clothing.shape == (6, WIDTH)
    assert image.tokens.shape == (6, 8, WIDTH)
    close(image.identity_embedding, F.normalize(linear(model.identity_projection, image.identity)))
    # Eq. 1 of both drafts: the clothing feature before the gate, projected to the text dimension.
    close(image.clothing_embedding, F.normalize(linear(model.clothing_projection, image.pooled_clothing)))
    assert text.identity_tokens.shape == (6, 9, 10)
    close(text.identity[0], text.identity_tokens[0, batch.identity_mask[0]].mean(0))
    close(text.identity_embedding, F.normalize(text.identity))
    close(text.clothing_embedding, F.normalize(text.clothing))
    close(fused, model.fusion(image.identity, text.identity)[0])
    assert fused.shape == (6, 10)
    assert weights.shape == (6, 2)


def test_images_and_texts_do_not_see_each_other_before_fusion() -> None:
    """A feature depends on its own image or text alone, in any batch."""
    model, batch = make_model().double().eval(), make_batch()
    images = batch.images.double()
    whole, alone = model.encode_image(images), model.encode_image(images[2:3])
    for name, value in alone._asdict().items():
        close(value[0], getattr(whole, name)[2])
    texts = (batch.identity_ids, batch.identity_mask, batch.clothing_ids, batch.clothing_mask)
    whole_text = model.encode_text(*texts)
    alone_text = model.encode_text(*(x[2:3] for x in texts))
    for name in ("identity", "clothing", "identity_embedding", "clothing_embedding"):
        close(getattr(alone_text, name)[0], getattr(whole_text, name)[2])


@pytest.mark.parametrize("gate", [True, False])
def test_sequence_fusion_reads_gated_tokens_whose_mean_is_the_identity_feature(gate: bool) -> None:
    fusion = FusionConfig(width=8, tokens="sequence")
    config = replace(CONFIG, fusion=fusion, bdam=replace(CONFIG.bdam, gate=gate))
    model, batch = make_model(config).double().eval(), make_batch()
    seen: list[Any] = []
    model.fusion.register_forward_hook(lambda module, inputs, output: seen.append(inputs))
    image, text, _, _ = model(replace(batch, images=batch.images.double()))
    tokens, words, mask = seen[0]
    close(tokens.mean(1), image.identity)
    assert words is text.identity_tokens
    assert mask is batch.identity_mask


def test_fusion_leaves_the_clothing_feature_out() -> None:
    model, batch = make_model().eval(), make_batch()
    image, text, fused, _ = model(batch)
    clothing = ("clothing", "pooled_clothing", "clothing_embedding")
    changed = image._replace(**{name: getattr(image, name) + 1 for name in clothing})
    assert torch.equal(model.fuse(changed, text)[0], fused)


@pytest.mark.parametrize("cross_layers", [0, 2])
@pytest.mark.parametrize("clothing", ["alignment", "adversarial"])
@pytest.mark.parametrize("query", ["identity", "fused"])
def test_every_loss_reaches_the_shared_layer(query: Any, clothing: Any, cross_layers: int) -> None:
    config = replace(CONFIG, bdam=replace(CONFIG.bdam, cross_layers=cross_layers))
    model, batch = make_model(config), make_batch()
    loss = LossConfig(query=query, clothing=clothing)
    for name, value in losses(loss, *model(batch)[:3], batch.identities).items():
        gradients = torch.autograd.grad(value, model.shared_parameters(), retain_graph=True, allow_unused=True)
        assert any(gradient is not None and gradient.any() for gradient in gradients), name


@pytest.mark.parametrize(
    ("query", "idle"), [("both", set()), ("identity", {"fusion"}), ("fused", {"identity_projection"})]
)
def test_what_each_query_of_info_nce_leaves_untrained(query: Any, idle: set[str]) -> None:
    """Neither draft's reading of Eq. 3 trains everything that the draft describes; "both" does."""
    model, batch = make_model(), make_batch()
    parts = losses(LossConfig(query=query), *model(batch)[:3], batch.identities)
    torch.stack(list(parts.values())).sum().backward()
    untrained = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad is None}
    assert untrained == idle


def test_a_few_steps_lower_the_loss() -> None:
    model, batch = make_model().train(), make_batch()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    history = []
    for _ in range(40):
        parts = losses(LossConfig(query="fused"), *model(batch)[:3], batch.identities)
        total = torch.stack(list(parts.values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append(parts["info"].item() + parts["clothing"].item())
    assert history[-1] < 0.5 * history[0]


def test_the_seed_gives_the_weights_and_the_state_gives_the_model() -> None:
    model, batch = make_model(), make_batch()
    again = make_model()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    torch.manual_seed(5)
    other = BDAMReID(CONFIG, vocab_size=40)
    other.load_state_dict(model.state_dict())
    for a, b in zip(model.eval()(batch)[2:], other.eval()(batch)[2:], strict=True):
        assert torch.equal(a, b)


def test_bfloat16_autocast() -> None:
    model, batch = make_model().train(), make_batch()
    with torch.autocast("cpu", torch.bfloat16):
        image, text, fused, _ = model(batch)
    parts = losses(LossConfig(query="fused"), image, text, fused, batch.identities)
    assert {part.dtype for part in parts.values()} == {torch.float32}
    torch.stack(list(parts.values())).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
