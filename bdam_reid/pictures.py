"""Pictures of a run: retrieved images, gate histograms and training curves, as PNG files and an HTML page."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

RIGHT, WRONG, INK, GREY = "#2e9e5b", "#d1453b", "#22303c", "#8a97a3"
BLUE, ORANGE, GREEN, PURPLE, BROWN = "#2f6fb2", "#d9822b", "#2e9e5b", "#8e5bb0", "#a08c6a"
COLOURS = {
    "loss": {
        "info": BLUE, "triplet": ORANGE, "clothing": GREEN, "decouple": PURPLE, "gate": BROWN, "total": INK
    },
    "weight": {"info": BLUE, "triplet": ORANGE, "clothing": GREEN, "decouple": PURPLE},
    "val": {"r1": BLUE, "r5": GREEN, "r10": BROWN, "map": ORANGE, "minp": PURPLE},
}  # fmt: skip
WIDTH = 12.5
"""Of every picture, in inches."""
STYLE: Any = {
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6eaee",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "white",
    "savefig.dpi": 130,
}

Curve = tuple[Sequence[float], Sequence[float]]
"""Steps and values."""


@dataclass(frozen=True)
class Retrieval:
    """A query and the images that came back first."""

    caption: str
    images: tuple[Path, ...]
    right: tuple[bool, ...]
    first_rank: int | None
    """Rank of the first right image, from 1; None if the gallery has none."""


def draw_retrievals(retrievals: Sequence[Retrieval], title: str, path: Path) -> None:
    """Two queries a row: the text, below it the images in order, right ones framed green, wrong ones red."""
    head, text_height, image_height, gap = 0.55, 0.92, 2.3, 0.3
    rows = math.ceil(len(retrievals) / 2)
    height = head + rows * (text_height + image_height + gap)
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(WIDTH, height))
        figure.text(0.1 / WIDTH, 1 - 0.3 / height, title, color=INK, weight="bold", size=13, va="center")
        for index, retrieval in enumerate(retrievals):
            row, column = divmod(index, 2)
            left = (0.1 + column * WIDTH / 2) / WIDTH
            top = head + row * (text_height + image_height + gap)
            _draw_query(figure, retrieval, left, 1 - top / height)
            for place, (image, right) in enumerate(zip(retrieval.images, retrieval.right, strict=True)):
                corner = (left + 1.2 * place / WIDTH, 1 - (top + text_height + image_height) / height)
                axes = figure.add_axes((*corner, 1.12 / WIDTH, image_height / height))
                _draw_image(axes, image, right, place + 1)
        _save(figure, path)


def _draw_query(figure: Figure, retrieval: Retrieval, left: float, top: float) -> None:
    rank = retrieval.first_rank
    found = "no right image in the gallery" if rank is None else f"first right image at rank {rank}"
    lines = textwrap.wrap(retrieval.caption, 92)
    text = "\n".join(lines if len(lines) <= 4 else [*lines[:3], lines[3][:88] + " …"])
    figure.text(left, top, found, va="top", color=RIGHT if rank == 1 else GREY, size=8, weight="bold")
    figure.text(
        left,
        top - 0.19 / figure.get_figheight(),
        text,
        va="top",
        color=INK,
        size=9,
        linespacing=1.3,
        parse_math=False,
    )


def _draw_image(axes: Axes, path: Path, right: bool, rank: int) -> None:
    with Image.open(path) as image:
        axes.imshow(np.asarray(image.convert("RGB")), aspect="auto")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set(visible=True, color=RIGHT if right else WRONG, linewidth=3.5)
    axes.text(
        0.06, 0.97, str(rank), transform=axes.transAxes, va="top", size=8, color="white", weight="bold",
        bbox={"boxstyle": "round,pad=0.25", "facecolor": RIGHT if right else WRONG, "edgecolor": "none"},
    )  # fmt: skip


def draw_gates(weights: Mapping[str, np.ndarray], path: Path) -> None:
    """Histograms of the disentanglement gate, g and 1 - g, and of the fusion weights (longer draft, Fig. 3).

    Args:
        weights: one-dimensional; "identity" and "clothing" (absent without a gate), "image" and "text".
    """
    panels = (
        ("BDAM gate", {"identity  g": "identity", "clothing  1 - g": "clothing"}),
        ("Fusion weights", {"image": "image", "text": "text"}),
    )
    bins = np.linspace(0, 1, 61)
    with plt.rc_context(STYLE):
        figure, row = plt.subplots(1, 2, figsize=(WIDTH, 3.1), layout="constrained")
        for axes, (title, series) in zip(row, panels, strict=True):
            shown = {label: weights[name] for label, name in series.items() if name in weights}
            for (label, values), colour in zip(shown.items(), (BLUE, ORANGE), strict=False):
                share = np.full(len(values), 100 / len(values))
                caption = f"{label}:  {values.mean():.3f} ± {values.std():.3f}"
                axes.hist(values, bins=bins, weights=share, color=colour, alpha=0.6, label=caption)
                axes.axvline(float(values.mean()), color=colour, linewidth=1.2, linestyle="--")
            axes.set(title=title, xlabel="weight", ylabel="share, %", xlim=(0, 1))
            axes.margins(y=0.35)
            if shown:
                axes.legend(loc="upper left")
        _save(figure, path)


def draw_curves(curves: Mapping[str, Curve], path: Path) -> None:
    """Losses, task weights and validation metrics over the steps.

    Args:
        curves: named "loss/…", "weight/…", "val/…".
    """
    panels = (("loss", "Losses"), ("weight", "Task weights (GradNorm)"), ("val", "Validation, %"))
    with plt.rc_context(STYLE):
        figure, row = plt.subplots(1, 3, figsize=(WIDTH, 3.7), layout="constrained")
        for axes, (group, title) in zip(row, panels, strict=True):
            for index, (label, colour) in enumerate(COLOURS[group].items()):
                steps, values = curves.get(f"{group}/{label}", ((), ()))
                dense = len(steps) > 40
                if dense:
                    axes.plot(steps, values, color=colour, linewidth=0.5, alpha=0.25)
                axes.plot(
                    steps, _smooth(values) if dense else values, color=colour, linewidth=1.6,
                    label=label, marker="" if dense else "o", markersize=3, zorder=10 - index,
                )  # fmt: skip
            axes.set(title=title, xlabel="step")
            if group == "loss":
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter("{x:g}")
                axes.yaxis.set_minor_formatter("")
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3)
        _save(figure, path)


def _smooth(values: Sequence[float]) -> np.ndarray:
    """Running mean over a twentieth of the curve, over what there is of it at the ends."""
    width = max(1, len(values) // 20)
    kernel = np.ones(width)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def draw_probes(scores: Mapping[str, Mapping[str, Mapping[str, float]]], path: Path) -> None:
    """Bars of linear probe accuracy, a panel for each group of attributes.

    Args:
        scores: group -> attribute -> {"chance", "identity", "clothing"} in percent.
    """
    groups = {group: rows for group, rows in scores.items() if rows}
    with plt.rc_context(STYLE):
        figure, row = plt.subplots(
            1, len(groups), figsize=(WIDTH, 3.8), width_ratios=[len(rows) for rows in groups.values()],
            sharey=True, squeeze=False, layout="constrained",
        )  # fmt: skip
        for axes, (group, rows) in zip(row[0], groups.items(), strict=True):
            _draw_bars(axes, rows)
            axes.set(title=f"{group} attributes, read by a linear probe, accuracy in %", ylim=(0, 100))
        handles, labels = row[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
        _save(figure, path)


def _draw_bars(axes: Axes, rows: Mapping[str, Mapping[str, float]]) -> None:
    places = np.arange(len(rows))
    bars = (
        ("identity", "from the identity feature", BLUE),
        ("clothing", "from the clothing feature", ORANGE),
    )
    for shift, (key, label, colour) in zip((-0.2, 0.2), bars, strict=True):
        axes.bar(places + shift, [row[key] for row in rows.values()], 0.38, color=colour, label=label)
    chance = [row["chance"] for row in rows.values()]
    axes.hlines(
        chance, places - 0.42, places + 0.42, color=INK, linewidth=1.5, label="always the majority class"
    )
    axes.set_xticks(places, [name.replace("_", " ") for name in rows], rotation=35, ha="right")
    axes.grid(False, axis="x")


def stack(paths: Sequence[Path], path: Path) -> None:
    """One picture of several, one below the other, centred on white."""
    images = [Image.open(part).convert("RGB") for part in paths]
    width = max(image.width for image in images)
    gap = 24
    page = Image.new("RGB", (width, sum(image.height + gap for image in images)), "white")
    top = 0
    for image in images:
        page.paste(image, ((width - image.width) // 2, top))
        top += image.height + gap
    page.save(path, optimize=True)


def write_page(title: str, table: str, pictures: Mapping[str, str], path: Path) -> None:
    """An HTML page of the text `table` and the pictures (heading -> file name beside the page)."""
    figures = "\n".join(
        f'<h2>{html.escape(heading)}</h2>\n<img src="{html.escape(name)}" alt="{html.escape(heading)}">'
        for heading, name in pictures.items()
    )
    path.write_text(
        f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: {INK}; max-width: 1100px; margin: 2em auto }}
img {{ max-width: 100%; display: block }} h2 {{ margin: 1.6em 0 .4em }} pre {{ overflow-x: auto }}
</style>
<h1>{html.escape(title)}</h1>
<pre>{html.escape(table)}</pre>
{figures}
</html>
""",
        encoding="utf-8",
    )


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path)
    plt.close(figure)
