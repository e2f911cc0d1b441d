"""What trials say of attributes, as tables and pictures: `write`."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bdam_reid.studies.importance import Effect, Estimate, Importance

COLUMNS = (
    "attribute", "frequency", "linear", "linear low", "linear high", "linear p", "difference", "difference low",
    "difference high", "welch p", "welch p holm", "cohens d", "impurity", "permutation", "shapley",
)  # fmt: skip
NOTE = (
    "Percentage points of mAP by switching an attribute's experts on. Linear: its coefficient in a Gaussian linear "
    "model of all switches, with a 95% interval. Difference: of the means with and without it, with a bootstrap's 95% "
    "interval; p by Welch's test, corrected by Holm. Of random forests, which explain {explained:.0%} of the variance "
    "of unseen trials: shares of impurity, what shuffled switches cost of R^2, and Shapley values. Frequency: share of "
    "the persons who are not in the attribute's most frequent state."
)


def write(found: Importance, frequencies: Mapping[str, float], name: str, output: Path) -> str:
    """Write NAME.md, NAME.csv and NAME.png; gives the Markdown.

    Args:
        found: by attribute.
        frequencies: of the attributes, in [0, 1].
        name: of the files, and of the model in the title.
        output: their folder.
    """
    output.mkdir(parents=True, exist_ok=True)
    text = markdown(found, frequencies)
    _write(output / f"{name}.md", text + "\n")
    _write(output / f"{name}.csv", _csv(found, frequencies))
    draw(found, frequencies, output / f"{name}.png")
    return text


def markdown(found: Importance, frequencies: Mapping[str, float]) -> str:
    """The table, the attributes that raise the score most first, and what its columns are."""
    lines = [
        "| attribute | frequency | linear | difference | p (Holm) | d | impurity | permutation | Shapley |",
        "|---|" + "---:|" * 8,
    ]
    for name in found.ranked:
        of = found.effects[name]
        cells = [
            f"{frequencies[name]:.0%}", _interval(of.linear), _interval(of.test.difference), f"{of.test.p_holm:.3g}",
            f"{of.test.cohens_d:.2f}", f"{of.impurity:.3f}", f"{of.permutation:.3f}", f"{of.shapley:.2f}",
        ]  # fmt: skip
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", NOTE.format(explained=max(found.explained, 0.0))])


def draw(found: Importance, frequencies: Mapping[str, float], path: Path) -> None:
    """A forest plot of the linear coefficients, bars of what the forests say, and a map of interactions."""
    import numpy as np
    from matplotlib.figure import Figure

    names = found.ranked
    effects = [found.effects[name] for name in names]
    rows = np.arange(len(names))
    figure = Figure(figsize=(15, 1.8 + 0.36 * len(names)), layout="constrained")
    linear, bars, pairs = figure.subplots(1, 3, width_ratios=(4, 4, 4))
    values = [of.linear.value for of in effects]
    spans = [[of.linear.value - of.linear.low for of in effects], [of.linear.high - of.linear.value for of in effects]]
    linear.errorbar(values, rows, xerr=spans, fmt="o", color="black", ecolor="gray", capsize=3, markersize=4)
    linear.axvline(0, color="gray", linewidth=0.8)
    linear.set_yticks(rows, [f"{name} ({frequencies[name]:.0%})" for name in names])
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
    _draw_pairs(figure, pairs, found.interactions[np.ix_(order, order)], names)
    for axes in (linear, bars):
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    partial = path.with_name(f"{path.stem}.part{path.suffix}")
    figure.savefig(partial, dpi=120)
    partial.replace(path)


def _draw_pairs(figure: Any, axes: Any, values: Any, names: list[str]) -> None:
    import numpy as np

    known = np.isfinite(values).all()
    most = float(np.abs(values).max()) if known and values.any() else 1.0
    image = axes.imshow(np.where(np.isfinite(values), values, 0.0), cmap="PuOr", vmin=-most, vmax=most)
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_title("interactions of pairs, points" if known else "interactions: too few trials")
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


def _csv(found: Importance, frequencies: Mapping[str, float]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name in found.ranked:
        of = found.effects[name]
        test = of.test
        figures = (*of.linear, of.linear_p, *test.difference, test.p, test.p_holm, test.cohens_d)
        writer.writerow([name, *(f"{x:.6g}" for x in (frequencies[name], *figures, *of[3:]))])
    return text.getvalue()


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(f"{path.suffix}.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
