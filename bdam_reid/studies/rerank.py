"""What re-ranking gains and costs: `python -m bdam_reid.studies.rerank --run runs/demo`.

Trains each kind of matcher alone on the weights of a finished run of BDAM, and together with a model from scratch by
that run's config, and writes what the test split says of each, before and after re-ranking. Source: the drafts'
comparison of fusions (icme Tables II and III, long section 4.5), made where fusion has a part in ranking.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import tyro

from bdam_reid.config import Config, ConfigError
from bdam_reid.methods import PRESETS
from bdam_reid.methods.bdam.config import BDAMConfig, RerankConfig
from bdam_reid.studies.grid import Figure, asked, open_results, run_missing, table

Row = Literal[
    "frozen-mamba", "frozen-transformer", "frozen-simple", "none", "joint-mamba", "joint-transformer", "joint-simple"
]
ROWS: Mapping[str, RerankConfig] = {
    "frozen-mamba": RerankConfig(kind="mamba"),
    "frozen-transformer": RerankConfig(kind="transformer", layers=4),
    "frozen-simple": RerankConfig(kind="simple"),
    "none": RerankConfig(),
    "joint-mamba": RerankConfig(kind="mamba", training="joint"),
    "joint-transformer": RerankConfig(kind="transformer", layers=4, training="joint"),
    "joint-simple": RerankConfig(kind="simple", training="joint"),
}
"""The drafts' fusions as matchers, alone and end to end; "none" is trained from scratch, beside the latter."""
PREPARED = ("tokenizer", "image_encoder", "text_encoder", "data.json")
"""What a run folder has besides its checkpoints, that a model or its data needs."""


def _rate(clothes: str, rate: str, *, reranked: bool) -> Figure:
    def read(metrics: Mapping[str, Any]) -> float | None:
        if (found := asked(metrics, clothes)) is None:
            return None
        results = found["results"]
        return results["reranked" if reranked and "reranked" in results else clothes][rate]

    return read


def _microseconds(metrics: Mapping[str, Any]) -> float | None:
    found = asked(metrics, "same")
    return 1000 * found["rerank"]["pair_ms"] if found and "rerank" in found else None


FIGURES: Mapping[str, Figure] = {
    **{
        f"{clothes} clothes {words}{', re-ranked' * after}": _rate(clothes, rate, reranked=after)
        for clothes in ("same", "other")
        for rate, words in {"r1": "R-1", "map": "mAP"}.items()
        for after in (False, True)
    },
    "us a pair": _microseconds,
}


@dataclass(frozen=True)
class Study:
    """Train every matcher with several seeds, and print the table; finished runs are not repeated."""

    run: Path = Path("runs/demo")
    """Finished run of BDAM: its best weights are those of the frozen rows, its config that of the others."""
    root: str | None = None
    """Folder of the data set; that of the run if it is not given."""
    output: Path = Path("runs/rerank")
    """Folder of the runs; a run that was killed goes on from its last checkpoint."""
    results: Path = Path("benchmarks/results/rerank.json")
    """What is kept of the runs: metrics, environment, and processor seconds with evaluation; of frozen rows, those of
    the matcher's stage alone."""
    rows: tuple[Row, ...] = get_args(Row)
    seeds: tuple[int, ...] = (0, 1, 2)


def run_study(study: Study) -> dict[str, Any]:
    """Train what the results file lacks; gives its content.

    Raises: ConfigError if the run is of another method, or the file of another run's config; and as
        `bdam_reid.train.train`.
    """
    from bdam_reid.engine.run import load_config
    from bdam_reid.train import train

    base = load_config(study.run, PRESETS)
    if not isinstance(base.method, BDAMConfig):
        raise ConfigError(f"--run must be a run of BDAM, got {study.run} of the preset {base.preset}")
    method = replace(base.method, rerank=RerankConfig())
    base = replace(base, data=replace(base.data, root=study.root or base.data.root))
    common = asdict(replace(base, method=method, output="", data=replace(base.data, root="")))
    kept = open_results(
        study.results, {"config": common, "settings": {name: asdict(row) for name, row in ROWS.items()}}
    )

    def run(name: str, seed: int) -> Path:
        row = ROWS[name]
        config = replace(
            base, seed=seed, output=str(study.output / f"{name}-{seed}"), method=replace(method, rerank=row)
        )
        frozen = row.kind != "none" and row.training == "frozen"
        return train_matcher(study.run, config) if frozen else train(config)

    run_missing(kept, study.rows, study.seeds, study.results, run)
    return kept


def train_matcher(source: Path, config: Config) -> Path:
    """Train the matcher of a config alone, on the best weights of another run; gives the run folder. Raises: as
    `transplant` and `bdam_reid.train.train`."""
    from bdam_reid.train import train

    method = config.method
    assert isinstance(method, BDAMConfig)
    # Only the last epoch is validated: what is rated is the matcher as it was trained to the end.
    config = replace(config, engine=replace(config.engine, validate_every=method.rerank.epochs))
    transplant(source, config)
    return train(config)


def transplant(source: Path, config: Config) -> None:
    """Make the run folder of a config, unless there is one: before its second stage, with the best weights of another
    run instead of those of its first. What the other run has not is drawn from the seed.

    Raises: CheckpointError if the other run has no such weights; DatasetError.
    """
    import torch

    from bdam_reid.data.datasets import load_dataset
    from bdam_reid.engine.checkpoint import load_into, random_state, save_checkpoint, write_json
    from bdam_reid.engine.run import load_best, load_config
    from bdam_reid.engine.trainer import Progress, steps_of

    run = Path(config.output)
    if run.exists():
        return
    trained, _ = load_best(source, load_config(source, PRESETS))
    draft = run.with_name(f"{run.name}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for kept in filter(Path.exists, (source / name for name in PREPARED)):
        if kept.is_dir():
            shutil.copytree(kept, draft / kept.name)
        else:
            shutil.copy(kept, draft / kept.name)
    write_json(draft / "config.json", asdict(config))
    torch.manual_seed(config.seed)
    method = config.method.build(config.data, draft, fresh=False)
    weights = {name: value for name, value in trained.state_dict().items() if not name.startswith("matcher.")}
    load_into(method, method.state_dict() | weights, source)
    dataset = load_dataset(*config.data.roots, hold_out=config.data.hold_out, allow_missing=config.data.allow_missing)
    first, second = method.stages(dataset, config.seed)
    state = {
        "progress": asdict(Progress(stage=1, step=steps_of(first))),
        "optimizer": second.optimizer(second.groups).state_dict(),
        "scaler": {},
        "random": random_state(),
    }
    save_checkpoint(draft, "last", method.state_dict(), state)
    draft.rename(run)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    study = tyro.cli(Study, prog="python -m bdam_reid.studies.rerank", args=arguments)
    # After the arguments: help, or word of a mistake in them, does not wait for torch.
    from bdam_reid.engine.errors import user_errors

    with user_errors():
        print(table(run_study(study), FIGURES))


if __name__ == "__main__":
    main()
