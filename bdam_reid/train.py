"""Training: `python -m bdam_reid.train PRESET [--field value ...]`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from bdam_reid.config import Config, Presets, check_config, parse_config
from bdam_reid.engine.signals import handled_by, leave
from bdam_reid.methods import PRESETS


def main(arguments: Sequence[str] | None = None, presets: Presets = PRESETS) -> None:
    """The command line."""
    with handled_by(leave):
        config = parse_config(presets, arguments)
        # After the arguments: help, or word of a mistake in them, does not wait for torch.
        from bdam_reid.engine.errors import user_errors

        with user_errors():
            train(config, presets, draw=True)


def train(config: Config, presets: Presets = PRESETS, *, draw: bool = False) -> Path:
    """Train, or go on training, to the end, and evaluate the best checkpoint, or the last one where there is no
    validation; gives the run folder. Of several processes, which `torchrun` starts, the first evaluates.

    Args:
        config: of the run.
        presets: those that a config may name.
        draw: whether the page of pictures is drawn, as `python -m bdam_reid.evaluate` does.
    Raises: ConfigError, DatasetError, CheckpointError, TrainingError; Interrupted after SIGINT, SIGTERM or SIGHUP.
    """
    from bdam_reid import processes
    from bdam_reid.data.datasets import load_dataset
    from bdam_reid.data.records import DatasetError
    from bdam_reid.engine.checkpoint import write_json
    from bdam_reid.engine.environment import environment, make_accelerator, precision_on
    from bdam_reid.engine.run import load_best, log, open_run
    from bdam_reid.engine.trainer import Trainer, make_method
    from bdam_reid.evaluation.evaluator import evaluate
    from bdam_reid.evaluation.ranking import Embedder
    from bdam_reid.evaluation.tables import checkpoint_text, describe
    from bdam_reid.evaluation.validation import validator

    check_config(config)
    accelerator = make_accelerator(config.engine)
    device = accelerator.device
    precision = precision_on(device, config.engine)
    surroundings = environment(device)
    allow_missing = config.data.allow_missing
    main, count = processes.is_main(), processes.own_share().count
    with ExitStack() as stack:
        with processes.main_first():
            dataset = load_dataset(*config.data.roots, hold_out=config.data.hold_out, allow_missing=allow_missing)
            trained = {record.domain for record in dataset.train}
            if lacking := [str(domain) for number, domain in enumerate(dataset.domains) if number not in trained]:
                raise DatasetError(
                    f"expected training images, got {'; '.join(lacking)}, which is for evaluation only: give "
                    "--data.root or --data.domains another set, and this one to "
                    "`python -m bdam_reid.evaluate RUN --root`"
                )
            run = stack.enter_context(open_run(config, presets, dataset))
            if main:
                surroundings |= {"precision": precision, "dataset": dataset.name, "data": asdict(dataset.report)}
                write_json(run / "environment.json", surroundings)
            log.info(
                f"{run}: {dataset}, on {f'{count} x ' * (count > 1)}{device} "
                f"with kernels of backend {surroundings['backend']}\n{dataset.report}"
            )
            method = make_method(config, run, dataset)
        validate = validator(dataset, device, precision, allow_missing)
        Trainer(config, run, method, dataset, accelerator, validate).fit()
        processes.leave()
        if not main:
            return run
        best, state = load_best(run, config)
        embedder = Embedder(best.to(device), device, precision, allow_missing=allow_missing)
        found = evaluate(embedder, dataset, best.chosen_weights(state), run, reranks=state.get("reranks", ()))
        log.info(f"{checkpoint_text(state)}:\n{describe(found.metrics)}")
        if draw:
            from bdam_reid.evaluation.page import draw_page  # matplotlib, which nothing before waits for

            draw_page(run, run, embedder, found)
    return run


if __name__ == "__main__":
    main()
