"""What the gates of BDAM do on images that it was not trained on, as in both drafts' analysis of gates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from bdam_reid.captions.splitter import split_caption
from bdam_reid.data.records import Record
from bdam_reid.data.tokens import Tokenize
from bdam_reid.methods.bdam.network import Network


def gate_weights(
    network: Network, tokenize: Tokenize, gallery: Iterable[tuple[Tensor, Sequence[Record]]]
) -> dict[str, dict[str, Tensor]]:
    """Weights that the gates give on images and their first captions; images without a caption are left out.

    Args:
        gallery: images (B, 3, H, W) and their records, in batches.
    Returns: "gate" with "identity" g (N, D) and "clothing" 1 - g (N, D), unless there is no such gate; "fusion" with
        "image" (N,) and "text" (N,), unless there is no fusion. Float32, on the CPU; nothing if no image has a caption.
    """
    kept: dict[str, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
    for images, records in gallery:
        described = [index for index, record in enumerate(records) if record.captions]
        if not described:
            continue
        parts = [split_caption(records[index].captions[0]) for index in described]
        inputs = [x.to(images.device) for texts in zip(*parts, strict=True) for x in tokenize(texts)]
        image = network.encode_image(images[described])
        _, weights = network.fuse(image, network.encode_text(*inputs))
        if image.gate is not None:
            kept["gate"]["identity"].append(image.gate)
            kept["gate"]["clothing"].append(1 - image.gate)
        if weights is not None:
            kept["fusion"]["image"].append(weights[:, 0])
            kept["fusion"]["text"].append(weights[:, 1])
    return {
        group: {name: torch.cat(values).float().cpu() for name, values in series.items()}
        for group, series in kept.items()
    }
