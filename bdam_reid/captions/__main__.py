"""Captions: `python -m bdam_reid.captions styles|write|check`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from bdam_reid.captions.clustering import Clustering
from bdam_reid.captions.cost import Prices, estimate
from bdam_reid.captions.endpoint import EndpointConfig
from bdam_reid.captions.style_vectors import HASHING
from bdam_reid.config import ConfigError, Range, check_ranges
from bdam_reid.engine.signals import handled_by, leave

if TYPE_CHECKING:
    from bdam_reid.captions.model import Model
    from bdam_reid.captions.store import Store
    from bdam_reid.captions.styles import Style
    from bdam_reid.captions.writing import Writer
    from bdam_reid.data.records import Record


PROBLEMS = 10
"""Different problems of calls that are listed, at most."""


@dataclass(frozen=True)
class Styles:
    """Find the styles of a set's training captions, and write prompts for them, and a picture."""

    root: tyro.conf.Positional[Path]
    """Folder of the data set."""
    by: Clustering = "dbscan"
    """Clustering; random draws lots, none makes one style of all."""
    encoder: str = HASHING
    """Of the style embeddings: hashing, which needs no weights, or the hub name or folder of a CLIP or BERT, such as
    openai/clip-vit-base-patch32 or sentence-transformers/all-MiniLM-L6-v2."""
    clusters: Annotated[int, Range(2)] = 8
    """For kmeans, gmm, agglomerative and random; the others find out."""
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0
    output: Path | None = None
    """File of the styles, beside which comes the picture; by default styles.json in the data set's folder."""


@dataclass(frozen=True)
class Write:
    """Let a multimodal model write an identity and a clothing text of each training image, and make texts.json of them.

    All that is answered is kept in a store, from which the same command goes on, however it ended."""

    root: tyro.conf.Positional[Path]
    """Folder of the data set."""
    endpoint: tyro.conf.OmitArgPrefixes[EndpointConfig]
    local: str | None = None
    """Hub name or folder of an image-text-to-text model of transformers, such as HuggingFaceTB/SmolVLM-Instruct, which
    is loaded into this process instead of asking an endpoint."""
    styles: Path | None = None
    """File that `styles` wrote; without one, texts are written in no given style."""
    attempts: int = 3
    """Calls for a text until an answer is good; each says what was wrong with the last."""
    workers: Annotated[int, Range(1, 256)] = 8
    """Calls under way at a time; a local model answers them in one batch."""
    limit: int | None = None
    """Only so many images, the first ones of the set: to try a model and a prompt."""
    prices: Prices = field(default_factory=Prices)
    """Of an endpoint."""
    dry_run: bool = False
    """Say what it would cost, and end."""
    store: Path | None = None
    """File of all answers; by default texts.jsonl in the data set's folder."""
    output: Path | None = None
    """File of the texts; by default texts.json in the data set's folder, where training reads it."""


@dataclass(frozen=True)
class Check:
    """Look for faults in a texts.json; the exit status is 1 if there are any."""

    path: tyro.conf.Positional[Path]
    """The file, or the folder of a data set that has one."""
    examples: int = 3
    """Of each kind of fault that are shown."""


def find_styles(options: Styles) -> None:
    """The subcommand `styles`. Raises: ConfigError, DatasetError, OSError."""
    from bdam_reid.captions import styles
    from bdam_reid.captions.style_picture import draw_styles

    path = options.output or options.root / styles.FILE
    if path.exists():
        raise ConfigError(f"{path} is there, and people may have changed it: delete it, or give another --output")
    captions = [caption for record in _training_images(options.root) for caption in record.captions]
    found = styles.cluster_captions(captions, options.by, options.encoder, options.clusters, options.seed)
    made = styles.styles_of(found)
    how = {"clustering": options.by, "encoder": options.encoder, "seed": options.seed}
    styles.write_styles(path, made, {**how, "captions": len(found.captions)})
    counted = f"{len(found.captions):,} of {len(captions):,} captions"
    draw_styles(path.with_suffix(".png"), found, made, f"Styles of {counted} by {options.by} ({options.encoder})")
    for style in made:
        print(f"{style.share:6.1%}  {style.name}: {style.prompt}")
    print(f"{len(made)} styles of {counted}: {path} and {path.with_suffix('.png').name}")


def write_texts(options: Write) -> int:
    """The subcommand `write`; 1 if texts are missing. Raises: ConfigError, DatasetError, OSError; Interrupted after a
    signal."""
    _check_source(options)
    from bdam_reid.captions import store as stores
    from bdam_reid.captions.styles import read_styles
    from bdam_reid.captions.texts import FILE
    from bdam_reid.captions.writing import check_free

    records = _training_images(options.root)[: options.limit]
    styles = read_styles(options.styles) if options.styles else ()
    output = options.output or options.root / FILE
    with stores.open_store(options.store or options.root / stores.FILE) as store:
        check_free(output, store)
        return _write(options, records, styles, store, output)


def _write(options: Write, records: Sequence[Record], styles: Sequence[Style], store: Store, output: Path) -> int:
    from bdam_reid.captions.prompts import digest
    from bdam_reid.captions.writing import Writer, jobs_of, missing
    from bdam_reid.engine.checkpoint import write_json
    from bdam_reid.engine.signals import Interruption

    model = options.local or options.endpoint.model
    store.check(model, digest(styles))
    if store.in_flight:
        print(
            f"the process that wrote {store.path} before was killed: up to {store.in_flight} calls were under way, "
            "whose answers are lost; no answer that came is asked for again"
        )
    jobs = jobs_of(records, styles, store, options.attempts)
    cost = estimate(jobs, options.attempts).text(None if options.local else options.prices)
    print(f"{len(jobs):,} of {2 * len(records):,} texts to write: {cost}")
    if options.dry_run:
        return 0
    interruption = Interruption()
    writer = Writer(store, styles, options.attempts, options.workers, lambda: interruption.came)
    if jobs:
        asked = _model(options, writer.stopped)
        with handled_by(interruption):
            store.begin(model, digest(styles), options.workers)
            writer.write(jobs, asked)
            store.end()
    texts = store.texts()
    write_json(output, texts)
    _say_what_came(writer, options.prices)
    for problem, count in missing(records, store).items():
        print(f"{count:,} of {2 * len(records):,} texts {problem}")
    print(f"{output}: both texts of {len(texts):,} images")
    if writer.error:
        raise writer.error
    interruption.raise_if_any()
    if writer.unanswered:
        print(f"{writer.unanswered:,} texts got no answer: give the same command again to ask for them")
    elif len(texts) < len(records):
        print(f"give more --attempts than {options.attempts} to ask for the others again")
    return int(len(texts) < len(records))


def _check_source(options: Write) -> None:
    """Raise ConfigError unless one model is named, and only what it takes is given."""
    given, without = options.endpoint, EndpointConfig()
    if options.local is None:
        if not given.model:
            raise ConfigError("a model must be named: give --model for one of an endpoint, or --local, got neither")
        return
    names = ("model", "url", "timeout", "retries", "requests_per_minute")
    others = [f"--{name.replace('_', '-')}" for name in names if getattr(given, name) != getattr(without, name)]
    others += ["--prices"] if options.prices != Prices() else []
    if others:
        raise ConfigError(
            f"--local and {', '.join(others)} exclude each other: the former loads a model here, the latter are of an "
            "endpoint"
        )


def _model(options: Write, stopped: Callable[[], bool]) -> Model:
    """The model that is asked. Raises: ConfigError if it cannot be."""
    if options.local is None:
        from bdam_reid.captions.endpoint import Endpoint

        return Endpoint(options.endpoint, stopped)
    from bdam_reid.captions.local import LocalModel

    return LocalModel(options.local, options.endpoint.temperature, options.endpoint.max_tokens, stopped)


def _say_what_came(writer: Writer, prices: Prices) -> None:
    dollars = prices.of(writer.input_tokens, writer.output_tokens)
    used = f"{writer.input_tokens:,} tokens in and {writer.output_tokens:,} out" + (
        f", ${dollars:,.2f}" if dollars else ""
    )
    print(f"used {used}, as the model counts; {writer.rejected:,} answers had faults")
    for kind, what in writer.faults.items():
        print(f"{len(what):,} x {kind}, such as: {what[0]}")
    for problem, count in writer.problems.most_common(PROBLEMS):
        print(f"{count:,} x {problem}")


def check_texts(options: Check) -> int:
    """The subcommand `check`; 1 if there are faults. Raises: ConfigError, DatasetError."""
    from bdam_reid.captions.checking import check_file

    checked = check_file(options.path)
    for kind, examples in checked.faults.items():
        print(f"{len(examples):,} x {kind}")
        for example in examples[: options.examples]:
            print(f"    {example}")
    faults = sum(map(len, checked.faults.values()))
    styles = ", ".join(f"{style} ({count:,})" for style, count in checked.styles.most_common()) or "none"
    print(f"{options.path}: texts of {checked.entries:,} images, {faults:,} faults; styles: {styles}")
    return min(faults, 1)


def _training_images(root: Path) -> tuple[Record, ...]:
    from bdam_reid.data.datasets import load_dataset

    # Nobody is evaluated here, and persons that a training holds out may be trained on by another.
    dataset = load_dataset(root, hold_out=False, allow_missing=True)
    print(dataset.report)
    if not any(record.captions for record in dataset.train):
        raise ConfigError(f"expected a set with captions in {root}, such as CUHK-PEDES, got {dataset.name}")
    return dataset.train


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    with handled_by(leave):
        options = tyro.cli(Styles | Write | Check, prog="python -m bdam_reid.captions", args=arguments)
        # After the arguments: help, or word of a mistake in them, does not wait for torch.
        from bdam_reid.engine.errors import user_errors

        with user_errors("--workers"):
            # Under the names that they have on the command line.
            check_ranges(options.endpoint if isinstance(options, Write) else options)
            check_ranges(options)
            if isinstance(options, Check):
                return check_texts(options)
            if isinstance(options, Write):
                return write_texts(options)
            find_styles(options)
            return 0


if __name__ == "__main__":
    sys.exit(main())
