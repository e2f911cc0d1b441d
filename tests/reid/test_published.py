"""Published encoders give what the library's own models give: CLIP and SigLIP with their projections, DINOv2."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from naive import close
from published import SIZES, write_clip, write_sentencepiece, write_siglip
from torch import Tensor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from bdam_kernels.compat.attention import FUSED
from bdam_reid.data.tokens import Tokenize, load_tokenizer
from bdam_reid.encoders.base import save_architecture
from bdam_reid.encoders.config import ImageEncoderConfig, TextEncoderConfig
from bdam_reid.encoders.image import ImageEncoder
from bdam_reid.encoders.text import TextEncoder

DINO = SIZES | {"image_size": 32, "patch_size": 8}
IMAGE_KINDS = ("vit", "clip", "siglip", "dinov2", "registers")
STATISTICS = {
    "clip": (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
    "dinov2": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    "registers": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
}
SENTENCES = ["the red man", "a man, tall.", "red", "the man the man the man the red, red man."]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders with small encoders, as they are published."""
    root = tmp_path_factory.mktemp("published")
    write_clip(root / "clip")
    write_siglip(root / "siglip")
    torch.manual_seed(2)
    transformers.ViTForImageClassification(transformers.ViTConfig(**DINO)).save_pretrained(root / "vit")
    transformers.Dinov2Model(transformers.Dinov2Config(**DINO)).save_pretrained(root / "dinov2")
    registers = transformers.Dinov2WithRegistersConfig(**DINO, num_register_tokens=3)
    transformers.Dinov2WithRegistersModel(registers).save_pretrained(root / "registers")
    return root


def whole(saved: Path, name: str) -> Any:
    """The library's model, all of it."""
    kind = {
        "vit": transformers.ViTForImageClassification,
        "clip": transformers.CLIPModel,
        "siglip": transformers.SiglipModel,
        "dinov2": transformers.Dinov2Model,
        "registers": transformers.Dinov2WithRegistersModel,
    }[name]
    return kind.from_pretrained(saved / name).eval()


def as_published(images: Tensor, name: str) -> Tensor:
    """Images in [-1, 1] in the mean and deviation of the encoders' publishers."""
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in STATISTICS.get(name, ([0.5] * 3, [0.5] * 3)))
    return ((images + 1) / 2 - mean) / std


def image_encoder(folder: Path, size: tuple[int, int], **options: Any) -> ImageEncoder:
    return ImageEncoder(ImageEncoderConfig(pretrained=str(folder), **options), size).eval()


def text_encoder(folder: Path, **options: Any) -> TextEncoder:
    tokens = 77 if folder.name == "clip" else 12
    pad_id = 1 if folder.name == "siglip" else 0
    return TextEncoder(TextEncoderConfig(pretrained=str(folder), **options), 40, tokens, pad_id=pad_id).eval()


@pytest.mark.parametrize("size", [(32, 32), (48, 24), (37, 20)], ids=str)
@pytest.mark.parametrize("name", IMAGE_KINDS)
def test_patches_and_class_token_are_the_librarys(saved: Path, name: str, size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size) * 2 - 1
    inputs: dict[str, Any] = {"pixel_values": as_published(images, name)}
    model = whole(saved, name)
    if not name.startswith(("dino", "registers")):
        inputs["interpolate_pos_encoding"] = size != (32, 32)
    body = getattr(model, "vit", getattr(model, "vision_model", model))
    output = body(**inputs)
    encoder = image_encoder(saved / name, size)
    tokens, pooled = encoder.encode(images)
    rows, columns = size[0] // 8, size[1] // 8
    skipped = {"siglip": 0, "registers": 4}.get(name, 1)
    assert tokens.shape == (2, rows * columns, encoder.width) and encoder.grids == ((rows, columns),)
    close(tokens, output.last_hidden_state[:, skipped:])
    close(pooled, output.last_hidden_state[:, 0] if name == "vit" else output.pooler_output)
    assert pooled.shape == (2, encoder.features) and torch.equal(encoder(images), tokens)
    assert encoder.model.config._attn_implementation == FUSED


@pytest.mark.parametrize("size", [(32, 32), (40, 16)], ids=str)
@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_projected_images_are_the_features_that_the_pair_compares(
    saved: Path, name: str, size: tuple[int, int]
) -> None:
    images = torch.rand(2, 3, *size) * 2 - 1
    model = whole(saved, name)
    encoder = image_encoder(saved / name, size, projected=True)
    tokens, pooled = encoder.encode(images)
    inputs = {"pixel_values": as_published(images, name), "interpolate_pos_encoding": size != (32, 32)}
    close(pooled, model.get_image_features(**inputs).pooler_output)
    last = model.vision_model(**inputs).last_hidden_state
    if name == "clip":
        normed = model.vision_model.post_layernorm(last[:, 1:])
        close(tokens, normed @ model.visual_projection.weight.T)
        assert encoder.width == encoder.features == 24
    else:
        close(tokens, last)


@pytest.fixture(scope="module")
def tokenize(saved: Path) -> Tokenize:
    return Tokenize(load_tokenizer(saved / "clip"), 77)


def test_clips_tokenizer_begins_ends_and_cuts_texts(saved: Path) -> None:
    tokenizer = load_tokenizer(saved / "clip")
    ids, mask = Tokenize(tokenizer, 6)(SENTENCES)
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert ids.shape == (4, 6) and mask.sum(dim=1).tolist() == [5, 6, 3, 6]
    lasts = mask.sum(dim=1) - 1
    assert (ids[:, 0] == start).all() and (ids[range(4), lasts] == end).all()
    assert (ids[~mask] == Tokenize(tokenizer, 6).pad_id).all()


@pytest.mark.parametrize("repeats", [1, 3], ids=["together", "by length"])
def test_clips_texts_are_the_librarys(saved: Path, tokenize: Tokenize, repeats: int) -> None:
    model = whole(saved, "clip")
    tokenizer = load_tokenizer(saved / "clip")
    read = tokenizer(SENTENCES * repeats, padding="max_length", max_length=77, return_tensors="pt")
    output = model.get_text_features(**read)
    ids, mask = tokenize(SENTENCES * repeats)
    plain, projected = (text_encoder(saved / "clip", projected=yes) for yes in (False, True))
    tokens, pooled = plain.encode(ids, mask)
    last = output.last_hidden_state[:, : ids.shape[1]]
    close(tokens[mask], last[mask])
    close(pooled, model.text_model(**read).pooler_output)
    tokens, pooled = projected.encode(ids, mask)
    close(tokens[mask], (last @ model.text_projection.weight.T)[mask])
    close(pooled, output.pooler_output)
    assert projected.width == projected.features == 24
    assert torch.equal(projected(ids, mask), tokens)


def test_an_image_and_a_text_meet_in_clips_space(saved: Path, tokenize: Tokenize) -> None:
    model, images = whole(saved, "clip"), torch.rand(2, 3, 32, 32) * 2 - 1
    read = load_tokenizer(saved / "clip")(SENTENCES, padding=True, return_tensors="pt")
    expected = model(pixel_values=as_published(images, "clip"), **read).logits_per_text / model.logit_scale.exp()
    image = image_encoder(saved / "clip", (32, 32), projected=True).encode(images).pooled
    text = text_encoder(saved / "clip", projected=True).encode(*tokenize(SENTENCES)).pooled
    close(torch.nn.functional.cosine_similarity(text[:, None], image, dim=-1), expected)


@pytest.mark.parametrize("projected", [False, True])
def test_siglips_texts_are_padded_to_their_full_length(saved: Path, projected: bool) -> None:
    model, encoder = whole(saved, "siglip"), text_encoder(saved / "siglip", projected=projected)
    lengths = torch.tensor([7, 3, 7, 5, 2, 4, 6, 1, 3])
    mask = torch.arange(7) < lengths[:, None]
    ids = torch.randint(2, 40, (9, 7)).masked_fill(~mask, 1)
    tokens, pooled = encoder.encode(ids, mask)
    output = model.get_text_features(torch.nn.functional.pad(ids, (0, 5), value=1))
    close(tokens, output.last_hidden_state[:, :7])
    close(pooled, output.pooler_output)
    alone = encoder.encode(ids[7:8, :1], mask[7:8, :1])
    close(alone.pooled[0], pooled[7])


@pytest.mark.parametrize("name", ["clip", "siglip"])
@pytest.mark.parametrize("projected", [False, True])
def test_texts_that_are_read_in_one_pass_are_those_of_passes_of_their_own(
    saved: Path, name: str, projected: bool
) -> None:
    encoder = text_encoder(saved / name, projected=projected)
    texts = []
    for lengths, longest in (([4, 6, 2], 6), ([9, 3], 9), ([1], 1)):
        mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
        texts.append((torch.randint(2, 40, mask.shape).masked_fill(~mask, encoder.pad_id), mask))
    for own, joined, (_, mask) in zip(encoder.encode_each(texts), encoder._encode_joined(texts), texts, strict=True):
        assert joined.tokens.shape == own.tokens.shape
        close(joined.tokens[mask], own.tokens[mask])
        close(joined.pooled, own.pooled)


def test_siglips_own_tokenizer_fills_texts_up_with_their_end(saved: Path, tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    folder = write_sentencepiece(shutil.copytree(saved / "siglip", tmp_path / "siglip"))
    tokenizer = load_tokenizer(folder)
    tokenize = Tokenize(tokenizer, 12)
    sentences = ["the man", "A hat!", "the boy wears a green shirt"]
    assert tokenize.pad_id == tokenizer.eos_token_id == 1
    read = tokenizer(sentences, padding="max_length", truncation=True, max_length=12, return_tensors="pt")
    config = TextEncoderConfig(pretrained=str(folder), projected=True)
    encoder = TextEncoder(config, tokenize.vocab_size, 12, pad_id=tokenize.pad_id).eval()
    close(
        encoder.encode(*tokenize(sentences)).pooled,
        whole(saved, "siglip").get_text_features(read.input_ids).pooler_output,
    )


def test_a_tokenizer_that_takes_a_missing_package_names_the_extra(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(source: str) -> None:
        raise ImportError("it requires the SentencePiece library")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", missing)
    with pytest.raises(ValueError, match=r"sentencepiece: pip install -e '.\[pretrained\]'"):
        load_tokenizer(saved / "siglip")


@pytest.mark.parametrize("name", IMAGE_KINDS)
@pytest.mark.parametrize("projected", [False, True])
def test_the_saved_architecture_is_enough_with_a_checkpoint(
    saved: Path, tmp_path: Path, name: str, projected: bool
) -> None:
    if projected and name not in ("clip", "siglip"):
        with pytest.raises(ValueError, match=r"its type is '.*of type clip or .*siglip"):
            image_encoder(saved / name, (48, 24), projected=True)
        return
    source = shutil.copytree(saved / name, tmp_path / name)
    encoder = image_encoder(source, (48, 24), projected=projected)
    save_architecture(str(source), tmp_path / "kept")
    shutil.rmtree(source)
    config = ImageEncoderConfig(pretrained=str(source), projected=projected)
    again = ImageEncoder(config, (48, 24), tmp_path / "kept").eval()
    again.load_state_dict(encoder.state_dict())
    images = torch.rand(2, 3, 48, 24)
    for mine, kept in zip(again.encode(images), encoder.encode(images), strict=True):
        assert torch.equal(mine, kept)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_the_saved_architecture_of_a_pair_is_enough_for_its_texts(saved: Path, tmp_path: Path, name: str) -> None:
    save_architecture(str(saved / name), tmp_path / "kept")
    encoder = text_encoder(saved / name, projected=True)
    config = TextEncoderConfig(pretrained="nowhere/at-all", projected=True)
    again = TextEncoder(config, 40, 12, tmp_path / "kept", pad_id=encoder.pad_id).eval()
    again.load_state_dict(encoder.state_dict())
    ids, mask = torch.randint(2, 40, (2, 9)), torch.ones(2, 9, dtype=torch.bool)
    assert torch.equal(again.encode(ids, mask).pooled, encoder.encode(ids, mask).pooled)


@pytest.mark.parametrize("name", ["clip", "siglip", "registers"])
def test_frozen_encoders_have_no_gradients(saved: Path, name: str) -> None:
    encoder = image_encoder(saved / name, (48, 24), frozen=True).train()
    assert not any(feature.requires_grad for feature in encoder.encode(torch.rand(1, 3, 48, 24)))
    thawed = image_encoder(saved / name, (48, 24)).train()
    assert all(feature.requires_grad for feature in thawed.encode(torch.rand(1, 3, 48, 24)))


def test_texts_of_pairs_have_limits(saved: Path) -> None:
    with pytest.raises(ValueError, match=r"reads 77 word pieces.*got 78"):
        TextEncoder(TextEncoderConfig(pretrained=str(saved / "clip")), 40, 78)
    with pytest.raises(ValueError, match=r"reads 12 word pieces.*got 13"):
        TextEncoder(TextEncoderConfig(pretrained=str(saved / "siglip")), 40, 13)
    with pytest.raises(ValueError, match=r"its type is 'clip'.*of type bert"):
        TextEncoder(TextEncoderConfig(words=str(saved / "clip")), 40, 12)
