"""Encoders, small and pre-trained, and what cannot be loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from naive import close, linear, random
from torch.nn import functional as F
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from bdam_kernels.compat.attention import FUSED
from bdam_reid.encoders.base import Encoded, save_architecture
from bdam_reid.encoders.config import ImageEncoderConfig, TextEncoderConfig
from bdam_reid.encoders.image import ImageEncoder
from bdam_reid.encoders.text import TextEncoder, WordVectors, masked_mean

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
VIT = transformers.ViTConfig(**SIZES, image_size=32, patch_size=8)
BERT = transformers.BertConfig(**SIZES, vocab_size=40, max_position_embeddings=20)
CLIP = transformers.CLIPConfig(
    vision_config=SIZES | {"image_size": 32, "patch_size": 8},
    text_config=SIZES | {"vocab_size": 40, "bos_token_id": 1, "eos_token_id": 2},
)


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
    config = ImageEncoderConfig(width=16, layers=2, heads=2, patch_height=patch[0], patch_width=patch[1])
    encoder = ImageEncoder(config, size).eval()
    images = torch.randn(2, 3, *size)
    tokens = encoder(images)
    assert tokens.shape == (2, length, 16)
    everything = encoder.model(pixel_values=images).last_hidden_state
    assert torch.equal(tokens, everything[:, 1:])
    assert encoder.model.config._attn_implementation == FUSED


@pytest.mark.parametrize("name", ["vit", "clip"])
def test_pretrained_image_encoder(saved: Path, name: str) -> None:
    encoder = ImageEncoder(ImageEncoderConfig(pretrained=str(saved / name)), (32, 32)).eval()
    classes = {"vit": transformers.ViTModel, "clip": transformers.CLIPVisionModel}
    whole = classes[name].from_pretrained(saved / name).eval()
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    close(encoder(images), whole(pixel_values=as_trained(images, name)).last_hidden_state[:, 1:])
    assert encoder.model.config._attn_implementation == FUSED


def as_trained(images: torch.Tensor, name: str) -> torch.Tensor:
    """Images in [-1, 1] in the mean and deviation of the encoders' publishers."""
    if name == "vit":
        return images
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return ((images + 1) / 2 - mean) / std


def test_the_mean_and_deviation_of_a_published_encoder_are_its_own(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved / "vit", tmp_path / "vit")
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.3, 0.4, 0.5]}
    written = {**processor, "image_processor_type": "ViTImageProcessor"}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(written))
    plain, other = (image_encoder(str(root / "vit")).eval() for root in (saved, tmp_path))
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    mean, std = (torch.tensor(processor[key]).view(3, 1, 1) for key in ("image_mean", "image_std"))
    close(other(images), plain(((images + 1) / 2 - mean) / std))
    assert other.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("name", ["vit", "clip"])
def test_an_architecture_is_enough_where_a_checkpoint_brings_the_weights(
    saved: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(saved / name, tmp_path / name)
    config = ImageEncoderConfig(pretrained=str(tmp_path / name))
    encoder = ImageEncoder(config, (48, 24)).eval()
    save_architecture(config.pretrained, tmp_path / "kept")
    shutil.rmtree(tmp_path / name)
    again = ImageEncoder(config, (48, 24), tmp_path / "kept").eval()
    again.load_state_dict(encoder.state_dict())
    images = torch.rand(2, 3, 48, 24)
    assert torch.equal(again(images), encoder(images))
    save_architecture(config.pretrained, tmp_path / "kept")
    with pytest.raises(ValueError, match="there is no such folder"):
        save_architecture(config.pretrained, tmp_path / "other")


@pytest.mark.parametrize("name", ["vit", "clip"])
def test_pretrained_image_encoder_at_another_size(saved: Path, name: str) -> None:
    encoder = ImageEncoder(ImageEncoderConfig(pretrained=str(saved / name)), (48, 24))
    assert encoder(torch.randn(2, 3, 48, 24)).shape == (2, 18, 16)


def test_encoder_of_oblong_images_at_another_size_is_refused(tmp_path: Path) -> None:
    config = transformers.ViTConfig(**SIZES, image_size=(32, 16), patch_size=(8, 8))
    transformers.ViTModel(config).save_pretrained(tmp_path)
    assert ImageEncoder(ImageEncoderConfig(pretrained=str(tmp_path)), (32, 16)).patches == 8
    with pytest.raises(ValueError, match=r"set the image size to that, got \(48, 24\)"):
        ImageEncoder(ImageEncoderConfig(pretrained=str(tmp_path)), (48, 24))


def test_pretrained_text_encoder(saved: Path) -> None:
    encoder = TextEncoder(TextEncoderConfig(pretrained=str(saved / "bert")), 40, 20).eval()
    whole = transformers.BertModel.from_pretrained(saved / "bert").float().eval()
    ids, mask = torch.randint(0, 40, (2, 9)), torch.arange(9) < torch.tensor([[9], [5]])
    close(encoder(ids, mask), whole(input_ids=ids, attention_mask=mask).last_hidden_state)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    assert encoder.model.config._attn_implementation == FUSED


def test_text_padding_changes_no_real_token() -> None:
    encoder = TextEncoder(TextEncoderConfig(width=16, layers=2, heads=2), 40, 20).double().eval()
    ids, mask = torch.randint(1, 40, (2, 9)), torch.arange(9) < torch.tensor([[9], [5]])
    tokens = encoder(ids, mask)
    other = encoder(F.pad(ids * mask, (0, 4)), F.pad(mask, (0, 4)))
    close(other[:, :9][mask], tokens[mask])
    alone = encoder(ids[1:, :5], mask[1:, :5])
    close(alone[0], tokens[1, :5])


def test_texts_of_two_lengths_are_the_same_in_one_pass() -> None:
    encoder = TextEncoder(TextEncoderConfig(width=16, layers=2, heads=2), 40, 20).double().eval()
    texts = [(torch.randint(1, 40, mask.shape) * mask, mask) for mask in (lengths_to_mask(4, 6), lengths_to_mask(9, 3))]
    for own, joined, (_, mask) in zip(encoder.encode_each(texts), encoder._encode_joined(texts), texts, strict=True):
        assert joined.tokens.shape == own.tokens.shape
        close(joined.tokens[mask], own.tokens[mask])
        close(joined.pooled, own.pooled)


def lengths_to_mask(*lengths: int) -> torch.Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize(("device", "passes"), [("cpu", [(2, 6), (3, 9)]), ("meta", [(5, 9)])])
def test_a_gpu_reads_all_texts_in_one_pass(
    monkeypatch: pytest.MonkeyPatch, device: str, passes: list[tuple[int, int]]
) -> None:
    encoder = TextEncoder(TextEncoderConfig(width=16, layers=1, heads=2), 40, 20)
    seen = []

    def encode(ids: torch.Tensor, mask: torch.Tensor) -> Encoded:
        seen.append(tuple(ids.shape))
        return Encoded(ids.new_zeros(*ids.shape, 16), ids.new_zeros(len(ids), 16))

    monkeypatch.setattr(encoder, "encode", encode)
    masks = torch.ones(2, 6, dtype=torch.bool, device=device), torch.ones(3, 9, dtype=torch.bool, device=device)
    read = encoder.encode_each([(mask.long(), mask) for mask in masks])
    assert seen == passes
    assert [tuple(x.shape) for text in read for x in text] == [(2, 6, 16), (2, 16), (3, 9, 16), (3, 16)]


def test_masked_mean() -> None:
    tokens, mask = random(3, 4, 5), torch.tensor([[1, 1, 0, 0], [1, 0, 1, 1], [0, 0, 0, 0]]).bool()
    expected = torch.stack([tokens[0, :2].mean(0), tokens[1, [0, 2, 3]].mean(0), torch.zeros(5).double()])
    close(masked_mean(tokens, mask), expected)


def test_frozen_encoder_has_no_gradients_and_no_dropout() -> None:
    encoder = TextEncoder(TextEncoderConfig(width=16, layers=1, heads=2, frozen=True), 40, 20).train()
    ids, mask = torch.randint(0, 40, (2, 9)), torch.ones(2, 9, dtype=torch.bool)
    first = encoder(ids, mask)
    assert not first.requires_grad
    assert torch.equal(first, encoder(ids, mask))
    thawed = TextEncoder(TextEncoderConfig(width=16, layers=1, heads=2), 40, 20)
    assert not torch.equal(thawed(ids, mask), thawed(ids, mask))


def image_encoder(name: str) -> ImageEncoder:
    return ImageEncoder(ImageEncoderConfig(pretrained=name), (32, 32))


def text_encoder(name: str, vocab_size: int = 40, max_tokens: int = 20) -> TextEncoder:
    return TextEncoder(TextEncoderConfig(pretrained=name), vocab_size, max_tokens)


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
def test_what_cannot_be_loaded_is_one_clear_error(tmp_path: Path, make: Callable[[Path], Path], reason: str) -> None:
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
        ImageEncoder(ImageEncoderConfig(), (96, 8))
    with pytest.raises(ValueError, match="heads must divide its width 10, got 4 heads"):
        TextEncoder(TextEncoderConfig(width=10), 40, 20)


def words_of(folder: Path | str, **changes: Any) -> TextEncoderConfig:
    return TextEncoderConfig(**{"words": str(folder), "width": 8, "layers": 1, "heads": 2, **changes})


def table_of(folder: Path) -> torch.Tensor:
    """Each word vector with mean 0 and variance 1, in half precision."""
    vectors = transformers.BertModel.from_pretrained(folder).float().embeddings.word_embeddings.weight.detach()
    centred = vectors - vectors.mean(1, keepdim=True)
    return (centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()).half()


def test_published_words(saved: Path) -> None:
    torch.manual_seed(0)
    encoder = TextEncoder(words_of(saved / "bert"), 40, 20).eval()
    assert encoder.width == 8 and encoder.words is not None
    ids, mask = torch.randint(0, 40, (2, 9)), torch.arange(9) < torch.tensor([[9], [5]])
    vectors = linear(encoder.words.project, table_of(saved / "bert")[ids].float())
    close(encoder(ids, mask), encoder.model(inputs_embeds=vectors, attention_mask=mask).last_hidden_state)
    alone = encoder(ids[1:, :5], mask[1:, :5])
    close(alone[0], encoder(ids, mask)[1, :5])


def test_the_table_of_published_words_is_frozen_and_in_half_precision(saved: Path) -> None:
    encoder = TextEncoder(words_of(saved / "bert"), 40, 20).train()
    state = encoder.state_dict()
    assert state["words.table"].dtype == torch.float16 and state["words.table"].shape == (40, 16)
    assert torch.equal(state["words.table"], table_of(saved / "bert"))
    assert "words.table" not in dict(encoder.named_parameters())
    assert {value.dtype for name, value in state.items() if name != "words.table"} == {torch.float32}
    encoder(torch.randint(0, 40, (2, 9)), torch.ones(2, 9, dtype=torch.bool)).square().sum().backward()
    unread = [name for name, p in encoder.named_parameters() if p.grad is None]
    assert unread == ["model.embeddings.word_embeddings.weight"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_words_have_the_type_of_the_encoder(saved: Path, dtype: torch.dtype) -> None:
    encoder = TextEncoder(words_of(saved / "bert"), 40, 20).to(dtype).eval()
    assert encoder(torch.randint(0, 40, (2, 9)), torch.ones(2, 9, dtype=torch.bool)).dtype == dtype


def test_words_have_noise_in_training_only(saved: Path) -> None:
    published = transformers.BertModel.from_pretrained(saved / "bert").float()
    words = WordVectors(published, words_of(saved / "bert", width=16, noise=0.5))
    with torch.no_grad():
        words.project.weight.copy_(torch.eye(16))
        words.project.bias.zero_()
    ids = torch.randint(0, 40, (50, 40))
    clean = table_of(saved / "bert")[ids].float()
    close(words.eval()(ids), clean)
    noise = words.train()(ids) - clean
    assert noise.mean().abs() < 0.02 and abs(noise.std() - 0.5) < 0.02
    assert not torch.equal(words(ids), words(ids))
    silent = WordVectors(published, words_of(saved / "bert", width=16)).train()
    assert torch.equal(silent(ids), silent(ids))


def test_an_architecture_is_enough_for_published_words_too(saved: Path, tmp_path: Path) -> None:
    source = shutil.copytree(saved / "bert", tmp_path / "bert")
    encoder = TextEncoder(words_of(source), 40, 20).eval()
    save_architecture(str(source), tmp_path / "kept")
    shutil.rmtree(source)
    again = TextEncoder(words_of(source), 40, 20, tmp_path / "kept").eval()
    again.load_state_dict(encoder.state_dict())
    ids, mask = torch.randint(0, 40, (2, 9)), torch.ones(2, 9, dtype=torch.bool)
    assert torch.equal(again(ids, mask), encoder(ids, mask))
    with pytest.raises(ValueError, match="there is no such folder"):
        TextEncoder(words_of(source), 40, 20)


def test_published_words_limit_the_tokenizer_and_not_the_length(saved: Path) -> None:
    with pytest.raises(ValueError, match=r"knows 40 word pieces.*got one of 41"):
        TextEncoder(words_of(saved / "bert"), 41, 20)
    longer = TextEncoder(words_of(saved / "bert"), 40, 30)
    assert longer(torch.randint(0, 40, (1, 30)), torch.ones(1, 30, dtype=torch.bool)).shape == (1, 30, 8)
