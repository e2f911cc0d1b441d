"""What an evaluation found, as text and as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bdam_reid import pictures
from bdam_reid.ranking import Ranking
from bdam_reid.runs import read_curves

SPLITS = {"test": "test", "clothing_change": "clothing change"}
SHOWN = {"test": 6, "clothing_change": 4}
"""Queries in the picture of a split."""
TOP = 5


def describe(metrics: Mapping[str, Any]) -> str:
    """All of metrics.json as tables of text."""
    parts = [metrics_table(metrics)]
    if "gates" in metrics:
        parts.append(_gate_table(metrics["gates"]))
    if "probes" in metrics:
        parts.append(_probe_table(metrics["probes"]))
    return "\n\n".join(parts)


def metrics_table(metrics: Mapping[str, Any]) -> str:
    """The retrieval metrics: a line for each split and beta, and one for chance."""
    lines = [f"{'retrieval, %':<28}" + "    R-1    R-5   R-10    mAP   mINP  queries  gallery"]
    for split, title in SPLITS.items():
        if split not in metrics:
            continue
        for key, beta in ((split, metrics["beta"]), (f"{split}_beta0", 0.0)):
            row = metrics[key]
            rates = "".join(f"{row[name]:7.2f}" for name in ("r1", "r5", "r10", "map", "minp"))
            lines.append(f"{f'{title}, beta {beta:g}':<28}{rates}{row['queries']:>9}{row['gallery']:>9}")
        lines.append(f"{f'{title}, by chance':<28}{metrics[f'{split}_chance_r1']:7.2f}")
        if left_out := metrics[split]["queries_without_positive"]:
            lines.append(f"  left out: {left_out} queries whose person is not in the gallery")
    return "\n".join(lines)


def _gate_table(gates: Mapping[str, Mapping[str, float]]) -> str:
    titles = {
        "identity": "gate, identity g",
        "clothing": "gate, clothing 1-g",
        "image": "fusion, image",
        "text": "fusion, text",
    }
    lines = [f"{'weights':<28}{'mean':>7}{'std':>7}"]
    for name, row in gates.items():
        lines.append(f"{titles[name]:<28}{row['mean']:7.3f}{row['std']:7.3f}")
    return "\n".join(lines)


def _probe_table(probes: Mapping[str, Any]) -> str:
    lines = [f"{'linear probe, accuracy %':<28}{'chance':>9}{'identity':>9}{'clothing':>9}{'images':>9}"]
    for group in ("identity", "outfit"):
        for name, row in probes[group].items():
            rates = "".join(f"{row[key]:9.1f}" for key in ("chance", "identity", "clothing"))
            lines.append(f"{f'{group}: {name}':<28}{rates}{row['images']:>9}")
        mean = probes[f"{group}_above_chance"]
        if mean["identity"] is not None:
            title = f"{group}: above chance"
            lines.append(f"{title:<28}{'':>9}{mean['identity']:9.1f}{mean['clothing']:9.1f}")
    return "\n".join(lines)


def draw_pictures(
    run: Path, rankings: Mapping[str, Ranking], metrics: Mapping[str, Any], gates: Mapping[str, Tensor]
) -> Path:
    """Draw RUN/pictures; gives the path of its index.html.

    Args:
        run: folder of the run.
        rankings: of the splits.
        metrics: as written to metrics.json.
        gates: weights by name, as `evaluate.gate_weights` gives them.
    """
    folder = run / "pictures"
    folder.mkdir(exist_ok=True)
    drawn: dict[str, str] = {}
    for split, ranking in rankings.items():
        # Where the clothes have changed, what they look like only misleads.
        beta = metrics["beta"] if split == "test" else 0.0
        heading = f"Queries of the {SPLITS[split]} split, and what they find first (beta {beta:g})"
        drawn[heading] = f"{split}.png"
        pictures.draw_retrievals(retrievals(ranking, beta, SHOWN[split]), heading, folder / drawn[heading])
    drawn["Training"] = "curves.png"
    pictures.draw_curves(read_curves(run), folder / "curves.png")
    drawn["Gates on the test split"] = "gates.png"
    pictures.draw_gates({name: weights.flatten().numpy() for name, weights in gates.items()}, folder / "gates.png")
    if "probes" in metrics:
        drawn["Disentanglement"] = "probes.png"
        scores = {group: metrics["probes"][group] for group in ("identity", "outfit")}
        pictures.draw_probes(scores, folder / "probes.png")
    pictures.stack([folder / name for name in drawn.values()], folder / "overview.png")
    pictures.write_page(f"Run {run.name}", describe(metrics), drawn, folder / "index.html")
    return folder / "index.html"


def retrievals(ranking: Ranking, beta: float, count: int) -> list[pictures.Retrieval]:
    """What `count` queries find, evenly spread over all queries so that nobody chose them."""
    places = torch.linspace(0, len(ranking.queries) - 1, min(count, len(ranking.queries))).round().long()
    scores = ranking.scores(beta)
    records, ids = ranking.gallery.records, ranking.gallery_ids
    shown = []
    for place in places.tolist():
        order = scores[place].argsort(descending=True, stable=True)
        hits = ids[order] == ranking.queries[place].identity
        shown.append(
            pictures.Retrieval(
                caption=ranking.queries[place].caption,
                images=tuple(records[index].path for index in order[:TOP].tolist()),
                right=tuple(hits[:TOP].tolist()),
                first_rank=int(hits.int().argmax()) + 1 if hits.any() else None,
            )
        )
    return shown
