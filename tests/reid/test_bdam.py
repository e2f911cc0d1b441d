"""The whole model: what its features are, and what each loss trains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from naive import HEADS, WIDTH, close, linear
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from bdam_reid.config import DataConfig
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.images import load_image
from bdam_reid.data.records import Query, QueryError
from bdam_reid.data.tokens import Tokenize, train_wordpiece
from bdam_reid.encoders.config import ImageEncoderConfig, TextEncoderConfig
from bdam_reid.methods.bdam.batches import Batch
from bdam_reid.methods.bdam.config import BDAMConfig, DecouplingConfig, FusionConfig, LossConfig, OptimConfig
from bdam_reid.methods.bdam.losses import Temperatures, unweighted_losses
from bdam_reid.methods.bdam.method import BDAM
from bdam_reid.methods.bdam.network import Network


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """At these sizes two threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


DATA = DataConfig(image_height=32, image_width=16, max_tokens=12)
CONFIG = BDAMConfig(
    image=ImageEncoderConfig(width=WIDTH, layers=1, heads=2, patch_height=8, patch_width=8),
    text=TextEncoderConfig(width=10, layers=1, heads=2),
    decoupling=DecouplingConfig(self_layers=1, cross_layers=2, heads=HEADS),
    fusion=FusionConfig(width=8),
)


BEST = BDAMConfig(
    image=ImageEncoderConfig(kind="convolutions", width=WIDTH, layers=2, head_crop=True),
    text=TextEncoderConfig(width=10, layers=1, heads=2, pooling="attention"),
    decoupling=DecouplingConfig(
        self_layers=1, cross_layers=1, heads=2, dropout=0.0, pooling="position", width=8, merge=2, slots=4, features=14
    ),
    fusion=FusionConfig(kind="none"),
    loss=LossConfig(
        symmetric=True, learnt_temperature=True, triplet_weight=0.0, contrast_weight=0.3, normalized_hsic=True
    ),
    optim=OptimConfig(decoupled_decay=True, weight_decay=0.02, lr=1e-3),
)
"""What the preset "demo" is made of."""


def make_batch() -> Batch:
    torch.manual_seed(1)
    words = torch.randint(1, 40, (2, 6, 9))
    masks = torch.arange(9) < torch.randint(2, 10, (2, 6, 1))
    return Batch(
        images=torch.randn(6, 3, 32, 16),
        identities=torch.tensor([0, 0, 1, 1, 2, 2]),
        outfits=torch.tensor([0, 1, 0, 1, 0, 1]),
        identity_ids=words[0],
        identity_mask=masks[0],
        clothing_ids=words[1, :, :7],
        clothing_mask=masks[1, :, :7],
    )


def make_model(config: BDAMConfig = CONFIG) -> Network:
    torch.manual_seed(0)
    return Network(config, DATA, vocab_size=40)


def losses_of(config: LossConfig, model: Network, batch: Batch) -> dict[str, Tensor]:
    return unweighted_losses(config, *model.features(batch)[:3], batch, Temperatures(config))


def test_pooled_last_layer_leaves_no_tokens() -> None:
    model, batch = make_model(replace(CONFIG, decoupling=replace(CONFIG.decoupling, pooled_last=True))), make_batch()
    image, _, fused, _ = model.features(batch)
    assert image.tokens is None
    assert image.identity.shape == (6, WIDTH) and fused.shape == (6, 10)
    fused.sum().backward()
    assert all(p.grad is not None for p in model.bdam.cross_layers.parameters())


def test_features_of_the_model() -> None:
    model, batch = make_model().double().eval(), make_batch()
    image, text, fused, weights = model.features(replace(batch, images=batch.images.double()))
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


def test_features_of_the_best_model() -> None:
    model, batch = make_model(BEST).double().eval(), make_batch()
    image, text, fused, weights = model.features(replace(batch, images=batch.images.double()))
    assert fused is None and weights is None
    assert image.identity.shape == image.clothing.shape == image.gate.shape == (6, 14)
    # A quarter of 16 x 8 pixels, and of 13 x 8 pixels of the head.
    assert model.image_encoder.grids == ((4, 2), (4, 2))
    assert image.tokens.shape == (6, 16, WIDTH)
    close(image.identity_embedding, F.normalize(linear(model.identity_projection, image.identity)))
    close(image.clothing_embedding, F.normalize(linear(model.clothing_projection, image.pooled_clothing)))
    for name, ids, mask in (
        ("identity", batch.identity_ids, batch.identity_mask),
        ("clothing", batch.clothing_ids, batch.clothing_mask),
    ):
        pooling, tokens = getattr(model, f"{name}_text_pooling"), model.text_encoder(ids, mask)
        for words, seen, actual in zip(tokens, mask, getattr(text, name), strict=True):
            scores = linear(pooling.scores, words[seen])[:, 0].exp()
            close(actual, (scores[:, None] * words[seen]).sum(0) / scores.sum())
        close(getattr(text, f"{name}_embedding"), F.normalize(getattr(text, name)))
    assert not torch.equal(*(getattr(model, f"{n}_text_pooling").scores.weight for n in ("identity", "clothing")))


def test_every_loss_of_the_best_model_trains_what_it_reads() -> None:
    model, batch = make_model(BEST).train(), make_batch()
    temperatures = Temperatures(BEST.loss)
    parts = unweighted_losses(BEST.loss, *model.features(batch)[:3], batch, temperatures)
    for name, value in parts.items():
        gradients = torch.autograd.grad(value, model.shared_parameters(), retain_graph=True, allow_unused=True)
        assert any(gradient is not None and gradient.any() for gradient in gradients), name
    sum(parts.values()).backward()
    for module in (model, temperatures):
        assert [name for name, p in module.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("config", [CONFIG, BEST], ids=["icme", "best"])
def test_images_and_texts_do_not_see_each_other_before_fusion(config: BDAMConfig) -> None:
    """A feature depends on its own image or text alone, in any batch."""
    model, batch = make_model(config).double().eval(), make_batch()
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
    config = replace(CONFIG, fusion=fusion, decoupling=replace(CONFIG.decoupling, gate=gate))
    model, batch = make_model(config).double().eval(), make_batch()
    seen: list[Any] = []
    model.fusion.register_forward_hook(lambda module, inputs, output: seen.append(inputs))
    image, text, _, _ = model.features(replace(batch, images=batch.images.double()))
    tokens, words, mask = seen[0]
    close(tokens.mean(1), image.identity)
    assert words is text.identity_tokens
    assert mask is batch.identity_mask


def test_fusion_leaves_the_clothing_feature_out() -> None:
    model, batch = make_model().eval(), make_batch()
    image, text, fused, _ = model.features(batch)
    clothing = ("clothing", "pooled_clothing", "clothing_embedding")
    changed = image._replace(**{name: getattr(image, name) + 1 for name in clothing})
    assert torch.equal(model.fuse(changed, text)[0], fused)


@pytest.mark.parametrize("cross_layers", [0, 2])
@pytest.mark.parametrize("clothing", ["alignment", "adversarial"])
@pytest.mark.parametrize("query", ["identity", "fused"])
def test_every_loss_reaches_the_shared_layer(query: Any, clothing: Any, cross_layers: int) -> None:
    config = replace(CONFIG, decoupling=replace(CONFIG.decoupling, cross_layers=cross_layers))
    model, batch = make_model(config), make_batch()
    loss = LossConfig(query=query, clothing=clothing)
    for name, value in losses_of(loss, model, batch).items():
        gradients = torch.autograd.grad(value, model.shared_parameters(), retain_graph=True, allow_unused=True)
        assert any(gradient is not None and gradient.any() for gradient in gradients), name


@pytest.mark.parametrize(
    ("query", "idle"), [("both", set()), ("identity", {"fusion"}), ("fused", {"identity_projection"})]
)
def test_what_each_query_of_info_nce_leaves_untrained(query: Any, idle: set[str]) -> None:
    """Neither draft's reading of Eq. 3 trains everything that the draft describes; "both" does."""
    model, batch = make_model(), make_batch()
    parts = losses_of(LossConfig(query=query), model, batch)
    torch.stack(list(parts.values())).sum().backward()
    untrained = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad is None}
    assert untrained == idle


def test_a_few_steps_lower_the_loss() -> None:
    model, batch = make_model().train(), make_batch()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    history = []
    for _ in range(40):
        parts = losses_of(LossConfig(query="fused"), model, batch)
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
    other = Network(CONFIG, DATA, vocab_size=40)
    other.load_state_dict(model.state_dict())
    for a, b in zip(model.eval().features(batch)[2:], other.eval().features(batch)[2:], strict=True):
        assert torch.equal(a, b)


def make_method(tmp_path: Path, config: BDAMConfig = CONFIG) -> BDAM:
    tokenizer = train_wordpiece(["a man in a red shirt with black hair"], 40, tmp_path / "tokenizer")
    torch.manual_seed(0)
    return BDAM(config, DATA, Tokenize(tokenizer, DATA.max_tokens))


@pytest.mark.parametrize("config", [replace(CONFIG, loss=LossConfig(query="fused")), BEST], ids=["icme", "best"])
def test_bfloat16_autocast(tmp_path: Path, config: BDAMConfig) -> None:
    method, batch = make_method(tmp_path, config).train(), make_batch()
    batch = replace(batch, identity_ids=batch.identity_ids % 20, clothing_ids=batch.clothing_ids % 20)
    with torch.autocast("cpu", torch.bfloat16):
        total, parts, scalars = method.losses(batch, 0)
    assert {x.dtype for x in (total, *parts.values(), *scalars.values())} == {torch.float32}
    total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


def test_an_embedding_is_the_two_unit_vectors_that_are_matched(tmp_path: Path) -> None:
    method = make_method(tmp_path).eval()
    images, text = make_batch().images, "A man with black hair in a red shirt."
    image, query = method.embed_images(images), method.embed_queries([Query(text=text)] * 2)
    features = method.encode_image(images)
    assert torch.equal(image[:, method.parts["identity"]], features.identity_embedding)
    assert torch.equal(image[:, method.parts["clothing"]], features.clothing_embedding)
    assert torch.equal(query[0], query[1]) and query.shape[1] == image.shape[1]
    for part in method.parts.values():
        close(query[:, part].norm(dim=1), torch.ones(2))
    with pytest.raises(QueryError, match="got a query with neither"):
        method.embed_queries([Query(text=text), Query()])


def test_an_image_and_its_mirror_image_are_embedded_alike(tmp_path: Path) -> None:
    method = make_method(tmp_path, replace(CONFIG, mirror=True)).eval()
    images = make_batch().images
    found, features = method.embed_images(images), [method.encode_image(x) for x in (images, images.flip(-1))]
    for part, of in (("identity", "identity_embedding"), ("clothing", "clothing_embedding")):
        one, other = (getattr(x, of) for x in features)
        assert not torch.allclose(one, other, atol=1e-4)
        close(found[:, method.parts[part]], F.normalize(one + other, dim=1))
    close(method.embed_images(images.flip(-1)), found)


def test_a_query_of_an_image_and_a_text_is_of_the_person_in_the_clothes_of_the_text(tmp_path: Path) -> None:
    method = make_method(tmp_path).eval()
    path = tmp_path / "a.png"
    Image.effect_noise((20, 40), 50).save(path)
    seen = method.embed_images(load_image(path, method.image_size)[None])[0]
    texts = ["A man with black hair in a red shirt.", "A man with black hair.", "A red shirt."]
    said = method.embed_queries([Query(text=text) for text in texts])
    found = method.embed_queries([Query(image=path), Query(text=texts[0]), *(Query(text=t, image=path) for t in texts)])
    close(found[:2], torch.stack((seen, said[0])))
    identity, clothing = method.parts["identity"], method.parts["clothing"]
    for both, text in zip(found[2:4], said, strict=False):
        total = seen[identity] + text[identity]
        close(both[identity], total / total.norm())
    close(found[4, identity], seen[identity])
    close(found[2:, clothing], torch.stack((said[0, clothing], seen[clothing], said[2, clothing])))


def test_a_part_that_a_query_has_no_words_for_weighs_nothing(tmp_path: Path) -> None:
    method = make_method(tmp_path).eval()
    texts = ["A man in a red shirt.", "A man with black hair.", "A red shirt.", "Red, somehow."]
    embedded = method.embed_queries([Query(text=text) for text in texts])
    lengths = [embedded[:, part].norm(dim=1).round().tolist() for part in method.parts.values()]
    # A text with words for neither stands for both as a whole.
    assert lengths == [[1, 1, 0, 1], [1, 0, 1, 1]]
    alone = method.embed_queries([Query(text="A man.")])[0, method.parts["identity"]]
    close(embedded[0, method.parts["identity"]], alone)


def test_weights_of_before_task_weights_were_among_them_are_loaded(tmp_path: Path) -> None:
    method, other = make_method(tmp_path), make_method(tmp_path)
    other.gradnorm.log_weights.fill_(2)
    old = {name: value + 1 for name, value in method.state_dict().items() if not name.startswith("gradnorm")}
    other.load_state_dict(old)
    assert torch.equal(other.state_dict()["fusion.gate.bias"], method.fusion.gate.bias + 1)
    assert other.gradnorm.log_weights.eq(2).all()


def optimizer_of(tmp_path: Path, people: Path, config: BDAMConfig) -> tuple[BDAM, torch.optim.Optimizer]:
    method = make_method(tmp_path, config)
    method.data = replace(DATA, identities_per_batch=4, images_per_identity=2)
    (stage,) = method.stages(load_dataset(people), 0)
    return method, stage.optimizer(stage.groups)


def test_a_decoupled_decay_spares_what_has_one_dimension(tmp_path: Path, people: Path) -> None:
    method, optimizer = optimizer_of(tmp_path, people, BEST)
    assert type(optimizer) is torch.optim.AdamW
    decayed, spared = optimizer.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.02, 0.0)
    assert decayed["lr"] == spared["lr"] == 1e-3
    assert all(p.ndim > 1 for p in decayed["params"]) and all(p.ndim < 2 for p in spared["params"])
    in_groups = [id(p) for group in (decayed, spared) for p in group["params"]]
    assert sorted(in_groups) == sorted(id(p) for p in method.parameters())
    for kind in (nn.LayerNorm, nn.BatchNorm2d):
        (*norms,) = (p for m in method.modules() if isinstance(m, kind) for p in m.parameters())
        assert norms and {id(p) for p in norms} <= {id(p) for p in spared["params"]}
    assert {id(p) for p in method.temperatures.parameters()} <= {id(p) for p in spared["params"]}


def test_a_decay_within_the_gradient_is_of_all(tmp_path: Path, people: Path) -> None:
    frozen = replace(CONFIG, text=replace(CONFIG.text, frozen=True), optim=OptimConfig(weight_decay=0.02))
    method, optimizer = optimizer_of(tmp_path, people, frozen)
    assert type(optimizer) is torch.optim.Adam
    (group,) = optimizer.param_groups
    assert group["weight_decay"] == 0.02
    trained = [id(p) for p in method.parameters() if p.requires_grad]
    assert [id(p) for p in group["params"]] == trained and len(trained) < len(list(method.parameters()))


def test_what_is_logged_of_a_step(tmp_path: Path) -> None:
    method, batch = make_method(tmp_path, BEST).train(), make_batch()
    batch = replace(batch, identity_ids=batch.identity_ids % 20, clothing_ids=batch.clothing_ids % 20)
    for step, looked in ((0, True), (1, False), (50, True)):
        total, parts, scalars = method.losses(batch, step)
        shares = {name: share for name, share in scalars.items() if name.startswith("gradient/")}
        assert list(shares) == ([f"gradient/{name}" for name in parts] if looked else [])
        if looked:
            close(torch.stack(list(shares.values())).sum(), 1.0)
        assert {"gate/identity", "temperature/info", "temperature/clothing", "temperature/contrast"} <= scalars.keys()
        assert "gate/fusion_image" not in scalars
    config = BEST.loss
    weights = {"info": 1, "clothing": 1, "decouple": 1, "contrast": config.contrast_weight, "gate": config.gate_weight}
    task_weights = dict(zip(method.gradnorm.tasks, method.gradnorm.weights(), strict=True))
    close(total, sum(weights[name] * task_weights.get(name, 1) * loss for name, loss in parts.items()))
