"""Training: what a run leaves behind, that a kill changes nothing, and what bad input is told."""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import arguments, make_trainer, start, steps_done, tensors_of, tiny, train_alone
from tqdm.auto import tqdm

from bdam_kernels import dispatch
from bdam_reid.engine import trainer as trainers
from bdam_reid.engine.board import Board
from bdam_reid.engine.checkpoint import load_state
from bdam_reid.engine.errors import TrainingError
from bdam_reid.engine.run import load_config, read_curves
from bdam_reid.engine.trainer import Trainer
from bdam_reid.methods import PRESETS
from bdam_reid.methods.bdam import method as bdam
from bdam_reid.methods.schedules import warm_up_and_anneal
from bdam_reid.train import main


def test_learning_rate_warms_up_and_anneals_to_zero() -> None:
    rates = [warm_up_and_anneal(step, 24, rate=2.0, warmup_steps=4) for step in range(25)]
    assert rates[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert rates[14] == pytest.approx(1.0)
    assert rates[24] == pytest.approx(0.0, abs=1e-12)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_run_folder_holds_everything(people: Path, finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    files = {
        "config.json",
        "environment.json",
        "log.txt",
        "metrics.json",
        "data.json",
        "lock",
        "tensorboard",
        "tokenizer",
        "best",
        "last",
    }
    assert names == files
    assert load_config(finished, PRESETS) == tiny(people, finished)
    environment = (finished / "environment.json").read_text()
    assert json.loads(environment)["packages"]["torch"] == torch.__version__
    assert json.loads(environment)["backend"] == dispatch.best(torch.device("cpu"))
    assert socket.gethostname() not in environment
    log = (finished / "log.txt").read_text()
    assert (
        "epoch 3/3" in log
        and "validation  the same clothes: R-1 " in log
        and "; other clothes: R-1 " in log
        and "\r" not in log
    )
    progress = load_state(finished / "last")["progress"]
    assert [progress[name] for name in ("stage", "epoch", "batch", "step")] == [0, 3, 0, 12]
    best = load_state(finished / "best")
    assert best == progress["best"]
    assert best["step"] in (4, 8, 12)


def test_metrics_are_of_all_protocols_with_and_without_clothing(finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    for name, clothes, gallery in (("test", "same", 8), ("clothing_change", "other", 4)):
        found = metrics["protocols"][name]
        assert (found["chance_r1"], found["clothes"]) == (pytest.approx(50), clothes)
        assert list(found["results"]) == ["same", "other", "identity"]
        for row in found["results"].values():
            assert (row["queries"], row["gallery"], row["queries_without_positive"]) == (16, gallery, 0)
            assert 0 <= row["r1"] <= row["r5"] <= row["r10"] <= 100
            assert 0 < row["minp"] <= 100 and 0 < row["map"] <= 100
    assert metrics["weights"] == load_state(finished / "best")["weights"]
    assert metrics.keys() >= {"gates", "probes"}


def test_tensorboard_has_every_step(finished: Path) -> None:
    curves = read_curves(finished)
    for name in (
        "lr",
        "loss/total",
        "loss/info",
        "loss/triplet",
        "loss/clothing",
        "loss/decouple",
        "weight/info",
    ):
        assert curves[name][0] == list(range(1, 13))
    for name in ("val/r1", "val/other_r1", "val/cka_linear", "part/same/clothing", "part/other/clothing"):
        assert curves[name][0] == [4, 8, 12]
    assert curves["lr"][1][1] == pytest.approx(1e-3)
    weights = [curves[f"weight/{task}"][1] for task in ("info", "triplet", "clothing", "decouple")]
    assert [sum(at) for at in zip(*weights, strict=True)] == pytest.approx([4.0] * 12)


def test_a_finished_run_is_left_as_it_is(people: Path, finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy, symlinks=True)
    train_alone(tiny(people, copy))
    assert (copy / "metrics.json").read_text() == (finished / "metrics.json").read_text()
    assert load_state(copy / "last")["progress"] == load_state(finished / "last")["progress"]


def test_killed_at_any_moment_it_ends_with_the_same_bits(people: Path, finished: Path, tmp_path: Path) -> None:
    config = tiny(people, tmp_path / "killed")
    run, rng = Path(config.output), random.Random()
    for step in (0, *sorted(rng.sample(range(1, 12), 5))):
        process = start(config)
        while steps_done(run) < step or not (run / "config.json").exists():
            assert process.is_alive()
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL or steps_done(run) == 12
    process = start(config)
    process.join()
    assert process.exitcode == 0
    expected, got = tensors_of(finished), tensors_of(run)
    assert expected.keys() == got.keys()
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []
    assert (run / "metrics.json").read_text() == (finished / "metrics.json").read_text()
    assert {path.name for path in run.iterdir()} == {path.name for path in finished.iterdir()}
    mine, theirs = read_curves(run), read_curves(finished)
    assert {name: mine[name] for name in theirs} == theirs


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--data.root", "/no/such/folder"], "expected a data set folder, got /no/such/folder"),
        (["--data.identities-per-batch", "9"], "batch of 9 identities is larger than the training set"),
        (["--data.image-height", "33"], "--data.image-height must be a multiple of --method.image.patch-height"),
        (["--engine.mixed-precision", "fp16"], "fp16 needs a GPU"),
        (["--method.text.pretrained", "./no-such-encoder"], "no-such-encoder"),
        (["--method.image.pretrained", "./no-such-encoder"], "no-such-encoder"),
        (["--method.fusion.kind", "simple", "--method.fusion.tokens", "pair"], "simple"),
    ],
)
def test_bad_input_is_one_message(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    assert said in failure(arguments(people, tmp_path / "run", *more), capsys)
    assert not (tmp_path / "run").exists()


def failure(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says that must fail because of its input."""
    with pytest.raises(SystemExit) as stop:
        main(command)
    message = capsys.readouterr().err
    assert stop.value.code == 1
    assert message.startswith("error: ") and "Traceback" not in message
    return message


def test_a_forced_backend_that_cannot_run_is_refused(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dispatch, "_OF_PROCESS", "cuda")
    assert "backend 'cuda' cannot run" in failure(arguments(people, tmp_path / "run"), capsys)
    monkeypatch.setattr(dispatch, "_OF_PROCESS", "gpu")
    assert "BDAM_BACKEND must be one of" in failure(arguments(people, tmp_path / "run"), capsys)


def test_one_identity_is_refused(people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "one"
    shutil.copytree(people, root)
    records = json.loads((root / "reid_raw.json").read_text())
    first = next(record["id"] for record in records if record["split"] == "train")
    kept = [record for record in records if record["split"] != "train" or record["id"] == first]
    (root / "reid_raw.json").write_text(json.dumps(kept))
    assert "two people or more" in failure(arguments(root, tmp_path / "run"), capsys)


def test_another_config_is_refused_by_the_names_of_its_fields(
    people: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(finished.rglob("*"))
    message = failure(arguments(people, finished, "--method.optim.epochs", "5", "--seed", "1"), capsys)
    assert "--method.optim.epochs: 3 in the run, 5 now" in message and "--seed: 0 in the run, 1 now" in message
    assert "another --output" in message
    assert sorted(finished.rglob("*")) == before


def test_a_folder_of_something_else_is_left_alone(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "last-words.txt").write_text("mine")
    assert "holds other files" in failure(arguments(people, tmp_path), capsys)
    assert "must be a folder" in failure(arguments(people, tmp_path / "last-words.txt"), capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["last-words.txt"]


def test_a_damaged_checkpoint_is_named(
    people: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run, symlinks=True)
    weights = run / "last" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    message = failure(arguments(people, run), capsys)
    assert f"{run}/last/model.safetensors is not what was saved" in message and "train again" in message


def test_a_full_disk_ends_training_with_one_message(
    people: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Room for everything but the optimizer's state: no file may be larger than the weights."""
    size = (finished / "last" / "model.safetensors").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        message = failure(arguments(people, tmp_path / "run"), capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot save the last checkpoint" in message and "make room on the disk" in message
    assert not list((tmp_path / "run").glob("last*"))
    assert read_curves(tmp_path / "run")["lr"][0] == [1]
    train_alone(tiny(people, tmp_path / "run"))
    assert (tmp_path / "run" / "metrics.json").read_text() == (finished / "metrics.json").read_text()


def test_a_loss_that_is_no_number_ends_training(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says on which images, and leaves the checkpoint before it as it is."""
    honest, steps = bdam.unweighted_losses, iter(range(100))

    def broken(*inputs: Any) -> dict[str, torch.Tensor]:
        losses = honest(*inputs)
        return losses if next(steps) < 2 else {**losses, "info": losses["info"] * float("nan")}

    monkeypatch.setattr(bdam, "unweighted_losses", broken)
    run = tmp_path / "run"
    message = failure(arguments(people, run, "--method.loss.gradnorm-every", "0"), capsys)
    assert "the loss is nan at step 2 (info nan, triplet " in message and "lower the learning rate" in message
    report = json.loads((run / "failed_batch.json").read_text())
    assert (report["step"], report["losses"]["info"], len(report["images"])) == (2, "nan", 8)
    assert all(Path(path).is_file() for path in report["images"]) and len(set(report["images"])) == 8
    assert f"listed in {run}/failed_batch.json, {report['images'][0]} the first of 8" in message
    assert load_state(run / "last")["progress"]["step"] == 2


def test_weights_that_are_no_numbers_are_not_saved(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest, steps = Trainer.step, iter(range(100))

    def step(self: Trainer, batch: Any) -> dict[str, float]:
        if next(steps) == 2:
            self.method.identity_projection.bias.register_hook(lambda gradient: gradient * float("nan"))
        return honest(self, batch)

    monkeypatch.setattr(Trainer, "step", step)
    message = failure(arguments(people, tmp_path / "run"), capsys)
    assert "1 of " in message and "weights, such as identity_projection.bias, are no numbers after step 3" in message
    assert load_state(tmp_path / "run" / "last")["progress"]["step"] == 2


def test_embeddings_that_are_no_numbers_are_not_ranked(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After the only step of an epoch, the weights are numbers too great to compute with."""
    great = "--method.optim.lr 1e30 --method.optim.warmup-steps 0 --method.optim.clip-norm 0"
    few = "--data.identities-per-batch 8 --data.images-per-identity 5 --method.loss.gradnorm-every 0"
    message = failure(arguments(people, tmp_path / "run", *great.split(), *few.split()), capsys)
    assert "the embeddings of validation are no numbers" in message and "Lower the learning rate" in message


def test_weights_that_are_no_numbers_are_not_blamed_on_the_next_batch(people: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny(people, tmp_path / "run"))
    batch = next(trainer._batches())
    hook = trainer.method.identity_projection.bias.register_hook(lambda gradient: gradient * float("nan"))
    trainer.step(batch)
    hook.remove()
    with pytest.raises(TrainingError, match=r"step 1 \(.*because weights, such as .*were no numbers before it"):
        trainer.step(batch)


def test_an_epoch_of_which_nothing_was_left_to_train_has_no_loss(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, said = make_trainer(tiny(people, tmp_path / "run")), list[str]()
    monkeypatch.setattr(trainers.log, "info", said.append)
    with Board(trainer.run, 1) as board, tqdm(disable=True) as bar:
        for left in (1, 0):
            trainer.progress.batch = len(trainer.stage.batches) - left
            trainer._fit_epoch(board, bar)
    (line,) = said
    assert "step 1/12" in line and "nan" not in line


def test_a_run_of_an_older_version_is_not_trained_on(
    people: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run, symlinks=True)
    state = json.loads((run / "last" / "state.json").read_text())
    del state["progress"]["stage"]
    (run / "last" / "SHA256SUMS").unlink()
    (run / "last" / "state.json").write_text(json.dumps(state))
    assert "it can be evaluated, but not be trained on" in failure(arguments(people, run), capsys)
