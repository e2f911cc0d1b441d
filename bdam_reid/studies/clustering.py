"""Texts by style prompts of several clusterings: long Table 4."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bdam_reid.captions.texts import FILE
from bdam_reid.config import Config, ConfigError
from bdam_reid.studies.budgets import Budget
from bdam_reid.studies.definition import Study
from bdam_reid.studies.grid import Setting
from bdam_reid.studies.papers import CLUSTERING
from bdam_reid.studies.study import Options, command, run_study
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
    "under no style prompt), TEXTS/<row>/texts.json. They cannot be had without such a model: the texts that a "
    "synthetic set comes with are by rules, in styles that no clustering has a part in.",
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


@dataclass(frozen=True)
class ClusteringOptions(Options):
    """Train the same model on the texts of every clustering with every seed, and write the table, its claims and a
    picture; finished runs are not repeated."""

    texts: Path = Path("data/texts")
    """Folder with a folder for each row, which holds its texts.json."""


def run_clustering(options: ClusteringOptions) -> None:
    """As `run_study`. Raises: ConfigError also for rows that have no texts."""
    wanted = options.rows or tuple(CLUSTERING)
    if without := [name for name in wanted if not (options.texts / name / FILE).is_file()]:
        raise ConfigError(
            f"every row needs texts that a multimodal model wrote, --texts FOLDER/<row>/{FILE}, got none in "
            f"{options.texts} for {', '.join(without)}: write them with `python -m bdam_reid.captions`, or name by "
            "--rows those that there are"
        )

    def train_row(name: str, config: Config) -> Path:
        from bdam_reid.train import train

        root = with_texts(
            Path(config.data.root), options.texts / name / FILE, Path(config.output).parent / f"set-{name}"
        )
        return train(replace(config, data=replace(config.data, root=str(root))))

    run_study(STUDY, options, train_row)


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
