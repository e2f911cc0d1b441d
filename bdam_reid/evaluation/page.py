"""The page of a run: index.html, with queries and tables as text, photographs beside them, and pictures."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from bdam_reid.engine.run import log, read_curves
from bdam_reid.evaluation import pictures
from bdam_reid.evaluation.evaluator import Evaluation
from bdam_reid.evaluation.looks import Look, looks
from bdam_reid.evaluation.ranking import Embedder
from bdam_reid.evaluation.retrievals import Retrieval, Shown, retrievals
from bdam_reid.evaluation.tables import CLOTHES_WORDS, describe, first_feature, title, view_gains, weights_text

QUERIES = 6
"""Of each protocol, on the page."""


def draw_page(run: Path, output: Path, embedder: Embedder, found: Evaluation) -> Path:
    """Draw OUTPUT/pictures; gives the path of its index.html.

    Args:
        run: folder of the run, which may have training curves.
        output: folder beside whose metrics.json the pictures go.
        embedder: of the method that was evaluated.
        found: what the evaluation found.
    """
    folder = output / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    photos = _Photos(folder)
    sections = [_section("Figures", f"<pre>{html.escape(describe(found.metrics))}</pre>")]
    for name, ranking in found.rankings.items():
        clothes = found.metrics["protocols"][name]["clothes"]
        weights = found.metrics["weights"][clothes]
        heading = (
            f"Queries of the {title(name)} protocol ({CLOTHES_WORDS[clothes]}), and what they find first "
            f"({weights_text(weights)})"
        )
        shown = retrievals(ranking, weights, QUERIES)
        pictures.draw_retrievals(shown, heading, folder / f"{name}.png")
        sections.append(_section(heading, "".join(_article(retrieval, photos) for retrieval in shown)))
    seen = looks(embedder, next(iter(found.rankings.values())), QUERIES)
    drawn = _draw(run, folder, found, seen)
    sections += [_section(heading, _picture(name, heading)) for heading, name in drawn.items()]
    path = folder / "index.html"
    path.write_text(_document(f"Run {run.name}", sections), encoding="utf-8")
    log.info(f"figures in {output / 'metrics.json'}, pictures in {folder}: open {path}")
    return path


def _draw(run: Path, folder: Path, found: Evaluation, seen: Sequence[Look]) -> Mapping[str, str]:
    """The pictures that there is something for: heading -> file name."""
    drawn: dict[str, str] = {}
    if curves := read_curves(run):
        drawn["Training"] = "curves.png"
        pictures.draw_curves(curves, folder / "curves.png")
    if seen:
        drawn["Where it looks in some images of the gallery"] = "looks.png"
        pictures.draw_looks(seen, folder / "looks.png")
    if found.gates:
        drawn["Gates"] = "gates.png"
        panels = {
            group: {name: weights.flatten().numpy() for name, weights in series.items()}
            for group, series in found.gates.items()
        }
        pictures.draw_gates(panels, folder / "gates.png")
    if probes := found.metrics.get("probes"):
        split = list(probes["persons"])[-1]
        drawn[f"Disentanglement: what probes read of {split} persons"] = "probes.png"
        pictures.draw_probes(probes["persons"][split], folder / "probes.png")
        if gains := view_gains(probes):
            feature = first_feature(probes)
            drawn[f"Read from the {feature} part, by view of test persons"] = "views.png"
            pictures.draw_views(gains, folder / "views.png")
    return drawn


class _Photos:
    """Writes a small picture of each image that the page shows, once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "photos"
        self._folder.mkdir(exist_ok=True)
        self._names: dict[Path, str] = {}

    def tag(self, path: Path, words: str) -> str:
        """The <img> of an image file; words stand for it where it cannot be seen."""
        if path not in self._names:
            name = f"{len(self._names):04d}.jpg"
            pictures.thumbnail(path).save(self._folder / name, quality=90)
            self._names[path] = name
        return f'<img src="photos/{self._names[path]}" alt="{html.escape(words)}" loading="lazy">'


def _article(retrieval: Retrieval, photos: _Photos) -> str:
    first = retrieval.first_right
    found = f"first right image at rank {first.rank}" if first else "no right image in the gallery"
    query = f"<blockquote>{html.escape(retrieval.text)}</blockquote>" if retrieval.text else ""
    figures = [_figure(photos.tag(path, words), words) for path, words in _asked(retrieval)]
    figures += [_hit(hit, photos) for hit in retrieval.hits]
    if first and first not in retrieval.hits:
        figures += ['<span class="gap">…</span>', _hit(first, photos)]
    return f'<article>{query}<p class="found">{found}</p><div class="row">{"".join(figures)}</div></article>\n'


def _asked(retrieval: Retrieval) -> list[tuple[Path, str]]:
    asked = [(retrieval.image, "query"), (retrieval.described, "described")]
    return [(path, words) for path, words in asked if path]


def _hit(hit: Shown, photos: _Photos) -> str:
    words = "right" if hit.right else "wrong"
    caption = f"{pictures.MARKS[hit.right]} {hit.rank} · {hit.score:.2f}"
    return _figure(photos.tag(hit.path, f"rank {hit.rank}, {words} person"), caption, words)


def _figure(image: str, caption: str, kind: str = "asked") -> str:
    return f'<figure class="{kind}">{image}<figcaption>{html.escape(caption)}</figcaption></figure>'


def _picture(name: str, words: str) -> str:
    return f'<img class="chart" src="{name}" alt="{html.escape(words)}">'


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{html.escape(heading)}</h2>\n{content}</section>\n"


def _document(name: str, sections: Sequence[str]) -> str:
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(name)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{html.escape(name)}</h1>
{"".join(sections)}</body>
</html>
"""


_STYLE = f"""
body {{ font: 15px/1.5 system-ui, sans-serif; color: {pictures.INK}; max-width: 1100px; margin: 0 auto; padding: 1em }}
h2 {{ font-size: 1.15em; margin: 2em 0 .5em }}
pre {{ overflow-x: auto; font-size: 13px; background: #f4f6f8; padding: .8em }}
blockquote {{ margin: 0; font-size: 1.05em }}
article {{ border-top: 1px solid #dde3e8; padding: .9em 0 }}
.found {{ margin: .1em 0 .5em; color: #5d6b78; font-size: .9em }}
.row {{ display: flex; flex-wrap: wrap; gap: .5em; align-items: flex-end }}
figure {{ margin: 0; width: 84px; text-align: center; border: 3px solid transparent; padding: 2px }}
figure img {{ width: 100%; height: 150px; object-fit: contain; background: #eef1f4; display: block }}
figcaption {{ font-size: 12px; white-space: nowrap }}
figure.right {{ border-color: {pictures.RIGHT}; font-weight: bold }}
figure.wrong {{ border: 3px dashed {pictures.WRONG} }}
figure.asked {{ margin-right: .8em }}
.gap {{ align-self: center; padding: 0 .2em }}
img.chart {{ max-width: 100%; display: block }}
"""
