"""Pictures of runs as PNG files: retrieved images, gates, training curves, probes, tables of several runs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import is_color_like, to_hex
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from bdam_reid.data.images import ImageError, open_image
from bdam_reid.evaluation.looks import Look
from bdam_reid.evaluation.retrievals import Retrieval, Shown

RIGHT, WRONG, INK, GREY = "#2e9e5b", "#d1453b", "#22303c", "#8a97a3"
BLUE, ORANGE, GREEN, PURPLE, BROWN = "#2f6fb2", "#d9822b", "#2e9e5b", "#8e5bb0", "#a08c6a"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, BROWN, WRONG, GREY)
"""Colours of curves, in the order of their names."""
MARKS = {True: "✓", False: "✗"}
"""Of right and wrong images: not by colour alone."""
THUMBNAIL = (288, 144)
"""Height and width that an image is shown in at most; a wider one may be twice as wide."""
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

_VALIDATED = {"r1": "R-1", "map": "mAP", "other_r1": "R-1, other clothes", "other_map": "mAP, other clothes"}
"""Rates of validation that are drawn."""
Curve = tuple[Sequence[float], Sequence[float]]
"""Steps and values."""


def draw_retrievals(retrievals: Sequence[Retrieval], title: str, path: Path) -> None:
    """Two queries a row: the text, below it the images in order, right ones with a tick and a solid green frame, wrong
    ones with a cross and a dashed red one."""
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
            if retrieval.image:
                corner = (left + 5.5 / WIDTH, 1 - (top + 0.86) / height)
                _draw_image(figure.add_axes((*corner, 0.42 / WIDTH, 0.86 / height)), retrieval.image)
            for place, hit in enumerate(retrieval.hits):
                corner = (left + 1.2 * place / WIDTH, 1 - (top + text_height + image_height) / height)
                axes = figure.add_axes((*corner, 1.12 / WIDTH, image_height / height))
                _draw_image(axes, hit.path)
                _frame(axes, hit)
        _save(figure, path)


def _draw_query(figure: Figure, retrieval: Retrieval, left: float, top: float) -> None:
    first = retrieval.first_right
    found = f"first right image at rank {first.rank}" if first else "no right image in the gallery"
    lines = textwrap.wrap(retrieval.text, 92)
    text = "\n".join(lines if len(lines) <= 4 else [*lines[:3], lines[3][:88] + " …"])
    colour = RIGHT if first and first.rank == 1 else GREY
    figure.text(left, top, found, va="top", color=colour, size=8, weight="bold")
    figure.text(
        left, top - 0.19 / figure.get_figheight(), text, va="top", color=INK, size=9, linespacing=1.3, parse_math=False
    )


def _draw_image(axes: Axes, path: Path) -> None:
    """The whole image in its own shape, on grey."""
    axes.imshow(np.asarray(thumbnail(path)), aspect="equal")
    axes.set(xticks=[], yticks=[], facecolor="#eef1f4")
    axes.set_adjustable("datalim")
    axes.grid(False)


def _frame(axes: Axes, hit: Shown) -> None:
    colour = RIGHT if hit.right else WRONG
    for spine in axes.spines.values():
        spine.set(
            visible=True, color=colour, linewidth=3.5, linestyle="solid" if hit.right else (0, (2, 1)), capstyle="butt"
        )
    axes.text(
        0.06, 0.97, f"{MARKS[hit.right]} {hit.rank}", transform=axes.transAxes, va="top", size=8, color="white",
        weight="bold", bbox={"boxstyle": "round,pad=0.25", "facecolor": colour, "edgecolor": "none"},
    )  # fmt: skip


def thumbnail(path: Path) -> Image.Image:
    """A small picture of an image file, in its own shape; grey with a cross if it cannot be read any more."""
    height, width = THUMBNAIL
    try:
        image = open_image(path, THUMBNAIL)
    except ImageError:
        image = Image.new("RGB", (width, height), GREY)
        ImageDraw.Draw(image).line([(0, 0), (width, height)], "white", 3)
    image.thumbnail((2 * width, height), Image.Resampling.LANCZOS)
    return image


def draw_looks(looks: Sequence[Look], path: Path) -> None:
    """A row an image: the image, and each map over it in grey, bright where it is high. A map has one scale for all of
    the images, from its least to its greatest value."""
    names = list(looks[0].maps)
    every = {name: np.stack([look.maps[name] for look in looks]) for name in names}
    with plt.rc_context(STYLE | {"axes.titlelocation": "center", "axes.titlesize": 8}):
        size = (WIDTH, 0.4 + 2.1 * WIDTH / (1 + len(names)) * len(looks))
        figure, grid = plt.subplots(len(looks), 1 + len(names), figsize=size, squeeze=False, layout="constrained")
        for row, look in zip(grid, looks, strict=True):
            photo = thumbnail(look.path)
            row[0].imshow(np.asarray(photo))
            for axes, (name, values) in zip(row[1:], look.maps.items(), strict=True):
                axes.imshow(np.asarray(photo.convert("L")), cmap="gray")
                place = {"extent": (-0.5, photo.width - 0.5, photo.height - 0.5, -0.5), "interpolation": "bicubic"}
                scale = {"vmin": every[name].min(), "vmax": every[name].max()}
                axes.imshow(values, cmap="inferno", alpha=0.6, **place, **scale)
            for axes in row:
                axes.set(xticks=[], yticks=[])
                axes.grid(False)
        for axes, name in zip(grid[0], ("image", *names), strict=True):
            axes.set_title(name)
        _save(figure, path)


def draw_gates(panels: Mapping[str, Mapping[str, np.ndarray]], path: Path) -> None:
    """Histograms of weights in [0, 1], a panel for each gate (long, Fig. 3).

    Args:
        panels: one-dimensional weights by gate and name.
    """
    bins = np.linspace(0, 1, 61)
    with plt.rc_context(STYLE):
        figure, row = plt.subplots(1, len(panels), figsize=(WIDTH, 3.1), squeeze=False, layout="constrained")
        for axes, (title, series) in zip(row[0], panels.items(), strict=True):
            for (label, values), colour in zip(series.items(), SERIES, strict=False):
                share = np.full(len(values), 100 / len(values))
                caption = f"{label}:  {values.mean():.3f} ± {values.std():.3f}"
                axes.hist(values, bins=bins, weights=share, color=colour, alpha=0.6, label=caption)
                axes.axvline(float(values.mean()), color=colour, linewidth=1.2, linestyle="--")
            axes.set(title=f"Weights of the {title}", xlabel="weight", ylabel="share, %", xlim=(0, 1))
            axes.margins(y=0.35)
            axes.legend(loc="upper left")
        _save(figure, path)


def draw_curves(curves: Mapping[str, Curve], path: Path) -> None:
    """Losses, validation, and where there are any task weights and what the parts of the embedding share, over the
    steps.

    Args:
        curves: named "loss/…", "weight/…", "val/…", as TensorBoard has them.
    """
    panels = {
        "Losses": _series(curves, "loss/"),
        "Task weights": _series(curves, "weight/"),
        "Validation, %": {
            words: curves[f"val/{name}"] for name, words in _VALIDATED.items() if f"val/{name}" in curves
        },
        "Dependence of the parts, CKA": _series(curves, "val/cka_"),
    }
    panels = {title: series for title, series in panels.items() if series or title in ("Losses", "Validation, %")}
    with plt.rc_context(STYLE):
        figure, row = plt.subplots(1, len(panels), figsize=(WIDTH, 3.7), layout="constrained")
        for axes, (title, series) in zip(row, panels.items(), strict=True):
            for index, (label, (steps, values)) in enumerate(series.items()):
                dense, colour = len(steps) > 40, INK if label == "total" else SERIES[index % len(SERIES)]
                if dense:
                    axes.plot(steps, values, color=colour, linewidth=0.5, alpha=0.25)
                axes.plot(
                    steps, _smooth(values) if dense else values, color=colour, linewidth=1.6,
                    label=label, marker="" if dense else "o", markersize=3, zorder=10 - index,
                )  # fmt: skip
            axes.set(title=title, xlabel="step")
            if title == "Losses":
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter("{x:g}")
                axes.yaxis.set_minor_formatter("")
            if series:
                axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
        _save(figure, path)


def _series(curves: Mapping[str, Curve], prefix: str) -> dict[str, Curve]:
    return {name.removeprefix(prefix): curve for name, curve in curves.items() if name.startswith(prefix)}


def _smooth(values: Sequence[float]) -> np.ndarray:
    """Running mean over a twentieth of the curve, over what there is of it at the ends."""
    width = max(1, len(values) // 20)
    kernel = np.ones(width)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def draw_probes(scores: Mapping[str, Mapping[str, Mapping[str, Any]]], path: Path) -> None:
    """Balanced accuracy of probes, a panel for each group of attributes: bars of the network, diamonds of the linear.

    Args:
        scores: group -> attribute -> row, as `probes.Row`.
    """
    groups = {group: rows for group, rows in scores.items() if rows}
    with plt.rc_context(STYLE):
        figure, row = plt.subplots(
            1, len(groups), figsize=(WIDTH, 3.8), width_ratios=[len(rows) for rows in groups.values()],
            sharey=True, squeeze=False, layout="constrained",
        )  # fmt: skip
        for axes, (group, rows) in zip(row[0], groups.items(), strict=True):
            _draw_bars(axes, rows)
            axes.set(title=f"{group} attributes, balanced accuracy in %", ylim=(0, 100))
        handles, labels = row[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5)
        _save(figure, path)


def _draw_bars(axes: Axes, rows: Mapping[str, Mapping[str, Any]]) -> None:
    places = np.arange(len(rows))
    features = list(next(iter(rows.values()))["mlp"])
    width = 0.8 / len(features)
    for number, (key, colour) in enumerate(zip(features, SERIES, strict=False)):
        at = places + (number - (len(features) - 1) / 2) * width
        network, linear = ([row[probe][key] for row in rows.values()] for probe in ("mlp", "linear"))
        axes.bar(at, network, 0.95 * width, color=colour, label=f"{key} feature, small network")
        label = "" if number else "linear probes"
        axes.scatter(at, linear, 14, edgecolor=INK, marker="D", facecolor="white", label=label, zorder=3)
    chance = [row["chance"] for row in rows.values()]
    axes.hlines(chance, places - 0.42, places + 0.42, color=INK, linewidth=1.5, label="guessing")
    axes.set_xticks(places, [name.replace("_", " ") for name in rows], rotation=35, ha="right")
    axes.grid(False, axis="x")


def draw_views(gains: Mapping[str, Mapping[str, float | None]], path: Path) -> None:
    """A heat map of balanced accuracy less chance, in percent: attributes in columns, viewpoints in rows.

    Args:
        gains: attribute -> viewpoint -> gain; None where there is none.
    """
    names = list(next(iter(gains.values())))
    values = np.array([[row[name] for row in gains.values()] for name in names], dtype=float)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(WIDTH, 1.3 + 0.42 * len(names)), layout="constrained")
        image = axes.imshow(values, cmap="RdBu", vmin=-60, vmax=60, aspect="auto")
        for (y, x), value in np.ndenumerate(values):
            words = "-" if math.isnan(value) else f"{value:.0f}"
            axes.text(x, y, words, ha="center", va="center", color="white" if abs(value) > 35 else INK, size=9)
        axes.set_xticks(range(len(gains)), [name.replace("_", " ") for name in gains], rotation=35, ha="right")
        axes.set_yticks(range(len(names)), names)
        axes.grid(False)
        figure.colorbar(image, label="balanced accuracy less chance, %")
        _save(figure, path)


def draw_rows(panels: Mapping[str, Mapping[str, Sequence[float]]], title: str, path: Path) -> None:
    """Bars of the rows of a table, a panel for each column: the mean of a row's values with a line of their standard
    deviation to either side, and the values as dots.

    Args:
        panels: column -> row -> values, one or more, such as those of several seeds; a row may be in some columns only.
    """
    names = list(dict.fromkeys(name for rows in panels.values() for name in rows))
    with plt.rc_context(STYLE):
        size = (WIDTH, 1.2 + 0.34 * len(names))
        figure, row = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False, layout="constrained")
        for axes, (column, rows), colour in zip(row[0], panels.items(), SERIES, strict=False):
            for name, values in rows.items():
                at, mean = names.index(name), float(np.mean(values))
                axes.barh(at, mean, 0.62, color=colour, alpha=0.45)
                if len(values) > 1:
                    axes.errorbar(mean, at, xerr=np.std(values, ddof=1), color=INK, capsize=3, linewidth=1.2)
                    axes.scatter(values, [at] * len(values), 9, color=colour, zorder=3)
                axes.annotate(f"{mean:.1f}", (0.01, at), xycoords=("axes fraction", "data"), va="center", color=INK)
            axes.set(title=column, xlabel="%", xlim=(min(0.0, *map(min, rows.values())), None))
            axes.grid(False, axis="y")
        row[0, 0].set_yticks(range(len(names)), names)
        row[0, 0].invert_yaxis()
        figure.suptitle(title, x=0.01, ha="left", color=INK, weight="bold", size=11)
        _save(figure, path)


class Cloud(NamedTuple):
    """Points of one kind in a panel."""

    name: str
    places: np.ndarray
    """(N, 2)."""
    colours: Sequence[str]
    """Of each point; those in GREY lie behind the others."""


def colours_of(labels: Sequence[str | None], most: int | None) -> list[str]:
    """A colour for each label: its own where it names one, else one of a cycle; GREY without a label, and from the
    label number `most` on."""
    named = {label: at for at, label in enumerate(dict.fromkeys(label for label in labels if label is not None))}
    cycle = [to_hex(plt.get_cmap("tab20")(number)) for number in (*range(0, 20, 2), *range(1, 20, 2))]
    shown = {
        label: f"xkcd:{label}" if is_color_like(f"xkcd:{label}") else cycle[at % len(cycle)]
        for label, at in named.items()
        if most is None or at < most
    }
    return [GREY if label is None else shown.get(label, GREY) for label in labels]


def draw_clouds(panels: Mapping[str, Sequence[Cloud]], path: Path) -> None:
    """Panels of points in a plane, two a row; the first cloud of a panel as dots, the second as crosses (long, Fig. 4).

    Args:
        panels: by title.
    """
    rows = math.ceil(len(panels) / 2)
    with plt.rc_context(STYLE):
        columns = min(2, len(panels))
        figure, grid = plt.subplots(rows, columns, figsize=(WIDTH, 5.2 * rows), squeeze=False, layout="constrained")
        for axes, (title, clouds) in zip(grid.flat, panels.items(), strict=False):
            for cloud, marker in zip(clouds, "ox^s", strict=False):
                behind = np.array([colour == GREY for colour in cloud.colours])
                edge = {} if marker == "x" else {"edgecolors": INK, "linewidths": 0.3}
                for chosen, size, alpha in ((behind, 9, 0.35), (~behind, 26, 1.0)):
                    colours = [colour for colour, is_chosen in zip(cloud.colours, chosen, strict=True) if is_chosen]
                    axes.scatter(*cloud.places[chosen].T, size, c=colours, marker=marker, alpha=alpha, **edge)
                axes.scatter([], [], 26, c=INK, marker=marker, label=cloud.name)
            axes.set(title=title, xticks=[], yticks=[], facecolor="#dfe4e8")
            axes.grid(False)
            axes.legend(loc="upper left")
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path)
    plt.close(figure)
