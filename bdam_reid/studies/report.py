"""What a study found: a table in Markdown and CSV, the drafts' claims with a verdict each, and a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from bdam_reid.evaluation.pictures import draw_rows
from bdam_reid.studies.definition import Study
from bdam_reid.studies.grid import Figure, Setting, spread
from bdam_reid.studies.measures import MEASURES
from bdam_reid.studies.papers import SET, Published
from bdam_reid.studies.verdicts import PAIRED_RULE, RULE, judge

RATES = {"map": "mAP", "r1": "R-1", "r5": "R-5", "r10": "R-10"}
Values = Mapping[str, Mapping[str, Mapping[int, float]]]
"""Measure -> row -> seed -> value; rows that were not run and measures that no row has are left out."""


def write_report(study: Study, settings: Sequence[Setting], results: Mapping[str, Any], output: Path) -> str:
    """Write NAME.md, NAME.csv and NAME.png for the content of a results file; gives the Markdown."""
    values = values_of(results, study.measures)
    text = markdown(study, settings, results, values)
    for suffix, content in ((".md", text), (".csv", comma_separated(settings, values))):
        draft = output / f"{study.name}{suffix}.tmp"
        draft.write_text(content, encoding="utf-8")
        draft.replace(draft.with_suffix(""))
    panels = {
        name: {row: list(of.values()) for row, of in values[name].items()} for name in study.judged if name in values
    }
    published = {row.name: [row.published.map] for row in settings if row.published and row.published.map}
    if published:
        panels[f"mAP, published, {SET}"] = published
    draw_rows(panels, f"{study.title}; measured on: {results['set']}", output / f"{study.name}.png")
    return text


def values_of(results: Mapping[str, Any], measures: Mapping[str, Figure] = MEASURES) -> Values:
    """What the runs of a results file say, by measure and row."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for name in results["settings"]:
        for run in results["runs"]:
            if run["setting"] == name:
                for measure, read in measures.items():
                    if (value := read(run["metrics"])) is not None:
                        found.setdefault(measure, {}).setdefault(name, {})[run["seed"]] = value
    return {measure: found[measure] for measure in measures if measure in found}


def markdown(study: Study, settings: Sequence[Setting], results: Mapping[str, Any], values: Values) -> str:
    """The whole page."""
    parts = [
        f"# {study.title}",
        study.note,
        _measured(results, any(row.published for row in settings)),
        _table(settings, values),
        f"![The rows]({study.name}.png)",
    ]
    if study.claims:
        rule = PAIRED_RULE if study.paired else RULE
        parts += [f"## {study.claimants} claims", rule, _claims(study, settings, values)]
    return "\n\n".join(parts) + "\n"


def _measured(results: Mapping[str, Any], published: bool) -> str:
    runs = results["runs"]
    seeds = sorted({run["seed"] for run in runs})
    commits = sorted({run["environment"]["commit"] or "?" for run in runs})
    persons = next((run["environment"]["data"]["identities"]["train"] for run in runs), 0)
    seconds = fmean(run["seconds"] for run in runs) if runs else 0
    smoke = " Of so few persons and steps no figure says anything." if results["budget"] == "smoke" else ""
    theirs = f" Published figures are the drafts', on {SET}, and of no run here." if published else ""
    kind = "the synthetic set, drawn persons" if results["set"] == "synthetic" else results["set"]
    return (
        f"Measured on {kind} ({persons:,} to train on), budget {results['budget']}, seeds "
        f"{', '.join(map(str, seeds))}, {seconds:.0f} processor seconds a run, commit {', '.join(commits)}: mean ± "
        f"standard deviation over the seeds, %.{theirs}{smoke}"
    )


def _table(settings: Sequence[Setting], values: Values) -> str:
    published = any(row.published for row in settings)
    head = ["row", *values, "seeds", *(f"published {words}, {SET}" for words in RATES.values() if published)]
    lines = [_line(head), "|---|" + "---:|" * (len(head) - 1)]
    for row in settings:
        ours = [list(values[measure].get(row.name, {}).values()) for measure in values]
        cells = [spread(of) for of in ours] + [str(max(map(len, ours), default=0))]
        lines.append(_line([row.name, *cells, *(_published(row.published) if published else [])]))
    return "\n".join(lines)


def _published(row: Published | None) -> list[str]:
    figures = [getattr(row, rate, None) for rate in RATES]
    return ["-" if figure is None else f"{figure:.2f}" for figure in figures]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _claims(study: Study, settings: Sequence[Setting], values: Values) -> str:
    judged = [name for name in study.judged if name in values]
    rows = {row.name: row.published for row in settings}
    published = [f"published mAP, {SET}"] if any(rows.values()) else []
    head = ["claim", "source", *published, *(cell for name in judged for cell in (name, "verdict"))]
    lines = [_line(head), "|---|---|" + "---:|" * len(published) + "---:|---|" * len(judged)]
    for claim in study.claims:
        cells = [claim.text, claim.source]
        if published:
            cells.append(_difference(rows.get(claim.better), rows.get(claim.worse)))
        for name in judged:
            cells += _verdict(values[name].get(claim.better, {}), values[name].get(claim.worse, {}), study.paired)
        lines.append(_line(cells))
    return "\n".join(lines)


def _difference(better: Published | None, worse: Published | None) -> str:
    figures = [None if row is None else row.map for row in (better, worse)]
    return "-" if figures[0] is None or figures[1] is None else f"{figures[0] - figures[1]:+.2f}"


def _verdict(better: Mapping[int, float], worse: Mapping[int, float], paired: bool) -> list[str]:
    if paired:
        both = sorted(better.keys() & worse.keys())
        better, worse = ({seed: of[seed] for seed in both} for of in (better, worse))
    if not better or not worse:
        return ["-", "not measured"]
    verdict = judge(list(better.values()), list(worse.values()), paired=paired)
    interval = "" if verdict.margin is None else f" ± {verdict.margin:.1f}"
    return [f"{verdict.difference:+.1f}{interval}", f"**{verdict.word}**"]


def comma_separated(settings: Sequence[Setting], values: Values) -> str:
    """A line for each row: mean, standard deviation and number of seeds of each measure, and what is published."""
    rates = RATES if any(row.published for row in settings) else {}
    columns = [f"{name} {what}" for name in values for what in ("mean", "std", "seeds")]
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(["row", *columns, *(f"published {words}, {SET}" for words in rates.values()), "arguments"])
    for row in settings:
        cells: list[Any] = []
        for measure in values:
            found = list(values[measure].get(row.name, {}).values())
            cells += [fmean(found) if found else "", stdev(found) if len(found) > 1 else "", len(found)]
        published = [getattr(row.published, rate, None) for rate in rates]
        writer.writerow([row.name, *cells, *("" if x is None else x for x in published), row.arguments])
    return written.getvalue()
