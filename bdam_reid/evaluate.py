"""Evaluation of a trained run: `python -m bdam_reid.evaluate RUN [--option value ...]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from bdam_reid.config import Config, ConfigError, Presets
from bdam_reid.engine.signals import handled_by, leave
from bdam_reid.methods import PRESETS

if TYPE_CHECKING:
    from bdam_reid.data.records import Dataset
    from bdam_reid.evaluation.evaluator import Evaluation


@dataclass(frozen=True)
class Options:
    """Evaluate the best checkpoint of a run (the last if it had no validation): metrics, gates, probes, and a page of
    pictures."""

    run: tyro.conf.Positional[Path]
    """Folder that training wrote. It comes first: --domains, --split and --weights take all that follows them."""
    root: Path | None = None
    """Folder of the data set; those of the run if it is not given."""
    domains: tuple[Path, ...] = ()
    """Folders of further sets that are evaluated on together with that of --root, each with rows of its own, and their
    mean."""
    split: tuple[str, ...] = ()
    """Protocols to rank, such as val, test, clothing_change, of several sets duke_test; without any, all but those of
    validation persons."""
    device: str = "auto"
    """As torch names it; auto is the GPU where there is one."""
    batch_size: int = 128
    """Images or queries at a time."""
    output: Path | None = None
    """Folder of metrics.json, pictures and the log; if it is not given the run, or where another set, split or weights
    are asked for RUN/asked, so that the run's own figures stay."""
    weights: dict[str, float] = field(default_factory=dict)
    """Of the parts of an embedding, such as `identity 1 clothing 0`, whatever clothes are searched; a part that is not
    named has none. Without any, those that validation chose for the same and for other clothes."""
    allow_missing: bool = False
    """Leave out and count images that are missing or unreadable, which are an error otherwise; a run that was trained
    with --data.allow-missing True always does."""
    cache: Path | None = None
    """Folder where embeddings of galleries are kept for the next evaluation of the same weights and images; it may be
    deleted at any time. Nothing is kept if it is not given."""
    k_reciprocal: bool = False
    """Report k-reciprocal re-ranking (Zhong et al. 2017) beside the results, where queries are images."""


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

    Raises: CheckpointError, ConfigError; DatasetError also for images of another set that the run was trained on.
    """
    from bdam_reid.data.datasets import load_dataset
    from bdam_reid.data.records import CLOTHES
    from bdam_reid.engine.environment import repeat_bits
    from bdam_reid.engine.fingerprint import fingerprint
    from bdam_reid.engine.run import check_data, log, open_best, start_log
    from bdam_reid.evaluation.cache import FeatureCache
    from bdam_reid.evaluation.evaluator import evaluate
    from bdam_reid.evaluation.page import draw_page
    from bdam_reid.evaluation.ranking import Embedder
    from bdam_reid.evaluation.tables import checkpoint_text, describe

    if options.batch_size < 1:
        raise ConfigError(f"--batch-size must be at least 1, got {options.batch_size}")
    asked = options.root or options.split or options.weights
    run, output = options.run, options.output or (options.run / "asked" if asked else options.run)
    if options.domains and not options.root:
        raise ConfigError(f"--domains needs --root, the first of the sets, got {', '.join(map(str, options.domains))}")
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output must be a folder, got the file {output}")
    if options.cache and options.cache.exists() and not options.cache.is_dir():
        raise ConfigError(f"--cache must be a folder, got the file {options.cache}")
    config, method, best, device, precision = open_best(run, presets, options.device)
    repeat_bits(device)
    allow_missing = options.allow_missing or config.data.allow_missing
    roots = (options.root, *options.domains) if options.root else config.data.roots
    dataset = load_dataset(*roots, hold_out=config.data.hold_out, allow_missing=allow_missing)
    if not options.root:
        mend = "Give its folder as --root to evaluate on what lies there now, or put the data back as it was"
        check_data(run, config, fingerprint(dataset), mend, without="train")
    output.mkdir(parents=True, exist_ok=True)
    start_log(output)
    log.info(f"{run}: {dataset}, on {device}\n{dataset.report}")
    cache = FeatureCache(options.cache, config) if options.cache else None
    embedder = Embedder(method, device, precision, options.batch_size, allow_missing, cache)
    weights = dict.fromkeys(CLOTHES, options.weights) if options.weights else method.chosen_weights(best)
    trained_on = _trained_on(run, config, dataset) if options.root else ""
    learnt = dataset
    if trained_on:
        learnt = _check_unseen(run, config, dataset, options.split) or dataset
        method.forget_cameras()
    reranks = best.get("reranks", ())
    found = evaluate(
        embedder, dataset, weights, output, options.split, reranks, trained_on, options.k_reciprocal, learnt.train
    )
    log.info(f"{checkpoint_text(best)}\n{describe(found.metrics)}")
    draw_page(run, output, embedder, found)
    return found


def _trained_on(run: Path, config: Config, dataset: Dataset) -> str:
    """The data set that a run was trained on, if it is another than this one, wherever it lies."""
    from bdam_reid.engine.checkpoint import read_json
    from bdam_reid.engine.fingerprint import changes, fingerprint
    from bdam_reid.engine.run import DATA

    if (run / DATA).exists() and not changes(read_json(run / DATA), fingerprint(dataset)):
        return ""
    environment = run / "environment.json"
    # Runs of older versions do not say what layout it had.
    name = read_json(environment).get("dataset", "a set") if environment.exists() else "a set"
    return f"{name} at {', '.join(config.data.roots)}"


def _check_unseen(run: Path, config: Config, dataset: Dataset, protocols: Sequence[str]) -> Dataset | None:
    """The data that a run was trained on; None if it is not at hand or has changed, which the log says.

    Raises: DatasetError for another set of whose images some were trained on, which may be, as of ICFG-PEDES and
        RSTPReid, both out of MSMT17.

    Args:
        run, config: the run.
        dataset: that it is evaluated on.
        protocols: names of those that are ranked; none stands for all of the test split.
    """
    from bdam_reid.data.contents import contents_of, images_of, overlaps
    from bdam_reid.data.datasets import load_dataset
    from bdam_reid.data.records import DatasetError, Findings
    from bdam_reid.engine.checkpoint import read_json
    from bdam_reid.engine.fingerprint import fingerprint
    from bdam_reid.engine.run import DATA, log

    data = config.data
    try:
        trained = load_dataset(*data.roots, hold_out=data.hold_out, allow_missing=True)
    except DatasetError as error:
        log.info(f"whether its images were trained on is not known, since the run's data is not at hand: {error}")
        return None
    if (run / DATA).exists() and read_json(run / DATA)["train"] != fingerprint(trained)["train"]:
        log.info(f"whether its images were trained on is not known, since {', '.join(data.roots)} has changed since")
        return None
    known = dataset.protocols.items()
    ranked = {name: of for name, of in known if (name in protocols if protocols else of.split == "test")}
    learnt = contents_of(images_of(replace(trained, protocols={})), Findings())
    asked = contents_of(images_of(replace(dataset, train=(), protocols=ranked)), Findings())
    for finding in overlaps(learnt, asked, ("the run", str(dataset))):
        raise DatasetError(
            f"{finding}: a result would be wrong. Remove these images from the set, or train without them; "
            "`python -m bdam_reid.data check` names what two sets share"
        )
    return trained


if __name__ == "__main__":
    main()
