"""mAP and CMC of searches by an image against an independent implementation, for each layout, whose rules of junk it
takes from the names of files alone."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from image_files import rows, write_folders, write_ltcc, write_market, write_msmt17, write_prcc, write_table

from bdam_reid.data.datasets import load_dataset
from bdam_reid.evaluation.ranking import Ranking


class Seen(NamedTuple):
    """What a file's name says."""

    person: str
    camera: str
    clothes: str = ""


def of_market(path: Path) -> Seen:
    person, camera, *_ = path.name.split("_")
    return Seen(person, camera[:2])


def of_msmt17(path: Path) -> Seen:
    return Seen(path.parent.name, path.name.split("_")[2])


def of_prcc(path: Path) -> Seen:
    """The camera is a folder in the test part, and begins the name in training."""
    camera = path.name[0] if path.parent.parent.name == "train" else path.parent.parent.name
    return Seen(path.parent.name, camera)


def of_ltcc(path: Path) -> Seen:
    person, clothes, camera, _ = path.name.split("_")
    return Seen(person, camera, clothes)


def of_folder(path: Path) -> Seen:
    return Seen(path.parent.name, str(path))  # a camera of its own


def of_table(path: Path) -> Seen:
    person, camera, _ = path.name.split("_")
    return Seen(person, camera)


def rated(queries: list[Path], gallery: list[Path], scores: list[list[float]], seen: Callable[[Path], Seen], cc: bool):
    """R-1, R-5, R-10 and mAP in percent, as exact fractions, one image at a time."""
    hits = {1: Fraction(0), 5: Fraction(0), 10: Fraction(0)}
    precision, count = Fraction(0), 0
    for query, row in zip(queries, scores, strict=True):
        asked, rank, ranks = seen(query), 0, []
        for place in sorted(range(len(gallery)), key=lambda place: (-row[place], place)):
            other = seen(gallery[place])
            right = other.person == asked.person
            if right and (other.camera == asked.camera or (cc and other.clothes == asked.clothes)):
                continue
            rank += 1
            if right:
                ranks.append(rank)
        if ranks:
            count += 1
            precision += sum(Fraction(n, rank) for n, rank in enumerate(ranks, 1)) / len(ranks)
            for k in hits:
                hits[k] += min(ranks) <= k
    return [100 * value / count for value in (*hits.values(), precision)]


@pytest.mark.parametrize(
    ("write", "seen"),
    [
        (write_market, of_market),
        (lambda root: write_market(root, frames=True), of_market),
        (write_msmt17, of_msmt17),
        (write_prcc, of_prcc),
        (write_ltcc, of_ltcc),
        (write_folders, of_folder),
        (lambda root: write_table(root, rows()), of_table),
    ],
    ids=["market", "duke", "msmt17", "prcc", "ltcc", "folders", "table"],
)
def test_equals_an_independent_implementation(
    tmp_path: Path, write: Callable[[Path], Path], seen: Callable[[Path], Seen]
) -> None:
    dataset = load_dataset(write(tmp_path / "set"))
    for number, (name, protocol) in enumerate(dataset.protocols.items()):
        generator = torch.Generator().manual_seed(number)
        # Of one sign in 4 places: equal scores are the rule.
        asked, found = (
            torch.randn(len(of), 4, generator=generator).sign() for of in (protocol.queries, protocol.gallery)
        )
        ranking = Ranking(protocol.queries, protocol.gallery, asked, found, {"all": slice(0, 4)}, protocol.junk)
        metrics = ranking.metrics({"all": 1.0})
        paths = [query.image for query in protocol.queries], [record.path for record in protocol.gallery]
        cc = dataset.name == "ltcc" and name.startswith("clothing_change")
        expected = rated(*paths, ranking.scores({"all": 1.0}).tolist(), seen, cc)
        got = [metrics.r1, metrics.r5, metrics.r10, metrics.map]
        # Exact fractions to the last digit of a float: sums of a few dozen terms.
        assert got == pytest.approx([float(value) for value in expected], rel=64 * torch.finfo(torch.float64).eps), name
        assert protocol.split == "val" or 0 < expected[-1] < 100
