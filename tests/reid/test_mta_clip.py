"""MTA-CLIP trained in its two stages, killed, taken over from another run, exported and searched with."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from mta_clip_run import (
    config_of,
    start,
    write_domains,
    write_market,
)
from naive import close
from PIL import Image
from published import write_clip
from safetensors.torch import load_file
from tiny_run import tensors_of, train_alone
from torch import Tensor
from torch.nn import functional as F

import bdam_reid
from bdam_reid.config import Config, ConfigError, check_config, parse_config
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.images import load_image
from bdam_reid.data.records import Dataset, Query, QueryError
from bdam_reid.engine.checkpoint import CheckpointError, load_state, load_weights
from bdam_reid.engine.environment import make_accelerator
from bdam_reid.engine.run import open_best, read_curves
from bdam_reid.engine.trainer import Trainer, make_method
from bdam_reid.evaluation import page
from bdam_reid.evaluation.evaluator import Evaluation
from bdam_reid.evaluation.looks import looks
from bdam_reid.evaluation.ranking import Embedder
from bdam_reid.methods import PRESETS
from bdam_reid.methods.mta_clip import method as module
from bdam_reid.methods.mta_clip.batches import Images, Rows
from bdam_reid.methods.mta_clip.config import MTAClipConfig
from bdam_reid.methods.mta_clip.losses import contrastive_loss, image_to_text_loss
from bdam_reid.methods.mta_clip.method import MTAClip
from bdam_reid.search.exporter import export_run


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_domains(tmp_path_factory.mktemp("domains"))


@pytest.fixture(scope="module")
def dataset(domains: Path) -> Dataset:
    return load_dataset(domains / "one", domains / "two")


@pytest.fixture(scope="module")
def run(domains: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on both domains that nobody interrupted."""
    output = tmp_path_factory.mktemp("runs") / "run"
    process = start(config_of("mta-clip", domains, output))
    process.join()
    assert process.exitcode == 0
    return output


@pytest.fixture(scope="module")
def prompts_run(domains: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the first stage alone, on the first domain."""
    output = tmp_path_factory.mktemp("runs") / "prompts"
    return train_alone(config_of("mta-clip", domains, output, "--method.plan prompts", "one"))


def trainer_of(config: Config, dataset: Dataset) -> tuple[Trainer, MTAClip]:
    """A trainer that takes single steps, without validation."""
    run = Path(config.output)
    run.mkdir(exist_ok=True)
    method = make_method(config, run, dataset)
    assert isinstance(method, MTAClip)
    return Trainer(config, run, method, dataset, make_accelerator(config.engine), None), method


def test_stages_follow_each_other(run: Path) -> None:
    curves, weights = read_curves(run), load_weights(run / "last")
    first, second = (len(curves[f"loss/{name}"][0]) for name in ("contrastive", "id"))
    assert curves["loss/contrastive"][0] == list(range(1, first + 1))
    for name in ("id", "triplet", "i2t"):
        assert curves[f"loss/{name}"][0] == list(range(first + 1, first + second + 1))
    parts = [[value for value in curves[f"loss/{name}"][1]] for name in ("id", "triplet", "i2t", "total")]
    for identity, triplet, i2t, total in zip(*(part[-second:] for part in parts), strict=True):
        assert total == pytest.approx(0.25 * identity + triplet + i2t, rel=1e-4)
    assert load_state(run / "best")["stage"] == "images"
    persons = [weights[f"heads.{domain}.classifiers.0.weight"].shape for domain in (0, 1)]
    assert persons == [(5, 16), (3, 16)] and weights["prompts.person"].shape == (8, 4, 16)
    assert json.loads((run / "metrics.json").read_text())["protocols"].keys() == {"one_test", "two_test"}


def test_the_log_says_what_is_frozen(run: Path) -> None:
    first, second = re.findall(r"stage (?:prompts|images): trains ([\d,]+ parameters: .*; frozen .*)", log_of(run))
    assert "prompts; frozen" in first and "text_encoder" in first
    assert "image_encoder.encoder.model.vision_model.encoder.layers.1" in second.split("; frozen")[0]
    assert "layers.0" in second.split("; frozen")[1] and "prompts" in second.split("; frozen")[1]


def log_of(run: Path) -> str:
    return (run / "log.txt").read_text()


def place(run: Path) -> tuple[int, int, int]:
    """Stage, epoch and batch of a run that another process trains; zeros if it replaces its checkpoint just now."""
    try:
        progress = load_state(run / "last")["progress"]
    except CheckpointError:
        return 0, 0, 0
    return progress["stage"], progress["epoch"], progress["batch"]


def interrupt_at(where: tuple[int, int, int], config: Config, how: Callable[[Any], None]) -> int:
    process = start(config)
    while place(Path(config.output)) < where:
        assert process.is_alive()
        time.sleep(0.002)
    how(process)
    process.join()
    return int(process.exitcode)


def test_interrupted_in_both_stages_it_ends_with_the_same_bits(domains: Path, run: Path, tmp_path: Path) -> None:
    clip = shutil.copytree(domains / "clip", tmp_path / "clip")
    config = config_of("mta-clip", domains, tmp_path / "run", f"--method.clip {clip}")
    assert interrupt_at((0, 0, 2), config, lambda process: process.kill()) == -signal.SIGKILL
    shutil.rmtree(clip)  # It was read to begin with, and is not needed any more.
    assert interrupt_at((1, 0, 2), config, lambda process: process.terminate()) != 0
    process = start(config)
    process.join()
    assert process.exitcode == 0
    expected, got = tensors_of(run), tensors_of(tmp_path / "run")
    assert expected.keys() == got.keys()
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []
    assert (tmp_path / "run" / "metrics.json").read_text() == (run / "metrics.json").read_text()
    curves = read_curves(run)
    assert {name: read_curves(tmp_path / "run")[name] for name in curves} == curves


def changed(method: MTAClip, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in method.state_dict().items() if not torch.equal(value, before[name])}


def copied(method: MTAClip) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in method.state_dict().items()}


def test_a_step_changes_what_its_stage_trains_and_nothing_else(domains: Path, dataset: Dataset, tmp_path: Path) -> None:
    trainer, method = trainer_of(config_of("mta-clip", domains, tmp_path / "run"), dataset)
    before = copied(method)
    for batch in trainer.stage.batches.batches(0):
        trainer.step(batch)
    assert changed(method, before) == {"prompts.shared", "prompts.domain", "prompts.person"}
    trainer.progress.stage = 1
    trainer._begin_stage()
    before = copied(method)
    for batch in trainer.stage.batches.batches(0):
        trainer.step(batch)
    tower = "image_encoder.encoder.model"
    expected = {
        name
        for name in before
        if name.startswith(
            (
                "image_encoder.adapter.",
                "heads.",
                f"{tower}.vision_model.encoder.layers.1.",
                f"{tower}.vision_model.post_layernorm.",
                f"{tower}.visual_projection.",
            )
        )
        and not name.endswith("k_proj.bias")  # which attention does not depend on, but for rounding
        and not ("necks" in name and name.endswith(".bias"))
    }
    assert {name for name in changed(method, before) if not name.endswith("k_proj.bias")} == expected
    shifts = [value for name, value in method.state_dict().items() if "necks" in name and name.endswith(".bias")]
    assert len(shifts) == 4 and not any(shift.count_nonzero() for shift in shifts)


@torch.no_grad()
def test_the_loss_of_prompts_reads_the_clips_own_features(domains: Path, dataset: Dataset, tmp_path: Path) -> None:
    more = "--method.prompts.overlap-weight 2"
    trainer, method = trainer_of(config_of("mta-clip", domains, tmp_path / "run", more), dataset)
    batch = next(iter(trainer.stage.batches.batches(0)))
    assert isinstance(batch, Rows) and method.kept is not None and method.prompts is not None
    images = {record.key: None for record in dataset.train}
    assert len(method.kept.features) == len(images) == 32
    model = transformers.CLIPModel.from_pretrained(domains / "clip").eval()
    records = [dataset.train[number] for number in batch.numbers.tolist()]
    retrieved = [Query(image=record.path) for record in records]
    method.image_encoder.pools_patches = False
    own = method.embed_queries(retrieved)[:, method.image_encoder.width :]
    people = sorted({record.identity for record in dataset.train})
    persons = torch.tensor([people.index(record.identity) for record in records])
    texts = method.encode_prompts(persons)
    losses = method.losses(batch, 0)
    close(losses.parts["contrastive"], contrastive_loss(own, texts, persons, 0.01))
    close(losses.total, losses.parts["contrastive"] + 2 * method.prompts.overlap(records[0].domain))
    assert torch.equal(model.visual_projection.weight, method.image_encoder.model.visual_projection.weight)


@torch.no_grad()
def test_the_texts_of_the_second_stage_are_those_of_its_domain(domains: Path, dataset: Dataset, tmp_path: Path) -> None:
    trainer, method = trainer_of(config_of("mta-clip", domains, tmp_path / "run"), dataset)
    trainer.progress.stage = 1
    trainer._begin_stage()
    method.eval()
    seen = set()
    for batch in trainer.stage.batches.batches(0):
        assert isinstance(batch, Images) and method.texts is not None
        (domain,) = {method.people.domains[person] for person in batch.classes.tolist()}
        own = torch.tensor(method.people.of_domains[domain])
        labels = torch.tensor([own.tolist().index(person) for person in batch.classes.tolist()])
        projected, texts = method.image_encoder(batch.images).projected, method.encode_prompts(own)
        close(method.losses(batch, 0).parts["i2t"], image_to_text_loss(projected, texts, labels, 0.01, 0.1))
        seen.add(domain)
    assert seen == {0, 1}


@pytest.mark.parametrize("plan", ["images", "joint"])
def test_a_plan_of_one_stage_lowers_its_loss(plan: str, domains: Path, dataset: Dataset, tmp_path: Path) -> None:
    i2t = "--method.loss.i2t-weight 0" if plan == "images" else ""
    more = f"--method.plan {plan} {i2t} --method.images.warmup-epochs 0"
    trainer, method = trainer_of(config_of("mta-clip", domains, tmp_path / "run", more), dataset)
    before, batch = copied(method), next(iter(trainer.stage.batches.batches(0)))
    trained = [trainer.step(batch) for _ in range(15)]
    assert trained[-1]["loss/total"] < 0.9 * trained[0]["loss/total"]
    assert ("loss/contrastive" in trained[0]) == (plan == "joint") == ("prompts.person" in changed(method, before))


@pytest.mark.parametrize("stage", [0, 1])
def test_half_precision_trains_both_stages(stage: int, domains: Path, dataset: Dataset, tmp_path: Path) -> None:
    trainer, method = trainer_of(config_of("mta-clip", domains, tmp_path / "run"), dataset)
    trainer.progress.stage = stage
    trainer._begin_stage()
    batch = next(iter(trainer.stage.batches.batches(0)))
    with torch.autocast("cpu", torch.bfloat16):
        method.begin_stage(trainer.stage)
        got = method.losses(batch, 0)
    got.total.backward()
    method.begin_stage(trainer.stage)
    for name, expected in method.losses(batch, 0).parts.items():
        assert got.parts[name].dtype == torch.float32
        assert float(got.parts[name].detach()) == pytest.approx(float(expected.detach()), rel=0.1, abs=0.1)
    assert all(weight.grad.isfinite().all() for weight in method.parameters() if weight.grad is not None)


def test_an_image_that_cannot_be_read_is_another_of_the_person(domains: Path, tmp_path: Path) -> None:
    source = shutil.copytree(domains, tmp_path / "domains")
    dataset = load_dataset(source / "one")
    dataset.train[0].path.unlink()
    _, method = trainer_of(config_of("mta-clip", source, tmp_path / "run", "", "one"), dataset)
    assert method.kept is not None
    assert torch.equal(method.kept.features[0], method.kept.features[1])
    assert method.kept.classes[:5].tolist() == [0, 0, 0, 0, 1]


def test_the_second_stage_begins_with_the_prompts_of_another_run(
    prompts_run: Path, domains: Path, tmp_path: Path
) -> None:
    more = f"--method.plan images --method.start.run {prompts_run}"
    dataset = load_dataset(domains / "one")
    trainer, method = trainer_of(config_of("mta-clip", domains, tmp_path / "run", more, "one"), dataset)
    theirs = load_weights(prompts_run / "last")
    for name in ("shared", "domain", "person"):
        assert torch.equal(method.state_dict()[f"prompts.{name}"], theirs[f"prompts.{name}"])
    assert trainer.stage.name == "images" and method.texts is not None and len(method.texts) == 5


def test_other_persons_begin_with_the_words_that_all_prompts_share(
    prompts_run: Path, domains: Path, dataset: Dataset, tmp_path: Path
) -> None:
    more = f"--method.start.run {prompts_run}"
    trainer, method = trainer_of(config_of("mta-clip", domains, tmp_path / "run", more), dataset)
    theirs = load_weights(prompts_run / "last")
    assert torch.equal(method.state_dict()["prompts.shared"], theirs["prompts.shared"])
    assert method.state_dict()["prompts.person"].shape == (8, 4, 16) and trainer.stage.name == "prompts"
    assert not torch.equal(method.state_dict()["prompts.person"][:5], theirs["prompts.person"])


def test_a_trained_image_tower_is_trained_further_on_fewer_persons(run: Path, domains: Path, tmp_path: Path) -> None:
    few = write_market(tmp_path / "few", 4, 2)
    shutil.copytree(domains / "clip", tmp_path / "clip")
    more = f"--method.start.run {run} --method.start.images True"
    _, method = trainer_of(config_of("mta-clip", tmp_path, tmp_path / "run", more, "few"), load_dataset(few))
    theirs = {name: weight for name, weight in load_weights(run / "best").items() if name.startswith("image_encoder.")}
    assert [name for name, weight in theirs.items() if not torch.equal(method.state_dict()[name], weight)] == []
    assert torch.equal(method.state_dict()["prompts.shared"], load_weights(run / "last")["prompts.shared"])


@pytest.mark.parametrize(
    ("more", "data", "said"),
    [
        ("--method.plan images --method.start.run PROMPTS", "two", "was trained on other persons"),
        ("--method.start.run DOMAINS", "one", "must be a run of MTA-CLIP with its last checkpoint, got"),
        ("--method.prompts.shared 3 --method.start.run PROMPTS", "two", "must be (3, 16), got (4, 16)"),
        ("--method.tower.cameras True", "", "is for one domain, whose cameras have numbers of their own, got 2"),
        ("--method.prompts.person 60", "one", "a prompt must be of at most 77 tokens"),
        ("--method.images.blocks 3", "one", "must be at most 2, those of the CLIP, got 3"),
        ("--method.tower.groups 3", "one", "must divide the width 16 of the tokens, got 3"),
        ("--method.clip nowhere/to/be/found", "one", "there is no such folder"),
    ],
)
def test_what_cannot_be_trained_is_said(
    more: str, data: str, said: str, prompts_run: Path, domains: Path, dataset: Dataset, tmp_path: Path
) -> None:
    more = more.replace("PROMPTS", str(prompts_run)).replace("DOMAINS", str(domains))
    config = config_of("mta-clip", domains, tmp_path / "run", more, data)
    check_config(config)
    with pytest.raises(ConfigError, match=re.escape(said)):
        trainer_of(config, load_dataset(domains / data) if data else dataset)


def test_a_run_that_has_not_finished_its_prompts_is_no_start(prompts_run: Path, domains: Path, tmp_path: Path) -> None:
    source = shutil.copytree(prompts_run, tmp_path / "source")
    state = json.loads((source / "last" / "state.json").read_text())
    state["progress"]["epoch"] = 1
    (source / "last" / "state.json").write_text(json.dumps(state))
    config = config_of("mta-clip", domains, tmp_path / "run", f"--method.start.run {source}", "one")
    with pytest.raises(ConfigError, match=r"trained to the end, got .* of the plan prompts in epoch 1 of stage 1"):
        trainer_of(config, load_dataset(domains / "one"))


@pytest.mark.parametrize(
    ("preset", "options", "said"),
    [
        ("mta-clip", "--method.plan images", "has no texts without --method.start.run"),
        ("mta-clip", "--method.start.images True", "needs --method.start.run, the folder of a run, got none"),
        ("clip-reid", "--method.tower.groups 4", "--method.tower.groups needs --method.tower.adapter sga, got none"),
        ("mta-clip", "--method.clip= ", "--method.clip must be a hub name or folder"),
        ("mta-clip", "--method.loss.margin -1", "--method.loss.margin must be at least 0, got -1.0"),
    ],
)
def test_impossible_values_are_named(preset: str, options: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        check_config(parse_config(PRESETS, [preset, *options.split()]))


def test_presets_differ_in_what_their_names_say() -> None:
    ours, base, plain = (PRESETS[name]().method for name in ("mta-clip", "clip-reid", "image-baseline"))
    assert isinstance(ours, MTAClipConfig) and isinstance(base, MTAClipConfig) and isinstance(plain, MTAClipConfig)
    assert (ours.tower.adapter, base.tower.adapter, plain.tower.adapter) == ("sga", "none", "none")
    assert (ours.prompts.shared, ours.prompts.domain, base.prompts.shared, base.prompts.domain) == (4, 4, 0, 0)
    assert (base.plan, plain.plan, plain.loss.i2t_weight) == ("progressive", "images", 0)
    for name in ("mta-clip", "clip-reid", "image-baseline", "mta-clip-demo"):
        check_config(PRESETS[name]())


def untrained(preset: str, domains: Path, tmp_path: Path, more: str = "") -> MTAClip:
    config = config_of(preset, domains, tmp_path / "run", more, "one")
    (tmp_path / "run").mkdir(parents=True)
    method = make_method(config, tmp_path / "run", load_dataset(domains / "one")).eval()
    assert isinstance(method, MTAClip)
    return method


@torch.no_grad()
def test_images_and_sentences_are_embedded_as_clip_has_them(domains: Path, tmp_path: Path) -> None:
    method = untrained("clip-reid", domains, tmp_path)
    model = transformers.CLIPModel.from_pretrained(domains / "clip").eval()
    images = torch.rand(3, 3, 32, 16)
    pixels = images * method.image_encoder.encoder.scale + method.image_encoder.encoder.shift
    own = model.vision_model(pixels, interpolate_pos_encoding=True).pooler_output
    both = torch.cat([F.normalize(x, dim=1) for x in (own, model.visual_projection(own))], dim=1)
    close(method.embed_images(images), both / 2**0.5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(domains / "clip")
    sentences = ["a man in a red coat", "the man"]
    read = tokenizer(sentences, padding=True, return_tensors="pt")
    embedded = method.embed_queries([Query(text=sentence) for sentence in sentences])
    assert embedded[:, :16].count_nonzero() == 0
    close(embedded[:, 16:], F.normalize(model.get_text_features(**read).pooler_output, dim=1))
    close(method.text_tower()(*method.tokenize(sentences)), embedded)


@torch.no_grad()
def test_images_and_sentences_may_be_mixed_but_not_in_one_query(domains: Path, tmp_path: Path) -> None:
    method = untrained("mta-clip", domains, tmp_path)
    paths = sorted((domains / "one" / "query").iterdir())[:2]
    mixed = method.embed_queries([Query(image=paths[0]), Query(text="the man"), Query(image=paths[1])])
    close(mixed[[0, 2]], method.embed_queries([Query(image=path) for path in paths]))
    close(mixed.norm(dim=1), torch.ones(3))
    for query in (Query(text="a man", image=paths[0]), Query()):
        with pytest.raises(QueryError, match="searches by an image or a sentence, got a query with both, or with nei"):
            method.embed_queries([query])


@torch.no_grad()
def test_an_evaluation_tells_the_cameras(domains: Path, tmp_path: Path) -> None:
    method = untrained("clip-reid", domains, tmp_path, "--method.tower.cameras True --method.tower.stride 6")
    assert method.image_encoder.cameras is not None and method.people.cameras == (1, 2)
    method.image_encoder.cameras.normal_()
    test = load_dataset(domains / "one").protocols["test"]
    ranking = Embedder(method, torch.device("cpu")).rank(test)
    images, places = [], []
    for record in ranking.gallery:
        images.append(load_image(record.path, method.image_size))
        places.append({1: 0, 2: 1}[record.camera])
    told = module.joined(method.image_encoder(torch.stack(images), torch.tensor(places)))
    close(ranking.embeddings, told)
    assert not torch.allclose(told, method.embed_images(torch.stack(images)), atol=1e-3)
    query = test.queries[0]
    assert not torch.allclose(ranking.asked[0], method.embed_queries([Query(image=query.image)])[0], atol=1e-3)


@torch.no_grad()
def test_maps_say_which_patches_are_like_the_image(domains: Path, tmp_path: Path) -> None:
    method, images = untrained("mta-clip", domains, tmp_path, "--method.tower.groups 2"), torch.rand(2, 3, 32, 16)
    tower, maps = method.image_encoder, method.maps(images)
    assert list(maps) == ["without adapter", "with adapter", "group 1", "group 2"]
    assert all(values.shape == (2, 4, 2) for values in maps.values())
    patches = tower.tokens(images)[:, 1:]
    assert tower.adapter is not None
    adapted = tower.adapter.grouped(patches)
    close(maps["group 2"].flatten(1), adapted.maps[:, 1])
    whole = tower(images).projected
    patch = tower.finish(adapted.tokens[:, 5]).projected
    expected = [torch.dot(a, b) / a.norm() / b.norm() for a, b in zip(patch, whole, strict=True)]
    close(maps["with adapter"][:, 2, 1], torch.stack(expected))


def test_the_page_shows_where_it_looks(charts: None, domains: Path, tmp_path: Path) -> None:
    method = untrained("mta-clip", domains, tmp_path)
    embedder = Embedder(method, torch.device("cpu"))
    found = looks(embedder, embedder.rank(load_dataset(domains / "one").protocols["test"]), 3)
    assert len({look.path for look in found}) == 3 and all(len(look.maps) == 10 for look in found)
    drawn = page._draw(tmp_path, tmp_path, Evaluation({}, {}, {}), found)
    assert drawn == {"Where it looks in some images of the gallery": "looks.png"}
    with Image.open(tmp_path / "looks.png") as picture:
        assert picture.width > 400


@torch.no_grad()
def test_a_clip_of_few_tokens_will_do(domains: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "clip", longest=32)
    write_market(tmp_path / "one")
    method = untrained("mta-clip", tmp_path, tmp_path / "run", "--data.max-tokens 32")
    assert method.prompts is not None and len(method.prompts) == 30
    assert method.encode_prompts(torch.tensor([0, 1])).shape == (2, 24)


def test_an_export_embeds_as_the_run_does_without_what_training_needs(run: Path, domains: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path / "export", onnx=False, presets=PRESETS)
    weights = load_file(tmp_path / "export" / "model.safetensors")
    assert {name.split(".")[0] for name in weights} == {"image_encoder", "text_encoder"}
    paths = sorted((domains / "one" / "query").iterdir())
    mine, theirs = (bdam_reid.load(folder, device="cpu") for folder in (run, tmp_path / "export"))
    assert torch.equal(mine.embed_images(paths), theirs.embed_images(paths))
    assert torch.equal(mine.embed_texts(["a man in red"]), theirs.embed_texts(["a man in red"]))
    assert mine.parts == {"person": slice(0, 40)}
    hits = mine.search(mine.embed_images(paths), "the man", k=2)
    assert len(hits) == 2 and hits[0].score >= hits[1].score


def test_a_run_without_its_persons_says_so(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "persons.json").unlink()
    with pytest.raises(ConfigError, match="must hold the training persons of a run"):
        open_best(copy, PRESETS, "cpu")
