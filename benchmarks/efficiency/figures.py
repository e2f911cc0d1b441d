"""Draws the figures of the report. Each file says in its metadata which numbers it was drawn from."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from bdam_reid.evaluation.pictures import BLUE, GREEN, GREY, INK, ORANGE, STYLE
from benchmarks.efficiency.study import Curve, crossings

COLOURS = {"mamba": BLUE, "transformer": ORANGE, "simple": GREEN}
LABELS = {"mamba": "Mamba, 2 layers", "transformer": "Transformer, 4 layers", "simple": "Simple"}
SUFFIXES = (".svg", ".png")


def draw_radar(scores: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Fig. 5 of the longer draft: a polygon for each fusion over scores in [0, 100]."""
    axes_names = list(next(iter(scores.values())))
    angles = np.linspace(0, 2 * np.pi, len(axes_names), endpoint=False)
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(5.6, 4.6), layout="constrained")
        axes: Any = figure.add_subplot(projection="polar")
        axes.set_theta_offset(np.pi / 2)
        axes.set_theta_direction(-1)
        for kind, row in scores.items():
            values = [row[name] for name in axes_names]
            closed = [*values, values[0]], [*angles, angles[0]]
            axes.plot(closed[1], closed[0], color=COLOURS[kind], linewidth=1.8, label=LABELS[kind], marker="o", ms=3.5)
            axes.fill(closed[1], closed[0], color=COLOURS[kind], alpha=0.08)
        axes.set_xticks(angles, axes_names, size=10)
        axes.tick_params("x", pad=12)
        axes.set_ylim(0, 100)
        axes.set_yticks([25, 50, 75, 100], ["25", "50", "75", "100"], color=GREY, size=7)
        axes.set_rlabel_position(36)
        axes.spines["polar"].set_color(GREY)
        figure.legend(loc="outside lower center", ncols=3)
        _save(figure, path, scores)


def draw_growth(curves: Mapping[str, Mapping[str, Curve]], path: Path) -> None:
    """A log-log panel for each quantity, with fitted exponents and the points where the curves cross."""
    with plt.rc_context(STYLE):
        figure, row = plt.subplots(1, len(curves), figsize=(3.4 * len(curves), 3.5), layout="constrained")
        for axes, (quantity, by_kind) in zip(row, curves.items(), strict=True):
            _draw_panel(axes, by_kind)
            axes.set(title=quantity, xlabel="tokens")
        _save(figure, path, growth_numbers(curves))


def _draw_panel(axes: Axes, curves: Mapping[str, Curve]) -> None:
    for kind, curve in curves.items():
        label = f"{LABELS[kind]}: exponent {curve.exponent:.2f}"
        axes.plot(curve.lengths, curve.values, color=COLOURS[kind], marker="o", ms=3.5, linewidth=1.6, label=label)
    mamba, transformer = curves["mamba"], curves["transformer"]
    for length in crossings(mamba, transformer):
        axes.axvline(length, color=INK, linewidth=0.8, linestyle=":")
        axes.annotate(
            f"{length:.0f}", (length, 0.02), xycoords=("data", "axes fraction"), size=8, color=INK,
            xytext=(3, 0), textcoords="offset points",
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.set_xticks(mamba.lengths[::2], [f"{length:,}" for length in mamba.lengths[::2]], rotation=30, size=8)
    axes.margins(y=0.12)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.28))


def draw_search(costs: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], path: Path) -> None:
    """A log-log panel for each cost of a search: by contender, the images of galleries and what they cost."""
    with plt.rc_context(STYLE):
        figure, row = plt.subplots(1, len(costs), figsize=(3.1 * len(costs), 3.2), layout="constrained")
        for axes, (cost, by_contender) in zip(row, costs.items(), strict=True):
            for colour, (name, points) in zip((BLUE, ORANGE, GREEN, GREY), by_contender.items(), strict=False):
                axes.plot(*zip(*points, strict=True), color=colour, marker="o", ms=3.5, linewidth=1.6, label=name)
            axes.set(title=cost, xlabel="images", xscale="log", yscale="log")
            axes.margins(y=0.12)
        figure.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        _save(figure, path, {cost: {name: [*points] for name, points in by.items()} for cost, by in costs.items()})


def growth_numbers(curves: Mapping[str, Mapping[str, Curve]]) -> dict[str, Any]:
    return {
        quantity: {kind: [list(curve.lengths), list(curve.values)] for kind, curve in by_kind.items()}
        for quantity, by_kind in curves.items()
    }


def _save(figure: Figure, path: Path, numbers: Mapping[str, Any]) -> None:
    """Both formats, the same bytes for the same numbers."""
    description = {"Description": json.dumps(numbers)}
    with plt.rc_context({"svg.hashsalt": path.name, "svg.fonttype": "path"}):
        figure.savefig(path.with_suffix(".svg"), metadata={**description, "Date": None})
    figure.savefig(path.with_suffix(".png"), metadata=description)
    plt.close(figure)


def drawn_from(path: Path) -> dict[str, Any]:
    """The numbers that a figure was drawn from."""
    if path.suffix == ".png":
        with Image.open(path) as image:
            return json.loads(image.info["Description"])
    found = ET.parse(path).find(".//{http://purl.org/dc/elements/1.1/}description")
    assert found is not None and found.text, f"{path} has no description"
    return json.loads(found.text)
