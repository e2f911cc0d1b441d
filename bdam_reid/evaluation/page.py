"""The page of a run: its pictures, and an index.html that shows them with the tables."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image

from bdam_reid.engine.run import read_curves
from bdam_reid.evaluation import pictures
from bdam_reid.evaluation.evaluator import Evaluation
from bdam_reid.evaluation.probes import GROUPS
from bdam_reid.evaluation.ranking import Ranking, alone
from bdam_reid.evaluation.tables import describe, title, weights_text

TOP = 5


def draw_page(run: Path, output: Path, found: Evaluation) -> Path:
    """Draw OUTPUT/pictures; gives the path of its index.html.

    Args:
        run: folder of the run, which has the training curves.
        output: folder beside whose metrics.json the pictures go.
        found: what the evaluation found.
    """
    folder = output / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, str] = {}
    for number, (name, ranking) in enumerate(found.rankings.items()):
        weights = found.metrics["weights"]
        if name == "clothing_change":
            # Where the clothes have changed, what they look like only misleads.
            weights = alone(next(iter(weights)))
        heading = f"Queries of the {title(name)} split, and what they find first ({weights_text(weights)})"
        drawn[heading] = f"{name}.png"
        shown = retrievals(ranking, weights, 4 if number else 6)
        pictures.draw_retrievals(shown, heading, folder / drawn[heading])
    drawn["Training"] = "curves.png"
    pictures.draw_curves(read_curves(run), folder / "curves.png")
    if found.gates:
        drawn["Gates"] = "gates.png"
        panels = {
            group: {name: weights.flatten().numpy() for name, weights in series.items()}
            for group, series in found.gates.items()
        }
        pictures.draw_gates(panels, folder / "gates.png")
    if "probes" in found.metrics:
        drawn["Disentanglement"] = "probes.png"
        scores = {group: found.metrics["probes"][group] for group in GROUPS}
        pictures.draw_probes(scores, folder / "probes.png")
    stack([folder / name for name in drawn.values()], folder / "overview.png")
    write_page(f"Run {run.name}", describe(found.metrics), drawn, folder / "index.html")
    return folder / "index.html"


def retrievals(ranking: Ranking, weights: Mapping[str, float], count: int) -> list[pictures.Retrieval]:
    """What `count` queries find, evenly spread over all queries so that nobody chose them."""
    places = torch.linspace(0, len(ranking.queries) - 1, min(count, len(ranking.queries))).round().long()
    scores, ids = ranking.scores(weights), ranking.gallery_ids
    shown = []
    for place in places.tolist():
        order = scores[place].argsort(descending=True, stable=True)
        if ranking.junk is not None:
            order = order[~ranking.junk[place][order]]
        query = ranking.queries[place]
        hits = ids[order] == query.identity
        shown.append(
            pictures.Retrieval(
                text=query.text or "",
                query=query.image,
                images=tuple(ranking.gallery[index].path for index in order[:TOP].tolist()),
                right=tuple(hits[:TOP].tolist()),
                first_rank=int(hits.int().argmax()) + 1 if hits.any() else None,
            )
        )
    return shown


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


def write_page(title: str, table: str, shown: Mapping[str, str], path: Path) -> None:
    """An HTML page of the text `table` and pictures (heading -> file name beside the page)."""
    figures = "\n".join(
        f'<h2>{html.escape(heading)}</h2>\n<img src="{html.escape(name)}" alt="{html.escape(heading)}">'
        for heading, name in shown.items()
    )
    path.write_text(
        f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: {pictures.INK}; max-width: 1100px; margin: 2em auto }}
img {{ max-width: 100%; display: block }} h2 {{ margin: 1.6em 0 .4em }} pre {{ overflow-x: auto }}
</style>
<h1>{html.escape(title)}</h1>
<pre>{html.escape(table)}</pre>
{figures}
</html>
""",
        encoding="utf-8",
    )
