"""A training step of the preset `bdam` on a GPU with our operators and with PyTorch's own, and where its time goes.

Without a GPU it runs where `test_gpu.py` does, for correctness only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from bdam_kernels import modules
from bdam_reid.engine.environment import inference
from bdam_reid.methods.bdam import decoupling, losses
from bdam_reid.methods.bdam.presets import bdam
from benchmarks.measure import ON_GPU, kernel_times
from benchmarks.peers import centred_alignment, two_sdpa_calls
from benchmarks.training import Operators, Run, difference, drawn, one_layer_of, trainer_of, with_random_weights
from tests.cuda_host import build

pytestmark = pytest.mark.skipif(not (ON_GPU or build.stands_in_for_a_gpu()), reason="needs a GPU")

KINDS = {
    "ours": r"bdam::|^cross_attention_|^hsic_",
    "attention": r"sdpa|fmha|flash|dot_do_o|convert_dq",
    "matrix products": r"nvjet|gemm|cutlass|cublas|splitK|conv",
    "optimizer": r"[aA]dam|multi_tensor",
    "norms": r"[lL]ayer_?[nN]orm|GammaBeta",
    "the rest": "",
}
"""Kernels of a step by what is in their names, the first that is."""


def sdpa(
    *streams: Tensor, key_padding_mask_a: None = None, key_padding_mask_b: None = None, dropout_p: float = 0.0
) -> object:
    assert key_padding_mask_a is key_padding_mask_b is None and not dropout_p
    return two_sdpa_calls(*streams)


def alignment(x: Tensor, y: Tensor, *, normalize: bool) -> Tensor:
    assert normalize
    return centred_alignment(x, y)


@contextmanager
def on_pytorch() -> Iterator[None]:
    """What the preset has of our operators from PyTorch: attention by SDPA, two calls, and the normalised HSIC."""
    with (
        patch.object(modules, "bidirectional_cross_attention", sdpa),
        patch.object(decoupling, "bidirectional_cross_attention", sdpa),
        patch.object(losses, "hsic", alignment),
    ):
        yield


@dataclass(frozen=True)
class Step(Run):
    """Of the preset, at its precision."""

    def forward(self) -> list[Tensor]:
        """The embeddings of the images and of the texts of the batch."""
        method, accelerator = self.trainer.method, self.trainer.accelerator
        with self.operators(), inference(method, accelerator.device, accelerator.mixed_precision):
            image, text, *_ = method.features(self.batch)  # type: ignore[operator]
        return [image.identity_embedding, image.clothing_embedding, text.identity_embedding, text.clothing_embedding]


def by_kind(kernels: dict[str, float]) -> dict[str, float]:
    """Milliseconds of a step's kernels by kind."""
    times = dict.fromkeys((f"{kind}, ms" for kind in KINDS), 0.0)
    for name, microseconds in kernels.items():
        times[next(f"{kind}, ms" for kind, words in KINDS.items() if re.search(words, name))] += microseconds / 1e3
    return {kind: round(time, 3) for kind, time in times.items()}


def test_preset_step_gpu(contest: Callable[..., None], small: bool, tmp_path: Path) -> None:
    """The encoders have random weights, and the vocabulary is that of the drawn captions: all else is the preset's."""
    config = with_random_weights(bdam())
    if small:
        config = one_layer_of(config)
    config = replace(config, engine=replace(config.engine, mixed_precision="bf16"))
    # As few as a batch is of, besides those of the other splits.
    dataset = drawn(tmp_path / "set", config.data.identities_per_batch + 6)
    operators: dict[str, Operators] = {"ours": nullcontext, "PyTorch's operators": on_pytorch}
    runs = {
        name: Step(*trainer_of(config, tmp_path / str(number), dataset), operators=chosen)
        for number, (name, chosen) in enumerate(operators.items())
    }
    ours, theirs = runs.values()
    facts: dict[str, dict[str, float]] = {name: {} for name in runs}
    # One step each from the same weights: those after it are compared no more, as rounding errors grow.
    errors = {
        "forward_error": difference(ours.forward(), theirs.forward()),
        "train_error": difference(ours.loss_and_gradients(), theirs.loss_and_gradients()),
    }
    facts["ours"] |= errors
    if ON_GPU:
        for name, run in runs.items():
            facts[name] |= by_kind(kernel_times(run.train))
    size = f"B = {len(ours.batch.images)}, {tuple(ours.batch.images.shape[2:])} pixels, bf16, with AdamW's update"
    # A step waits for the GPU, to look at its loss.
    contest(
        runs, facts=facts, graphs=False, op="step of the preset bdam", size=size, peer="PyTorch's operators", target=1.2
    )
    assert max(errors.values()) <= torch.finfo(torch.bfloat16).eps ** 0.5
