"""Training, for the command `bdam_reid.train`.

Everything that is random comes from the config's seed. A run that is killed, at any moment, goes on from its
last checkpoint when the same command is given again, and on a CPU ends with the very same weights.
"""

from __future__ import annotations

import math
import os
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.tensorboard import SummaryWriter
from tqdm.auto import tqdm

from bdam_reid.build import make_accelerator, make_model, make_tokenizer
from bdam_reid.checkpoint import (
    load_into,
    load_state,
    load_weights,
    random_state,
    save_checkpoint,
    set_random_state,
    write_json,
)
from bdam_reid.config import Config, OptimConfig, check_config
from bdam_reid.data import (
    Batch,
    Dataset,
    IdentitySampler,
    Tokenize,
    TrainingSet,
    load_dataset,
    training_batches,
)
from bdam_reid.evaluator import load_best, measure, rank
from bdam_reid.losses import GradNorm, losses, task_names, total_loss
from bdam_reid.ranking import Ranker, choose_beta
from bdam_reid.report import metrics_table
from bdam_reid.runs import TrainingError, environment, log, open_run, start_log


@dataclass
class Progress:
    """Where a run is."""

    epoch: int = 0
    batch: int = 0
    """Batches of the epoch that are done."""
    step: int = 0
    best: dict[str, float] | None = None
    """Validation scores, beta and step of the best checkpoint."""


class Trainer:
    """One run: model, optimizer, task weights, data, and its place in them."""

    def __init__(self, config: Config, run: Path, dataset: Dataset, accelerator: Accelerator) -> None:
        self.config, self.run, self.dataset, self.accelerator = config, run, dataset, accelerator
        _seed(config.seed)
        tokenizer = make_tokenizer(config, run, dataset.train)
        self.tokenize = Tokenize(tokenizer, config.data.max_tokens)
        model = make_model(config, len(tokenizer))
        optimizer = torch.optim.Adam(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=config.optim.lr,
            weight_decay=config.optim.weight_decay,
            fused=True,
        )
        self.plain_model = model
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.gradnorm = GradNorm(task_names(config.loss), config.loss).to(accelerator.device)
        data = config.data
        self.training_set = TrainingSet(
            dataset.train,
            self.tokenize,
            (data.image_height, data.image_width),
            data.augment,
            config.seed,
            sidecar_probability=data.sidecar_probability,
        )
        self.sampler = IdentitySampler(dataset.train, data.identities_per_batch, data.images_per_identity, config.seed)
        self.steps = config.optim.epochs * len(self.sampler)
        self.ranker = Ranker(model, self.tokenize, config, accelerator)
        self.progress = Progress()
        if (run / "last").exists():
            self._resume()

    def fit(self) -> None:
        """Train to the end, from wherever the run is."""
        progress, epochs = self.progress, self.config.optim.epochs
        with (
            SummaryWriter(str(self.run / "tensorboard"), purge_step=progress.step + 1) as board,
            tqdm(total=self.steps, initial=progress.step, unit="step", disable=None, smoothing=0.05) as bar,
        ):
            while progress.epoch < epochs:
                self._fit_epoch(board, bar)
                if progress.epoch % self.config.validate_every == 0 or progress.epoch == epochs:
                    self._validate(board)
                self._save(board)

    def _fit_epoch(self, board: SummaryWriter, bar: tqdm) -> None:
        progress, began, first = self.progress, time.perf_counter(), self.progress.step
        total = math.nan
        # A GPU outruns the decoding of images by one process; a CPU has no cores to spare for others.
        workers = min(8, os.cpu_count() or 1) if self.accelerator.device.type == "cuda" else 0
        for batch in training_batches(
            self.training_set, self.sampler, epoch=progress.epoch, start=progress.batch, num_workers=workers
        ):
            scalars = self._step(batch.to(self.accelerator.device))
            total = scalars["loss/total"]
            for name, value in scalars.items():
                board.add_scalar(name, value, progress.step)
            bar.set_postfix(epoch=progress.epoch + 1, loss=f"{total:.3f}", refresh=False)
            bar.update()
            if self.config.save_every and progress.step % self.config.save_every == 0:
                self._save(board)
        progress.epoch, progress.batch = progress.epoch + 1, 0
        rate = (progress.step - first) / (time.perf_counter() - began)
        log.info(
            f"epoch {progress.epoch}/{self.config.optim.epochs}  step {progress.step}/{self.steps}  "
            f"loss {total:.3f}  {rate:.1f} steps/s"
        )

    def _step(self, batch: Batch) -> dict[str, float]:
        """One update of the task weights and of the model; gives the scalars to report."""
        config, progress = self.config, self.progress
        rate = learning_rate(config.optim, progress.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        with self.accelerator.autocast():
            image, text, fused, fusion_weights = self.model(batch)
        parts = losses(config.loss, image, text, fused, batch.identities)
        if config.loss.gradnorm_every and progress.step % config.loss.gradnorm_every == 0:
            self.gradnorm.update(parts, self.plain_model.shared_parameters())
        total = total_loss(config.loss, parts, self.gradnorm)
        if not torch.isfinite(total):
            raise TrainingError(
                f"the loss is {total.item()} at step {progress.step} ("
                + ", ".join(f"{name} {loss.item():.3g}" for name, loss in parts.items())
                + "): lower --optim.lr or set --optim.clip-norm, with a new --output"
            )
        self.optimizer.zero_grad()
        self.accelerator.backward(total)
        if config.optim.clip_norm:
            self.accelerator.clip_grad_norm_(self.model.parameters(), config.optim.clip_norm)
        self.optimizer.step()
        progress.step, progress.batch = progress.step + 1, progress.batch + 1
        scalars = {"loss/total": total, **{f"loss/{name}": loss for name, loss in parts.items()}}
        scalars |= {f"weight/{name}": w for name, w in zip(self.gradnorm.tasks, self.gradnorm.weights(), strict=True)}
        scalars["gate/fusion_image"] = fusion_weights[:, 0].mean()
        if image.gate is not None:
            scalars["gate/identity"] = image.gate.mean()
        # One transfer for all: each would wait for the GPU.
        values = torch.stack([value.detach().float() for value in scalars.values()]).tolist()
        return {"lr": rate, **dict(zip(scalars, values, strict=True))}

    def _validate(self, board: SummaryWriter) -> None:
        """Score the validation split, and keep the checkpoint if it is the best: by R-1, then by mAP."""
        progress = self.progress
        beta, metrics = choose_beta(self.ranker.rank_split(self.dataset.val))
        for name in ("r1", "r5", "r10", "map", "minp"):
            board.add_scalar(f"val/{name}", getattr(metrics, name), progress.step)
        board.add_scalar("beta", beta, progress.step)
        before = progress.best
        best = before is None or (metrics.r1, metrics.map) > (before["r1"], before["map"])
        log.info(
            f"validation  R-1 {metrics.r1:.2f}  R-5 {metrics.r5:.2f}  R-10 {metrics.r10:.2f}  "
            f"mAP {metrics.map:.2f}  mINP {metrics.minp:.2f}  beta {beta:g}{', best so far' * best}"
        )
        if best:
            progress.best = {**asdict(metrics), "beta": beta, "epoch": progress.epoch, "step": progress.step}
            save_checkpoint(self.run, "best", self.plain_model.state_dict(), progress.best)

    def _save(self, board: SummaryWriter) -> None:
        # TensorBoard's files reach the disk before the checkpoint: the curves of a resumed run have no gap.
        board.flush()
        scaler = self.accelerator.scaler
        state = {
            "progress": asdict(self.progress),
            "optimizer": self.optimizer.state_dict(),
            "gradnorm": self.gradnorm.state_dict(),
            "scaler": scaler.state_dict() if scaler else {},
            "random": random_state(),
        }
        save_checkpoint(self.run, "last", self.plain_model.state_dict(), state)

    def _resume(self) -> None:
        state = load_state(self.run / "last")
        load_into(self.plain_model, load_weights(self.run / "last"), self.run / "last")
        self.optimizer.load_state_dict(state["optimizer"])
        self.gradnorm.load_state_dict(state["gradnorm"])
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])
        set_random_state(state["random"])
        log.info(f"going on from step {self.progress.step}/{self.steps}")


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Linear warm-up, then cosine annealing to zero (icme section IV-A, long section 4.2)."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))


def train(config: Config) -> Path:
    """Train, or go on training, to the end, and evaluate the best checkpoint; gives the run folder.

    Raises: ConfigError, DatasetError, CheckpointError, TrainingError.
    """
    check_config(config)
    accelerator = make_accelerator(config)
    surroundings = environment(accelerator.device)
    dataset = load_dataset(config.data.root)
    run = open_run(config)
    start_log(run)
    write_json(run / "environment.json", surroundings)
    log.info(
        f"{run}: {dataset.name} at {config.data.root}, on {accelerator.device} "
        f"with kernels of backend {surroundings['backend']}\n{dataset.report}"
    )
    trainer = Trainer(config, run, dataset, accelerator)
    trainer.fit()
    best = load_best(run, trainer.plain_model)
    metrics = measure(rank(trainer.ranker, dataset), best["beta"])
    write_json(run / "metrics.json", metrics)
    log.info(f"best checkpoint, epoch {best['epoch']}, chosen on validation:\n{metrics_table(metrics)}")
    return run


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
