"""MTA-CLIP trained in its two stages, and killed in both."""

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
from mta_clip_run import config_of, start, trainer_of
from naive import close
from tiny_run import tensors_of
from torch import Tensor

from bdam_reid.config import Config
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.records import Dataset, Query
from bdam_reid.engine.checkpoint import CheckpointError, load_state, load_weights
from bdam_reid.engine.run import read_curves
from bdam_reid.methods.mta_clip.batches import Images, Rows
from bdam_reid.methods.mta_clip.losses import contrastive_loss, image_to_text_loss
from bdam_reid.methods.mta_clip.method import MTAClip


def test_stages_follow_each_other(clip_run: Path) -> None:
    curves, weights = read_curves(clip_run), load_weights(clip_run / "last")
    first, second = (len(curves[f"loss/{name}"][0]) for name in ("contrastive", "id"))
    assert curves["loss/contrastive"][0] == list(range(1, first + 1))
    for name in ("id", "triplet", "i2t"):
        assert curves[f"loss/{name}"][0] == list(range(first + 1, first + second + 1))
    parts = [[value for value in curves[f"loss/{name}"][1]] for name in ("id", "triplet", "i2t", "total")]
    for identity, triplet, i2t, total in zip(*(part[-second:] for part in parts), strict=True):
        assert total == pytest.approx(0.25 * identity + triplet + i2t, rel=1e-4)
    assert load_state(clip_run / "best")["stage"] == "images"
    persons = [weights[f"heads.{domain}.classifiers.0.weight"].shape for domain in (0, 1)]
    assert persons == [(5, 16), (3, 16)] and weights["prompts.person"].shape == (8, 4, 16)
    assert json.loads((clip_run / "metrics.json").read_text())["protocols"].keys() == {"one_test", "two_test"}


def test_the_log_says_what_is_frozen(clip_run: Path) -> None:
    first, second = re.findall(r"stage (?:prompts|images): trains ([\d,]+ parameters: .*; frozen .*)", log_of(clip_run))
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


def test_interrupted_in_both_stages_it_ends_with_the_same_bits(domains: Path, clip_run: Path, tmp_path: Path) -> None:
    clip = shutil.copytree(domains / "clip", tmp_path / "clip")
    config = config_of("mta-clip", domains, tmp_path / "run", f"--method.clip {clip}")
    assert interrupt_at((0, 0, 2), config, lambda process: process.kill()) == -signal.SIGKILL
    shutil.rmtree(clip)  # It was read to begin with, and is not needed any more.
    assert interrupt_at((1, 0, 2), config, lambda process: process.terminate()) != 0
    process = start(config)
    process.join()
    assert process.exitcode == 0
    expected, got = tensors_of(clip_run), tensors_of(tmp_path / "run")
    assert expected.keys() == got.keys()
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []
    assert (tmp_path / "run" / "metrics.json").read_text() == (clip_run / "metrics.json").read_text()
    curves = read_curves(clip_run)
    assert {name: read_curves(tmp_path / "run")[name] for name in curves} == curves


def changed(method: MTAClip, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in method.state_dict().items() if not torch.equal(value, before[name])}


def copied(method: MTAClip) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in method.state_dict().items()}


def test_a_step_changes_what_its_stage_trains_and_nothing_else(domains: Path, both: Dataset, tmp_path: Path) -> None:
    trainer, method = trainer_of(config_of("mta-clip", domains, tmp_path / "run"), both)
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
def test_the_loss_of_prompts_reads_the_clips_own_features(domains: Path, both: Dataset, tmp_path: Path) -> None:
    more = "--method.prompts.overlap-weight 2"
    trainer, method = trainer_of(config_of("mta-clip", domains, tmp_path / "run", more), both)
    batch = next(iter(trainer.stage.batches.batches(0)))
    assert isinstance(batch, Rows) and method.kept is not None and method.prompts is not None
    images = {record.key: None for record in both.train}
    assert len(method.kept.features) == len(images) == 32
    model = transformers.CLIPModel.from_pretrained(domains / "clip").eval()
    records = [both.train[number] for number in batch.numbers.tolist()]
    retrieved = [Query(image=record.path) for record in records]
    method.image_encoder.pools_patches = False
    own = method.embed_queries(retrieved)[:, method.image_encoder.width :]
    people = sorted({record.identity for record in both.train})
    persons = torch.tensor([people.index(record.identity) for record in records])
    texts = method.encode_prompts(persons)
    losses = method.losses(batch, 0)
    close(losses.parts["contrastive"], contrastive_loss(own, texts, persons, 0.01))
    close(losses.total, losses.parts["contrastive"] + 2 * method.prompts.overlap(records[0].domain))
    assert torch.equal(model.visual_projection.weight, method.image_encoder.model.visual_projection.weight)


@torch.no_grad()
def test_the_texts_of_the_second_stage_are_those_of_its_domain(domains: Path, both: Dataset, tmp_path: Path) -> None:
    trainer, method = trainer_of(config_of("mta-clip", domains, tmp_path / "run"), both)
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
def test_a_plan_of_one_stage_lowers_its_loss(plan: str, domains: Path, both: Dataset, tmp_path: Path) -> None:
    i2t = "--method.loss.i2t-weight 0" if plan == "images" else ""
    more = f"--method.plan {plan} {i2t} --method.images.warmup-epochs 0"
    trainer, method = trainer_of(config_of("mta-clip", domains, tmp_path / "run", more), both)
    before, batch = copied(method), next(iter(trainer.stage.batches.batches(0)))
    trained = [trainer.step(batch) for _ in range(15)]
    assert trained[-1]["loss/total"] < 0.9 * trained[0]["loss/total"]
    assert ("loss/contrastive" in trained[0]) == (plan == "joint") == ("prompts.person" in changed(method, before))


def test_joint_training_keeps_words_apart(domains: Path, both: Dataset, tmp_path: Path) -> None:
    more = "--method.plan joint --method.images.warmup-epochs 0 --method.prompts.overlap-weight 1e4"
    trainer, method = trainer_of(config_of("mta-clip", domains, tmp_path / "run", more), both)
    losses = method.losses(next(iter(trainer.stage.batches.batches(0))), 0)
    own = {"id": 0.25, "triplet": 1.0, "contrastive": 1.0, "overlap": 1e4}
    close(losses.total, sum(own[name] * loss for name, loss in losses.parts.items()))
    assert losses.parts.keys() == own.keys() and float(losses.parts["overlap"]) > 0


@pytest.mark.parametrize("stage", [0, 1])
def test_half_precision_trains_both_stages(stage: int, domains: Path, both: Dataset, tmp_path: Path) -> None:
    trainer, method = trainer_of(config_of("mta-clip", domains, tmp_path / "run"), both)
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
