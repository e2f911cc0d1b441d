"""The trainer of all methods: walks their stages, and knows no method and no metric.

Everything that is random comes from the config's seed. A run that is killed, at any moment, goes on from its last
checkpoint when the same command is given again, and on a CPU ends with the very same weights.

Several processes divide every batch among them, and together do what one would: the batches are the same, and losses,
statistics of batches and gradients are those of the whole batch (see `bdam_reid.processes`), so that runs differ by
rounding, and by dropout, which each process draws of its own. Their number may change when a run goes on. The first of
them validates and writes, and the others wait for it.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from bdam_reid import processes
from bdam_reid.config import Config, ConfigError
from bdam_reid.cores import cores
from bdam_reid.data.ahead import ahead
from bdam_reid.data.records import Clothes, Dataset
from bdam_reid.engine.average import Average
from bdam_reid.engine.batch_norm import make_global
from bdam_reid.engine.blocks import compile_each, has_batch_norm, recompute
from bdam_reid.engine.board import Board
from bdam_reid.engine.checkpoint import (
    load_into,
    load_state,
    load_weights,
    random_state,
    readable_state,
    save_checkpoint,
    set_random_state,
    write_json,
)
from bdam_reid.engine.errors import TrainingError
from bdam_reid.engine.run import log
from bdam_reid.engine.signals import Interrupted, Interruption, handled_by
from bdam_reid.methods.method import Losses, Method, Stage


class Validation(NamedTuple):
    """What validation says of a model."""

    score: tuple[float, ...]
    """Compared in order; greater is better."""
    metrics: Mapping[str, float]
    """Logged as val/NAME."""
    weights: Mapping[Clothes, Mapping[str, float]]
    """Of the parts of an embedding, with which the model ranks best for each question; logged as part/QUESTION/NAME."""
    words: str
    """What the log says of it."""
    reranks: Sequence[Clothes] = ()
    """The questions whose rankings the method's `rerank` betters; the score counts it for these."""


@dataclass
class Progress:
    """Where a run is."""

    stage: int = 0
    epoch: int = 0
    """Epochs of the stage that are done."""
    batch: int = 0
    """Batches of the present epoch that are done; all of them while it is validated."""
    step: int = 0
    """Steps of all stages that are done."""
    best: dict[str, Any] | None = None
    """What is kept of the best checkpoint: its validation, and where it was."""


def make_method(config: Config, run: Path, dataset: Dataset) -> Method:
    """The method of a run with the weights that it starts from; the seed decides them."""
    random.seed(config.seed)
    np.random.seed(config.seed)
    torch.manual_seed(config.seed)
    config.method.prepare(config.data, dataset, run)
    return config.method.build(config.data, run, fresh=not (run / "last").exists())


class Trainer:
    """One run: a method, its stages, the optimizer of the present one, and its place in them.

    Args:
        config: of the run; only seed, output and engine are read.
        run: the run folder.
        method: as `make_method` gives it.
        dataset: to train on.
        accelerator: device and precision.
        validate: scores the method, which it leaves in evaluation mode; without it the latest checkpoint is the best.
    Raises: ConfigError for a number of processes that does not divide the batches; CheckpointError.
    """

    def __init__(
        self,
        config: Config,
        run: Path,
        method: Method,
        dataset: Dataset,
        accelerator: Accelerator,
        validate: Callable[[Method], Validation] | None,
    ) -> None:
        self.engine, self.run, self.accelerator, self.seed = config.engine, run, accelerator, config.seed
        self.share = processes.own_share()
        self.validate = validate or self._latest
        self.method = method
        if self.share.count > 1:
            make_global(method)
        # Without a wrapper for several processes, which knows neither stages nor the gradients that a method takes by
        # itself: `_descend` averages gradients.
        self.model = accelerator.prepare_model(method, evaluation_mode=True)
        self.stages = method.stages(dataset, config.seed)
        with processes.main_first():
            self._divide_batches()
        if self.engine.recompute:
            recompute(method)
        if self.engine.compile:
            compile_each(method)
        self.average = Average(method, self.engine.average) if self.engine.average and processes.is_main() else None
        if not self.stages[-1].validates:
            raise ValueError(f"the last stage must validate, got the stage {self.stages[-1].name!r} that does not")
        self.progress = Progress()
        self.signals = Interruption()
        if (run / "last").exists():
            self._resume()
        else:
            self._begin_stage()
        processes.take_over(method.state_dict().values())

    @property
    def stage(self) -> Stage:
        """The present one."""
        return self.stages[self.progress.stage]

    def fit(self) -> None:
        """Train to the end, from wherever the run is.

        Raises: Interrupted after SIGINT, SIGTERM or SIGHUP, when the step is done and saved; TrainingError for a loss
            that is no number; CheckpointError if a checkpoint cannot be saved.
        """
        steps, done = sum(map(steps_of, self.stages)), self.progress.step
        with (
            handled_by(self.signals),
            Board(self.run, done + 1) as board,
            tqdm(total=steps, initial=done, unit="step", disable=self.share.number > 0 or None, smoothing=0.05) as bar,
        ):
            self._fit_stage(board, bar)
            while self.progress.stage + 1 < len(self.stages):
                self.progress.stage, self.progress.epoch = self.progress.stage + 1, 0
                with self.signals.awaited():  # the stage before is saved
                    self._begin_stage()
                self._fit_stage(board, bar)
            self.signals.raise_if_any()

    def _divide_batches(self) -> None:
        """Among processes, and in each of them into micro-batches. Raises: ConfigError if that cannot be."""
        for stage in self.stages:
            if stage.batches.size % self.share.count:
                raise ConfigError(
                    f"processes have equal shares of a batch: start a number that divides {stage.batches.size}, the "
                    f"size of those of stage {stage.name!r}, got {self.share.count}"
                )
        parts, own = self.engine.micro_batches, self.stages[0].batches.size // self.share.count
        if parts == 1:
            return
        if self.method.micro_batches is None:
            raise ConfigError(f"--engine.micro-batches must be 1 for a method that cannot divide batches, got {parts}")
        if has_batch_norm(self.method):
            raise ConfigError(
                "--engine.micro-batches must be 1 for an encoder that normalises batches, as convolutions do, got "
                f"{parts}"
            )
        if own % parts:
            raise ConfigError(f"--engine.micro-batches must divide the {own} items of a process's batch, got {parts}")
        self.method.micro_batches = parts

    def _begin_stage(self) -> None:
        """Freeze what the present stage does not train, and make its optimizer."""
        stage = self.stage
        trained = {id(parameter) for group in stage.groups for parameter in group["params"]}
        for parameter in self.method.parameters():
            parameter.requires_grad_(id(parameter) in trained)
            parameter.grad = None  # Those of the stage before would count in the norm of this one's.
        # Kept, as walks through all modules take milliseconds of each step.
        self.trained = [parameter for parameter in self.method.parameters() if parameter.requires_grad]
        self.optimizer = self.accelerator.prepare(stage.optimizer(stage.groups))
        self.first_step = sum(map(steps_of, self.stages[: self.progress.stage]))
        with self.accelerator.autocast():
            self.method.begin_stage(stage)
        self.model.train()

    def _fit_stage(self, board: Board, bar: tqdm) -> None:
        stage, progress = self.stage, self.progress
        while progress.epoch < stage.epochs:
            self._fit_epoch(board, bar)
            done = progress.epoch + 1
            if stage.validates and (done == stage.epochs or done % self.engine.validate_every == 0):
                self._validate(board)
            progress.epoch, progress.batch = done, 0
            self._save(board)

    def _fit_epoch(self, board: Board, bar: tqdm) -> None:
        stage, progress = self.stage, self.progress
        began, first, total = time.perf_counter(), progress.step, math.nan
        made = self._batches()
        with closing(ahead(made) if self._core_to_spare() else made) as batches:
            for batch in batches:
                total = self._fit_batch(batch, board, bar)
        if progress.step == first:
            return  # its last batch was done before the run was taken up again
        rate = (progress.step - first) / (time.perf_counter() - began)
        name = f"stage {stage.name}  " * (len(self.stages) > 1)
        log.info(
            f"{name}epoch {progress.epoch + 1}/{stage.epochs}  "
            f"step {progress.step}/{sum(map(steps_of, self.stages))}  loss {total:.3f}  {rate:.1f} steps/s"
        )

    def _fit_batch(self, batch: Any, board: Board, bar: tqdm) -> float:
        """A step, and what is due after it; gives the loss."""
        progress = self.progress
        scalars = self.step(batch)
        total = scalars["loss/total"]
        board.add(scalars, progress.step)
        bar.set_postfix(epoch=progress.epoch + 1, loss=f"{total:.3f}", refresh=False)
        bar.update()
        if signal := processes.highest(self.signals.number):
            self._save_and_leave(board, signal)
        if self.engine.save_every and progress.step % self.engine.save_every == 0:
            self._save(board)
        return total

    def _core_to_spare(self) -> bool:
        """Whether a thread beside the one that trains would not take a core from the threads that compute for it: all
        would wait for the one that lost its own."""
        return self.accelerator.device.type == "cuda" or torch.get_num_threads() < cores()

    def _batches(self) -> Generator[Any, None, None]:
        """What is left of the present epoch, on the device."""
        device, workers = self.accelerator.device, self.engine.workers
        if workers < 0:
            # A GPU outruns the decoding of images by one process; a CPU has no cores to spare for others.
            workers = min(8, cores()) if device.type == "cuda" else 0
        progress = self.progress
        for batch in self.stage.batches.batches(progress.epoch, progress.batch, workers, self.share):
            yield batch.to(device)

    def step(self, batch: Any) -> dict[str, float]:
        """One update of the model by a batch on its device; gives the scalars to report."""
        stage, progress = self.stage, self.progress
        step = progress.step - self.first_step
        rate = stage.learning_rate(step, steps_of(stage))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        if not self.model.training:
            self.model.train()
        if self.share.number:
            # What the first process draws is in its checkpoints; what the others draw depends on nothing before.
            torch.manual_seed(random.Random(f"{self.seed}/{progress.step}/{self.share.number}").getrandbits(63))
        with self.accelerator.autocast():
            losses = self.model(batch, step)
        parts = {f"loss/{name}": loss for name, loss in losses.parts.items()}
        scalars = {"loss/total": losses.total, **parts, **losses.scalars}
        # One transfer for all, before the backward pass: each would wait for the GPU, and one at the end of a step
        # would leave it with nothing to do until the next one has begun.
        values = torch.stack([value.detach().float() for value in scalars.values()]).tolist()
        if not math.isfinite(values[0]):
            with processes.main_first():
                raise self._no_number(losses)
        self._descend(losses.total)
        progress.step, progress.batch = progress.step + 1, progress.batch + 1
        return {"lr": rate, **dict(zip(scalars, values, strict=True))}

    def _descend(self, total: Tensor) -> None:
        """A step down a loss, by the mean of the gradients of all processes."""
        self.optimizer.zero_grad()
        self.accelerator.backward(total)
        processes.average(parameter.grad for parameter in self.trained if parameter.grad is not None)
        if self.stage.clip_norm:
            self.accelerator.clip_grad_norm_(self.trained, self.stage.clip_norm)
        self.optimizer.step()
        if self.average:
            self.average.update(self.progress.step)

    def _no_number(self, losses: Losses) -> TrainingError:
        """What ends training with a loss that is no number; the last checkpoint is from before it."""
        progress, report = self.progress, self.run / "failed_batch.json"
        images = [str(path) for path in self.stage.batches.images(progress.epoch, progress.batch)]
        parts = {name: str(loss.item()) for name, loss in losses.parts.items()}
        write_json(report, {"step": progress.step, "losses": parts, "images": images})
        said = f"the loss is {losses.total.item()} at step {progress.step} (" + ", ".join(
            f"{name} {float(loss):.3g}" for name, loss in parts.items()
        )
        if broken := _no_numbers(self.method.state_dict()):
            return TrainingError(
                f"{said}) because weights, such as {broken[0]}, were no numbers before it: a gradient was none in an "
                "earlier step, so that the fault need not be in the images of this one. Lower the learning rate or "
                "limit the gradient norm, with a new --output"
            )
        return TrainingError(
            f"{said}) on a batch of the images listed in {report}, {images[0]} the first of {len(images)}: look at "
            "them, lower the learning rate or limit the gradient norm, with a new --output"
        )

    def _validate(self, board: Board) -> None:
        """Score the model, and keep its checkpoint if it is the best so far."""
        signal = 0
        with processes.main_first():
            if processes.is_main():
                try:
                    with self.average.applied() if self.average else nullcontext():
                        with self.signals.awaited():
                            found = self.validate(self.method)
                        self._keep_if_best(found, board)
                except Interrupted as interrupted:
                    signal = interrupted.number
        if signal := processes.highest(signal):
            self._save_and_leave(board, signal)

    def _keep_if_best(self, found: Validation, board: Board) -> None:
        progress = self.progress
        board.add(found.metrics, progress.step, "val/")
        for clothes, weights in found.weights.items():
            board.add(weights, progress.step, f"part/{clothes}/")
        best = progress.best is None or list(found.score) > progress.best["score"]
        log.info(f"{found.words}{', best so far' * (best and bool(found.metrics))}")
        if best:
            progress.best = {
                "score": list(found.score),
                "metrics": dict(found.metrics),
                "weights": {clothes: dict(weights) for clothes, weights in found.weights.items()},
                "reranks": list(found.reranks),
                "stage": self.stage.name,
                "epoch": progress.epoch + 1,
                "step": progress.step,
            }
            self._save_checkpoint("best", progress.best)

    def _latest(self, method: Method) -> Validation:
        """Stands for validation where there is none."""
        return Validation((self.progress.step,), {}, method.default_weights(), "no validation, the latest is kept")

    def _save(self, board: Board) -> None:
        if not processes.is_main():
            return
        # TensorBoard's files reach the disk before the checkpoint: the curves of a resumed run have no gap.
        board.flush()
        scaler = self.accelerator.scaler
        state = {
            "progress": asdict(self.progress),
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else {},
            "random": random_state(),
        }
        if self.average:
            state["average"] = self.average.weights
        self._save_checkpoint("last", state)

    def _save_checkpoint(self, name: str, state: Mapping[str, Any]) -> None:
        """Save the weights, unless they are no numbers. Raises: TrainingError if so; CheckpointError."""
        weights = self.method.state_dict()
        if broken := _no_numbers(weights):
            raise TrainingError(
                f"{len(broken)} of {len(weights)} weights, such as {broken[0]}, are no numbers after step "
                f"{self.progress.step}, and are not saved: the {name} checkpoint in {self.run} is the one before. "
                "Lower the learning rate or limit the gradient norm, with a new --output"
            )
        save_checkpoint(self.run, name, weights, state)

    def _save_and_leave(self, board: Board, signal: int) -> NoReturn:
        self._save(board)
        log.info(f"interrupted and saved at step {self.progress.step}/{sum(map(steps_of, self.stages))}")
        processes.highest(0)  # A launcher ends the first process too when others leave before it has saved.
        raise Interrupted(signal)

    def _resume(self) -> None:
        last = self.run / "last"
        state = load_state(last, ("progress", "optimizer", "scaler", "random"))
        load_into(self.method, load_weights(last), last)
        with readable_state(last):
            self.progress = Progress(**state["progress"])
        self._begin_stage()
        with readable_state(last):
            self.optimizer.load_state_dict(state["optimizer"])
            if self.accelerator.scaler:
                self.accelerator.scaler.load_state_dict(state["scaler"])
            if self.average:
                self.average.load(state["average"])
            set_random_state(state["random"])
        log.info(f"going on from step {self.progress.step}/{sum(map(steps_of, self.stages))}")


def _no_numbers(weights: Mapping[str, Tensor]) -> list[str]:
    return [name for name, weight in weights.items() if not weight.isfinite().all()]


def steps_of(stage: Stage) -> int:
    """All of a stage."""
    return stage.epochs * len(stage.batches)
