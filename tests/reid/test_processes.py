"""Several processes do what one does: losses, weights, and going on with another number of them."""

from __future__ import annotations

import os
import signal
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import forkserver, make_trainer, one_thread, tensors_of, tiny, tiny_demo
from torch import nn

from bdam_reid import processes
from bdam_reid.config import Config, ConfigError
from bdam_reid.engine import trainer
from bdam_reid.engine.batch_norm import GlobalBatchNorm
from bdam_reid.engine.checkpoint import load_state
from bdam_reid.engine.errors import user_errors
from bdam_reid.engine.run import read_curves
from bdam_reid.engine.trainer import Trainer
from bdam_reid.evaluation import evaluator
from bdam_reid.processes import Share
from bdam_reid.train import train

EVERYTHING = """
    --method.rerank.kind transformer --method.rerank.training joint --method.rerank.width 16 --method.rerank.top 5
    --method.loss.triplet-weight 1 --method.loss.gradnorm-every 1 --method.fusion.kind simple --method.loss.query both
    --method.fusion.width 16 --method.rerank.dropout 0 --data.across-outfits True
"""
"""Every loss, each on features of the whole batch, task weights by GradNorm, batch normalisation."""
STEPS = 8


def exact(make: Any, *inputs: Any) -> Any:
    """A method in float64 and without dropout, of which each process would draw its own."""
    method = make(*inputs).double()
    for module in method.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    method.image_encoder.register_forward_pre_hook(lambda _, images: (images[0].double(),))
    return method


def stopped_at(step: int, honest: Any, self: Trainer, batch: Any) -> Any:
    """A step of training, within which a signal comes if it is that step."""
    if self.progress.step == step:
        os.kill(os.getpid(), signal.SIGTERM)
    return honest(self, batch)


def compute_share(config: Config, number: int, count: int, port: int, stop: int | None) -> None:
    """One of several processes, as a launcher starts it; the last of them gets a signal in the step `stop`. They end
    where the first would evaluate."""
    if count > 1:
        names = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count, "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "127.0.0.1"}
    trainer.make_method = partial(exact, trainer.make_method)
    evaluator.evaluate = lambda *_, **__: sys.exit(0)
    if stop is not None and number == count - 1:
        honest = Trainer.step
        Trainer.step = lambda self, batch: stopped_at(stop, honest, self, batch)  # type: ignore[method-assign]
    with one_thread(), user_errors():
        train(config)


def train_in(count: int, config: Config, stop: int | None = None) -> list[int | None]:
    """Train in so many processes; gives how each of them ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        forkserver().Process(target=compute_share, args=(config, number, count, port, stop)) for number in range(count)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()
    return [process.exitcode for process in started]


def same(one: Path, other: Path) -> None:
    """Equal weights and losses of two runs, to rounding."""
    expected, got = tensors_of(one), tensors_of(other)
    assert expected.keys() == got.keys()
    for name, tensor in expected.items():
        difference = (got[name].double() - tensor.double()).abs().max()
        assert difference <= 1e-9 + 1e-6 * tensor.double().abs().max(), f"{name} differs by {difference}"
    curves, theirs = read_curves(one), read_curves(other)
    assert curves.keys() == theirs.keys()
    for name, (steps, values) in curves.items():
        assert theirs[name][0] == steps
        assert theirs[name][1] == pytest.approx(values, rel=1e-5, abs=1e-7), name


def test_any_number_of_processes_does_what_one_does(people: Path, tmp_path: Path) -> None:
    """4 until a signal to the last of them, then 1, then 2; beside 1 from the beginning to the end."""
    alone, shared = (tiny_demo(people, tmp_path / name, *EVERYTHING.split()) for name in ("alone", "shared"))
    assert train_in(1, alone) == [0]
    assert train_in(4, shared, stop=2) == [128 + signal.SIGTERM] * 4
    assert load_state(tmp_path / "shared" / "last")["progress"]["step"] == 3
    assert train_in(1, shared, stop=4) == [128 + signal.SIGTERM]
    assert train_in(2, shared) == [0, 0]
    assert load_state(tmp_path / "shared" / "last")["progress"]["step"] == STEPS
    same(tmp_path / "alone", tmp_path / "shared")


def test_the_matchers_stage_of_two_processes_is_that_of_one(people: Path, tmp_path: Path) -> None:
    more = "--method.rerank.kind simple --method.rerank.width 16 --method.rerank.dropout 0 --method.rerank.epochs 2"
    alone, shared = (
        tiny_demo(people, tmp_path / name, *more.split(), "--method.optim.epochs", "1") for name in ("alone", "shared")
    )
    assert train_in(1, alone) == [0]
    assert train_in(2, shared) == [0, 0]
    assert load_state(tmp_path / "shared" / "last")["progress"]["stage"] == 1
    same(tmp_path / "alone", tmp_path / "shared")


def test_what_one_process_cannot_start_with_ends_all_and_is_said_once(
    people: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train_in(2, tiny(tmp_path / "nowhere", tmp_path / "run")) == [1, 1]
    assert capfd.readouterr().err.count("error: ") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("shape", [(6, 4, 5, 3), (6, 4), (2, 4, 7)])
def test_global_batch_norm_of_one_process_is_the_ordinary_one(shape: tuple[int, ...]) -> None:
    kinds: dict[int, type[nn.Module]] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}
    ordinary, spare = (kinds[len(shape)](4).double() for _ in range(2))
    ours = GlobalBatchNorm(spare)  # type: ignore[arg-type]
    x = 3 + torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        results = []
        for module in (ordinary, ours):
            inputs = x.clone().requires_grad_()
            out = module(inputs)
            gradients = torch.autograd.grad(out.sin().sum(), [inputs, *module.parameters()])
            results.append([out, *gradients, *module.buffers()])
        for expected, got in zip(*results, strict=True):
            torch.testing.assert_close(got, expected)
    assert ours.state_dict().keys() == ordinary.state_dict().keys()
    torch.testing.assert_close(ours.eval()(x), ordinary.eval()(x))


def test_shares_are_the_batch_in_order() -> None:
    batch = list(range(12))
    assert [n for number in range(4) for n in Share(number, 4).of(batch)] == batch
    with pytest.raises(ValueError, match="divided among 5 processes, got one of 12"):
        Share(0, 5).of(batch)


def test_processes_that_cannot_divide_the_batch_are_refused(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_of_three() -> None:
        monkeypatch.setattr(processes, "own_share", lambda: Share(0, 3))
        monkeypatch.setattr(processes, "highest", lambda number: number)

    with pytest.raises(ConfigError, match="a number that divides 8, the size of those of stage 'all', got 3"):
        make_trainer(tiny(people, tmp_path), before=first_of_three)
