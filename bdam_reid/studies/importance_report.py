"""What trials say of attributes, as tables and pictures: `write`."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bdam_reid.studies.attribute_truth import Truth, rank_correlation
from bdam_reid.studies.importance import LEVEL, Effect, Estimate, Importance, Interactions

COLUMNS = (
    "attribute", "frequency", "information", "shown", "told by", "told", "linear", "linear low", "linear high",
    "linear p", "difference", "difference low", "difference high", "welch p", "welch p holm", "cohens d", "impurity",
    "permutation", "shapley",
)  # fmt: skip
NOTE = (
    "Percentage points of mAP by switching an attribute's experts on. Linear: its coefficient in a Gaussian linear "
    "model of all switches, with a 95% interval. Difference: of the means with and without it, with a bootstrap's 95% "
    "interval; p by Welch's test, corrected by Holm. Of random forests, which explain {explained:.0%} of the variance "
    "of unseen trials: shares of impurity, what shuffled switches cost of R^2, and Shapley values. Frequency: share of "
    "the persons who are not in the attribute's most frequent state. Bits: the entropy of its labels, which is what it "
    "can tell persons apart by, and how many of them linear heads read from pictures; told by: the attribute whose "
    "labels tell most of it, of a copy all. Interactions of pairs, in the picture: by how many points two do more "
    "together than apart, each pair in a linear model of its own; p by a t test, corrected by Holm for all pairs."
)
CORRELATIONS = (
    "Rank correlation (Spearman) of what was found with what is true of the labels: their bits, and the bits that are "
    "read from pictures. An oracle's experts read labels, so that what goes with the former and not with the latter is "
    "a leak."
)


def write(found: Importance, truths: Mapping[str, Truth], name: str, output: Path) -> str:
    """Write NAME.md, NAME.csv and NAME.png; gives the Markdown.

    Args:
        found: by attribute.
        truths: of the attributes.
        name: of the files, and of the model in the title.
        output: their folder.
    """
    output.mkdir(parents=True, exist_ok=True)
    text = markdown(found, truths)
    _write(output / f"{name}.md", text + "\n")
    _write(output / f"{name}.csv", _csv(found, truths))
    draw(found, truths, output / f"{name}.png")
    return text


def markdown(found: Importance, truths: Mapping[str, Truth]) -> str:
    """The table, the attributes that raise the score most first, what its columns are, and how it goes with the
    truth."""
    lines = [
        "| attribute | frequency | bits | shown | told by | linear | difference | p (Holm) | d | impurity | "
        "permutation | Shapley |",
        "|---|" + "---:|" * 3 + "---|" + "---:|" * 7,
    ]
    for name in found.ranked:
        of, truth = found.effects[name], truths[name]
        cells = [
            f"{truth.frequency:.0%}", f"{truth.information:.2f}", _bits(truth.shown), _told(truth),
            _interval(of.linear), _interval(of.test.difference), f"{of.test.p_holm:.3g}", f"{of.test.cohens_d:.2f}",
            f"{of.impurity:.3f}", f"{of.permutation:.3f}", f"{of.shapley:.2f}",
        ]  # fmt: skip
        lines.append(f"| {name} | {' | '.join(cells)} |")
    note = NOTE.format(explained=max(found.explained, 0.0))
    return "\n".join([*lines, "", note, "", CORRELATIONS, "", *_correlations(found, truths)])


def _correlations(found: Importance, truths: Mapping[str, Truth]) -> list[str]:
    """A table of rank correlations."""
    effects = [found.effects[name] for name in truths]
    kinds = {
        "linear": [of.linear.value for of in effects],
        "permutation": [of.permutation for of in effects],
        "Shapley": [of.shapley for of in effects],
    }
    sides: list[list[float | None]] = [
        [truth.information for truth in truths.values()],
        [truth.shown for truth in truths.values()],
    ]
    lines = ["| found | bits | shown |", "|---|---:|---:|"]
    for kind, values in kinds.items():
        lines.append(f"| {kind} | {' | '.join(_correlation(rank_correlation(values, side)) for side in sides)} |")
    return lines


def draw(found: Importance, truths: Mapping[str, Truth], path: Path) -> None:
    """A forest plot of the linear coefficients, bars of what the forests say, and a map of interactions."""
    import numpy as np
    from matplotlib.figure import Figure

    names = found.ranked
    effects = [found.effects[name] for name in names]
    rows = np.arange(len(names))
    figure = Figure(figsize=(15, 1.8 + 0.36 * len(names)), layout="constrained")
    linear, bars, pairs = figure.subplots(1, 3)
    values = [of.linear.value for of in effects]
    spans = [[of.linear.value - of.linear.low for of in effects], [of.linear.high - of.linear.value for of in effects]]
    linear.errorbar(values, rows, xerr=spans, fmt="o", color="black", ecolor="gray", capsize=3, markersize=4)
    linear.axvline(0, color="gray", linewidth=0.8)
    linear.set_yticks(rows, [f"{name} ({truths[name].frequency:.0%})" for name in names])
    linear.set_xlabel("linear coefficient, points of mAP, 95% interval")
    linear.set_title("effect (frequency)")
    for offset, (label, color, shares) in enumerate(_shares(effects)):
        bars.barh(rows + 0.27 * (offset - 1), shares, 0.25, label=label, color=color)
    bars.set_yticks(rows, names)
    bars.axvline(0, color="gray", linewidth=0.8)
    bars.set_xlabel("share of the sum of absolute values")
    bars.set_title(f"random forest (explains {max(found.explained, 0.0):.0%})")
    bars.legend(loc="lower right")
    order = [list(found.effects).index(name) for name in names]
    _draw_pairs(figure, pairs, Interactions(*(of[np.ix_(order, order)] for of in found.interactions)), names)
    for axes in (linear, bars):
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    partial = path.with_name(f"{path.stem}.part{path.suffix}")
    figure.savefig(partial, dpi=120)
    partial.replace(path)


def _draw_pairs(figure: Any, axes: Any, found: Interactions, names: list[str]) -> None:
    """Pairs that no trial tells are blank."""
    import numpy as np

    most = float(np.nanmax(abs(found.values))) or 1.0
    image = axes.imshow(found.values, cmap="PuOr", vmin=-most, vmax=most)
    for row, column in zip(*np.nonzero(found.p < 1 - LEVEL), strict=True):
        axes.text(column, row, "*", ha="center", va="center")
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_title("interactions of pairs, points (* p < 0.05)")
    figure.colorbar(image, ax=axes, shrink=0.8)


def _shares(effects: list[Effect]) -> list[tuple[str, str, list[float]]]:
    """What a forest says in three ways, each in shares, by label and colour."""
    kinds = {
        "impurity": ("tab:gray", [of.impurity for of in effects]),
        "permutation": ("tab:orange", [of.permutation for of in effects]),
        "Shapley": ("tab:blue", [of.shapley for of in effects]),
    }
    return [
        (label, color, [value / (sum(map(abs, values)) or 1.0) for value in values])
        for label, (color, values) in kinds.items()
    ]


def _csv(found: Importance, truths: Mapping[str, Truth]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name in found.ranked:
        of, truth = found.effects[name], truths[name]
        test = of.test
        facts = (f"{truth.frequency:.6g}", f"{truth.information:.6g}", _exact(truth.shown), truth.told_by)
        figures = (*of.linear, of.linear_p, *test.difference, test.p, test.p_holm, test.cohens_d)
        writer.writerow([name, *facts, *(f"{x:.6g}" for x in (truth.told, *figures, *of[3:]))])
    return text.getvalue()


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _bits(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _exact(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _told(truth: Truth) -> str:
    return f"{truth.told_by} {truth.told:.0%}" if truth.told_by else "-"


def _correlation(found: tuple[float, float] | None) -> str:
    return f"{found[0]:.2f} (p {found[1]:.2g})" if found else "-"


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(f"{path.suffix}.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
