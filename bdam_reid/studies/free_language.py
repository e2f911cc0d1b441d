"""How well a run understands people who were given no templates: `python -m bdam_reid.studies.free_language RUN`.

Searches the synthetic set with sentences that were written by hand in words that none of its captions has, and sets the
figures beside those of its captions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from bdam_reid.config import ConfigError, Presets
from bdam_reid.engine.signals import handled_by, leave
from bdam_reid.methods import PRESETS

if TYPE_CHECKING:
    from bdam_reid.data.records import Dataset, Query
    from bdam_reid.evaluation.ranking import Ranking

PROTOCOLS = ("test", "clothing_change")


@dataclass(frozen=True)
class Options:
    """Search for the test persons in the same and in other clothes, by sentences in free language and by captions."""

    run: tyro.conf.Positional[Path]
    """Folder that training wrote."""
    root: Path
    """Folder of the set that the sentences are about: `python -m bdam_reid.synthetic ROOT --identities 300
    --test-identities 100 --seed 1`."""
    sentences: Path = Path("benchmarks/free_language.json")
    """The sentences, each with the picture that it describes; the path is that in a checkout."""
    reword: bool = False
    """Put the sentences in the words of the training captions first, as a search does."""
    device: str = "auto"
    """As torch names it; auto is the GPU where there is one."""
    batch_size: int = 128
    """Images or queries at a time."""
    worst: int = 10
    """How many of the worst-ranked sentences to print for each question."""
    output: Path | None = None
    """File of the figures, and of all sentences with their ranks."""


def search(options: Options, presets: Presets = PRESETS) -> dict[str, Any]:
    """Figures of the sentences and of the captions by protocol, and the sentences with the rank of the first picture of
    their person, the worst first.

    Raises: CheckpointError, ConfigError, DatasetError.
    """
    from bdam_reid.data.datasets import load_dataset
    from bdam_reid.engine.checkpoint import write_json
    from bdam_reid.engine.environment import repeat_bits
    from bdam_reid.engine.run import open_best
    from bdam_reid.evaluation.ranking import Embedder
    from bdam_reid.search.rewording.reword import open_rewording

    for name, count in (("batch-size", options.batch_size), ("worst", options.worst)):
        if count < 1:
            raise ConfigError(f"--{name} must be at least 1, got {count}")
    config, method, best, device, precision = open_best(options.run, presets, options.device)
    repeat_bits(device)
    dataset = load_dataset(options.root, hold_out=config.data.hold_out)
    queries = read_queries(options.sentences, dataset)
    if options.reword:
        rewording = open_rewording(options.run)
        queries = tuple(replace(query, text=rewording(str(query.text)).text) for query in queries)
    embedder = Embedder(method, device, precision, options.batch_size)
    weights, found = method.chosen_weights(best), {}
    keys = {record.path: record.key for record in dataset.protocols["test"].gallery}
    for name in PROTOCOLS:
        protocol = dataset.protocols[name]
        of = weights[protocol.clothes]
        asked, captions = embedder.rank(replace(protocol, queries=queries)), embedder.rank(protocol)
        found[name] = {
            "clothes": protocol.clothes,
            "sentences": asdict(asked.metrics(of)),
            "captions": asdict(captions.metrics(of)),
            "ranks": _ranks(asked, of, keys),
        }
    if options.output is not None:
        write_json(options.output, found)
    return found


def read_queries(path: Path, dataset: Dataset) -> tuple[Query, ...]:
    """The sentences in a file as queries for the persons of a data set.

    Raises: ConfigError for a file that holds none; DatasetError for a set that they are not about.
    """
    from bdam_reid.data.records import DatasetError, Query

    try:
        pairs = [(entry["file_path"], entry["text"]) for entry in json.loads(path.read_bytes())["sentences"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(
            f'expected {{"sentences": [{{"file_path": ..., "text": ...}}, ...]}} in {path}, got {error!r}: '
            "run the study from a checkout, or give --sentences"
        ) from error
    shown = {record.key: record for record in dataset.protocols["test"].gallery}
    unknown = [key for key, _ in pairs if key not in shown]
    if unknown or not set(PROTOCOLS) <= dataset.protocols.keys():
        lacks = f"{len(unknown)} of {len(pairs)} pictures" if unknown else "the protocol of other clothes"
        raise DatasetError(
            f"expected the set that {path} is about, got {dataset.root}, which lacks {lacks}: draw it with "
            "`python -m bdam_reid.synthetic ROOT --identities 300 --test-identities 100 --seed 1`, and give --root ROOT"
        )
    described = [(text, shown[key]) for key, text in pairs]
    return tuple(Query(text, None, r.identity, r.camera, r.outfit, r.path) for text, r in described)


def _ranks(ranking: Ranking, weights: Mapping[str, float], keys: Mapping[Path, str]) -> list[dict[str, Any]]:
    """The sentences, the picture of each and the rank of the first picture of its person, the worst first."""
    from bdam_reid.evaluation.retrievals import retrievals

    found = retrievals(ranking, weights, len(ranking.queries))
    ranks = [
        {"rank": one.first_right.rank, "file_path": keys[one.described], "text": one.text}
        for one in found
        if one.first_right is not None and one.described is not None
    ]
    return sorted(ranks, key=lambda one: -one["rank"])


def table(found: Mapping[str, Any], worst: int) -> str:
    """What `search` found as text, with some of the worst-ranked sentences for each question."""
    from bdam_reid.evaluation.tables import CLOTHES_WORDS, RATES

    rates = ("r1", "r5", "map")
    lines = [f"{'retrieval, %':<24}" + "".join(f"{RATES[rate]:>8}" for rate in rates) + "  queries"]
    for protocol in found.values():
        lines.append(CLOTHES_WORDS[protocol["clothes"]])
        for name in ("sentences", "captions"):
            row = protocol[name]
            lines.append(f"{f'  {name}':<24}" + "".join(f"{row[rate]:8.2f}" for rate in rates) + f"{row['queries']:9}")
    for protocol in found.values():
        lines.append(f"\nworst sentences, {CLOTHES_WORDS[protocol['clothes']]}")
        lines += [f"{one['rank']:5}  {one['text']}" for one in protocol["ranks"][:worst]]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None, presets: Presets = PRESETS) -> None:
    """The command line."""
    with handled_by(leave):
        options = tyro.cli(Options, prog="python -m bdam_reid.studies.free_language", args=arguments)
        # After the arguments: help, or word of a mistake in them, does not wait for torch.
        from bdam_reid.engine.errors import user_errors

        with user_errors("--batch-size"):
            print(table(search(options, presets), options.worst))


if __name__ == "__main__":
    main()
