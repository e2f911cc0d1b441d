"""Evaluation of a trained run: `python -m bdam_reid.evaluate RUN [--option value ...]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from bdam_reid.config import ConfigError, Presets
from bdam_reid.engine.signals import handled_by, leave
from bdam_reid.methods import PRESETS

if TYPE_CHECKING:
    from bdam_reid.evaluation.evaluator import Evaluation


@dataclass(frozen=True)
class Options:
    """Evaluate the best checkpoint of a run (the last if it had no validation): metrics, gates, probes, and a page of
    pictures."""

    run: tyro.conf.Positional[Path]
    """Folder that training wrote. It comes first: --split and --weights take all that follows them."""
    root: Path | None = None
    """Folder of the data set; that of the run if it is not given."""
    split: tuple[str, ...] = ()
    """Protocols to rank, such as val, test, clothing_change; without any, all but those of validation persons."""
    device: str = "auto"
    """As torch names it; auto is the GPU where there is one."""
    batch_size: int = 128
    """Images or queries at a time."""
    output: Path | None = None
    """Folder of metrics.json, pictures and the log; the run if it is not given."""
    weights: dict[str, float] = field(default_factory=dict)
    """Of the parts of an embedding, such as `identity 1 clothing 0`, whatever clothes are searched; a part that is not
    named has none. Without any, those that validation chose for the same and for other clothes."""
    allow_missing: bool = False
    """Leave out and count images that are missing or unreadable, which are an error otherwise; a run that was trained
    with --data.allow-missing True always does."""


def main(arguments: Sequence[str] | None = None, presets: Presets = PRESETS) -> None:
    """The command line."""
    with handled_by(leave):
        options = tyro.cli(Options, prog="python -m bdam_reid.evaluate", args=arguments)
        # After the arguments: help, or word of a mistake in them, does not wait for torch.
        from bdam_reid.engine.errors import user_errors

        with user_errors("--batch-size"):
            evaluate_run(options, presets)


def evaluate_run(options: Options, presets: Presets = PRESETS) -> Evaluation:
    """Evaluate a run, write metrics.json and draw the page.

    Raises: CheckpointError, ConfigError, DatasetError.
    """
    from bdam_reid.data.datasets import load_dataset
    from bdam_reid.data.records import CLOTHES
    from bdam_reid.engine.environment import repeat_bits
    from bdam_reid.engine.run import log, open_best, start_log
    from bdam_reid.evaluation.evaluator import evaluate
    from bdam_reid.evaluation.page import draw_page
    from bdam_reid.evaluation.ranking import Embedder
    from bdam_reid.evaluation.tables import checkpoint_text, describe

    if options.batch_size < 1:
        raise ConfigError(f"--batch-size must be at least 1, got {options.batch_size}")
    run, output = options.run, options.output or options.run
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output must be a folder, got the file {output}")
    config, method, best, device, precision = open_best(run, presets, options.device)
    repeat_bits(device)
    root, allow_missing = options.root or config.data.root, options.allow_missing or config.data.allow_missing
    dataset = load_dataset(root, hold_out=config.data.hold_out, allow_missing=allow_missing)
    output.mkdir(parents=True, exist_ok=True)
    start_log(output)
    log.info(f"{run}: {dataset.name} at {root}, on {device}\n{dataset.report}")
    embedder = Embedder(method, device, precision, options.batch_size, allow_missing)
    weights = dict.fromkeys(CLOTHES, options.weights) if options.weights else method.chosen_weights(best)
    found = evaluate(embedder, dataset, weights, output, options.split, best.get("reranks", ()))
    log.info(f"{checkpoint_text(best)}\n{describe(found.metrics)}")
    page = draw_page(run, output, found)
    log.info(f"figures in {output / 'metrics.json'}, pictures in {page.parent}: open {page}")
    return found


if __name__ == "__main__":
    main()
