"""Texts without any multimodal model, to compare clusterings of styles (long's Table 4) where none can be asked.

The model would write every image in a style, each style as often as the others. Here nothing is written: of the
captions that people wrote of an image, the one in the rarest style is taken, and split. A clustering thereby decides
which captions are trained on, and nothing false is said of an image; but no text is new, so that this shows only a part
of what a clustering may be worth, and a table made of it has to say so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from random import Random

from bdam_reid.captions.clustering import Clustering
from bdam_reid.captions.splitter import split_caption
from bdam_reid.captions.style_vectors import HASHING
from bdam_reid.captions.styles import caption_styles


def chosen_texts(
    captions: Mapping[str, Sequence[str]], by: Clustering, encoder: str = HASHING, clusters: int = 8, seed: int = 0
) -> dict[str, dict[str, str]]:
    """The content of a texts.json: of each image the caption in the style that was taken least until then, split into
    what it says of the person and of the clothes. By "none" a caption is drawn by lot.

    Args:
        captions: of each image, by its key, one or more.
        by, encoder, clusters, seed: as `caption_styles` takes them.
    Raises: ConfigError if there is no such encoder.
    """
    everything = [(key, caption) for key, own in captions.items() for caption in own]
    styles = caption_styles([caption for _, caption in everything], by, encoder, clusters, seed)
    random = Random(seed)
    offered: dict[str, list[tuple[str, int]]] = {key: [] for key in captions}
    for (key, caption), style in zip(everything, styles, strict=True):
        offered[key].append((caption, style))
    taken: Counter[int] = Counter()
    texts = {}
    for key in random.sample(list(captions), len(captions)):
        caption, style = min(random.sample(offered[key], len(offered[key])), key=lambda one: taken[one[1]])
        taken[style] += 1
        identity, clothing = split_caption(caption)
        texts[key] = {"identity": identity, "clothing": clothing, "style": f"{by}-{style}"}
    return {key: texts[key] for key in captions}
