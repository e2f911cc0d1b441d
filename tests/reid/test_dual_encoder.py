"""Dual encoders: trained, evaluated and searched with, small ones from scratch and the towers of a published CLIP."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from naive import close
from published import write_clip
from safetensors.torch import load_file
from tiny_run import train_alone
from torch.nn import functional as F

import bdam_reid
from bdam_reid.captions import whole
from bdam_reid.config import Config, ConfigError, check_config, parse_config
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.images import load_image
from bdam_reid.data.records import Dataset, Query, QueryError
from bdam_reid.encoders.config import EFFICIENTNET
from bdam_reid.encoders.efficientnet import PACKAGE
from bdam_reid.engine.checkpoint import load_weights
from bdam_reid.engine.run import open_best, read_curves
from bdam_reid.engine.trainer import make_method
from bdam_reid.evaluate import main as evaluate
from bdam_reid.methods import PRESETS
from bdam_reid.methods.bdam.config import BDAMConfig
from bdam_reid.methods.bdam.method import BDAM
from bdam_reid.methods.dual_encoder import method as dual_encoder
from bdam_reid.methods.dual_encoder.config import DualEncoderConfig
from bdam_reid.methods.dual_encoder.method import DualEncoder, identity_loss, matching_loss
from bdam_reid.methods.method import Method
from bdam_reid.methods.unit import unit
from bdam_reid.search.exporter import export_run

SMALL = """
    --data.identities-per-batch 4 --data.images-per-identity 2 --data.image-height 48 --data.image-width 24
    --data.max-tokens 24 --data.vocab-size 200 --method.image.width 16 --method.image.layers 2 --method.text.width 16
    --method.text.heads 2 --method.slots 4 --method.features 16 --method.optim.epochs 2 --method.optim.warmup-steps 2
"""
PUBLISHED = """
    --data.identities-per-batch 4 --data.images-per-identity 2 --data.image-height 48 --data.image-width 24
    --method.optim.warmup-steps 0
"""


def config_of(preset: str, people: Path, output: Path, options: str) -> Config:
    return parse_config(PRESETS, [preset, "--data.root", str(people), "--output", str(output), *options.split()])


@pytest.fixture(scope="module")
def dataset(people: Path) -> Dataset:
    return load_dataset(people)


@pytest.fixture(scope="module")
def run(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with both losses of IRRA."""
    return train_alone(config_of("irra-demo", people, tmp_path_factory.mktemp("runs") / "run", SMALL))


def test_its_run_has_one_part_and_both_losses(run: Path) -> None:
    curves = read_curves(run)
    for name in ("sdm", "id", "total"):
        assert len(curves[f"loss/{name}"][0]) == 8
    total = [sdm + identity for sdm, identity in zip(curves["loss/sdm"][1], curves["loss/id"][1], strict=True)]
    assert curves["loss/total"][1] == pytest.approx(total, rel=1e-5)
    assert load_weights(run / "best")["classifier.weight"].shape == (8, 16)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["weights"] == {"same": {"person": 1}, "other": {"person": 1}}
    assert metrics["protocols"].keys() == {"test", "clothing_change"}
    assert metrics["protocols"]["test"]["results"].keys() == {"same", "other", "person"}


def test_evaluation_repeats_what_training_found(run: Path, tmp_path: Path) -> None:
    evaluate([str(run), "--output", str(tmp_path), "--split", "test"])
    again, trained = (json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path, run))
    assert again["protocols"]["test"] == trained["protocols"]["test"]


def test_it_is_searched_with_by_whole_sentences(run: Path, dataset: Dataset) -> None:
    retriever = bdam_reid.load(run, device="cpu")
    records = dataset.protocols["test"].gallery
    gallery = retriever.embed_images([record.path for record in records])
    assert retriever.parts == {"person": slice(0, 16)}
    close(gallery.norm(dim=1), torch.ones(len(records)))
    sentence = records[0].captions[0]
    hits = retriever.search(gallery, sentence, k=3)
    method = retriever._method
    assert isinstance(method, DualEncoder)
    with torch.no_grad():
        whole = F.normalize(method.encode_text(*method.tokenize([sentence])), dim=1)[0]
    assert [hit.image for hit in hits] == (gallery @ whole).argsort(descending=True, stable=True)[:3].tolist()


def test_vectors_that_were_computed_in_half_precision_are_of_unit_length() -> None:
    features = torch.linspace(-1, 2, 300).reshape(3, 100)
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        vectors = unit(features.to(dtype))
        assert vectors.dtype == (dtype if dtype == torch.float64 else torch.float32)
        close(vectors.norm(dim=1).float(), torch.ones(3))


def test_it_is_searched_with_by_an_image_too(run: Path, dataset: Dataset) -> None:
    method = open_best(run, PRESETS, "cpu").method.eval()
    paths = [record.path for record in dataset.protocols["test"].gallery[:2]]
    asked = [Query(image=paths[0]), Query(text="a man"), Query(image=paths[1]), Query(text="a red coat")]
    with torch.no_grad():
        found = method.embed_queries(asked)
        images = method.embed_images(torch.stack([load_image(path, method.image_size) for path in paths]))
        close(found[::2], images)
        close(found[1::2], method.embed_queries([asked[1], asked[3]]))
        for query in (Query(text="a man", image=paths[0]), Query()):
            with pytest.raises(QueryError, match="a sentence or by an image, got a query with both or neither"):
                method.embed_queries([asked[1], query])


def test_an_export_searches_as_the_run_does_without_its_classifier(run: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path / "export", onnx=False, presets=PRESETS)
    weights = load_file(tmp_path / "export" / "model.safetensors")
    assert not [name for name in weights if name.startswith(("classifier", "temperatures"))]
    sentences = ["a man in a red coat", "blue jeans"]
    mine, theirs = (
        bdam_reid.load(folder, device="cpu").embed_texts(sentences) for folder in (run, tmp_path / "export")
    )
    assert torch.equal(mine, theirs)


def test_a_sentence_is_embedded_from_its_tokens_on_as_a_whole(run: Path) -> None:
    method = open_best(run, PRESETS, "cpu").method.eval()
    assert isinstance(method, DualEncoder)
    tower, sentences = method.text_tower(), ["a man in a red coat", "an old woman with white hair"]
    ids, mask = method.tokenize(sentences)
    with torch.no_grad():
        close(tower(ids, mask), method.embed_queries([Query(text=sentence) for sentence in sentences]))
        mask[0] = False
        assert tower(ids, mask)[0].count_nonzero() == 0
    assert whole.phrases(sentences[1]) == (sentences[1],)


def test_a_run_without_the_number_of_its_persons_says_so(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "persons").unlink()
    with pytest.raises(ConfigError, match="must hold the number of training persons"):
        bdam_reid.load(copy)


@pytest.mark.parametrize("preset", ["itc-demo", "irra-demo", "rde-demo"])
def test_demos_differ_from_the_demo_in_the_method_alone(preset: str) -> None:
    mine, demo = PRESETS[preset](), PRESETS["demo"]()
    assert (mine.data, mine.engine, mine.seed) == (demo.data, demo.engine, demo.seed)
    assert isinstance(mine.method, DualEncoderConfig) and isinstance(demo.method, BDAMConfig)
    for field in ("image", "text", "optim"):
        assert getattr(mine.method, field) == getattr(demo.method, field)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--method.loss.kind tal --method.loss.learnt-temperature True", "need --method.loss.kind itc, got tal"),
        ("--method.loss.identity-aware True --method.loss.kind sdm", "need --method.loss.kind itc, got sdm"),
        ("--method.pooling own", "--method.image.kind convolutions has no global feature"),
        ("--method.image.projected True", "--method.image.projected True is for one of a published pair"),
        ("--method.text.projected True", "--method.text.projected True is for one of a published pair"),
        ("--method.loss.id-weight -1", "--method.loss.id-weight must be at least 0, got -1.0"),
    ],
)
def test_impossible_values_are_named(options: str, said: str) -> None:
    config = parse_config(PRESETS, ["itc-demo", *options.split()])
    with pytest.raises(ConfigError, match=re.escape(said)):
        check_config(config)


def steps(method: Method, dataset: Dataset, count: int) -> list[float]:
    """The losses of a few steps, all on the first batch."""
    (stage,) = method.stages(dataset, 0)
    optimizer, batch = stage.optimizer(stage.groups), next(iter(stage.batches.batches(0)))
    for group in optimizer.param_groups:
        group["lr"] *= group.get("factor", 1.0)
    method.train()
    found = []
    for step in range(count):
        losses = method.losses(batch, step)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        found.append(float(losses.total.detach()))
    return found


@pytest.mark.parametrize("preset", ["itc-demo", "irra-demo", "rde-demo"])
def test_a_few_steps_lower_the_loss(preset: str, people: Path, dataset: Dataset, tmp_path: Path) -> None:
    method = make_method(config_of(preset, people, tmp_path, SMALL), tmp_path, dataset)
    first, *_, last = steps(method, dataset, 20)
    assert last < 0.8 * first
    learns = sum(parameter.numel() for parameter in method.parameters() if parameter.grad is not None)
    assert learns == sum(parameter.numel() for parameter in method.parameters())


@pytest.mark.parametrize("preset", ["itc-demo", "irra-demo", "rde-demo"])
def test_losses_are_those_of_the_batches_of_all_processes(
    preset: str, people: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process has the same samples in another order."""
    method = make_method(config_of(preset, people, tmp_path, SMALL), tmp_path, dataset).eval()
    assert isinstance(method, DualEncoder)
    batch = next(iter(method.stages(dataset, 0)[0].batches.batches(0)))

    def whole(x: torch.Tensor) -> torch.Tensor:
        return torch.cat((x, x.roll(3, dims=0)))

    image, text = whole(method.encode_image(batch.images)), whole(method.encode_text(batch.ids, batch.mask))
    loss, people_of_all = method.config.loss, whole(batch.identities)
    expected = matching_loss(loss, image, text, people_of_all, loss.temperature)
    if method.classifier is not None:
        expected = expected + loss.id_weight * identity_loss(method.classifier, image, text, people_of_all)
    monkeypatch.setattr(dual_encoder, "gather", whole)
    close(method.losses(batch, 0).total, expected)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip")


def with_clip(preset: str, people: Path, output: Path, clip: Path, more: str = "") -> Config:
    towers = f"--method.image.pretrained {clip} --method.text.pretrained {clip}"
    config = config_of(preset, people, output, f"{towers} {PUBLISHED} {more}")
    check_config(config)
    return config


@pytest.mark.parametrize("preset", ["clip-itc", "irra", "rde"])
def test_a_published_clip_is_where_training_begins(
    preset: str, people: Path, dataset: Dataset, clip: Path, tmp_path: Path
) -> None:
    method = make_method(with_clip(preset, people, tmp_path, clip), tmp_path, dataset).eval()
    assert isinstance(method, DualEncoder)
    model = transformers.CLIPModel.from_pretrained(clip).eval()
    batch = next(iter(method.stages(dataset, 0)[0].batches.batches(0)))
    images = batch.images * method.image_encoder.scale + method.image_encoder.shift
    expected = model.get_image_features(images, interpolate_pos_encoding=True).pooler_output
    close(method.embed_images(batch.images), F.normalize(expected, dim=1))
    captions = [record.captions[0] for record in dataset.train[:5]]
    tokenizer = transformers.AutoTokenizer.from_pretrained(clip)
    read = tokenizer(captions, padding=True, truncation=True, max_length=77, return_tensors="pt")
    expected = model.get_text_features(**read).pooler_output
    close(method.embed_queries([Query(text=caption) for caption in captions]), F.normalize(expected, dim=1))


@pytest.mark.parametrize("preset", ["clip-itc", "irra"])
def test_parts_of_a_batch_have_its_loss_and_gradients(
    preset: str, people: Path, dataset: Dataset, clip: Path, tmp_path: Path
) -> None:
    method = make_method(with_clip(preset, people, tmp_path, clip), tmp_path, dataset).eval()
    batch = next(iter(method.stages(dataset, 0)[0].batches.batches(0)))
    found = []
    for parts in (1, 2):
        method.micro_batches = parts
        method.zero_grad()
        total = method.losses(batch, 0).total
        total.backward()
        found.append([total.detach(), *(x.grad for x in method.parameters() if x.grad is not None)])
    assert len(found[0]) == len(found[1]) > 10
    for once, parted in zip(*found, strict=True):
        close(parted, once)


def test_only_what_is_new_has_the_greater_rate(people: Path, dataset: Dataset, clip: Path, tmp_path: Path) -> None:
    method = make_method(with_clip("irra", people, tmp_path, clip), tmp_path, dataset)
    published, new = method.stages(dataset, 0)[0].groups
    assert new["factor"] == 5 and "factor" not in published
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    assert {names[id(p)] for p in new["params"]} == {"classifier.weight", "classifier.bias"}
    assert len(published["params"]) + 2 == len(names)


@pytest.mark.parametrize("preset", ["irra", "bdam-clip"])
def test_a_run_on_clip_is_opened_without_its_folder(
    preset: str, people: Path, dataset: Dataset, clip: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(clip, tmp_path / "clip")
    small = "--method.decoupling.self-layers 1 --method.decoupling.cross-layers 1 --method.decoupling.features 8"
    config = with_clip(preset, people, tmp_path / "run", source, small if preset == "bdam-clip" else "")
    (tmp_path / "run").mkdir()
    method = make_method(config, tmp_path / "run", dataset)
    first, *_, last = steps(method, dataset, 4)
    assert last < first
    shutil.rmtree(source)
    again = config.method.build(config.data, tmp_path / "run", fresh=False)
    again.load_state_dict(method.state_dict())
    images, queries = torch.rand(2, 3, 48, 24), [Query(text="a man in a red coat"), Query(text="blue jeans")]
    for one, other in ((method.eval(), again.eval()),):
        assert torch.equal(one.embed_images(images), other.embed_images(images))
        assert torch.equal(one.embed_queries(queries), other.embed_queries(queries))


def test_bdam_on_clip_reads_projected_patches_and_the_end_of_a_text(
    people: Path, dataset: Dataset, clip: Path, tmp_path: Path
) -> None:
    method = make_method(with_clip("bdam-clip", people, tmp_path, clip), tmp_path, dataset).eval()
    assert isinstance(method, BDAM)
    assert method.image_encoder.width == method.text_encoder.width == 24
    batch = next(iter(method.stages(dataset, 0)[0].batches.batches(0)))
    text = method.encode_text(batch.identity_ids, batch.identity_mask, batch.clothing_ids, batch.clothing_mask)
    lasts = batch.clothing_mask.sum(dim=1) - 1
    close(text.clothing, text.clothing_tokens[range(len(lasts)), lasts])
    factors = [group.get("factor", 1) for group in method.stages(dataset, 0)[0].groups]
    assert factors == [1, 1, 10, 10]


def test_two_towers_that_are_no_pair_are_refused(people: Path, dataset: Dataset, clip: Path, tmp_path: Path) -> None:
    config = with_clip("clip-itc", people, tmp_path / "run", clip)
    assert isinstance(config.method, DualEncoderConfig)
    other = write_clip(tmp_path / "other", projection=12)
    method = replace(config.method, text=replace(config.method.text, pretrained=str(other)))
    (tmp_path / "run").mkdir()
    with pytest.raises(ConfigError, match="must be one pair, got features of 24 and 12"):
        make_method(replace(config, method=method), tmp_path / "run", dataset)


@pytest.mark.skipif(find_spec(PACKAGE) is None, reason="needs pip install -e '.[pretrained]'")
@pytest.mark.parametrize("preset", ["itc-demo", "demo"])
def test_efficientnet_is_an_image_encoder_of_both_methods(
    preset: str, people: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = f"--method.image.pretrained {EFFICIENTNET} --method.image.kind transformer --method.image.head-crop False"
    small = SMALL.replace("--method.slots 4 --method.features 16", "") if preset == "demo" else SMALL
    config = config_of(preset, people, tmp_path, f"{image} {small}")
    check_config(config)
    method = make_method(config, tmp_path, dataset).eval()
    embedded: Any = method.embed_images(torch.rand(2, 3, 48, 24))
    monkeypatch.setattr("bdam_reid.encoders.efficientnet.PACKAGE", "no_such_package")
    again = config.method.build(config.data, tmp_path, fresh=False)
    again.load_state_dict(method.state_dict())
    assert embedded.shape[0] == 2 and not torch.equal(embedded[0], embedded[1])
