"""Styles of captions: who wrote them differently, and what to tell a multimodal model so that it writes alike.

The captions of a set are clustered by how they say what they say. Of each cluster a style is made: a prompt of a few
sentences, put together from what can be counted in its captions and from examples without content. They are kept in
styles.json, where people may read and change them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from statistics import fmean, median
from typing import Any

import numpy as np

from bdam_reid.captions.clustering import SAMPLE, Clustering, Labels, cluster
from bdam_reid.captions.masking import mask
from bdam_reid.captions.style_vectors import HASHING, Vectors, style_vectors
from bdam_reid.config import ConfigError

FILE = "styles.json"
EXAMPLES = 3
"""Masked captions of a style that its prompt shows."""
_FREQUENT = 0.5
"""Share of a style's captions in which something is the manner of all."""
_ARTICLE = re.compile(r"\b(a|an|the)\b", re.IGNORECASE)
_HEDGE = re.compile(r"\b(appears?|seems?|looks? like|probably|possibly|perhaps|maybe|might)\b", re.IGNORECASE)
_REQUEST = re.compile(r"\b(find|look for|looking for|search(ing)?|last seen)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Style:
    """A way to write, its share of the captions, and what a model is told to write so."""

    name: str
    share: float
    prompt: str
    examples: tuple[str, ...]
    """Masked captions, the most typical first."""


@dataclass(frozen=True)
class Clustered:
    """Captions with their style embeddings (N, D) and clusters (N,)."""

    captions: tuple[str, ...]
    vectors: Vectors
    labels: Labels


def caption_styles(
    captions: Sequence[str], by: Clustering, encoder: str = HASHING, clusters: int = 8, seed: int = 0
) -> list[int]:
    """The style of each caption, numbered from 0, the most frequent first; by "none" all have the same.

    Args:
        captions: one or more.
        by: a row of long's Table 4.
        encoder: of the style embeddings, as `style_vectors` takes it.
        clusters: styles, for the algorithms that have to be told.
        seed: of all that is random.
    Raises: ConfigError if there is no such encoder.
    """
    return cluster(style_vectors(captions, encoder), by, clusters, seed).tolist()


def cluster_captions(captions: Sequence[str], by: Clustering, encoder: str, clusters: int, seed: int) -> Clustered:
    """Captions with their style embeddings and clusters; of very many captions a random choice.

    Raises: ConfigError if there is no such encoder.
    """
    chosen = Random(seed).sample(captions, min(SAMPLE, len(captions)))
    vectors = style_vectors(chosen, encoder)
    return Clustered(tuple(chosen), vectors, cluster(vectors, by, clusters, seed))


def styles_of(found: Clustered) -> tuple[Style, ...]:
    """A style of each cluster, in their order."""
    names: Counter[str] = Counter()
    styles = []
    for label in range(int(found.labels.max()) + 1):
        rows = np.flatnonzero(found.labels == label)
        captions = [found.captions[row] for row in rows]
        examples = _typical(captions, found.vectors[rows])
        name, prompt = _manner(captions)
        names[name] += 1
        styles.append(
            Style(
                name if names[name] == 1 else f"{name}-{names[name]}",
                round(len(rows) / len(found.labels), 4),
                prompt,
                examples,
            )
        )
    return tuple(styles)


def write_styles(path: Path, styles: Sequence[Style], made: dict[str, Any]) -> None:
    """Write styles.json, whole or not at all; `made` says how the styles were found."""
    from bdam_reid.engine.checkpoint import write_json

    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**made, "styles": [asdict(style) for style in styles]})


def read_styles(path: Path) -> tuple[Style, ...]:
    """The styles in a file, whose prompts and examples people may have changed.

    Raises: ConfigError if it holds none.
    """
    from bdam_reid.data.entries import read_object
    from bdam_reid.data.records import DatasetError, Findings

    try:
        entries = read_object(path, Findings())["styles"]
        styles = tuple(Style(**{**entry, "examples": tuple(entry["examples"])}) for entry in entries)
        names = [style.name for style in styles]
        if not styles or len(set(names)) < len(names) or not all(_is_style(style) for style in styles):
            raise ValueError("no style, two of one name, or one with an empty prompt")
    except (DatasetError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(
            f"expected the styles that `python -m bdam_reid.captions styles` writes in {path}, got {error}"
        ) from error
    return styles


def _is_style(style: Style) -> bool:
    return all(isinstance(text, str) and text.strip() for text in (style.name, style.prompt, *style.examples))


def _typical(captions: Sequence[str], vectors: Vectors) -> tuple[str, ...]:
    """The masked captions nearest to the middle of their cluster, each once."""
    order = np.argsort(-(vectors @ vectors.mean(axis=0)), kind="stable")
    return tuple(dict.fromkeys(mask(captions[at]) for at in order))[:EXAMPLES]


def _manner(captions: Sequence[str]) -> tuple[str, str]:
    """A name for how captions are written, and instructions to write so."""
    words = round(median(len(caption.split()) for caption in captions))
    sentences = round(median(len(re.findall(r"[^.!?]+", caption)) for caption in captions))
    length = "brief" if words < 18 else "full" if words < 32 else "detailed"
    names, told = [length], [f"Write in a {length} style."]
    if fmean(len(_ARTICLE.findall(caption)) for caption in captions) < 0.5:
        names.append("keywords")
        told.append("Leave out articles.")
    for name, instruction, is_so in (
        ("labelled", "Write fields with semicolons between them.", lambda caption: ";" in caption or ":" in caption),
        ("unsure", "Sound a little unsure, with words such as appears or seems.", _HEDGE.search),
        ("request", "Write it as a request to find the person.", _REQUEST.search),
        ("relative", "Use a relative clause (who).", lambda caption: " who " in caption),
    ):
        if sum(bool(is_so(caption)) for caption in captions) > _FREQUENT * len(captions):
            names.append(name)
            told.append(instruction)
    if "labelled" not in names:
        names.append("one-sentence" if sentences < 2 else "sentences")
        told.append("Use one sentence." if sentences < 2 else f"Use {sentences} sentences.")
    return "-".join(names), " ".join(told)
