"""What an evaluation found, as tables of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bdam_reid.data.printable import printable
from bdam_reid.evaluation.attributes import GROUPS
from bdam_reid.methods.method import first_alone

CLOTHES_WORDS: Mapping[str, str] = {"same": "the same clothes", "other": "other clothes"}
ORACLE_WORDS = ", images with their true attributes (oracle)"
"""Follows what was measured with truths that a search has not."""
RATES = {"r1": "R-1", "r5": "R-5", "r10": "R-10", "map": "mAP", "minp": "mINP"}
_TITLE = 42


def describe(metrics: Mapping[str, Any]) -> str:
    """All of metrics.json as tables of text."""
    parts = [metrics_table(metrics)]
    if "domains" in metrics:
        parts.insert(0, "\n".join(printable(f"{name}: {where}") for name, where in metrics["domains"].items()))
    if "trained_on" in metrics:
        parts.insert(0, printable(f"trained on {metrics['trained_on']}, evaluated on {metrics['evaluated_on']}"))
    if "gates" in metrics:
        parts.append(_gate_table(metrics["gates"]))
    if "probes" in metrics:
        parts += _probe_tables(metrics["probes"])
    return "\n\n".join(parts)


def checkpoint_text(best: Mapping[str, Any]) -> str:
    """Which checkpoint was evaluated, from what it says of itself."""
    if best.get("metrics") == {}:
        return f"last checkpoint, epoch {best['epoch']}, not chosen by validation"
    return f"best checkpoint, epoch {best['epoch']}, chosen on validation"


def title(protocol: str) -> str:
    """A protocol's name as it is read."""
    return protocol.replace("_", " ")


def weights_text(weights: Mapping[str, float]) -> str:
    """Weights of parts in words."""
    return ", ".join(f"{name} {weight:g}" for name, weight in weights.items())


def metrics_table(metrics: Mapping[str, Any]) -> str:
    """The retrieval metrics: for each protocol a line at the weights for its own question, one at those for the other
    and one with the first part alone, unless these are the same; one re-ranked, and its cost; one re-ranked by
    k-reciprocal neighbours; one without the attributes of images, if the others are with them; one for chance, one for
    the ceiling of a set that is drawn, and what was left out. After the protocols of several sets their means."""
    weights: Mapping[str, Mapping[str, float]] = metrics["weights"]
    head = "".join(f"{name:>7}" for name in RATES.values())
    lines = [
        *(f"{f'weights for {CLOTHES_WORDS[clothes]}':<{_TITLE}}{weights_text(of)}" for clothes, of in weights.items()),
        f"{'retrieval, %':<{_TITLE}}{head}  queries  gallery",
    ]
    for name, found in metrics["protocols"].items():
        oracle = found.get("attributes") == "oracle"
        lines.append(f"{title(name)}: {CLOTHES_WORDS[found['clothes']]}{ORACLE_WORDS * oracle}")
        for keys in _alike(weights, found):
            row = found["results"][keys[0]]
            lines.append(_result(_how(keys), row))
        if "rerank" in found:
            lines += _reranked(found)
        if "k_reciprocal" in found:
            lines += _by_neighbours(found)
        if oracle:
            bare = found["results"]["without_attributes"]
            lines.append(_result(f"for {found['clothes']} clothes, without attributes", bare))
        lines.append(_some("by chance", {"r1": found["chance_r1"]}))
        if "ceiling" in found:
            lines.append(_some("by a perfect reader of the captions", found["ceiling"]))
        lines += _left_out(found, row)
    for name, found in metrics.get("means", {}).items():
        oracle = any(metrics["protocols"][of].get("attributes") == "oracle" for of in found["protocols"])
        sets = f"mean of {len(found['protocols'])} sets"
        lines.append(f"{title(name)}, {sets}: {CLOTHES_WORDS[found['clothes']]}{ORACLE_WORDS * oracle}")
        lines += (_result(_how(keys), found["results"][keys[0]]) for keys in _alike(weights, found))
        again = {
            "reranked": "re-ranked",
            "k_reciprocal": "k-reciprocal",
            "without_attributes": "without attributes",
        }
        lines += (
            _result(f"for {found['clothes']} clothes, {words}", found["results"][how])
            for how, words in again.items()
            if how in found["results"]
        )
    return "\n".join(lines)


def _alike(weights: Mapping[str, Mapping[str, float]], found: Mapping[str, Any]) -> list[list[str]]:
    """Names of a protocol's results, its own question's first, those at the same weights together."""
    first = next(name for name in found["results"] if name not in weights)  # the first part's, before "reranked"
    settings = {**weights, first: first_alone(weights["same"])}
    groups: dict[tuple[float, ...], list[str]] = {}
    for name in sorted(settings, key=lambda name: name != found["clothes"]):
        groups.setdefault(tuple(settings[name].values()), []).append(name)
    return list(groups.values())


def _how(results: Sequence[str]) -> str:
    """What results are ranked with, in words."""
    questions = [name for name in results if name in CLOTHES_WORDS]
    asked = [f"for {', '.join(questions)} clothes"] if questions else []
    return ", ".join([*asked, *(f"{name} alone" for name in results if name not in CLOTHES_WORDS)])


def _result(how: str, row: Mapping[str, Any]) -> str:
    rates = "".join(f"{row[rate]:7.2f}" for rate in RATES)
    return f"{f'  {how}':<{_TITLE}}{rates}{row['queries']:>9}{row['gallery']:>9}"


def _some(how: str, rates: Mapping[str, float]) -> str:
    """A row with those of the rates that are known."""
    cells = (f"{rates[rate]:7.2f}" if rate in rates else " " * 7 for rate in RATES)
    return f"{f'  {how}':<{_TITLE}}{''.join(cells)}".rstrip()


def _reranked(found: Mapping[str, Any]) -> Iterator[str]:
    cost = found["rerank"]
    yield _result(f"for {found['clothes']} clothes, re-ranked", found["results"]["reranked"])
    yield (
        f"  re-ranking of the best {cost['top']}: {cost['pair_ms']:.2f} ms a pair, {cost['query_ms']:.1f} ms a query; "
        f"validation {'preferred' if cost['preferred'] else 'did not prefer'} it"
    )


def _by_neighbours(found: Mapping[str, Any]) -> Iterator[str]:
    yield _result(f"for {found['clothes']} clothes, k-reciprocal", found["results"]["k_reciprocal"])
    settings = ", ".join(f"{name} {value:g}" for name, value in found["k_reciprocal"].items())
    yield f"  k-reciprocal re-ranking, whose queries see the whole gallery: {settings}"


def _left_out(found: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[str]:
    """Why a result may be other than that of the whole set."""
    if missing := found["missing_images"]:
        yield f"  left out: {missing} gallery images that are missing or unreadable"
    if silent := found["queries_without_image"]:
        yield f"  {silent} queries whose own image is missing or unreadable"
    if unanswerable := row["queries_without_positive"]:
        yield f"  left out: {unanswerable} queries whose person is not in the gallery"


def _gate_table(gates: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    lines = [f"{'weights':<{_TITLE}}{'mean':>7}{'std':>7}"]
    for group, series in gates.items():
        for name, row in series.items():
            lines.append(f"{f'{group}, {name}':<{_TITLE}}{row['mean']:7.3f}{row['std']:7.3f}")
    return "\n".join(lines)


def _probe_tables(probes: Mapping[str, Any]) -> Iterator[str]:
    """Means of each split but the last, all attributes of that; the outfit's colours in the first part of the
    embedding; and attributes by view."""
    *means, whole = probes["persons"]
    for split in means:
        yield _probe_table(
            f"read of {split} persons, balanced %", {group: {} for group in GROUPS}, probes["above_chance"][split]
        )
    yield _probe_table(f"read of {whole} persons, balanced %", probes["persons"][whole], probes["above_chance"][whole])
    leak, feature = probes.get("leak", {"persons": {}}), first_feature(probes)
    said = [
        f"{name} {row['linear'][feature]:.1f} and {row['mlp'][feature]:.1f} (chance {row['chance']:.1f})"
        for name, row in leak["persons"].get("test", {}).items()
        if row["images"]
    ]
    if said:
        yield (
            f"outfit colours from the {feature} part, test persons, by a linear probe and a network that learnt from "
            f"{leak['images']:,} images: {', '.join(said)}"
        )
    if gains := view_gains(probes):
        yield _view_table(gains, first_feature(probes))


def _probe_table(title: str, groups: Mapping[str, Mapping[str, Any]], above: Mapping[str, Any]) -> str:
    columns = [(probe, feature) for probe, of in above[GROUPS[0]].items() for feature in of]
    head = "".join(f"{name:>17}" for name in (f"{probe}, {feature}" for probe, feature in columns))
    lines = [f"{title:<{_TITLE}}{'chance':>10}{head}{'images':>8}"]
    for group, rows in groups.items():
        for name, row in rows.items():
            for words, part in (("", row), (", where visible", row.get("visible", {"images": 0}))):
                if part["images"]:
                    rates = "".join(f"{part[probe][feature]:17.1f}" for probe, feature in columns)
                    lines.append(
                        f"{f'{group}: {name}{words}':<{_TITLE}}{part['chance']:10.1f}{rates}{part['images']:>8}"
                    )
        if all(above[group][probe][feature] is not None for probe, feature in columns):
            rates = "".join(f"{above[group][probe][feature]:17.1f}" for probe, feature in columns)
            lines.append(f"{f'{group}: above chance':<{_TITLE}}{'':>10}{rates}")
    return "\n".join(lines)


def _view_table(gains: Mapping[str, Mapping[str, float | None]], feature: str) -> str:
    names = list(next(iter(gains.values())))
    head = "".join(f"{name:>10}" for name in names)
    lines = [f"{f'{feature} part less chance, by view':<{_TITLE}}{head}"]
    for attribute, row in gains.items():
        cells = "".join(f"{'-' if gain is None else f'{gain:.1f}':>10}" for gain in row.values())
        lines.append(f"{attribute:<{_TITLE}}{cells}")
    return "\n".join(lines)


def first_feature(probes: Mapping[str, Any]) -> str:
    """The feature that stands for the person in what probes found."""
    above = next(iter(probes["above_chance"].values()))
    return next(iter(above[GROUPS[0]]["linear"]))


def view_gains(probes: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """Attribute -> viewpoint -> balanced accuracy less chance of the network that reads the first feature, in percent;
    None without images."""
    feature = first_feature(probes)
    return {
        attribute: {view: row["mlp"][feature] - row["chance"] if row["images"] else None for view, row in of.items()}
        for attribute, of in probes["views"].items()
    }
