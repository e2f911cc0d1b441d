"""The trainer of all methods: walks their stages, and knows no method and no metric.

Everything that is random comes from the config's seed. A run that is killed, at any moment, goes on from its last
checkpoint when the same command is given again, and on a CPU ends with the very same weights.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.tensorboard import SummaryWriter
from tqdm.auto import tqdm

from bdam_reid.config import Config
from bdam_reid.data.records import Clothes, Dataset
from bdam_reid.engine.checkpoint import (
    load_into,
    load_state,
    load_weights,
    random_state,
    readable_state,
    save_checkpoint,
    set_random_state,
)
from bdam_reid.engine.errors import TrainingError
from bdam_reid.engine.run import log
from bdam_reid.engine.signals import Interrupted, Interruption, handled_by
from bdam_reid.methods.method import Method, Stage


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
        self.engine, self.run, self.accelerator = config.engine, run, accelerator
        self.validate = validate or self._latest
        self.method = method
        self.model = accelerator.prepare(method)
        self.stages = method.stages(dataset, config.seed)
        if not self.stages[-1].validates:
            raise ValueError(f"the last stage must validate, got the stage {self.stages[-1].name!r} that does not")
        self.progress = Progress()
        self.signals = Interruption()
        if (run / "last").exists():
            self._resume()
        else:
            self._begin_stage()

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
            SummaryWriter(str(self.run / "tensorboard"), purge_step=done + 1) as board,
            tqdm(total=steps, initial=done, unit="step", disable=None, smoothing=0.05) as bar,
        ):
            self._fit_stage(board, bar)
            while self.progress.stage + 1 < len(self.stages):
                self.progress.stage, self.progress.epoch = self.progress.stage + 1, 0
                with self.signals.awaited():  # the stage before is saved
                    self._begin_stage()
                self._fit_stage(board, bar)
            self.signals.raise_if_any()

    def _begin_stage(self) -> None:
        """Freeze what the present stage does not train, and make its optimizer."""
        stage = self.stage
        trained = {id(parameter) for group in stage.groups for parameter in group["params"]}
        for parameter in self.method.parameters():
            parameter.requires_grad_(id(parameter) in trained)
        self.optimizer = self.accelerator.prepare(stage.optimizer(stage.groups))
        self.first_step = sum(map(steps_of, self.stages[: self.progress.stage]))
        with self.accelerator.autocast():
            self.method.begin_stage(stage)

    def _fit_stage(self, board: SummaryWriter, bar: tqdm) -> None:
        stage, progress = self.stage, self.progress
        while progress.epoch < stage.epochs:
            self._fit_epoch(board, bar)
            done = progress.epoch + 1
            if stage.validates and (done == stage.epochs or done % self.engine.validate_every == 0):
                self._validate(board)
            progress.epoch, progress.batch = done, 0
            self._save(board)

    def _fit_epoch(self, board: SummaryWriter, bar: tqdm) -> None:
        stage, progress = self.stage, self.progress
        began, first, total = time.perf_counter(), progress.step, math.nan
        # A GPU outruns the decoding of images by one process; a CPU has no cores to spare for others.
        workers = min(8, os.cpu_count() or 1) if self.accelerator.device.type == "cuda" else 0
        for batch in stage.batches.batches(progress.epoch, progress.batch, workers):
            scalars = self.step(batch.to(self.accelerator.device))
            total = scalars["loss/total"]
            for name, value in scalars.items():
                board.add_scalar(name, value, progress.step)
            bar.set_postfix(epoch=progress.epoch + 1, loss=f"{total:.3f}", refresh=False)
            bar.update()
            if self.signals.came:
                self._save_and_leave(board)
            if self.engine.save_every and progress.step % self.engine.save_every == 0:
                self._save(board)
        rate = (progress.step - first) / (time.perf_counter() - began)
        name = f"stage {stage.name}  " * (len(self.stages) > 1)
        log.info(
            f"{name}epoch {progress.epoch + 1}/{stage.epochs}  "
            f"step {progress.step}/{sum(map(steps_of, self.stages))}  loss {total:.3f}  {rate:.1f} steps/s"
        )

    def step(self, batch: Any) -> dict[str, float]:
        """One update of the model by a batch on its device; gives the scalars to report."""
        stage, progress = self.stage, self.progress
        step = progress.step - self.first_step
        rate = stage.learning_rate(step, steps_of(stage))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        self.model.train()
        with self.accelerator.autocast():
            losses = self.model(batch, step)
        if not torch.isfinite(losses.total):
            raise TrainingError(
                f"the loss is {losses.total.item()} at step {progress.step} ("
                + ", ".join(f"{name} {loss.item():.3g}" for name, loss in losses.parts.items())
                + "): lower the learning rate or limit the gradient norm, with a new --output"
            )
        self.optimizer.zero_grad()
        self.accelerator.backward(losses.total)
        if stage.clip_norm:
            self.accelerator.clip_grad_norm_(self.model.parameters(), stage.clip_norm)
        self.optimizer.step()
        progress.step, progress.batch = progress.step + 1, progress.batch + 1
        parts = {f"loss/{name}": loss for name, loss in losses.parts.items()}
        scalars = {"loss/total": losses.total, **parts, **losses.scalars}
        # One transfer for all: each would wait for the GPU.
        values = torch.stack([value.detach().float() for value in scalars.values()]).tolist()
        return {"lr": rate, **dict(zip(scalars, values, strict=True))}

    def _validate(self, board: SummaryWriter) -> None:
        """Score the model, and keep its checkpoint if it is the best so far."""
        progress = self.progress
        try:
            with self.signals.awaited():
                found = self.validate(self.method)
        except Interrupted:
            self._save_and_leave(board)
        for name, value in found.metrics.items():
            board.add_scalar(f"val/{name}", value, progress.step)
        for clothes, weights in found.weights.items():
            for name, value in weights.items():
                board.add_scalar(f"part/{clothes}/{name}", value, progress.step)
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
            save_checkpoint(self.run, "best", self.method.state_dict(), progress.best)

    def _latest(self, method: Method) -> Validation:
        """Stands for validation where there is none."""
        return Validation((self.progress.step,), {}, method.default_weights(), "no validation, the latest is kept")

    def _save(self, board: SummaryWriter) -> None:
        # TensorBoard's files reach the disk before the checkpoint: the curves of a resumed run have no gap.
        board.flush()
        scaler = self.accelerator.scaler
        state = {
            "progress": asdict(self.progress),
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else {},
            "random": random_state(),
        }
        save_checkpoint(self.run, "last", self.method.state_dict(), state)

    def _save_and_leave(self, board: SummaryWriter) -> NoReturn:
        self._save(board)
        log.info(f"interrupted and saved at step {self.progress.step}/{sum(map(steps_of, self.stages))}")
        raise Interrupted(self.signals.number)

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
            set_random_state(state["random"])
        log.info(f"going on from step {self.progress.step}/{sum(map(steps_of, self.stages))}")


def steps_of(stage: Stage) -> int:
    """All of a stage."""
    return stage.epochs * len(stage.batches)
