"""MTA-CLIP begun with what another run gives; what cannot be trained."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from mta_clip_run import config_of, trainer_of, write_market
from PIL import Image
from published import write_clip
from tiny_run import train_alone

from bdam_reid.config import ConfigError, check_config, parse_config
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.records import Dataset
from bdam_reid.engine.checkpoint import CheckpointError, load_weights
from bdam_reid.engine.run import load_config
from bdam_reid.methods import PRESETS
from bdam_reid.methods.mta_clip.config import MTAClipConfig
from bdam_reid.methods.mta_clip.people import People
from bdam_reid.search.exporter import export_run


@pytest.fixture(scope="module")
def prompts_run(domains: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the first stage alone, on the first domain."""
    output = tmp_path_factory.mktemp("runs") / "prompts"
    return train_alone(config_of("mta-clip", domains, output, "--method.plan prompts", "one"))


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


def test_persons_are_the_same_in_sets_of_other_names(domains: Path, tmp_path: Path) -> None:
    (tmp_path / "moved").mkdir()
    for one, other in (("one", "first"), ("two", "second")):
        shutil.copytree(domains / one, tmp_path / "moved" / other)
    then = People.of(load_dataset(domains / "one", domains / "two"))
    now = People.of(load_dataset(tmp_path / "moved" / "first", tmp_path / "moved" / "second"))
    assert now == then != People.of(load_dataset(domains / "two", domains / "one"))


def test_other_persons_begin_with_the_words_that_all_prompts_share(
    prompts_run: Path, domains: Path, both: Dataset, tmp_path: Path
) -> None:
    more = f"--method.start.run {prompts_run}"
    trainer, method = trainer_of(config_of("mta-clip", domains, tmp_path / "run", more), both)
    theirs = load_weights(prompts_run / "last")
    assert torch.equal(method.state_dict()["prompts.shared"], theirs["prompts.shared"])
    assert method.state_dict()["prompts.person"].shape == (8, 4, 16) and trainer.stage.name == "prompts"
    assert not torch.equal(method.state_dict()["prompts.person"][:5], theirs["prompts.person"])


def test_a_trained_image_tower_is_trained_further_on_fewer_persons(
    clip_run: Path, domains: Path, tmp_path: Path
) -> None:
    few = write_market(tmp_path / "few", 4, 2)
    shutil.copytree(domains / "clip", tmp_path / "clip")
    more = f"--method.start.run {clip_run} --method.start.images True"
    _, method = trainer_of(config_of("mta-clip", tmp_path, tmp_path / "run", more, "few"), load_dataset(few))
    theirs = {
        name: weight for name, weight in load_weights(clip_run / "best").items() if name.startswith("image_encoder.")
    }
    assert [name for name, weight in theirs.items() if not torch.equal(method.state_dict()[name], weight)] == []
    assert torch.equal(method.state_dict()["prompts.shared"], load_weights(clip_run / "last")["prompts.shared"])


@pytest.mark.parametrize(
    ("more", "data", "said"),
    [
        ("--method.plan images --method.start.run PROMPTS", "two", "was trained on other persons"),
        ("--method.start.run DOMAINS", "one", "must be a run of MTA-CLIP with its last checkpoint, got"),
        ("--method.prompts.shared 3 --method.start.run PROMPTS", "two", "must be (3, 16), got (4, 16)"),
        ("--method.tower.cameras True", "", "is for one domain, whose cameras have numbers of their own, got 2"),
        ("--method.prompts.person 60", "one", "a prompt must be of at most 77 tokens"),
        ("--method.images.blocks 3", "one", "must be at most 2, those of the CLIP, got 3"),
        ("--data.max-tokens 4", "one", "--data.max-tokens must be above 4, or 'A photo of a' of a prompt is cut"),
        ("--method.tower.groups 3", "one", "must divide the width 16 of the tokens, got 3"),
        ("--method.clip nowhere/to/be/found", "one", "there is no such folder"),
    ],
)
def test_what_cannot_be_trained_is_said(
    more: str, data: str, said: str, prompts_run: Path, domains: Path, both: Dataset, tmp_path: Path
) -> None:
    more = more.replace("PROMPTS", str(prompts_run)).replace("DOMAINS", str(domains))
    config = config_of("mta-clip", domains, tmp_path / "run", more, data)
    check_config(config)
    with pytest.raises(ConfigError, match=re.escape(said)):
        trainer_of(config, load_dataset(domains / data) if data else both)


def test_prompts_of_another_clip_are_none(prompts_run: Path, domains: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "clip", seed=1)
    more = f"--method.plan images --method.start.run {prompts_run} --method.clip {tmp_path / 'clip'}"
    with pytest.raises(ConfigError, match=r"must be of the same CLIP, got one that reads 'A photo of a ... person.'"):
        trainer_of(config_of("mta-clip", domains, tmp_path / "run", more, "one"), load_dataset(domains / "one"))


def test_a_model_in_the_hubs_form_and_an_export_are_no_runs(clip_run: Path, domains: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a model in the hub's form, no run and no export of one"):
        load_config(domains / "clip", PRESETS)
    export_run(clip_run, tmp_path / "exported", onnx=False, presets=PRESETS)
    more = f"--method.start.run {tmp_path / 'exported'}"
    with pytest.raises(ConfigError, match="must be a run, got its export"):
        trainer_of(config_of("mta-clip", domains, tmp_path / "run", more, "one"), load_dataset(domains / "one"))


def test_cameras_of_other_images_are_drawn_anew(
    domains: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(domains / "clip", tmp_path / "clip")
    write_market(tmp_path / "other", 5, 2)
    source = train_alone(config_of("clip-reid", domains, tmp_path / "source", "--method.tower.cameras True", "one"))
    theirs = load_weights(source / "best")["image_encoder.cameras"]
    more = f"--method.start.run {source} --method.start.images True --method.tower.cameras"
    for root, data, same in ((domains, "one", True), (tmp_path, "other", False)):
        _, method = trainer_of(
            config_of("clip-reid", root, tmp_path / f"on-{data}", f"{more} True", data), load_dataset(root / data)
        )
        assert torch.equal(method.state_dict()["image_encoder.cameras"], theirs) == same
    assert "but for cameras, drawn anew" in capsys.readouterr().out
    bare = config_of("clip-reid", domains, tmp_path / "bare", f"{more} False", "one")
    trainer_of(bare, load_dataset(domains / "one"))
    assert "its cameras are left behind" in capsys.readouterr().out


def test_cameras_that_are_not_known_cannot_be_told(domains: Path, tmp_path: Path) -> None:
    for person in range(8):
        for number in range(4):
            picture = tmp_path / "plain" / f"{person}" / f"{number}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 32), (20 * person, 40 * number, 90)).save(picture)
    shutil.copytree(domains / "clip", tmp_path / "clip")
    config = config_of("clip-reid", tmp_path, tmp_path / "run", "--method.tower.cameras True", "plain")
    with pytest.raises(ConfigError, match="needs training images whose cameras are known, got none"):
        trainer_of(config, load_dataset(tmp_path / "plain"))


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
        ("clip-reid", "--method.images.epochs 5", "--method.images.warmup-epochs must be at most 5"),
        ("mta-clip", "--method.plan joint --method.images.lr 0", "--method.images.lr must be above 0 in joint"),
        ("mta-clip", "--method.plan joint --method.loss.i2t-weight 0", "or no prompt learns, got 0"),
        ("clip-reid", "--method.prompts.overlap-weight 1", "--method.prompts.overlap-weight needs prompts"),
        (
            "image-baseline",
            "--method.loss.id-weight 0 --method.loss.triplet-weight 0",
            "i2t-weight must be above 0, got 0 for all",
        ),
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
