"""The small CLIP: convolutions before CLIP's own transformer, trained from scratch, saved as published ones are."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import transformers
from naive import close
from published import write_clip
from tiny_run import train_alone
from torch import nn
from torch.nn import functional as F

from bdam_reid.config import Config, ConfigError, check_config, parse_config
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.layouts.market import FOLDERS
from bdam_reid.data.records import Dataset, Record
from bdam_reid.data.tokens import Tokenize, load_tokenizer
from bdam_reid.encoders.config import ImageEncoderConfig, TextEncoderConfig
from bdam_reid.encoders.image import ImageEncoder
from bdam_reid.encoders.stem_clip import Stem, StemCLIPModel, StemCLIPVisionModel, StemCLIPVisionModelWithProjection
from bdam_reid.encoders.text import TextEncoder
from bdam_reid.engine.checkpoint import save_checkpoint, write_json
from bdam_reid.engine.run import open_best, read_curves
from bdam_reid.engine.trainer import make_method
from bdam_reid.evaluation.ranking import Embedder
from bdam_reid.export import main as export
from bdam_reid.methods import PRESETS
from bdam_reid.methods.dual_encoder.batches import PROMPTED, a_prompted_caption
from bdam_reid.methods.dual_encoder.method import DualEncoder
from bdam_reid.methods.preparation import PROMPT

TINY = """
    --data.identities-per-batch 4 --data.images-per-identity 2 --data.image-height 48 --data.image-width 24
    --data.vocab-size 2000 --method.optim.warmup-steps 2
"""
SMALL = """
    --method.image.width 32 --method.image.layers 1 --method.image.heads 2 --method.text.width 32 --method.text.layers 1
    --method.text.heads 2 --method.optim.epochs 2
"""
SENTENCES = ["A tall man in a red coat.", PROMPT, "blue jeans", "An old woman with long white hair, " * 30]
VISION = transformers.CLIPVisionConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=48, patch_size=8,
    projection_dim=12,
)  # fmt: skip


def config_of(preset: str, people: Path, output: Path, options: str = "") -> Config:
    command = f"{preset} --data.root {people} --output {output} {TINY} {options}"
    config = parse_config(PRESETS, command.split())
    check_config(config)
    return config


@pytest.fixture(scope="module")
def dataset(people: Path) -> Dataset:
    return load_dataset(people)


@pytest.fixture(scope="module")
def run(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished one."""
    return train_alone(config_of("small-clip", people, tmp_path_factory.mktemp("runs") / "run", SMALL))


@pytest.fixture(scope="module")
def method(run: Path) -> DualEncoder:
    opened = open_best(run, PRESETS, "cpu").method.eval()
    assert isinstance(opened, DualEncoder)
    return opened


@pytest.fixture(scope="module")
def folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoders of the run in the hub's form."""
    out = tmp_path_factory.mktemp("hub") / "small-clip"
    export([str(run), str(out), "--hub"])
    return out


def test_all_but_its_stem_is_clips() -> None:
    """A plain CLIP sees the maps of the convolutions as images in patches of one pixel."""
    torch.manual_seed(0)
    model = StemCLIPVisionModelWithProjection(VISION).eval()
    stem = model.vision_model.embeddings.patch_embedding
    assert isinstance(stem, Stem)
    plain = transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(**VISION.to_dict() | {"num_channels": 32, "image_size": 6, "patch_size": 1})
    ).eval()
    weights = {name: weight for name, weight in model.state_dict().items() if "patch_embedding" not in name}
    left = plain.load_state_dict(weights, strict=False)
    assert left.missing_keys == ["vision_model.embeddings.patch_embedding.weight"] and not left.unexpected_keys
    plain.vision_model.embeddings.patch_embedding.load_state_dict(stem[-1].state_dict())
    for size in ((48, 48), (64, 32), (96, 48)):
        images = torch.randn(2, 3, *size)
        maps = nn.Sequential(*list(stem)[:-1])(images)
        interpolated = {"interpolate_pos_encoding": size != (48, 48)}
        mine, expected = model(pixel_values=images, **interpolated), plain(pixel_values=maps, **interpolated)
        close(mine.image_embeds, expected.image_embeds)
        close(mine.last_hidden_state, expected.last_hidden_state)


def test_a_patch_in_place_of_the_stem_gives_a_plain_clip() -> None:
    torch.manual_seed(0)
    plain, model = transformers.CLIPVisionModel(VISION).eval(), StemCLIPVisionModel(VISION).eval()
    for part in model.modules():
        if isinstance(getattr(part, "patch_embedding", None), Stem):
            part.patch_embedding = nn.Conv2d(3, 32, 8, stride=8, bias=False)
    model.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 40, 24)
    mine, expected = (m(pixel_values=images, interpolate_pos_encoding=True) for m in (model, plain))
    assert torch.equal(mine.last_hidden_state, expected.last_hidden_state)
    assert torch.equal(mine.pooler_output, expected.pooler_output)


@pytest.mark.parametrize("size", [(48, 24), (37, 20)], ids=str)
def test_the_stem_is_convolutions_that_double_in_width(size: tuple[int, int]) -> None:
    """And sees no more of an image than patches of its size would."""
    torch.manual_seed(0)
    stem, images = Stem(VISION), torch.randn(2, 3, *size)
    maps = images[:, :, : size[0] // 8 * 8, : size[1] // 8 * 8]
    for at, width in zip((0, 3, 6), (8, 16, 32), strict=True):
        maps = F.conv2d(maps, stem[at].weight, stride=2, padding=1)
        grouped = maps.unflatten(1, (8, width // 8))
        mean, spread = grouped.mean((2, 3, 4), keepdim=True), grouped.var((2, 3, 4), correction=0, keepdim=True)
        maps = ((grouped - mean) / (spread + 1e-5).sqrt()).flatten(1, 2).relu()
    close(stem(images), torch.einsum("bchw,dc->bdhw", maps, stem[-1].weight[:, :, 0, 0]))
    assert stem(images).shape == (2, 32, size[0] // 8, size[1] // 8)


def test_what_is_frozen_does_not_depend_on_a_batch_in_training() -> None:
    torch.manual_seed(0)
    model, images = StemCLIPVisionModel(VISION).train(), torch.randn(3, 3, 48, 48)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    together = model(pixel_values=images).pooler_output
    close(together[:1], model.eval()(pixel_values=images[:1]).pooler_output)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_its_run_learns_a_temperature_and_ranks_by_one_part(run: Path, method: DualEncoder) -> None:
    curves = read_curves(run)
    assert curves["loss/total"][1] == curves["loss/itc"][1] and len(curves["loss/itc"][0]) == 8
    assert curves["temperature/itc"][1][-1] != pytest.approx(0.07, rel=1e-4)
    assert method.parts == {"person": slice(0, 32)} and isinstance(method.projection, nn.Identity)
    assert method.image_encoder.grids == ((6, 3),)


def test_the_folder_has_what_a_hub_has(folder: Path, method: DualEncoder) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "stem_clip" and config["text_config"]["max_position_embeddings"] == 77
    assert {"model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= {path.name for path in folder.iterdir()}
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    assert processor["size"] == {"height": 48, "width": 24} and processor["image_mean"] == method.image_encoder.mean
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.model_max_length) == ("[CLS]", "[SEP]", 77)
    assert config["text_config"]["eos_token_id"] == tokenizer.eos_token_id
    assert not list(folder.parent.glob(".*")) and (folder / "model.safetensors").stat().st_mode & 0o444 == 0o444


def test_encoders_of_the_folder_give_the_features_of_the_run_to_the_bit(folder: Path, method: DualEncoder) -> None:
    image = ImageEncoder(ImageEncoderConfig(pretrained=str(folder), projected=True), (48, 24)).eval()
    tokenize = Tokenize(load_tokenizer(folder), 77)
    config = TextEncoderConfig(pretrained=str(folder), projected=True)
    text = TextEncoder(config, tokenize.vocab_size, 77, pad_id=tokenize.pad_id).eval()
    images = torch.rand(3, 3, 48, 24) * 2 - 1
    ids, mask = tokenize(SENTENCES)
    assert ids.shape == (4, 77) and torch.equal(ids, method.tokenize(SENTENCES)[0])
    for mine, kept in (
        (image.encode(images), method.image_encoder.encode(images)),
        (text.encode(ids, mask), method.text_encoder.encode(ids, mask)),
    ):
        assert torch.equal(mine.pooled, kept.pooled) and torch.equal(mine.tokens, kept.tokens)


def test_the_pair_compares_images_and_texts_as_the_run_does(folder: Path, method: DualEncoder) -> None:
    pair, tokenizer = StemCLIPModel.from_pretrained(folder).eval(), transformers.AutoTokenizer.from_pretrained(folder)
    images = torch.rand(2, 3, 48, 24) * 2 - 1
    read = tokenizer(SENTENCES, padding=True, truncation=True, return_tensors="pt")
    seen = images * method.image_encoder.scale + method.image_encoder.shift
    scores = pair(
        pixel_values=seen, interpolate_pos_encoding=True, input_ids=read.input_ids, attention_mask=read.attention_mask
    ).logits_per_text
    expected = F.normalize(method.encode_text(*method.tokenize(SENTENCES)), dim=1) @ method.embed_images(images).T
    close(scores, expected / method.temperatures["itc"])


@torch.no_grad()  # In training attention is by another kernel.
def test_clips_tokens_without_projection_are_before_its_last_norm(folder: Path) -> None:
    """As those of a published CLIP are: what adapters of patch tokens read."""
    encoder = ImageEncoder(ImageEncoderConfig(pretrained=str(folder)), (64, 32)).eval()
    pair, images = StemCLIPModel.from_pretrained(folder).eval(), torch.rand(2, 3, 64, 32)
    output = pair.vision_model(images * encoder.scale + encoder.shift, interpolate_pos_encoding=True)
    assert torch.equal(encoder.encode(images).tokens, output.last_hidden_state[:, 1:])
    assert torch.equal(encoder.encode(images).pooled, output.pooler_output) and encoder.grids == ((8, 4),)


@pytest.mark.parametrize("preset", ["clip-itc", "bdam-clip"])
def test_methods_on_clip_train_on_the_folder(
    preset: str, people: Path, dataset: Dataset, folder: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(folder, tmp_path / "source")
    small = "--method.decoupling.self-layers 1 --method.decoupling.cross-layers 1 --method.decoupling.features 8"
    towers = f"--method.image.pretrained {source} --method.text.pretrained {source}"
    config = config_of(preset, people, tmp_path / "run", f"{towers} {small if preset == 'bdam-clip' else ''}")
    (tmp_path / "run").mkdir()
    method: Any = make_method(config, tmp_path / "run", dataset).train()
    (stage,) = method.stages(dataset, 0)
    optimizer, batch = torch.optim.Adam(stage.groups, lr=1e-4), next(iter(stage.batches.batches(0)))
    found = []
    for step in range(8):
        losses = method.losses(batch, step)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        found.append(float(losses.total.detach()))
    assert found[-1] < found[0]
    shutil.rmtree(source)
    again: Any = config.method.build(config.data, tmp_path / "run", fresh=False)
    again.load_state_dict(method.state_dict())
    images = torch.rand(2, 3, 48, 24)
    assert torch.equal(method.eval().embed_images(images), again.eval().embed_images(images))


def test_a_published_clip_comes_back_as_it_was(people: Path, dataset: Dataset, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip")
    towers = f"--method.image.pretrained {clip} --method.text.pretrained {clip}"
    config = config_of("clip-itc", people, tmp_path / "run", towers)
    (tmp_path / "run").mkdir()
    method = make_method(config, tmp_path / "run", dataset)
    save_untrained(config, method)
    export([str(tmp_path / "run"), str(tmp_path / "again"), "--hub"])
    before, after = (transformers.CLIPModel.from_pretrained(tmp_path / name).state_dict() for name in ("clip", "again"))
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["logit_scale"]
    assert after["logit_scale"].exp() == pytest.approx(1 / 0.02)
    assert json.loads((tmp_path / "again" / "config.json").read_text())["model_type"] == "clip"
    texts = [transformers.AutoTokenizer.from_pretrained(tmp_path / name)(SENTENCES) for name in ("clip", "again")]
    assert texts[0]["input_ids"] == texts[1]["input_ids"]


def save_untrained(config: Config, method: nn.Module) -> None:
    """A run as it is before training."""
    state = {"epoch": 1, "metrics": {}, "weights": {"same": {"person": 1.0}, "other": {"person": 1.0}}, "reranks": []}
    save_checkpoint(Path(config.output), "best", method.state_dict(), state)
    write_json(Path(config.output) / "config.json", asdict(config))


def test_it_ranks_an_image_set_without_training(people: Path, method: DualEncoder, tmp_path: Path) -> None:
    for at, record in enumerate(load_dataset(people).train):
        for name in FOLDERS[:1] if record.identity % 2 else FOLDERS[1:]:
            (tmp_path / name).mkdir(exist_ok=True)
            shutil.copyfile(record.path, tmp_path / name / f"{record.identity:04d}_c{at % 3}_{at}.jpg")
    protocol = load_dataset(tmp_path).protocols["test"]
    embedder = Embedder(method, torch.device("cpu"))
    ranking = embedder.rank(protocol)
    people_of = torch.tensor([record.identity for record in protocol.gallery])
    found = []
    for query in protocol.queries:
        scores = embedder.gallery(protocol.gallery)[1] @ embedder.queries([query])[0]
        cameras = torch.tensor([record.camera for record in protocol.gallery])
        scores[(people_of == query.identity) & (cameras == query.camera)] = -9
        found.append(bool(people_of[scores.argmax()] == query.identity))
    assert all(query.image and not query.text for query in protocol.queries)
    assert ranking.metrics(method.weights).r1 == pytest.approx(100 * sum(found) / len(found))


def test_the_words_of_prompts_are_whole_and_come_in_training(method: DualEncoder) -> None:
    tokenizer = method.tokenize._tokenizer
    pieces = tokenizer.convert_ids_to_tokens(method.tokenize([PROMPT])[0][0].tolist())
    assert pieces == ["[CLS]", "a", "photo", "of", "a", "person", ".", "[SEP]"]
    record, rng = Record(Path("a"), "a", 0, "train", ("a tall man",)), Random(0)
    drawn = [a_prompted_caption(record, rng) for _ in range(2000)]
    assert set(drawn) == {"a tall man", "A photo of a person. a tall man"}
    assert sum(caption.startswith(PROMPT) for caption in drawn) / 2000 == pytest.approx(PROMPTED, abs=0.04)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--method.image.patch-height 4", "must be one power of 2 for --method.image.kind clip"),
        ("--method.image.patch-height 12 --method.image.patch-width 12", "power of 2"),
        ("--method.image.width 48", "--method.image.width must be a multiple of 32"),
        ("--method.image.pretrained somewhere", "--method.image.kind clip is trained from scratch"),
        ("--method.image.frozen True", "--method.image.kind clip is trained from scratch"),
        ("--method.text.pretrained somewhere", "--method.text.kind clip is trained from scratch"),
        ("--method.text.words somewhere", "--method.text.kind clip is trained from scratch"),
        ("--method.text.kind bert", "--method.text.projected True is for one of a published pair"),
        ("--data.image-width 44", "--data.image-width must be a multiple of --method.image.patch-width"),
    ],
)
def test_impossible_values_are_named(options: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        check_config(parse_config(PRESETS, ["small-clip", *options.split()]))


def test_towers_of_two_widths_are_no_pair(people: Path, dataset: Dataset, tmp_path: Path) -> None:
    config = config_of("small-clip", people, tmp_path, f"{SMALL} --method.text.width 64")
    with pytest.raises(ConfigError, match="must be one pair, got features of 32 and 64"):
        make_method(config, tmp_path, dataset)


def refused(capsys: pytest.CaptureFixture[str], *command: object) -> str:
    """The message with which an export ends."""
    with pytest.raises(SystemExit) as stop:
        export(list(map(str, command)))
    said = capsys.readouterr().err
    assert stop.value.code == 1 and said.count("\n") == 1
    return said


def test_what_is_no_clip_is_not_saved_as_one(
    run: Path, finished: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert "got one of BDAM, which is no such pair" in refused(capsys, finished, out, "--hub")
    assert "give either --hub or --onnx, got both" in refused(capsys, run, out, "--hub", "--onnx")
    assert "expected a new folder for the encoders" in refused(capsys, run, folder, "--hub")
    export([str(run), str(tmp_path / "export")])
    assert "an export: give the run that it came from" in refused(capsys, tmp_path / "export", out, "--hub")
    assert not out.exists()
