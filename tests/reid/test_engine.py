"""Options of the engine: each does what it says, and changes nothing else."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import make_trainer, tiny, tiny_demo
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bdam_reid.config import ConfigError
from bdam_reid.data.samplers import Draw
from bdam_reid.data.training import Item, TrainingSet
from bdam_reid.engine import trainer
from bdam_reid.engine.average import Average
from bdam_reid.engine.blocks import blocks, compile_each, recompute
from bdam_reid.engine.checkpoint import load_state, load_weights
from bdam_reid.engine.signals import Interrupted
from bdam_reid.engine.trainer import Trainer
from bdam_reid.methods.bdam.config import DecouplingConfig
from bdam_reid.methods.bdam.decoupling import CrossAttentionLayer, Decoupling
from bdam_reid.methods.bdam.method import BDAM

DECAY = 0.3


class Recorded:
    """Steps of training, after each of which the weights are kept; a signal may come in one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.weights: dict[int, dict[str, Tensor]] = {}
        self.stop = -1
        honest = Trainer.step

        def step(trainer: Trainer, batch: Any) -> dict[str, float]:
            if trainer.progress.step == 0:
                self.weights[0] = self._copied(trainer)
            if trainer.progress.step == self.stop:
                os.kill(os.getpid(), signal.SIGTERM)
            scalars = honest(trainer, batch)
            self.weights[trainer.progress.step] = self._copied(trainer)
            return scalars

        monkeypatch.setattr(Trainer, "step", step)

    def _copied(self, trainer: Trainer) -> dict[str, Tensor]:
        return {name: weight.clone() for name, weight in trainer.method.state_dict().items()}

    def average(self, step: int, name: str) -> Tensor:
        """As the definition has it."""
        average = self.weights[0][name].double()
        for n in range(step):
            decay = min(DECAY, (1 + n) / (10 + n))
            average = decay * average + (1 - decay) * self.weights[n + 1][name].double()
        return average


def test_the_best_checkpoint_has_the_average_of_the_weights(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a run that is interrupted too, which ends with the same bits."""
    recorded = Recorded(monkeypatch)
    whole, stopped = (tiny_demo(people, tmp_path / name, "--engine.average", str(DECAY)) for name in "ab")
    run, other = Path(whole.output), Path(stopped.output)
    make_trainer(whole).fit()
    best, last = load_weights(run / "best"), load_weights(run / "last")
    step = load_state(run / "best")["step"]
    assert set(last) == set(recorded.weights[8]) and all(torch.equal(last[n], recorded.weights[8][n]) for n in last)
    for name, weight in best.items():
        if weight.is_floating_point():
            torch.testing.assert_close(weight.double(), recorded.average(step, name), rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(weight, recorded.weights[step][name])
    recorded.stop = 4
    with pytest.raises(Interrupted):
        make_trainer(stopped).fit()
    recorded.stop = -1
    make_trainer(stopped).fit()
    for name in ("best", "last"):
        expected, got = load_weights(run / name), load_weights(other / name)
        assert [key for key in expected if not torch.equal(expected[key], got[key])] == []
    averages = [load_state(folder / "last")["average"] for folder in (run, other)]
    assert all(torch.equal(averages[0][name], averages[1][name]) for name in averages[0])


def test_the_average_takes_in_all_weights_at_once() -> None:
    """With the bits of one after the other."""
    module = nn.Sequential(nn.Linear(33, 17), nn.BatchNorm1d(17), nn.Linear(17, 5).half())
    average, present = Average(module, 0.9), module.state_dict()
    expected = {name: weight.clone() for name, weight in present.items()}
    for step in range(3):
        with torch.no_grad():
            for weight in present.values():
                weight.add_(torch.randn(weight.shape)) if weight.is_floating_point() else weight.add_(1)
        with Operations() as operations:
            average.update(step)
        # Of three types.
        assert len(operations.names) == 3
        for name, weight in expected.items():
            if weight.is_floating_point():
                weight.lerp_(present[name], 1 - min(0.9, (1 + step) / (10 + step)))
            else:
                weight.copy_(present[name])
            assert torch.equal(average.weights[name], weight), name


class Operations(TorchDispatchMode):
    """Names of what is computed within."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_modules_are_put_into_training_mode_after_an_evaluation_only(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(tiny(people, tmp_path / "run"))
    batch = next(trainer.stage.batches.batches(0))
    assert all(module.training for module in trainer.method.modules())
    trainer.method.eval()
    trainer.step(batch)
    assert all(module.training for module in trainer.method.modules())
    monkeypatch.setattr(BDAM, "train", None)
    trainer.step(batch)


def test_nothing_waits_for_a_gpu_once_the_gradients_are_on_their_way(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It works on while the next step begins."""
    trainer = make_trainer(tiny_demo(people, tmp_path / "run", "--engine.average", str(DECAY)))
    batch, waits = next(trainer.stage.batches.batches(0)), list[str]()
    for name in ("tolist", "item", "cpu", "__bool__", "__float__", "__int__"):
        honest = getattr(Tensor, name)
        monkeypatch.setattr(Tensor, name, lambda x, h=honest, n=name: (waits.append(n), h(x))[1])
    backward = trainer.accelerator.backward

    def noted(loss: Tensor) -> None:
        assert waits
        waits.clear()
        backward(loss)

    monkeypatch.setattr(trainer.accelerator, "backward", noted)
    scalars = trainer.step(batch)
    assert waits == []
    assert scalars["loss/total"] > 0


def gradients(trainer: Trainer) -> dict[str, Tensor]:
    """Of the first batch, of the total loss; and that loss, and the task weights after it."""
    batch = next(trainer.stage.batches.batches(0))
    torch.manual_seed(1)
    trainer.method.train()
    losses = trainer.method(replace(batch, images=batch.images.double()), 0)
    losses.total.backward()
    found = {name: p.grad for name, p in trainer.method.named_parameters() if p.grad is not None}
    assert isinstance(trainer.method, BDAM)
    return {**found, "total": losses.total.detach(), "tasks": trainer.method.gradnorm.weights()}


def double_trainer(people: Path, output: Path, *more: str, dropout: bool = True) -> Trainer:
    trainer = make_trainer(tiny(people, output, *more))
    trainer.method.double()
    for module in trainer.method.modules():
        if isinstance(module, nn.Dropout) and not dropout:
            module.p = 0.0
    return trainer


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        difference = (got[name] - value).abs().max()
        assert difference <= 1e-10 * max(1.0, float(value.abs().max())), f"{name} differs by {difference}"


def counted(kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many items each call of a module of a kind reads, from now on."""
    sizes: list[int] = []
    honest: Callable[..., Any] = kind.forward

    def forward(self: nn.Module, *inputs: Tensor) -> Any:
        sizes.append(len(inputs[0]))
        return honest(self, *inputs)

    monkeypatch.setattr(kind, "forward", forward)
    return sizes


def test_micro_batches_have_the_losses_and_gradients_of_the_batch(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = gradients(double_trainer(people, tmp_path / "whole", dropout=False))
    sizes = counted(CrossAttentionLayer, monkeypatch)
    parts = double_trainer(people, tmp_path / "parts", "--engine.micro-batches", "4", dropout=False)
    assert_same(gradients(parts), expected)
    assert set(sizes) == {2}


@pytest.mark.parametrize(("parts", "said"), [("3", "must divide the 8 items"), ("2", "must be 1 for an encoder that")])
def test_micro_batches_that_cannot_be_are_refused(people: Path, tmp_path: Path, parts: str, said: str) -> None:
    """Convolutions normalise by the statistics of what they see at once."""
    config = (tiny_demo if parts == "2" else tiny)(people, tmp_path, "--engine.micro-batches", parts)
    with pytest.raises(ConfigError, match=said):
        make_trainer(config)


def test_recomputing_gives_the_same_gradients(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = gradients(double_trainer(people, tmp_path / "kept"))
    sizes = counted(CrossAttentionLayer, monkeypatch)
    trainer = double_trainer(people, tmp_path / "recomputed", "--engine.recompute", "True")
    trainer.method.eval()
    trainer.method.embed_images(torch.zeros(2, 3, 32, 16, dtype=torch.float64)).sum().backward()
    trainer.method.zero_grad()
    assert sizes == [2]
    assert_same(gradients(trainer), expected)
    assert len(sizes) > 2 and set(sizes[1:]) == {8}


def test_compiled_layers_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the last stage of the compiler, which would take a minute."""
    honest, compiled = nn.Module.compile, []

    def cheaply(self: nn.Module) -> None:
        compiled.append(self)
        honest(self, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", cheaply)
    model = Decoupling(8, DecouplingConfig(self_layers=2, cross_layers=1, heads=2, dropout=0.0)).double()
    tokens = torch.randn(3, 5, 8, dtype=torch.float64)
    results = []
    for change in (lambda module: None, recompute, compile_each):
        change(model)
        total = model(tokens).identity.square().sum()
        first = torch.autograd.grad(total, list(model.parameters()), retain_graph=True, allow_unused=True)
        again = torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
        results.append([total, *(g for g in (*first, *again) if g is not None)])
    assert compiled == list(blocks(model)) and len(compiled) == 5
    for expected, recomputed, both in zip(*results, strict=True):
        torch.testing.assert_close(recomputed, expected)
        torch.testing.assert_close(both, expected)


KINDS = {"ViTLayer", "BertLayer", "SelfAttentionLayer", "CrossAttentionLayer", "Mamba"}


def test_a_run_can_be_compiled(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda block: compiled.append(block))
    method = make_trainer(tiny(people, tmp_path, "--engine.compile", "True")).method
    kinds = {type(block).__name__ for block in compiled}
    assert compiled == list(blocks(method)) and kinds == KINDS


def test_what_is_new_beside_published_encoders_learns_faster(people: Path, tmp_path: Path) -> None:
    config = tiny(people, tmp_path, "--method.optim.new-factor", "10", "--method.optim.decoupled-decay", "True")
    method = make_trainer(config).method
    assert isinstance(method, BDAM)
    method.config = replace(method.config, image=replace(method.config.image, pretrained="published"))
    rates = {id(p): (g.get("factor", 1.0), g.get("weight_decay")) for g in method._groups() for p in g["params"]}
    assert len(rates) == sum(1 for p in method.parameters() if p.requires_grad)
    for name, parameter in method.named_parameters():
        factor = 1.0 if name.startswith("image_encoder") else 10.0
        assert rates[id(parameter)] == (factor, None if parameter.ndim > 1 else 0.0), name
    # The schedule gives 5e-4 at the first of two steps of warm-up.
    trainer = make_trainer(replace(config, output=str(tmp_path / "other")))
    trainer.step(next(trainer.stage.batches.batches(0)))
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [pytest.approx(5e-3)] * 2


def test_blocks_are_what_a_model_repeats() -> None:
    layers = nn.ModuleList([nn.Sequential(nn.Linear(1, 1)), nn.BatchNorm1d(1)])
    alike, other = nn.Sequential(nn.Tanh(), nn.Tanh()), nn.Sequential(nn.Linear(1, 1), nn.Tanh())
    assert list(blocks(nn.ModuleList([nn.ModuleDict({"a": layers, "b": alike, "c": other})])[0])) == [layers[0], *alike]


@pytest.mark.parametrize("spare", [True, False])
def test_batches_are_made_ahead_where_a_core_is_to_spare(
    spare: bool, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a thread of their own; else by the one that trains."""
    makers: set[threading.Thread] = set()
    honest = TrainingSet.__getitem__

    def made(items: TrainingSet[Any], draw: Draw) -> Item[Any]:
        makers.add(threading.current_thread())
        return honest(items, draw)

    monkeypatch.setattr(TrainingSet, "__getitem__", made)
    monkeypatch.setattr(trainer, "cores", lambda: torch.get_num_threads() + spare)
    make_trainer(tiny_demo(people, tmp_path / "run")).fit()
    assert makers and (threading.main_thread() in makers) is not spare
