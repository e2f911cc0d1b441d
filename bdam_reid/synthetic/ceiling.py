"""How well a perfect reader finds the persons of a drawn set: `python -m bdam_reid.synthetic.ceiling ROOT`.

A perfect reader compares what it was told with the truth about every picture of the gallery. Ties are broken at random;
the figures are the exact expectation of that. Four readers show what a model can reach. Three rank by the number of
contradictions:

    attributes   is told all attributes of the person (and the whole outfit): the limit that look-alikes set
    captions     is told what the caption states: the limit that words set
    visible      is told the same, and of a gallery picture knows what can be seen in it: the limit that views set

The fourth knows more than words say, and no model is known to find more than it:

    likely       knows what `visible` knows, and from the captions of training persons how often each value is stated
                 ("average height" is not worth a word) and how many persons have it, so that silence tells too, and a
                 picture that hides an attribute is weighed by chance; ranks by the likelihood of the caption, to which
                 attributes are independent of each other

In the protocols of one outfit a reader uses the clothes as well; after a change of clothes only the identity counts. To
`visible` and `likely` an item is seen as a whole or not at all.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bdam_reid.synthetic.output import SyntheticError

Fact = tuple[str, str, Any]
"""Of what, which property, its value: ("identity", "age", "young") or ("upper", "colour", "red")."""
READERS = ("attributes", "captions", "visible", "likely")
MISTAKE = 1e-6
"""Chance that a caption states what is not so; in fact none does."""


class Query(NamedTuple):
    """A caption of a picture: whose, and by its number among the picture's captions."""

    person: int
    key: str
    caption: int


class Habits(NamedTuple):
    """What captions of training persons teach of an attribute, by its value."""

    frequency: Mapping[Any, float]
    """Share of the pictures."""
    stated: Mapping[Any, float]
    """Share of the captions of such pictures that state it."""


class Protocol(NamedTuple):
    """Who is looked for among which pictures (key, person), by clothes as well or by the identity alone."""

    queries: Sequence[Query]
    gallery: Sequence[tuple[str, int]]
    by_clothes: bool


def ceilings(root: Path) -> dict[str, dict[str, Any]]:
    """For every protocol the number of queries and of gallery pictures, and R-1 and mAP (percent) of every reader.

    Raises: SyntheticError if `root` is no set that this package drew.
    """
    truth, stated = _read(root, "attributes.json"), _read(root, "statements.json")
    raw = _read(root, "reid_raw.json")
    learnt = [record["file_path"] for record in raw if record["split"] == "train"]
    habits = _habits(truth, {key: stated[key] for key in learnt})
    return {
        name: {
            "queries": len(protocol.queries),
            "gallery": len(protocol.gallery),
            **{reader: _read_all(protocol, truth, stated, reader, habits) for reader in READERS},
        }
        for name, protocol in _protocols(root, raw).items()
    }


def _read(root: Path, name: str) -> Any:
    try:
        return json.loads((root / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SyntheticError(
            f"cannot read {root / name}: {error}. Expected a set with captions, drawn by python -m bdam_reid.synthetic"
        ) from error


def _protocols(root: Path, raw: Sequence[Mapping[str, Any]]) -> dict[str, Protocol]:
    """Those of a set, whose index is `raw`."""
    found = {}
    for split, change in (("test", "clothing_change"), ("val", "clothing_change_val")):
        shown = [record for record in raw if record["split"] == split]
        queries = [Query(r["id"], r["file_path"], number) for r in shown for number in range(len(r["captions"]))]
        other = [(entry["file_path"], entry["id"]) for entry in _read(root, f"{change}.json")["gallery"]]
        found[split] = Protocol(queries, [(record["file_path"], record["id"]) for record in shown], by_clothes=True)
        found[change] = Protocol(queries, other, by_clothes=False)
    return found


def _habits(truth: Mapping[str, Any], learnt: Mapping[str, Any]) -> dict[str, Habits]:
    """By attribute; of what was never seen by Laplace's rule of succession.

    Args:
        truth: about every picture.
        learnt: statements of the captions of training pictures.
    """
    values: dict[str, set[Any]] = {}
    for picture in truth.values():
        for name, value in picture["identity"].items():
            values.setdefault(name, set()).add(value)
    shown, said = Counter[tuple[str, Any]](), Counter[tuple[str, Any]]()
    for key, captions in learnt.items():
        for fact in truth[key]["identity"].items():
            shown[fact] += len(captions)
            said[fact] += sum(fact[0] in caption["identity"] for caption in captions)
    total = sum(map(len, learnt.values()))
    return {
        name: Habits(
            {value: (shown[name, value] + 1) / (total + len(known)) for value in known},
            {value: (said[name, value] + 1) / (shown[name, value] + 2) for value in known},
        )
        for name, known in values.items()
    }


def _read_all(
    protocol: Protocol,
    truth: Mapping[str, Any],
    stated: Mapping[str, Any],
    reader: str,
    habits: Mapping[str, Habits],
) -> dict[str, float]:
    """R-1 and mAP of a reader over all queries."""
    gallery = [truth[key] for key, _ in protocol.gallery]
    persons = np.array([person for _, person in protocol.gallery])
    contradicts = _contradictions(gallery, only_visible=reader in ("visible", "likely"))
    unlikely = _surprises(gallery, habits)
    scores, nothing = [], np.zeros(len(gallery))
    for query in protocol.queries:
        said = truth[query.key] if reader == "attributes" else stated[query.key][query.caption]
        facts = list(_facts(said, protocol.by_clothes))
        if reader == "likely":
            identity = [unlikely(name, said["identity"].get(name)) for name in habits]
            clothes = [-np.log(MISTAKE) * contradicts(fact) for fact in facts if fact[0] != "identity"]
            against = sum(identity + clothes, start=nothing).round(9)
        else:
            against = sum(map(contradicts, facts), start=nothing)
        scores.append(expected(against, persons == query.person))
    r1, average_precision = np.mean(scores, axis=0)
    return {"R-1": round(100 * float(r1), 2), "mAP": round(100 * float(average_precision), 2)}


def _facts(said: Mapping[str, Any], by_clothes: bool) -> Iterator[Fact]:
    """What a caption's statements say, or the truth about a picture."""
    yield from (("identity", name, value) for name, value in said["identity"].items())
    if by_clothes:
        clothing = said["clothing"] if "clothing" in said else said["outfit"]
        yield from ((slot, field, value) for slot, item in clothing.items() for field, value in item.items())


def _contradictions(gallery: Sequence[Mapping[str, Any]], *, only_visible: bool) -> Callable[[Fact], np.ndarray]:
    """Which pictures a fact contradicts: they show another value, or no such item."""

    @cache
    def contradicts(fact: Fact) -> np.ndarray:
        return np.array([_differs(picture, fact) and (not only_visible or _seen(picture, fact)) for picture in gallery])

    return contradicts


def _surprises(gallery: Sequence[Mapping[str, Any]], habits: Mapping[str, Habits]) -> Callable[..., np.ndarray]:
    """(attribute, its stated value or None) -> for each picture minus the logarithm of the chance that a caption of its
    person says so; of a picture that hides the attribute, that one of anybody does."""

    @cache
    def surprise(name: str, said: Any) -> np.ndarray:
        frequency, stated = habits[name]
        chance = {
            value: 1 - often if said is None else often if value == said else MISTAKE for value, often in stated.items()
        }
        anybody = sum(frequency[value] * chance[value] for value in chance)
        of_pictures = [chance[p["identity"][name]] if name in p["visible"] else anybody for p in gallery]
        return -np.log(of_pictures)

    return surprise


def _differs(picture: Mapping[str, Any], fact: Fact) -> bool:
    of, name, value = fact
    shown = picture["identity"] if of == "identity" else picture["outfit"].get(of)
    return shown is None or shown[name] != value


def _seen(picture: Mapping[str, Any], fact: Fact) -> bool:
    of, name, _ = fact
    return name in picture["visible"] if of == "identity" else of in picture["visible_slots"]


def expected(against: np.ndarray, relevant: np.ndarray) -> tuple[float, float]:
    """R-1 and average precision of a gallery ranked by what speaks against a picture, the least first, in expectation
    over the order of ties.

    At place j of a tie of n pictures, k of them relevant, after r pictures with R relevant ones, a relevant picture is
    seen with chance k / n, and then with R + 1 + (j - 1)(k - 1) / (n - 1) relevant ones so far.
    """
    levels, tie = np.unique(against, return_inverse=True)
    sizes = np.bincount(tie, minlength=len(levels))
    hits = np.bincount(tie, weights=relevant, minlength=len(levels))
    before, hits_before = np.cumsum(sizes) - sizes, np.cumsum(hits) - hits
    precision = 0.0
    for n, k, r, found in zip(sizes, hits, before, hits_before, strict=True):
        if k > 0:
            j = np.arange(1, n + 1)
            so_far = found + 1 + (j - 1) * (k - 1) / max(n - 1, 1)
            precision += k / n * float((so_far / (r + j)).sum())
    return float(hits[0] / sizes[0]), precision / float(relevant.sum())


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The figures of `ceilings` in columns: R-1 / mAP of every reader."""
    rows: list[tuple[str, ...]] = [("protocol", "queries", "gallery", *READERS)]
    for name, figures in found.items():
        cells = (f"{figures[reader]['R-1']:.1f} / {figures[reader]['mAP']:.1f}" for reader in READERS)
        rows.append((name, str(figures["queries"]), str(figures["gallery"]), *cells))
    return "\n".join(f"{row[0]:21}" + "".join(f"{cell:>15}" for cell in row[1:]) for row in rows)


def main() -> int:
    """Print the ceilings of the set that the command line names; 1 if it cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m bdam_reid.synthetic.ceiling",
        description="What a perfect reader of captions or attributes reaches on a drawn set: R-1 / mAP in percent.",
    )
    parser.add_argument("root", type=Path, help="a folder that python -m bdam_reid.synthetic wrote")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file as well")
    asked = parser.parse_args()
    try:
        found = ceilings(asked.root)
        if asked.json is not None:
            asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    except (SyntheticError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
