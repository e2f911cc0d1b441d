"""Texts by style prompts of several clusterings: long Table 4."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import cast

from bdam_reid.captions.clustering import Clustering
from bdam_reid.captions.texts import FILE
from bdam_reid.config import Config, ConfigError
from bdam_reid.studies.budgets import Budget
from bdam_reid.studies.definition import Study
from bdam_reid.studies.grid import Setting
from bdam_reid.studies.papers import CLUSTERING
from bdam_reid.studies.study import Options, command, run_study, set_name
from bdam_reid.studies.verdicts import Claim


def rows(budget: Budget) -> Sequence[Setting]:
    """One model for all rows, which differ in the texts that it is trained on."""
    line = "demo" if budget.small else "paper-long"
    return [Setting(name, line, published) for name, published in CLUSTERING.items()]


_SOURCE, _LONG = "icme IV-C.3, long 4.4", "long 4.4"

STUDY = Study(
    name="clustering",
    title="Texts by style prompts of several clusterings (long Table 4)",
    note="A row is the training texts that a multimodal model wrote under the style prompts of a clustering (`none`: "
    "under no style prompt), TEXTS/<row>/texts.json.",
    rows=rows,
    claims=[
        Claim("DBSCAN is better than K-means", _SOURCE, "dbscan", "kmeans"),
        Claim("DBSCAN is better than random styles", _SOURCE, "dbscan", "random"),
        Claim("DBSCAN is better than no style prompt", _LONG, "dbscan", "none"),
        Claim("DBSCAN is better than a Gaussian mixture", _LONG, "dbscan", "gmm"),
        Claim("DBSCAN is better than agglomerative clustering", _LONG, "dbscan", "agglomerative"),
        Claim("DBSCAN is better than HDBSCAN", _LONG, "dbscan", "hdbscan"),
        Claim("random styles are better than none", _LONG, "random", "none"),
    ],
)


CHOSEN = STUDY._replace(
    name="clustering-chosen",
    title="Captions chosen by several clusterings of styles, written by no model (in place of long Table 4)",
    note="No multimodal model wrote these texts. A row's are chosen among the captions that a training image has "
    "already: by the clustering that the row is named after (of style embeddings by hashing) the caption in the style "
    "taken least until then, `none` by lot; it is split by rules into a text of the person and one of the clothes. A "
    "clustering thereby decides which captions are trained on, and no text is new. Published rows are of another "
    "thing, texts that a model wrote under style prompts, and so are the drafts' claims: a verdict here is on the "
    "choice of captions alone.",
)
"""What can be measured without such a model."""


@dataclass(frozen=True)
class ClusteringOptions(Options):
    """Train the same model on the texts of every clustering with every seed, and write the table, its claims and a
    picture; finished runs are not repeated."""

    texts: Path | None = None
    """Folder with a folder for each row, which holds the texts.json that a multimodal model wrote. Without one, on a
    synthetic set, each row's texts are chosen among the captions, and the table, clustering-chosen, says so."""


def run_clustering(options: ClusteringOptions) -> None:
    """As `run_study`. Raises: ConfigError also for rows that have no texts."""
    study = STUDY if options.texts else CHOSEN
    budget = study.budgets[options.budget]
    data = Path(options.root or budget.root)
    output = options.output or Path("runs/studies") / study.name
    written = {}
    if options.texts:
        written = check_written(options.texts, options.rows or tuple(CLUSTERING), len(_captions(data)))
    elif set_name(data, budget.drawn) != "synthetic":
        raise ConfigError(
            f"{data} is no synthetic set, so that every row needs texts that a multimodal model wrote: give --texts "
            "FOLDER, and write FOLDER/<row>/texts.json with `python -m bdam_reid.captions`"
        )

    def train_row(name: str, config: Config) -> Path:
        from bdam_reid.train import train

        texts = options.texts / name / FILE if options.texts else choose_texts(data, name, output / "texts" / name)
        root = with_texts(data, texts, output / f"set-{name}")
        return train(replace(config, data=replace(config.data, root=str(root))))

    run_study(study, replace(options, output=output), train_row, besides=written)


def check_written(texts: Path, rows: Sequence[str], images: int) -> dict[str, str]:
    """The digest of each row's texts; prints of how many of so many training images they are. Raises: ConfigError if a
    row has none."""
    if without := [name for name in rows if not (texts / name / FILE).is_file()]:
        raise ConfigError(
            f"every row needs texts that a multimodal model wrote, --texts FOLDER/<row>/{FILE}, got none in "
            f"{texts} for {', '.join(without)}: write them with `python -m bdam_reid.captions`, or name by "
            "--rows those that there are"
        )
    from bdam_reid.data.entries import read_object
    from bdam_reid.data.records import Findings
    from bdam_reid.engine.checkpoint import digest

    digests = {}
    for row in rows:
        path = texts / row / FILE
        digests[f"texts of {row}"] = digest(path)
        entries = len(read_object(path, Findings()))
        print(f"{row}: texts of {entries:,} of {images:,} training images; others are trained on by their captions")
    return digests


@cache
def choose_texts(root: Path, row: str, folder: Path) -> Path:
    """Write the texts that a row's clustering chooses among the training captions of a set, once in a process.

    Args:
        root: the data set.
        row: the clustering.
        folder: where texts.json is written, whole or not at all.
    Returns: path of the file.
    Raises: ConfigError if the set has no captions.
    """
    from bdam_reid.captions.stand_in import chosen_texts
    from bdam_reid.engine.checkpoint import write_json

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FILE, chosen_texts(_captions(root), cast(Clustering, row)))
    return folder / FILE


@cache
def _captions(root: Path) -> Mapping[str, Sequence[str]]:
    """Those of each training image, by its key."""
    from bdam_reid.data.datasets import load_dataset

    found = {record.key: record.captions for record in load_dataset(root, hold_out=False).train if record.captions}
    if not found:
        raise ConfigError(f"expected a set with captions in {root}, got none")
    return found


def with_texts(root: Path, texts: Path, folder: Path) -> Path:
    """A data set with other texts as a folder of links; gives that folder.

    Args:
        root: the data set.
        texts: a texts.json.
        folder: made anew.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for entry in root.iterdir():
        if entry.name != FILE:
            (folder / entry.name).symlink_to(entry.absolute())
    (folder / FILE).symlink_to(texts.absolute())
    return folder


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    command(STUDY, arguments, run_clustering, ClusteringOptions)


if __name__ == "__main__":
    main()
