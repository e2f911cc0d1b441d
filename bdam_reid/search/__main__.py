"""Search of photographs: `python -m bdam_reid.search test-gallery|index|query|serve`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from bdam_reid.config import Presets, Range, check_ranges
from bdam_reid.engine.signals import handled_by, leave
from bdam_reid.methods import PRESETS

if TYPE_CHECKING:
    from bdam_reid.search.finder import Found
    from bdam_reid.search.index.update import Report

LISTED = 20
"""Refused files that are named, at most; the index keeps all."""


@dataclass(frozen=True)
class TestGallery:
    """Copy the photographs of a data set's test persons into a folder, with a table of them, to be indexed."""

    data: tyro.conf.Positional[Path]
    """Folder of the data set."""
    output: Path
    """Folder that gets photographs and table.csv."""


@dataclass(frozen=True)
class Index:
    """Make an index of the photographs in a folder and all folders in it, or bring the one that is there up to date.

    Only what is new or was changed is embedded. Killed at any moment, the index before stays as it was, and the same
    command goes on."""

    run: tyro.conf.Positional[str]
    """Folder of a run or an export; or a published CLIP or SigLIP, by hub name or folder."""
    folder: tyro.conf.Positional[Path]
    """Of the photographs, and videos: one person each, as a detector cuts them out, unless --detect."""
    output: Path
    """Folder of the index."""
    table: Path | None = None
    """CSV file of what is known of the photographs: column path, within the folder, and any others, such as camera,
    person, time. It is read anew each time."""
    frames_per_second: Annotated[float, Range(0.001, 1_000)] = 1.0
    """That are taken of videos."""
    detect: bool = False
    """Whether photographs and frames show whole scenes: persons are looked for in them, by OpenCV's old HOG detector,
    which misses many, and each who is found is indexed by a box."""
    device: str = "auto"
    """As torch names it; auto is the GPU where there is one."""


@dataclass(frozen=True)
class Query:
    """Find the photographs that fit a sentence, pictures of a person, or both."""

    index: tyro.conf.Positional[Path]
    """Folder of the index."""
    sentence: tyro.conf.Positional[str] = ""
    """Such as "a woman in a red coat - backpack": what is wanted, and what is not after each " - "."""
    k: Annotated[int, tyro.conf.arg(aliases=["-k"]), Range(1, 100_000)] = 10
    """How many are given."""
    image: tuple[Path, ...] = ()
    """Pictures of the one person who is looked for."""
    share: Annotated[float, Range(0, 1)] = 0.5
    """Of the pictures against the sentence."""
    clothes: Literal["same", "other"] = "same"
    """Whether the person wears the clothes of the sentence and pictures, or may wear any."""
    weights: tuple[float, ...] = ()
    """Of the parts of embeddings, in their order, such as identity and clothing; by default those that validation
    chose."""
    where: tuple[str, ...] = ()
    """Filters: column=value, time>=2026-11-27T08:00, time<2026-11-28; several values of a column leave what has any."""
    one_per: str = ""
    """Column, such as person or track, of each text of which the best photograph alone is given."""
    rerank: bool = False
    """Read the best photographs again, each together with the sentence, and order them by that: with a model that was
    trained to, such as a run of BDAM with --method.rerank.kind mamba."""
    as_written: bool = False
    """Read words that no training caption had as they are; else the nearest that some had take their places."""
    json: bool = False
    """Print what was found as JSON."""
    run: str = ""
    """The model, where it is not any more where it was when the index was made."""
    device: str = "auto"
    """As torch names it; auto is the GPU where there is one."""


@dataclass(frozen=True)
class Serve:
    """Open a page to search an index with, and answer programs (its address /docs says how).

    If other machines can reach it, whoever asks needs a token: that of the environment variable BDAM_SEARCH_TOKEN, or
    one that is made and printed."""

    index: tyro.conf.Positional[Path]
    """Folder of the index; updates of it are noticed."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in."""
    port: Annotated[int, Range(0, 65_535)] = 7860
    """0 takes a free one."""
    run: str = ""
    """The model, where it is not any more where it was when the index was made."""
    device: str = "auto"
    """As torch names it; auto is the GPU where there is one."""


def copy_gallery(options: TestGallery) -> None:
    """The subcommand `test-gallery`. Raises: DatasetError, OSError."""
    from bdam_reid.search.gallery import write_gallery

    print(f"{options.output}: {write_gallery(options.data, options.output):,} photographs")


def make_index(options: Index, presets: Presets) -> None:
    """The subcommand `index`. Raises: CheckpointError, ConfigError, OSError."""
    from bdam_reid.search.detection import check_detector
    from bdam_reid.search.index.update import update_index
    from bdam_reid.search.opening import open_model
    from bdam_reid.search.table import Table, read_table

    if options.detect:
        check_detector()
    table = read_table(options.table) if options.table else Table()
    retriever = open_model(options.run, options.device, presets)
    name = str(Path(options.run).resolve()) if Path(options.run).exists() else options.run
    report = update_index(
        options.output, options.folder, retriever, name, table, options.frames_per_second, options.detect
    )
    print("\n".join(_said_of(report, options.output)))


def _said_of(report: Report, output: Path) -> list[str]:
    lines = [f"warning: {report.warning}"] if report.warning else []
    for file in report.refused[:LISTED]:
        lines.append(f"refused: {file.path}: {file.reason}")
    if len(report.refused) > LISTED:
        lines.append(f"refused: {len(report.refused) - LISTED:,} more, which about.json of the index lists")
    if report.absent and report.unlisted == report.images:
        lines.append("warning: the table says nothing of any image: its paths must be within the folder of the images")
    else:
        if report.unlisted:
            lines.append(f"{report.unlisted:,} images are not in the table")
        if report.absent:
            lines.append(f"{report.absent:,} images of the table are not in the index")
    done = "embedded" if report.changed else "up to date, embedded"
    return [
        *lines,
        f"{output}: {report.images:,} images, {done} {report.embedded:,}, removed {report.removed:,}, refused "
        f"{len(report.refused):,}, no images {report.others:,}",
    ]


def query_index(options: Query, presets: Presets) -> None:
    """The subcommand `query`. Raises: CheckpointError, ConfigError, ImageError, QueryError."""
    from bdam_reid.config import ConfigError
    from bdam_reid.data.printable import printable
    from bdam_reid.search.columns import where_of
    from bdam_reid.search.finder import finder_of
    from bdam_reid.search.index.reader import open_index
    from bdam_reid.search.query import Question
    from bdam_reid.search.rewording.reword import as_it_is

    where = where_of(options.where)
    gallery = open_index(options.index)
    finder = finder_of(gallery, presets, model=options.run, device=options.device)
    parts = finder.retriever.parts
    if options.weights and len(options.weights) != len(parts):
        raise ConfigError(f"--weights must be {len(parts)}, of {', '.join(parts)}, got {len(options.weights)}")
    sentence, changes = as_it_is(options.sentence) if options.as_written else finder.reword(options.sentence)
    if changes:
        print(f"read as: {printable(sentence)}", file=sys.stderr)
    found = finder.find(
        Question(sentence, options.image, options.share),
        options.k,
        clothes=options.clothes,
        weights=dict(zip(parts, options.weights, strict=True)) if options.weights else None,
        where=where,
        one_per=options.one_per,
        rerank=options.rerank,
    )
    if options.json:
        print(_as_json(found))
    elif found:
        print("\n".join(_as_lines(found)))
    else:
        print("\n".join(["nothing was found", *(f"no image has {text}" for text in where.unknown(gallery.columns))]))


def _as_json(found: Sequence[Found]) -> str:
    return json.dumps([{"rank": rank, **hit._asdict()} for rank, hit in enumerate(found, 1)], indent=2)


def _as_lines(found: Sequence[Found]) -> list[str]:
    from bdam_reid.data.printable import printable

    lines = []
    for rank, hit in enumerate(found, 1):
        parts = ", ".join(f"{name} {cosine:.3f}" for name, cosine in hit.parts.items())
        about = "".join(f", {name} {text}" for name, text in hit.about.items())
        lines.append(f"{rank:3} {hit.score:7.3f}  {printable(hit.path)}  ({parts}{printable(about)})")
    return lines


def serve(options: Serve, presets: Presets) -> None:
    """The subcommand `serve`. Raises: CheckpointError, ConfigError."""
    from bdam_reid.search.serve.server import Address, serve_index

    address = Address(options.host, options.port)
    serve_index(options.index, address, presets, model=options.run, device=options.device)


def main(arguments: Sequence[str] | None = None, presets: Presets = PRESETS) -> None:
    """The command line."""
    with handled_by(leave):
        options = tyro.cli(TestGallery | Index | Query | Serve, prog="python -m bdam_reid.search", args=arguments)
        # After the arguments: help, or word of a mistake in them, does not wait for torch.
        from bdam_reid.engine.errors import user_errors

        with user_errors("what other programs take of it"):
            check_ranges(options)
            if isinstance(options, TestGallery):
                copy_gallery(options)
            elif isinstance(options, Index):
                make_index(options, presets)
            elif isinstance(options, Query):
                query_index(options, presets)
            else:
                serve(options, presets)


if __name__ == "__main__":
    main()
