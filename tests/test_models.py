"""The model against direct transcriptions of both drafts' equations in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

from bdam_kernels import BidirectionalCrossAttention
from bdam_reid.config import BDAMConfig, Config, DataConfig, EncoderConfig, FusionConfig, LossConfig
from bdam_reid.losses import losses
from bdam_reid.models import BDAM, BDAMReID, Fusion, ImageEncoder, TextEncoder
from bdam_reid.models.bdam import CrossAttentionLayer, SelfAttentionLayer
from bdam_reid.models.encoders import masked_mean

WIDTH, HEADS = 12, 3
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
VIT = transformers.ViTConfig(**SIZES, image_size=32, patch_size=8)
BERT = transformers.BertConfig(**SIZES, vocab_size=40, max_position_embeddings=20)
CLIP = transformers.CLIPConfig(
    vision_config=SIZES | {"image_size": 32, "patch_size": 8},
    text_config=SIZES | {"vocab_size": 40, "bos_token_id": 1, "eos_token_id": 2},
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """At these sizes two threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def close(actual: Tensor, expected: Tensor, terms: int = 10_000) -> None:
    """Equal but for rounding of `terms` terms of about the size of the result or of 1."""
    bound = terms * torch.finfo(actual.dtype).eps
    torch.testing.assert_close(actual, expected, rtol=bound, atol=bound)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return x @ layer.weight.T + layer.bias


def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt d) v of (L, D) matrices, one head at a time."""
    heads = []
    for q_h, k_h, v_h in zip(*(x.chunk(HEADS, dim=-1) for x in (q, k, v)), strict=True):
        scores = (q_h @ k_h.T / q_h.shape[-1] ** 0.5).exp()
        heads.append(scores / scores.sum(-1, keepdim=True) @ v_h)
    return torch.cat(heads, dim=-1)


# Encoders


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders with small encoders, inside the models that they are usually published with."""
    root = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(0)
    transformers.ViTForImageClassification(VIT).save_pretrained(root / "vit")
    transformers.BertForMaskedLM(BERT).half().save_pretrained(root / "bert")
    transformers.CLIPModel(CLIP).save_pretrained(root / "clip")
    return root


@pytest.mark.parametrize(
    ("size", "patch", "length"), [((96, 48), (8, 8), 72), ((96, 48), (16, 8), 36), ((37, 20), (8, 4), 20)]
)
def test_small_image_encoder_gives_the_patches(size: Any, patch: Any, length: int) -> None:
    config = EncoderConfig(width=16, layers=2, heads=2, patch_height=patch[0], patch_width=patch[1])
    encoder = ImageEncoder(config, size).eval()
    images = torch.randn(2, 3, *size)
    tokens = encoder(images)
    assert tokens.shape == (2, length, 16)
    everything = encoder.model(pixel_values=images).last_hidden_state
    assert torch.equal(tokens, everything[:, 1:])
    assert encoder.model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", ["vit", "clip"])
def test_pretrained_image_encoder(saved: Path, name: str) -> None:
    encoder = ImageEncoder(EncoderConfig(pretrained=str(saved / name)), (32, 32)).eval()
    classes = {"vit": transformers.ViTModel, "clip": transformers.CLIPVisionModel}
    whole = classes[name].from_pretrained(saved / name).eval()
    images = torch.randn(2, 3, 32, 32)
    close(encoder(images), whole(pixel_values=images).last_hidden_state[:, 1:])
    assert encoder.model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", ["vit", "clip"])
def test_pretrained_image_encoder_at_another_size(saved: Path, name: str) -> None:
    encoder = ImageEncoder(EncoderConfig(pretrained=str(saved / name)), (48, 24))
    assert encoder(torch.randn(2, 3, 48, 24)).shape == (2, 18, 16)


def test_encoder_of_oblong_images_at_another_size_is_refused(tmp_path: Path) -> None:
    config = transformers.ViTConfig(**SIZES, image_size=(32, 16), patch_size=(8, 8))
    transformers.ViTModel(config).save_pretrained(tmp_path)
    assert ImageEncoder(EncoderConfig(pretrained=str(tmp_path)), (32, 16)).patches == 8
    with pytest.raises(ValueError, match=r"set the image size to that, got \(48, 24\)"):
        ImageEncoder(EncoderConfig(pretrained=str(tmp_path)), (48, 24))


def test_pretrained_text_encoder(saved: Path) -> None:
    encoder = TextEncoder(EncoderConfig(pretrained=str(saved / "bert")), 40, 20).eval()
    whole = transformers.BertModel.from_pretrained(saved / "bert").float().eval()
    ids, mask = torch.randint(0, 40, (2, 9)), torch.arange(9) < torch.tensor([[9], [5]])
    close(encoder(ids, mask), whole(input_ids=ids, attention_mask=mask).last_hidden_state)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    assert encoder.model.config._attn_implementation == "sdpa"


def test_text_padding_changes_no_real_token() -> None:
    encoder = TextEncoder(EncoderConfig(width=16, layers=2, heads=2), 40, 20).double().eval()
    ids, mask = torch.randint(1, 40, (2, 9)), torch.arange(9) < torch.tensor([[9], [5]])
    tokens = encoder(ids, mask)
    other = encoder(F.pad(ids * mask, (0, 4)), F.pad(mask, (0, 4)))
    close(other[:, :9][mask], tokens[mask])
    alone = encoder(ids[1:, :5], mask[1:, :5])
    close(alone[0], tokens[1, :5])


def test_masked_mean() -> None:
    tokens, mask = random(3, 4, 5), torch.tensor([[1, 1, 0, 0], [1, 0, 1, 1], [0, 0, 0, 0]]).bool()
    expected = torch.stack([tokens[0, :2].mean(0), tokens[1, [0, 2, 3]].mean(0), torch.zeros(5).double()])
    close(masked_mean(tokens, mask), expected)


def test_frozen_encoder_has_no_gradients_and_no_dropout() -> None:
    encoder = TextEncoder(EncoderConfig(width=16, layers=1, heads=2, frozen=True), 40, 20).train()
    ids, mask = torch.randint(0, 40, (2, 9)), torch.ones(2, 9, dtype=torch.bool)
    first = encoder(ids, mask)
    assert not first.requires_grad
    assert torch.equal(first, encoder(ids, mask))
    thawed = TextEncoder(EncoderConfig(width=16, layers=1, heads=2), 40, 20)
    assert not torch.equal(thawed(ids, mask), thawed(ids, mask))


def image_encoder(name: str) -> ImageEncoder:
    return ImageEncoder(EncoderConfig(pretrained=name), (32, 32))


def text_encoder(name: str, vocab_size: int = 40, max_tokens: int = 20) -> TextEncoder:
    return TextEncoder(EncoderConfig(pretrained=name), vocab_size, max_tokens)


def pickled(folder: Path) -> Path:
    BERT.save_pretrained(folder)
    torch.save(transformers.BertModel(BERT).state_dict(), folder / "pytorch_model.bin")
    return folder


def incomplete(folder: Path) -> Path:
    model = transformers.BertModel(BERT)
    state = {key: value for key, value in model.state_dict().items() if "layer.1" not in key}
    model.save_pretrained(folder, state_dict=state)
    return folder


def truncated(folder: Path) -> Path:
    transformers.BertModel(BERT).save_pretrained(folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    return folder


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: folder / "none" / "such", "there is no such folder"),
        (lambda folder: folder, "config.json"),
        (pickled, "safetensors"),
        (incomplete, "lacks .* of its weights"),
        (truncated, "header|length|HeaderTooLarge|incomplete|InvalidHeader"),
    ],
    ids=["no-folder", "empty", "pickle", "incomplete", "truncated"],
)
def test_what_cannot_be_loaded_is_one_clear_error(
    tmp_path: Path, make: Callable[[Path], Path], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        text_encoder(str(make(tmp_path)))
    assert "could not be loaded (" in str(caught.value)
    assert "give a Hugging Face hub name" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_encoders_that_do_not_fit_are_refused(saved: Path) -> None:
    with pytest.raises(ValueError, match="its type is 'bert'"):
        image_encoder(str(saved / "bert"))
    with pytest.raises(ValueError, match="its type is 'vit'"):
        text_encoder(str(saved / "vit"))
    with pytest.raises(ValueError, match=r"knows 40 word pieces.*got one of 41"):
        text_encoder(str(saved / "bert"), vocab_size=41)
    with pytest.raises(ValueError, match=r"reads 20 word pieces.*got 21"):
        text_encoder(str(saved / "bert"), max_tokens=21)
    with pytest.raises(ValueError, match=r"hold a patch of \(16, 16\), got \(96, 8\)"):
        ImageEncoder(EncoderConfig(), (96, 8))
    with pytest.raises(ValueError, match="heads must divide its width 10, got 4 heads"):
        TextEncoder(EncoderConfig(width=10), 40, 20)


# BDAM


def test_self_attention_layer() -> None:
    layer, x = SelfAttentionLayer(WIDTH, HEADS, dropout=0.5).double().eval(), random(2, 7, WIDTH)
    for actual, tokens in zip(layer(x), x, strict=True):
        attended = attention(*linear(layer.qkv, tokens).chunk(3, dim=-1))
        close(actual, norm(layer.norm, tokens + linear(layer.out, attended)))


def naive_bdam(bdam: BDAM, tokens: Tensor) -> dict[str, Tensor]:
    """One image's tokens (L, D) -> features, equation by equation."""
    identity, clothing = linear(bdam.projection, tokens).split(WIDTH, dim=-1)
    for layer in bdam.identity_layers:
        attended = attention(*linear(layer.qkv, identity).chunk(3, dim=-1))
        identity = norm(layer.norm, identity + linear(layer.out, attended))
    for layer in bdam.clothing_layers:
        attended = attention(*linear(layer.qkv, clothing).chunk(3, dim=-1))
        clothing = norm(layer.norm, clothing + linear(layer.out, attended))
    for layer in bdam.cross_layers:
        from_clothing, from_identity = naive_cross_attention(layer.attention, identity, clothing)
        identity, clothing = (
            norm(layer.identity_norm, identity + from_clothing),
            norm(layer.clothing_norm, clothing + from_identity),
        )
    pooled_id, pooled_clo = identity.sum(0) / len(tokens), clothing.sum(0) / len(tokens)
    if bdam.gate is None:
        pooled = {"identity": pooled_id, "clothing": pooled_clo, "pooled_clothing": pooled_clo}
        return pooled | {"tokens": identity}
    g = 1 / (1 + (-linear(bdam.gate, torch.cat((pooled_id, pooled_clo)))).exp())
    return {
        "identity": g * pooled_id,
        "clothing": (1 - g) * pooled_clo,
        "pooled_clothing": pooled_clo,
        "gate": g,
        "tokens": identity,
    }


def naive_cross_attention(module: BidirectionalCrossAttention, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """out_a = softmax(q_a k_b^T / sqrt d) v_b and the other way, of two streams (L, D)."""
    q_a, k_a, v_a = linear(module.qkv_a, a).split(WIDTH, dim=-1)
    q_b, k_b, v_b = linear(module.qkv_b, b).split(WIDTH, dim=-1)
    return linear(module.out_a, attention(q_a, k_b, v_b)), linear(module.out_b, attention(q_b, k_a, v_a))


@pytest.mark.parametrize(
    "config",
    [
        BDAMConfig(heads=HEADS),
        BDAMConfig(self_layers=2, cross_layers=2, heads=HEADS, gate=False),
        BDAMConfig(self_layers=0, cross_layers=1, heads=HEADS),
        BDAMConfig(self_layers=1, cross_layers=0, heads=HEADS),
    ],
    ids=["paper", "no-gate", "no-self", "no-cross"],
)
def test_bdam(config: BDAMConfig) -> None:
    torch.manual_seed(0)
    bdam, tokens = BDAM(WIDTH, config).double().eval(), random(2, 7, WIDTH)
    actual = bdam(tokens)._asdict()
    if not config.gate:
        assert actual.pop("gate") is None
    for i, image in enumerate(tokens):
        expected = naive_bdam(bdam, image)
        assert expected.keys() == actual.keys()
        for name, value in expected.items():
            close(actual[name][i], value)


def test_both_streams_update_from_the_previous_state_of_the_other() -> None:
    layer = CrossAttentionLayer(WIDTH, HEADS, dropout=0.0).double()
    identity, clothing = random(5, WIDTH), random(5, WIDTH, seed=1)
    new_identity, new_clothing = (x[0] for x in layer(identity[None], clothing[None]))
    from_clothing, from_identity = naive_cross_attention(layer.attention, identity, clothing)
    close(new_identity, norm(layer.identity_norm, identity + from_clothing))
    close(new_clothing, norm(layer.clothing_norm, clothing + from_identity))
    _, from_new_identity = naive_cross_attention(layer.attention, new_identity, clothing)
    assert (from_new_identity - from_identity).abs().max() > 1e-3


def test_gate_splits_each_dimension_between_the_branches() -> None:
    bdam = BDAM(WIDTH, BDAMConfig(self_layers=1, cross_layers=1, heads=HEADS)).double().eval()
    result = bdam(random(3, 7, WIDTH))
    assert result.gate is not None
    assert ((result.gate > 0) & (result.gate < 1)).all()
    close(result.clothing / result.pooled_clothing, 1 - result.gate)
    close(result.identity / result.gate, result.tokens.mean(1))


def test_dropout_acts_in_training_only_and_from_the_seed() -> None:
    bdam, tokens = BDAM(WIDTH, BDAMConfig(heads=HEADS)).train(), random(2, 7, WIDTH).float()

    def run() -> Tensor:
        torch.manual_seed(1)
        return bdam(tokens).identity

    first = run()
    assert torch.equal(first, run())
    assert not torch.equal(first, bdam(tokens).identity)
    bdam.eval()
    assert torch.equal(bdam(tokens).identity, bdam(tokens).identity)


def test_branches_have_their_own_weights() -> None:
    result = BDAM(WIDTH, BDAMConfig(heads=HEADS, gate=False)).eval()(random(2, 7, WIDTH).float())
    assert (result.identity - result.clothing).abs().max() > 0.1


def test_shared_parameters() -> None:
    deep = BDAM(WIDTH, BDAMConfig(heads=HEADS))
    last = deep.cross_layers[2].attention
    assert deep.shared_parameters() == [
        last.out_a.weight,
        last.out_a.bias,
        last.out_b.weight,
        last.out_b.bias,
    ]
    flat = BDAM(WIDTH, BDAMConfig(heads=HEADS, cross_layers=0))
    assert flat.shared_parameters() == [flat.projection.weight, flat.projection.bias]


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="must divide the image width 12, got 5 heads"):
        BDAM(WIDTH, BDAMConfig(heads=5))


# Fusion


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


# The whole model


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
        gradients = torch.autograd.grad(
            value, model.shared_parameters(), retain_graph=True, allow_unused=True
        )
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
